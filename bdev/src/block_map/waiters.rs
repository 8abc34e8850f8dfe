//! Who waits for a page, and what for.
//!
//! A request that does not find its page in memory leaves behind what it wants done with it, and sleeps.
//! Whoever brings the page does it for all that wait, in the order they came, and wakes them with the
//! results. So a page is never pinned for a request that has not run yet, and nobody can lose a page
//! between its arrival and his turn.
//!
//! Waiters come from one pool, made for as many as there are requests; the queues are linked through it.

use std::rc::Rc;

use crate::error::VdoError;
use crate::runtime::list::{Links, List};
use crate::runtime::table::{Key, Table};
use crate::runtime::task::{Scheduler, TaskId};
use crate::types::{Mapping, SequenceNumber};

/// What to do with a page.
#[derive(Clone, Copy, Debug)]
pub(super) enum PageOp {
    /// Nothing: go on when it is there.
    Await,
    /// Read the entry in this slot.
    Get(u16),
    /// Set the entry in this slot, by a change recorded in this block of the recovery journal.
    Put(u16, Mapping, SequenceNumber),
}

/// Waiters for one thing, first come first served.
pub(super) type WaitQueue = List;

/// Names a waiter.
pub(super) type WaiterId = Key<Waiter>;

/// A task that waits for a page, or has not yet run since it was woken.
pub(super) struct Waiter {
    task: TaskId,
    wish: Wish,
}

enum Wish {
    Open(PageOp),
    Done(Result<Mapping, VdoError>),
}

/// The pool of waiters of a zone.
pub(super) struct Waiters {
    scheduler: Rc<Scheduler>,
    table: Table<Waiter>,
    links: Links,
}

impl Waiters {
    /// A pool that holds `capacity` waiters before it has to grow.
    pub(super) fn new(scheduler: &Rc<Scheduler>, capacity: usize) -> Waiters {
        Waiters {
            scheduler: Rc::clone(scheduler),
            table: Table::with_capacity(capacity),
            links: Links::new(capacity),
        }
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_held(&self) -> usize {
        self.table.memory_held() + self.links.memory_held()
    }

    /// How many waiters wait, or have not yet run since they were woken.
    pub(super) fn in_use(&self) -> usize {
        self.table.len()
    }

    /// Makes the running task the last of the queue.
    pub(super) fn enqueue(&mut self, queue: &mut WaitQueue, op: PageOp) -> WaiterId {
        let id = self.table.insert(Waiter {
            task: self.scheduler.current(),
            wish: Wish::Open(op),
        });
        self.links.cover(id.number());
        queue.push(&mut self.links, id.number());
        id
    }

    /// Takes the first of the queue and what he wants done.
    pub(super) fn dequeue(&mut self, queue: &mut WaitQueue) -> Option<(WaiterId, PageOp)> {
        let id = Key::new(queue.pop(&mut self.links)?);
        match self.waiter(id).wish {
            Wish::Open(op) => Some((id, op)),
            Wish::Done(_) => unreachable!("whoever is on a queue waits"),
        }
    }

    fn waiter(&mut self, id: WaiterId) -> &mut Waiter {
        let waiter = self.table.get_mut(id);
        waiter.expect("a waiter has its number until he has taken his result")
    }

    /// Wakes a waiter that was dequeued, with the result of what he wanted.
    pub(super) fn finish(&mut self, id: WaiterId, result: Result<Mapping, VdoError>) {
        let waiter = self.waiter(id);
        waiter.wish = Wish::Done(result);
        let task = waiter.task;
        self.scheduler.wake(task);
    }

    /// Wakes all of a queue with an error.
    pub(super) fn fail(&mut self, queue: &mut WaitQueue, error: &VdoError) {
        while let Some((waiter, _)) = self.dequeue(queue) {
            self.finish(waiter, Err(error.clone()));
        }
    }

    /// The result, once there is one; the waiter is then no more.
    pub(super) fn take(&mut self, id: WaiterId) -> Option<Result<Mapping, VdoError>> {
        if let Wish::Open(_) = self.waiter(id).wish {
            return None;
        }
        match self.table.remove(id)?.wish {
            Wish::Done(result) => Some(result),
            Wish::Open(_) => unreachable!("checked above"),
        }
    }
}
