//! A zone thread's post office: messages on their way out, and calls waiting for a reply.
//!
//! Messages travel in *sacks*: all that one poll has for another zone thread goes there at one go, in its order. Emptied sacks are used
//! again, so that mail takes no memory once there are as many as are under way at a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use super::message::{Call, Note, PeerMessage, Reply};
use crate::error::VdoError;
use crate::runtime::table::{Key, Table};
use crate::runtime::task::{Scheduler, TaskId};
use crate::types::ZoneIndex;

enum Awaited {
    Waiting(TaskId),
    Answered(Reply),
}

/// What one zone thread has for another, oldest first.
pub type Sack = Vec<PeerMessage>;

/// Messages that a sack has room for when it is made.
const SACK: usize = 64;

/// Empty sacks that are kept, for each zone thread.
const SPARE_SACKS: usize = 4;

struct Outgoing {
    /// A sack for each zone thread.
    sacks: Vec<Sack>,
    spare: Vec<Sack>,
}

/// The outgoing messages and outstanding calls of one zone thread.
pub struct Post {
    scheduler: Rc<Scheduler>,
    me: ZoneIndex,
    outgoing: RefCell<Outgoing>,
    calls: RefCell<Table<Awaited>>,
}

impl Post {
    /// The post office of zone thread `me` of `zones`, with room for `capacity` calls before it has to grow.
    pub fn new(scheduler: &Rc<Scheduler>, me: ZoneIndex, zones: u8, capacity: usize) -> Rc<Post> {
        let outgoing = Outgoing {
            sacks: (0..zones).map(|_| Sack::new()).collect(),
            spare: Vec::with_capacity(usize::from(zones) * SPARE_SACKS),
        };
        Rc::new(Post {
            scheduler: Rc::clone(scheduler),
            me,
            outgoing: RefCell::new(outgoing),
            calls: RefCell::new(Table::with_capacity(capacity)),
        })
    }

    /// Bytes of memory it holds, sacks on their way aside.
    pub fn memory_held(&self) -> usize {
        let outgoing = self.outgoing.borrow();
        let sacks = outgoing.sacks.iter().chain(&outgoing.spare);
        let letters: usize = sacks.map(Sack::capacity).sum();
        letters * size_of::<PeerMessage>() + self.calls.borrow().memory_held()
    }

    /// Which zone thread this is.
    pub fn me(&self) -> ZoneIndex {
        self.me
    }

    /// Sends a note to another zone thread.
    pub fn note(&self, to: ZoneIndex, note: Note) {
        debug_assert_ne!(to, self.me, "what is ours is done by a plain call");
        self.send(to, PeerMessage::Note(note));
    }

    #[inline]
    fn send(&self, to: ZoneIndex, message: PeerMessage) {
        self.outgoing.borrow_mut().sacks[to.index()].push(message);
    }

    /// Asks another zone thread and waits for its reply.
    pub async fn call(&self, to: ZoneIndex, call: Call) -> Reply {
        let token = self.start_call(to, call);
        self.reply_to(token).await
    }

    /// Asks another zone thread; the reply is for the task that runs now ([`Post::reply_to`]).
    pub fn start_call(&self, to: ZoneIndex, call: Call) -> u32 {
        let token = self.open();
        let message = PeerMessage::Call {
            from: self.me,
            token,
            call,
        };
        self.send(to, message);
        token
    }

    /// Makes a place for a reply to the task that runs now. It is used up by [`Post::reply_to`].
    pub fn open(&self) -> u32 {
        let waiting = Awaited::Waiting(self.scheduler.current());
        self.calls.borrow_mut().insert(waiting).number()
    }

    /// Waits for the reply to `token`.
    pub async fn reply_to(&self, token: u32) -> Reply {
        std::future::poll_fn(|_| self.take(token)).await
    }

    /// Answers another zone thread's call.
    pub fn reply(&self, to: ZoneIndex, token: u32, reply: Reply) {
        self.send(to, PeerMessage::Reply { token, reply });
    }

    /// A reply has arrived: wakes whoever asked.
    ///
    /// # Errors
    /// When nobody has.
    pub fn deliver(&self, token: u32, reply: Reply) -> Result<(), VdoError> {
        let mut calls = self.calls.borrow_mut();
        match calls.get_mut(Key::new(token)) {
            Some(slot @ Awaited::Waiting(_)) => {
                let before = std::mem::replace(slot, Awaited::Answered(reply));
                if let Awaited::Waiting(task) = before {
                    self.scheduler.wake(task);
                }
            }
            _ => {
                return Err(VdoError::Inconsistent(format!(
                    "zone thread {} got {reply:?} for a call nobody made ({token})",
                    self.me
                )));
            }
        }
        Ok(())
    }

    /// All there is for zone thread `to`, if there is anything.
    pub fn take_sack(&self, to: ZoneIndex) -> Option<Sack> {
        let Outgoing { sacks, spare } = &mut *self.outgoing.borrow_mut();
        let sack = &mut sacks[to.index()];
        if sack.is_empty() {
            return None;
        }
        let empty = spare.pop().unwrap_or_else(|| Sack::with_capacity(SACK));
        Some(std::mem::replace(sack, empty))
    }

    /// Puts back a sack that could not be delivered yet, before anything else was sent.
    pub fn put_back(&self, to: ZoneIndex, sack: Sack) {
        let empty = std::mem::replace(&mut self.outgoing.borrow_mut().sacks[to.index()], sack);
        debug_assert!(empty.is_empty(), "messages stay in their order");
        self.keep(empty);
    }

    /// Keeps a sack that was emptied, to be used again.
    pub fn keep(&self, empty: Sack) {
        let spare = &mut self.outgoing.borrow_mut().spare;
        if spare.len() < spare.capacity() {
            spare.push(empty);
        }
    }

    fn take(&self, token: u32) -> Poll<Reply> {
        let mut calls = self.calls.borrow_mut();
        let key = Key::new(token);
        if !matches!(calls.get(key), Some(Awaited::Answered(_))) {
            return Poll::Pending;
        }
        match calls.remove(key) {
            Some(Awaited::Answered(reply)) => Poll::Ready(reply),
            _ => unreachable!("checked above"),
        }
    }
}

pub(super) fn wrong_reply(call: &str, reply: &Reply) -> VdoError {
    VdoError::Inconsistent(format!("{call} was answered with {reply:?}"))
}
