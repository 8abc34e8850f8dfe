//! A zone thread's mailbox: the one thing of it that other threads touch.
//!
//! Lock-free queues: for requests and for flushes from the host, for messages from other zone
//! threads, and for the rare control work. Whoever puts something in wakes the owner.

use std::rc::Rc;

use crossbeam_queue::{ArrayQueue, SegQueue};

use super::doorbell::Doorbell;
use crate::request::InFlight;
use crate::request::pieces::Cursor;
use crate::seam::{HostRequest, ZoneWaker};
use crate::zone::owner::Zone;
use crate::zone::post::Sack;

/// Requests the host can have in one mailbox before putting in another takes memory. A request of many blocks is one. No more than
/// come between two polls in all but the worst case: the queue passes through all of its memory, which is to stay warm.
const REQUESTS: usize = 512;

/// Sacks of messages from other zone threads. A full box makes the sender keep them until its next poll.
const SACKS: usize = 128;

/// Flushes the host can have in a mailbox before putting in another takes memory.
const FLUSHES: usize = 256;

/// A queue of what the host puts in: fixed memory for what is usual, more for what is not.
struct Letters<T> {
    usual: ArrayQueue<T>,
    overflow: SegQueue<T>,
}

impl<T> Letters<T> {
    fn new(room: usize) -> Letters<T> {
        Letters {
            usual: ArrayQueue::new(room),
            overflow: SegQueue::new(),
        }
    }

    fn push(&self, letter: T) {
        // What has no usual place is taken when those are empty, so nothing that comes later may pass it.
        let left = match self.overflow.is_empty() {
            true => self.usual.push(letter).err(),
            false => Some(letter),
        };
        if let Some(letter) = left {
            self.overflow.push(letter);
        }
    }

    fn pop(&self) -> Option<T> {
        self.usual.pop().or_else(|| self.overflow.pop())
    }

    fn is_empty(&self) -> bool {
        self.usual.is_empty() && self.overflow.is_empty()
    }

    fn memory_held(&self) -> usize {
        memory_of(&self.usual)
    }
}

/// Bytes of memory a queue holds: each place has a stamp beside what lies there.
fn memory_of<T>(queue: &ArrayQueue<T>) -> usize {
    queue.capacity() * (size_of::<T>() + size_of::<usize>())
}

/// Whatever a zone thread should run for someone else: control work, and rare.
pub type Errand = Box<dyn FnOnce(&Rc<Zone>, &dyn InFlight) + Send>;

/// What other threads can put before a zone thread.
pub struct Mailbox<R: HostRequest, W: ZoneWaker> {
    requests: Letters<Cursor<R>>,
    flushes: Letters<R>,
    sacks: ArrayQueue<Sack>,
    errands: SegQueue<Errand>,
    waker: W,
    doorbell: Doorbell,
}

impl<R: HostRequest, W: ZoneWaker> Mailbox<R, W> {
    /// An empty mailbox whose owner `waker` wakes.
    pub fn new(waker: W, has_peers: bool) -> Mailbox<R, W> {
        let sacks = if has_peers { SACKS } else { 1 };
        Mailbox {
            requests: Letters::new(REQUESTS),
            flushes: Letters::new(FLUSHES),
            sacks: ArrayQueue::new(sacks),
            errands: SegQueue::new(),
            waker,
            doorbell: Doorbell::new(),
        }
    }

    /// Bytes of memory it holds, letters aside that found no room and lie elsewhere.
    pub fn memory_held(&self) -> u64 {
        let letters = self.requests.memory_held() + self.flushes.memory_held();
        (letters + memory_of(&self.sacks)) as u64
    }

    /// Puts in a request.
    pub fn submit(&self, cursor: Cursor<R>) {
        self.requests.push(cursor);
        self.wake();
    }

    /// Puts in a flush.
    pub fn submit_flush(&self, request: R) {
        self.flushes.push(request);
        self.wake();
    }

    /// Puts in control work.
    pub fn send_errand(&self, errand: Errand) {
        self.errands.push(errand);
        self.wake();
    }

    /// Puts in the messages of another zone thread; gives them back if there is no room.
    pub fn send(&self, sack: Sack) -> Result<(), Sack> {
        self.sacks.push(sack)
    }

    /// Wakes the owner if it may sleep.
    pub fn wake(&self) {
        if self.doorbell.ring() {
            self.waker.wake();
        }
    }

    /// The owner is about to sleep. False if something has come meanwhile, and it should not.
    pub fn prepare_to_sleep(&self) -> bool {
        self.doorbell.may_sleep(|| {
            self.requests.is_empty()
                && self.flushes.is_empty()
                && self.sacks.is_empty()
                && self.errands.is_empty()
        })
    }

    /// The owner is awake and will look by itself.
    pub fn stay_awake(&self) {
        self.doorbell.stay_awake();
    }

    pub(super) fn take_request(&self) -> Option<Cursor<R>> {
        self.requests.pop()
    }

    pub(super) fn take_flush(&self) -> Option<R> {
        self.flushes.pop()
    }

    pub(super) fn take_sack(&self) -> Option<Sack> {
        self.sacks.pop()
    }

    pub(super) fn take_errand(&self) -> Option<Errand> {
        self.errands.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_out_in_order_whether_there_was_room_or_not() {
        let letters = Letters::new(3);
        let mut next = 0;
        let mut expected = 0;
        for (put, taken) in [(2, 1), (5, 3), (4, 7), (1, 1), (9, 2), (0, 7)] {
            for _ in 0..put {
                letters.push(next);
                next += 1;
            }
            for _ in 0..taken {
                assert_eq!(letters.pop(), Some(expected));
                expected += 1;
            }
            assert_eq!(letters.is_empty(), expected == next);
        }
        assert_eq!((letters.pop(), expected), (None, 21));
    }
}
