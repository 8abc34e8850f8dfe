//! One flush of the base device for many who need one.
//!
//! Whoever must know that what it has seen completed is durable asks here. A flush that has begun already
//! does not help, so it waits for the next one, together with all others who asked meanwhile. Nobody can
//! rely on a flush after one that failed, so then all who ask are told of that failure.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::base::{BaseDevice, IoClass};
use super::task::{Scheduler, WaitList};
use crate::error::VdoError;

/// The flushes of one part of a zone.
#[derive(Debug)]
pub struct SharedFlush {
    scheduler: Rc<Scheduler>,
    base: Rc<BaseDevice>,
    class: IoClass,
    running: Cell<bool>,
    begun: Cell<u64>,
    ended: Cell<u64>,
    /// The first failure.
    failed: RefCell<Option<VdoError>>,
    waiting: WaitList,
}

impl SharedFlush {
    /// Flushes that are counted among the I/Os of `class`.
    pub fn new(scheduler: &Rc<Scheduler>, base: &Rc<BaseDevice>, class: IoClass) -> SharedFlush {
        SharedFlush {
            scheduler: Rc::clone(scheduler),
            base: Rc::clone(base),
            class,
            running: Cell::new(false),
            begun: Cell::new(0),
            ended: Cell::new(0),
            failed: RefCell::new(None),
            waiting: WaitList::new(scheduler),
        }
    }

    /// How many flushes have begun.
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Returns when a flush that began after this call has ended.
    ///
    /// # Errors
    /// When it, or one before it, failed.
    pub async fn flush(&self) -> Result<(), VdoError> {
        let mine = self.begun.get() + 1;
        while self.ended.get() < mine {
            if let Some(error) = &*self.failed.borrow() {
                return Err(error.clone());
            }
            if self.running.replace(true) {
                self.waiting.wait().await;
                continue;
            }
            // Others may be just about to ask.
            self.scheduler.yield_now().await;
            self.begun.set(self.begun.get() + 1);
            match self.base.flush(self.class).await {
                Ok(()) => self.ended.set(self.begun.get()),
                Err(error) => *self.failed.borrow_mut() = Some(error),
            }
            self.running.set(false);
            self.waiting.wake_all();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::runtime::test_disk::TestDisk;
    use crate::seam::BaseOp;

    #[test]
    fn those_who_ask_during_a_flush_share_the_next() {
        let mut disk = TestDisk::new();
        disk.hold = true;
        let gate = Rc::new(SharedFlush::new(
            &disk.scheduler,
            &disk.base,
            IoClass::Metadata,
        ));
        let done = Rc::new(Cell::new(0));
        let ask = |disk: &mut TestDisk| {
            let (gate, done) = (Rc::clone(&gate), Rc::clone(&done));
            disk.scheduler.spawn(async move {
                gate.flush().await.unwrap();
                done.set(done.get() + 1);
            });
            disk.run();
        };
        for _ in 0..5 {
            ask(&mut disk);
        }
        assert_eq!(
            disk.trace,
            [(BaseOp::Flush, 0, 0)],
            "one flush is under way"
        );
        assert_eq!(done.get(), 0);
        disk.hold = false;
        disk.run();
        assert_eq!(done.get(), 5);
        assert_eq!(disk.trace.len(), 2, "the other four shared the second");
    }
}
