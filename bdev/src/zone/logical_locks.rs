//! Locks on logical blocks: requests for the same block go one after the other, in order of arrival.
//!
//! A queue per block costs no memory of its own: the map knows each locked block's first and last
//! request slot, and each slot knows the one behind it (a slot waits for one block at most).

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use hashbrown::HashMap;

use crate::runtime::task::{Scheduler, TaskId};
use crate::types::Lbn;

/// Names a request slot of one zone thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotIndex(pub u32);

#[derive(Clone, Copy)]
struct Queue {
    holder: u32,
    last: u32,
}

#[derive(Clone, Copy)]
struct Waiter {
    task: Option<TaskId>,
    next: Option<u32>,
    granted: bool,
}

/// The logical-block locks of one zone thread.
pub struct LogicalLocks {
    scheduler: Rc<Scheduler>,
    queues: RefCell<HashMap<u64, Queue>>,
    waiters: RefCell<Vec<Waiter>>,
}

impl LogicalLocks {
    /// Locks for `slots` request slots.
    pub fn new(scheduler: &Rc<Scheduler>, slots: usize) -> LogicalLocks {
        LogicalLocks {
            scheduler: Rc::clone(scheduler),
            queues: RefCell::new(HashMap::with_capacity(slots)),
            waiters: RefCell::new(vec![
                Waiter {
                    task: None,
                    next: None,
                    granted: false
                };
                slots
            ]),
        }
    }

    /// The slot that holds the lock on `lbn`, if any does.
    pub fn holder(&self, lbn: Lbn) -> Option<SlotIndex> {
        self.queues
            .borrow()
            .get(&lbn.get())
            .map(|queue| SlotIndex(queue.holder))
    }

    /// Locks `lbn` for `slot`, after everyone who asked before.
    pub async fn lock(&self, lbn: Lbn, slot: SlotIndex) {
        {
            let mut queues = self.queues.borrow_mut();
            let Some(queue) = queues.get_mut(&lbn.get()) else {
                queues.insert(
                    lbn.get(),
                    Queue {
                        holder: slot.0,
                        last: slot.0,
                    },
                );
                return;
            };
            let mut waiters = self.waiters.borrow_mut();
            waiters[queue.last as usize].next = Some(slot.0);
            waiters[slot.0 as usize] = Waiter {
                task: Some(self.scheduler.current()),
                next: None,
                granted: false,
            };
            queue.last = slot.0;
        }
        std::future::poll_fn(|_| {
            if self.waiters.borrow()[slot.0 as usize].granted {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Whether someone waits for the lock on `lbn`.
    pub fn is_contended(&self, lbn: Lbn) -> bool {
        self.queues
            .borrow()
            .get(&lbn.get())
            .is_some_and(|queue| queue.holder != queue.last)
    }

    /// Gives up the lock on `lbn`, which `slot` holds.
    pub fn unlock(&self, lbn: Lbn, slot: SlotIndex) {
        let mut queues = self.queues.borrow_mut();
        let mut waiters = self.waiters.borrow_mut();
        let next = waiters[slot.0 as usize].next.take();
        let queue = queues
            .get_mut(&lbn.get())
            .expect("a lock being released is in the map");
        assert_eq!(
            queue.holder, slot.0,
            "a logical lock is released by its holder"
        );
        match next {
            None => {
                queues.remove(&lbn.get());
            }
            Some(next) => {
                queue.holder = next;
                let waiter = &mut waiters[next as usize];
                waiter.granted = true;
                if let Some(task) = waiter.task.take() {
                    self.scheduler.wake(task);
                }
            }
        }
    }

    /// How many blocks are locked.
    pub fn len(&self) -> usize {
        self.queues.borrow().len()
    }

    /// Whether no block is locked.
    pub fn is_empty(&self) -> bool {
        self.queues.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::runtime::task::Executor;

    #[test]
    fn requests_for_one_block_go_in_order_and_others_do_not_wait() {
        let scheduler = Scheduler::new();
        let mut executor = Executor::new(Rc::clone(&scheduler));
        let locks = Rc::new(LogicalLocks::new(&scheduler, 4));
        let log = Rc::new(RefCell::new(Vec::new()));
        for (slot, lbn) in [(0, 7), (1, 7), (2, 8), (3, 7)] {
            let (locks, log) = (Rc::clone(&locks), Rc::clone(&log));
            scheduler.spawn(async move {
                locks.lock(Lbn(lbn), SlotIndex(slot)).await;
                log.borrow_mut().push(slot);
            });
        }
        executor.run(100);
        assert_eq!(*log.borrow(), [0, 2]);
        assert!(locks.is_contended(Lbn(7)) && !locks.is_contended(Lbn(8)));
        locks.unlock(Lbn(7), SlotIndex(0));
        executor.run(100);
        assert_eq!(*log.borrow(), [0, 2, 1]);
        assert_eq!(locks.holder(Lbn(7)), Some(SlotIndex(1)));
        locks.unlock(Lbn(7), SlotIndex(1));
        executor.run(100);
        locks.unlock(Lbn(7), SlotIndex(3));
        locks.unlock(Lbn(8), SlotIndex(2));
        assert_eq!(*log.borrow(), [0, 2, 1, 3]);
        assert!(locks.is_empty());
    }
}
