//! A zone thread's mailbox: the one thing of it that other threads touch.
//!
//! Two bounded lock-free queues, one for requests from the host and one for messages from other zone
//! threads, and one for the rare control work. Whoever puts something in wakes the owner.

use std::rc::Rc;

use crossbeam_queue::{ArrayQueue, SegQueue};

use super::doorbell::Doorbell;
use crate::request::InFlight;
use crate::request::pieces::Cursor;
use crate::seam::{HostRequest, ZoneWaker};
use crate::zone::message::PeerMessage;
use crate::zone::owner::Zone;

/// Requests the host can have in one mailbox before putting in another takes memory.
const REQUESTS: usize = 16 * 1024;

/// Messages from other zone threads; a full box makes the sender keep them.
const MESSAGES: usize = 16 * 1024;

/// Whatever a zone thread should run for someone else: control work, and rare.
pub type Errand = Box<dyn FnOnce(&Rc<Zone>, &dyn InFlight) + Send>;

/// What other threads can put before a zone thread.
pub struct Mailbox<R: HostRequest, W: ZoneWaker> {
    requests: ArrayQueue<Cursor<R>>,
    overflow: SegQueue<Cursor<R>>,
    flushes: SegQueue<R>,
    messages: ArrayQueue<PeerMessage>,
    errands: SegQueue<Errand>,
    waker: W,
    doorbell: Doorbell,
}

impl<R: HostRequest, W: ZoneWaker> Mailbox<R, W> {
    /// An empty mailbox whose owner `waker` wakes.
    pub fn new(waker: W, has_peers: bool) -> Mailbox<R, W> {
        Mailbox {
            requests: ArrayQueue::new(REQUESTS),
            overflow: SegQueue::new(),
            flushes: SegQueue::new(),
            messages: ArrayQueue::new(if has_peers { MESSAGES } else { 1 }),
            errands: SegQueue::new(),
            waker,
            doorbell: Doorbell::new(),
        }
    }

    /// Puts in a request.
    pub fn submit(&self, cursor: Cursor<R>) {
        if let Err(cursor) = self.requests.push(cursor) {
            self.overflow.push(cursor);
        }
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

    /// Puts in a message of another zone thread; gives it back if there is no room.
    pub fn send(&self, message: PeerMessage) -> Result<(), PeerMessage> {
        self.messages.push(message)
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
                && self.overflow.is_empty()
                && self.flushes.is_empty()
                && self.messages.is_empty()
                && self.errands.is_empty()
        })
    }

    /// The owner is awake and will look by itself.
    pub fn stay_awake(&self) {
        self.doorbell.stay_awake();
    }

    pub(super) fn take_request(&self) -> Option<Cursor<R>> {
        self.requests.pop().or_else(|| self.overflow.pop())
    }

    pub(super) fn take_flush(&self) -> Option<R> {
        self.flushes.pop()
    }

    pub(super) fn take_message(&self) -> Option<PeerMessage> {
        self.messages.pop()
    }

    pub(super) fn take_errand(&self) -> Option<Errand> {
        self.errands.pop()
    }
}
