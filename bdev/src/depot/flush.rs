//! One flush of the base device for many who need one.
//!
//! Whoever must know that what it has seen completed is durable asks here. A flush that has begun already
//! does not help, so it waits for the next one, together with all others who asked meanwhile.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::error::VdoError;
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::task::{Scheduler, WaitList};

/// The flushes of one zone.
#[derive(Debug)]
pub(super) struct SharedFlush {
    base: Rc<BaseDevice>,
    started: Cell<u64>,
    finished: Cell<u64>,
    /// The first failure; nobody can rely on a flush after it.
    failed: RefCell<Option<VdoError>>,
    waiting: WaitList,
}

impl SharedFlush {
    pub(super) fn new(base: &Rc<BaseDevice>, scheduler: &Rc<Scheduler>) -> SharedFlush {
        SharedFlush {
            base: Rc::clone(base),
            started: Cell::new(0),
            finished: Cell::new(0),
            failed: RefCell::new(None),
            waiting: WaitList::new(scheduler),
        }
    }

    /// Returns when a flush that began after this call has ended.
    ///
    /// # Errors
    /// When it, or one before it, failed.
    pub(super) async fn flush(&self) -> Result<(), VdoError> {
        let mine = self.started.get() + 1;
        while self.finished.get() < mine {
            if self.started.get() > self.finished.get() {
                self.waiting.wait().await;
                continue;
            }
            self.started.set(self.started.get() + 1);
            let result = self.base.flush(IoClass::Metadata).await;
            if let Err(error) = result {
                self.failed.borrow_mut().get_or_insert(error);
            }
            self.finished.set(self.started.get());
            self.waiting.wake_all();
        }
        match &*self.failed.borrow() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
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
        let gate = Rc::new(SharedFlush::new(&disk.base, &disk.scheduler));
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
