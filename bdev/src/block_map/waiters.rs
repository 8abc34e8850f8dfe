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
use crate::runtime::task::{Scheduler, TaskId};
use crate::types::{Mapping, SequenceNumber};

const NONE: u32 = u32::MAX;

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

/// One waiter.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaiterId(u32);

/// Waiters for one thing, first come first served.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitQueue {
    first: u32,
    last: u32,
}

impl WaitQueue {
    /// Nobody waits.
    pub(super) const EMPTY: WaitQueue = WaitQueue {
        first: NONE,
        last: NONE,
    };
}

enum WaiterState {
    Free,
    Waiting(PageOp),
    Done(Result<Mapping, VdoError>),
}

struct Waiter {
    task: TaskId,
    next: u32,
    state: WaiterState,
}

/// The pool of waiters of a zone.
pub(super) struct Waiters {
    scheduler: Rc<Scheduler>,
    table: Vec<Waiter>,
    free: u32,
    in_use: usize,
}

impl Waiters {
    /// A pool that holds `capacity` waiters before it has to grow.
    pub(super) fn new(scheduler: &Rc<Scheduler>, capacity: usize) -> Waiters {
        Waiters {
            scheduler: Rc::clone(scheduler),
            table: Vec::with_capacity(capacity),
            free: NONE,
            in_use: 0,
        }
    }

    /// How many waiters wait, or have not yet run since they were woken.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Makes the running task the last of the queue.
    pub(super) fn enqueue(&mut self, queue: &mut WaitQueue, op: PageOp) -> WaiterId {
        let waiter = Waiter {
            task: self.scheduler.current(),
            next: NONE,
            state: WaiterState::Waiting(op),
        };
        let id = self.free;
        let id = if id == NONE {
            self.table.push(waiter);
            (self.table.len() - 1) as u32
        } else {
            self.free = self.table[id as usize].next;
            self.table[id as usize] = waiter;
            id
        };
        match queue.last {
            NONE => queue.first = id,
            last => self.table[last as usize].next = id,
        }
        queue.last = id;
        self.in_use += 1;
        WaiterId(id)
    }

    /// Takes the first of the queue and what he wants done.
    pub(super) fn dequeue(&mut self, queue: &mut WaitQueue) -> Option<(WaiterId, PageOp)> {
        let id = queue.first;
        if id == NONE {
            return None;
        }
        let waiter = &self.table[id as usize];
        queue.first = waiter.next;
        if queue.first == NONE {
            queue.last = NONE;
        }
        match waiter.state {
            WaiterState::Waiting(op) => Some((WaiterId(id), op)),
            _ => unreachable!("whoever is on a queue waits"),
        }
    }

    /// Wakes a waiter that was dequeued, with the result of what he wanted.
    pub(super) fn finish(&mut self, id: WaiterId, result: Result<Mapping, VdoError>) {
        let waiter = &mut self.table[id.0 as usize];
        waiter.state = WaiterState::Done(result);
        self.scheduler.wake(waiter.task);
    }

    /// Wakes all of a queue with an error.
    pub(super) fn fail(&mut self, queue: &mut WaitQueue, error: &VdoError) {
        while let Some((waiter, _)) = self.dequeue(queue) {
            self.finish(waiter, Err(error.clone()));
        }
    }

    /// The result, once there is one; the waiter is then no more.
    pub(super) fn take(&mut self, id: WaiterId) -> Option<Result<Mapping, VdoError>> {
        let waiter = &mut self.table[id.0 as usize];
        match std::mem::replace(&mut waiter.state, WaiterState::Free) {
            WaiterState::Done(result) => {
                waiter.next = self.free;
                self.free = id.0;
                self.in_use -= 1;
                Some(result)
            }
            state => {
                waiter.state = state;
                None
            }
        }
    }
}
