//! One zone thread, to be polled: the zone, its tasks, its mailbox and its channel to the base device.

use std::rc::Rc;
use std::sync::Arc;

use super::flush_desk::FlushDesk;
use super::mailbox::Mailbox;
use crate::dedupe::RequestId;
use crate::error::VdoError;
use crate::request::Requests;
use crate::runtime::base::{IoEnd, IoOwner};
use crate::runtime::stopwatch::{Stretch, Tracer};
use crate::runtime::task::Executor;
use crate::seam::{BaseChannel, BaseOp, Host, IoCompletion, Nanos};
use crate::types::ZoneIndex;
use crate::zone::logical_locks::SlotIndex;
use crate::zone::owner::Zone;
use crate::zone::room::RoomSeen;

/// Tasks run at one go before the thread looks at its mailbox and its channel again.
const TASKS_PER_ROUND: usize = 4096;

/// Rounds of running and hashing in one poll.
const ROUNDS_PER_POLL: usize = 4;

/// Requests taken from the mailbox in one poll.
const REQUESTS_PER_POLL: usize = 512;

/// Pieces of requests that are admitted in one poll: what bounds how long it takes, some hundred microseconds. What lies
/// behind it in the same thread (a client's socket, another volume) waits no longer.
const PIECES_PER_POLL: usize = 128;

/// Somebody wants to know how long an I/O of a member of the hash zone took.
#[cold]
fn tell_time(zone: &Zone, member: u32, end: &IoEnd) {
    let (op, began) = end.began();
    let stretch = match op {
        BaseOp::Write => Stretch::DataWrite,
        _ => Stretch::DataVerify,
    };
    zone.lap(stretch, member, began);
}

/// One zone thread: the zone, its tasks, its mailbox and its channel to the base device.
///
/// It is made on the thread that will poll it, and dropped there, after the volume was shut down.
pub struct ZoneThread<H: Host> {
    zone: Rc<Zone>,
    executor: Executor,
    channel: H::Channel,
    requests: Requests<H::Request>,
    flushes: Rc<FlushDesk<H::Request>>,
    mailboxes: Arc<[Mailbox<H::Request, H::Waker>]>,
    read_only_known: bool,
    /// How often room had come at the last poll.
    room_seen: RoomSeen,
}

impl<H: Host> Drop for ZoneThread<H> {
    /// Refuses the requests that came too late for any poll.
    fn drop(&mut self) {
        self.zone.closed.set(true);
        self.take_requests(usize::MAX);
    }
}

impl<H: Host> ZoneThread<H> {
    pub(crate) fn new(
        zone: Rc<Zone>,
        executor: Executor,
        channel: H::Channel,
        requests: Requests<H::Request>,
        flushes: Rc<FlushDesk<H::Request>>,
        mailboxes: Arc<[Mailbox<H::Request, H::Waker>]>,
    ) -> ZoneThread<H> {
        let read_only_known = false;
        ZoneThread {
            zone,
            executor,
            channel,
            requests,
            flushes,
            mailboxes,
            read_only_known,
            room_seen: RoomSeen::default(),
        }
    }

    /// Does what there is to do, without waiting for anything; says whether there was something. Late answers of the
    /// index are not looked for: see [`ZoneThread::expire_contexts`].
    pub fn poll(&mut self, now: Nanos) -> bool {
        self.zone.scheduler.set_now(now);
        self.zone.look_at_counted();
        let mut busy = self.take_mail();
        busy |= self.take_completions();
        busy |= self.zone.hash.poll(&self.zone, now);
        let room_seen = self.zone.shared.room.seen();
        if room_seen != self.room_seen {
            self.room_seen = room_seen;
            self.zone.room_came.wake_all();
        }
        busy |= self.zone.hash.serve_short(&self.zone);
        if self.zone.shared.is_read_only() && !self.read_only_known {
            self.read_only_known = true;
            self.zone.read_only_entered();
        }
        busy |= self.zone.tell_counted();
        let mut room = PIECES_PER_POLL;
        for _ in 0..ROUNDS_PER_POLL {
            let mut ran = self.requests.run(&mut room);
            ran |= self.serve_readers();
            ran |= self.executor.run(TASKS_PER_ROUND);
            busy |= ran;
            if !ran {
                break;
            }
        }
        self.zone.tell_released();
        while let Some(io) = self.zone.base.next_outgoing() {
            busy = true;
            // SAFETY: the table of I/Os owns the memory, or holds it by way of the caller's request,
            // until the completion of this I/O is given to it.
            unsafe { self.channel.submit(io) };
        }
        busy |= self.send_mail();
        if busy {
            self.zone.publish_usage();
        }
        self.zone.look_at_space();
        busy
    }

    /// Takes the completions of I/Os to whoever waits for them.
    fn take_completions(&mut self) -> bool {
        let (zone, requests) = (&self.zone, &mut self.requests);
        let any = self
            .channel
            .poll(&mut |done: IoCompletion| match zone.base.complete(done) {
                None => {}
                Some((IoOwner::Request(slot), end)) => requests.io_ended(SlotIndex(slot), end),
                Some((IoOwner::Member(id), end)) => {
                    if zone.stopwatch.is_running() {
                        tell_time(zone, id, &end);
                    }
                    zone.hash.io_ended(zone, RequestId(id), end);
                }
            });
        if let Some(token) = zone.base.take_stray() {
            let error = VdoError::Inconsistent(format!(
                "the base device completed an I/O that was not under way (token {token})"
            ));
            zone.services
                .enter_read_only_because(&error, format_args!("completions"));
        }
        any
    }

    /// Gives buffers to those who wait for one to read into.
    fn serve_readers(&mut self) -> bool {
        let zone = &self.zone;
        let mut any = false;
        while let Some((owner, buffer)) = zone.scratch.next_served() {
            any = true;
            match owner {
                IoOwner::Request(slot) => self.requests.buffer_free(SlotIndex(slot), buffer),
                IoOwner::Member(id) => zone.hash.buffer_free(zone, RequestId(id), buffer),
            }
        }
        any
    }

    /// Sends the writes on that have waited too long for the index, without deduplication, or in the packer, without company,
    /// and begins to discard blocks that were freed a while ago; says whether there were any.
    /// To be called, by a timer of the host, when [`ZoneThread::next_deadline`] has come; the next
    /// [`poll`](ZoneThread::poll) lets the writes run. Before the deadline it does nothing.
    pub fn expire_contexts(&mut self, now: Nanos) -> bool {
        self.zone.scheduler.set_now(now);
        self.zone.hash.expire(&self.zone, now) | self.zone.physical.begin_discards(now)
    }

    /// When the thread wants [`expire_contexts`](ZoneThread::expire_contexts) and [`poll`](ZoneThread::poll) to be called
    /// even if nothing happens; `None` for never. Changes only in these two, and is not taken back when an answer comes
    /// in time, or when the packer is emptied, so that a host sets its timer rarely. It comes to be sooner than it was when a
    /// timeout is lowered, something enters the packer, or a block is freed that is to be discarded.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let deadlines = [
            self.zone.hash.next_deadline(),
            self.zone.physical.next_discards(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The thread is about to sleep until it is woken; false if it should not, since there is work.
    pub fn prepare_to_sleep(&self) -> bool {
        if self.executor.has_ready()
            || self.requests.has_work()
            || self.zone.hash.may_serve_short(&self.zone)
            || !self.mailbox().prepare_to_sleep()
        {
            return false;
        }
        if self.zone.awaits_what_is_counted() {
            self.mailbox().stay_awake();
            return false;
        }
        self.zone.look_at_space_at_once();
        true
    }

    /// Hands every stretch of a request's way that ends here to `tracer` from now on, or to nobody.
    pub fn trace(&self, tracer: Option<Tracer>) {
        self.zone.stopwatch.trace(tracer);
    }

    /// Which zone thread this is.
    pub fn index(&self) -> ZoneIndex {
        self.zone.index
    }

    /// The zone, for tests.
    #[cfg(feature = "testing")]
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
        while let Some(sack) = mailbox.take_sack() {
            any = true;
            self.zone.receive_all(sack);
        }
        let taken = self.take_requests(REQUESTS_PER_POLL);
        any |= taken > 0;
        let backlog = taken == REQUESTS_PER_POLL;
        if self.zone.gauge.backlog.replace(backlog) && !backlog {
            self.zone.wake_if_quiet();
        }
        while let Some(errand) = self.mailbox().take_errand() {
            any = true;
            errand(&self.zone, &self.requests);
        }
        any
    }

    /// Takes up to `room` requests of callers from the mailbox, and all flushes; says how many requests.
    fn take_requests(&mut self, room: usize) -> usize {
        let mailbox = &self.mailboxes[self.zone.index.index()];
        let mut taken = 0;
        while taken < room
            && let Some(cursor) = mailbox.take_request()
        {
            taken += 1;
            self.requests.arrive(cursor);
        }
        while let Some(flush) = mailbox.take_flush() {
            self.flushes.admit(&self.zone, flush);
        }
        taken
    }

    fn send_mail(&mut self) -> bool {
        self.zone.announce_committed();
        let mut any = false;
        let mut wake = 0_u64;
        let mut all_out = true;
        for to in (0..self.zone.shared.zones).map(ZoneIndex) {
            let Some(sack) = self.zone.post.take_sack(to) else {
                continue;
            };
            wake |= 1 << to.get();
            any = true;
            if let Err(sack) = self.mailboxes[to.index()].send(sack) {
                self.zone.post.put_back(to, sack);
                all_out = false;
            }
        }
        if all_out {
            wake |= u64::from(self.zone.publish_counted());
        }
        while wake != 0 {
            self.mailboxes[wake.trailing_zeros() as usize].wake();
            wake &= wake - 1;
        }
        any
    }
}
