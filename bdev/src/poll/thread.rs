//! One zone thread, to be polled: the zone, its tasks, its mailbox and its channel to the base device.

use std::rc::Rc;
use std::sync::Arc;

use super::flush_desk::FlushDesk;
use super::mailbox::Mailbox;
use crate::request::slot::FrontDesk;
use crate::runtime::task::Executor;
use crate::seam::{BaseChannel, Host, IoCompletion, Nanos};
use crate::types::ZoneIndex;
use crate::zone::owner::Zone;

/// Tasks run at one go before the thread looks at its mailbox and its channel again.
const TASKS_PER_ROUND: usize = 4096;

/// Rounds of running and hashing in one poll.
const ROUNDS_PER_POLL: usize = 4;

/// Requests taken from the mailbox in one poll.
const REQUESTS_PER_POLL: usize = 512;

/// One zone thread: the zone, its tasks, its mailbox and its channel to the base device.
///
/// It is made on the thread that will poll it, and dropped there, after the volume was shut down.
pub struct ZoneThread<H: Host> {
    zone: Rc<Zone>,
    executor: Executor,
    channel: H::Channel,
    desk: Rc<FrontDesk<H::Request>>,
    flushes: Rc<FlushDesk<H::Request>>,
    mailboxes: Arc<[Mailbox<H::Request, H::Waker>]>,
    read_only_known: bool,
}

impl<H: Host> ZoneThread<H> {
    pub(crate) fn new(
        zone: Rc<Zone>,
        executor: Executor,
        channel: H::Channel,
        desk: Rc<FrontDesk<H::Request>>,
        flushes: Rc<FlushDesk<H::Request>>,
        mailboxes: Arc<[Mailbox<H::Request, H::Waker>]>,
    ) -> ZoneThread<H> {
        let read_only_known = false;
        ZoneThread {
            zone,
            executor,
            channel,
            desk,
            flushes,
            mailboxes,
            read_only_known,
        }
    }

    /// Does what there is to do, without waiting for anything; says whether there was something. Late answers of the
    /// index are not looked for: see [`ZoneThread::expire_contexts`].
    pub fn poll(&mut self, now: Nanos) -> bool {
        self.zone.scheduler.set_now(now);
        let mut busy = self.take_mail();
        let base = Rc::clone(&self.zone.base);
        busy |= self
            .channel
            .poll(&mut |done: IoCompletion| base.complete(done));
        busy |= self.zone.hash.poll(&self.zone, now);
        if self.zone.shared.is_read_only() && !self.read_only_known {
            self.read_only_known = true;
            self.zone.read_only_entered();
        }
        for _ in 0..ROUNDS_PER_POLL {
            let mut ran = self.executor.run(TASKS_PER_ROUND);
            ran |= self.zone.hasher.run();
            busy |= ran;
            if !ran {
                break;
            }
        }
        while let Some(io) = base.next_outgoing() {
            busy = true;
            // SAFETY: the table of I/Os owns the memory, or holds it by way of the caller's request,
            // until the completion of this I/O is given to it.
            unsafe { self.channel.submit(io) };
        }
        busy |= self.send_mail();
        if busy {
            self.zone.publish_usage();
        }
        busy
    }

    /// Sends the writes on that have waited too long for the index, without deduplication; says whether there were any.
    /// To be called, by a timer of the host, when [`ZoneThread::next_deadline`] has come; the next
    /// [`poll`](ZoneThread::poll) lets the writes run. Before the deadline it does nothing.
    pub fn expire_contexts(&mut self, now: Nanos) -> bool {
        self.zone.scheduler.set_now(now);
        self.zone.hash.expire(&self.zone, now)
    }

    /// When the thread wants [`expire_contexts`](ZoneThread::expire_contexts) and [`poll`](ZoneThread::poll) to be called
    /// even if nothing happens; `None` for never. Changes only in these two, and is not taken back when an answer comes
    /// in time, so that a host sets its timer rarely.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.zone.hash.next_deadline()
    }

    /// The thread is about to sleep until it is woken; false if it should not, since there is work.
    pub fn prepare_to_sleep(&self) -> bool {
        !self.executor.has_ready() && self.mailbox().prepare_to_sleep()
    }

    /// Which zone thread this is.
    pub fn index(&self) -> ZoneIndex {
        self.zone.index
    }

    /// The zone, for tests and reports on its thread.
    pub fn zone(&self) -> &Rc<Zone> {
        &self.zone
    }

    fn mailbox(&self) -> &Mailbox<H::Request, H::Waker> {
        &self.mailboxes[self.zone.index.index()]
    }

    fn take_mail(&mut self) -> bool {
        let mailbox = &self.mailboxes[self.zone.index.index()];
        mailbox.stay_awake();
        let mut any = false;
        while let Some(message) = mailbox.take_message() {
            any = true;
            self.zone.receive(message);
        }
        let mut room = REQUESTS_PER_POLL;
        while room > 0
            && let Some(cursor) = mailbox.take_request()
        {
            any = true;
            room -= 1;
            self.desk.admit(&self.zone, cursor);
        }
        let backlog = room == 0;
        if self.zone.gauge.backlog.replace(backlog) && !backlog {
            self.zone.wake_if_quiet();
        }
        while let Some(flush) = mailbox.take_flush() {
            any = true;
            self.flushes.admit(&self.zone, flush);
        }
        while let Some(errand) = mailbox.take_errand() {
            any = true;
            errand(&self.zone);
        }
        any
    }

    fn send_mail(&mut self) -> bool {
        let mut any = false;
        let mut wake = 0_u64;
        while let Some((to, message)) = self.zone.post.next_outgoing() {
            if let Err(message) = self.mailboxes[to.index()].send(message) {
                self.zone.post.put_back(to, message);
                wake |= 1 << to.get();
                any = true;
                break;
            }
            wake |= 1 << to.get();
            any = true;
        }
        while wake != 0 {
            self.mailboxes[wake.trailing_zeros() as usize].wake();
            wake &= wake - 1;
        }
        any
    }
}
