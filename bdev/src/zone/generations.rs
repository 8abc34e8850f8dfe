//! What a flush waits for: the writes that were under way when it came.
//!
//! Each write enters the current generation before it can be acknowledged, and leaves it when its
//! journal entry, reference counts and mapping are in place. A flush closes the generation and waits
//! until it and all before it are empty. Writes that come later belong to the next, so a flush never
//! waits for them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::runtime::task::{Scheduler, WaitList};

/// Names a generation of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

impl Generation {
    /// Older than any that a write enters: closed from the beginning.
    pub const BEFORE_ALL: Generation = Generation(0);
}

/// The flush generations of one zone thread.
pub struct Generations {
    /// Writes under way by generation; the first is `oldest`, the last is open.
    counts: RefCell<VecDeque<u32>>,
    oldest: Cell<u64>,
    left: WaitList,
}

impl Generations {
    /// One open generation with no writes.
    pub fn new(scheduler: &Rc<Scheduler>) -> Generations {
        Generations {
            counts: RefCell::new(VecDeque::from([0])),
            oldest: Cell::new(1),
            left: WaitList::new(scheduler),
        }
    }

    /// A write begins.
    pub fn enter(&self) -> Generation {
        let mut counts = self.counts.borrow_mut();
        *counts.back_mut().expect("one generation is always open") += 1;
        drop(counts);
        self.open()
    }

    /// A write of `generation` ends.
    pub fn leave(&self, generation: Generation) {
        let mut counts = self.counts.borrow_mut();
        let index = generation
            .0
            .checked_sub(self.oldest.get())
            .expect("the generation is alive");
        counts[index as usize] -= 1;
        let before = self.oldest.get();
        while counts.len() > 1 && counts[0] == 0 {
            counts.pop_front();
            self.oldest.set(self.oldest.get() + 1);
        }
        if self.oldest.get() != before {
            self.left.wake_all();
        }
    }

    /// Closes the open generation, to which every write that has entered and not left belongs, or to an older one. `None`
    /// if there is no such write.
    pub fn close(&self) -> Option<Generation> {
        let mut counts = self.counts.borrow_mut();
        if counts.len() == 1 && counts[0] == 0 {
            return None;
        }
        let closed = Generation(self.oldest.get() + counts.len() as u64 - 1);
        counts.push_back(0);
        Some(closed)
    }

    /// Whether nothing enters this generation any more.
    #[inline]
    pub fn is_closed(&self, generation: Generation) -> bool {
        generation < self.open()
    }

    /// The generation that writes enter now.
    #[inline]
    pub fn open(&self) -> Generation {
        Generation(self.oldest.get() + self.counts.borrow().len() as u64 - 1)
    }

    /// Waits until every write of this generation, which is closed, and of older ones has left.
    pub async fn wait_for(&self, closed: Generation) {
        self.left.wait_until(|| self.oldest.get() > closed.0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::task::Executor;

    #[test]
    fn a_flush_waits_for_earlier_writes_and_not_for_later_ones() {
        let scheduler = Scheduler::new();
        let mut executor = Executor::new(Rc::clone(&scheduler));
        let generations = Rc::new(Generations::new(&scheduler));
        let first = generations.enter();
        let done = Rc::new(Cell::new(0));
        let flush = |done: &Rc<Cell<u32>>| {
            let (generations, done) = (Rc::clone(&generations), Rc::clone(done));
            scheduler.spawn(async move {
                if let Some(closed) = generations.close() {
                    generations.wait_for(closed).await;
                }
                done.set(done.get() + 1);
            });
        };
        flush(&done);
        executor.run(10);
        let second = generations.enter();
        flush(&done);
        executor.run(10);
        assert_eq!(done.get(), 0);
        generations.leave(first);
        executor.run(10);
        assert_eq!(done.get(), 1);
        generations.leave(second);
        executor.run(10);
        assert_eq!(done.get(), 2);
        flush(&done);
        executor.run(10);
        assert_eq!(done.get(), 3);
    }

    #[test]
    fn a_flush_waits_for_the_oldest_even_when_younger_writes_end_first() {
        let scheduler = Scheduler::new();
        let mut executor = Executor::new(Rc::clone(&scheduler));
        let generations = Rc::new(Generations::new(&scheduler));
        let old = generations.enter();
        let done = Rc::new(Cell::new(false));
        for _ in 0..2 {
            let (generations, done) = (Rc::clone(&generations), Rc::clone(&done));
            scheduler.spawn(async move {
                let closed = generations.close().unwrap();
                generations.wait_for(closed).await;
                done.set(true);
            });
            executor.run(10);
        }
        let young = generations.enter();
        generations.leave(young);
        executor.run(10);
        assert!(!done.get());
        generations.leave(old);
        executor.run(10);
        assert!(done.get());
    }
}
