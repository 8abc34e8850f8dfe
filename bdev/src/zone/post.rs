//! A zone thread's post office: messages on their way out, and calls waiting for a reply.

use std::cell::RefCell;
use std::collections::VecDeque;
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

/// The outgoing messages and outstanding calls of one zone thread.
pub struct Post {
    scheduler: Rc<Scheduler>,
    me: ZoneIndex,
    outbox: RefCell<VecDeque<(ZoneIndex, PeerMessage)>>,
    calls: RefCell<Table<Awaited>>,
}

impl Post {
    /// The post office of zone thread `me`, with room for `capacity` calls before it has to grow.
    pub fn new(scheduler: &Rc<Scheduler>, me: ZoneIndex, capacity: usize) -> Rc<Post> {
        Rc::new(Post {
            scheduler: Rc::clone(scheduler),
            me,
            outbox: RefCell::new(VecDeque::with_capacity(capacity)),
            calls: RefCell::new(Table::with_capacity(capacity)),
        })
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        let outbox = self.outbox.borrow().capacity() * size_of::<(ZoneIndex, PeerMessage)>();
        outbox + self.calls.borrow().memory_held()
    }

    /// Which zone thread this is.
    pub fn me(&self) -> ZoneIndex {
        self.me
    }

    /// Sends a note to another zone thread.
    pub fn note(&self, to: ZoneIndex, note: Note) {
        debug_assert_ne!(to, self.me, "what is ours is done by a plain call");
        self.outbox
            .borrow_mut()
            .push_back((to, PeerMessage::Note(note)));
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
        self.outbox.borrow_mut().push_back((to, message));
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
        self.outbox
            .borrow_mut()
            .push_back((to, PeerMessage::Reply { token, reply }));
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

    /// The oldest message not yet taken. Messages leave in the order they were sent, to whomever.
    pub fn next_outgoing(&self) -> Option<(ZoneIndex, PeerMessage)> {
        self.outbox.borrow_mut().pop_front()
    }

    /// Puts back a message that could not be delivered yet; it stays the first.
    pub fn put_back(&self, to: ZoneIndex, message: PeerMessage) {
        self.outbox.borrow_mut().push_front((to, message));
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
