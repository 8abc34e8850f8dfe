//! A hash zone at work: every write of data whose name belongs to it, from its entrance until it is known
//! where the data is.
//!
//! A write comes with its data ([`HashZone::enter`]) and becomes a [`member`]. It gets a block to write to,
//! from the slabs of this zone thread if they have one, and its request hears that there will be a place.
//! A write that is alone with its data goes its way by itself ([`lone`]); where several meet, their hash lock
//! ([`crate::dedupe`]) says what each of them is to do next. What concerns the index is done in [`advice`], what concerns
//! compressed data in [`packing`], all else in [`action`], here, on the hash zone's thread: the index's shard for these names, the newly allocated blocks
//! and most of the copies are this thread's. The request hears no more than where its data is, maps its block to that,
//! and says how that went ([`HashZone::mapped`]).
//!
//! Nothing is borrowed while another part is called: an action is taken off the machine's queue, carried out,
//! and answered.

mod action;
mod advice;
mod lone;
mod member;
mod packing;
mod short;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use self::lone::Loners;
use self::member::{Host, Member, Place, Waits, number_of};
use self::packing::Packing;
use super::events::Verdict;
use super::message::{Entrant, MemberCall, MemberReply, RequestAddress};
use super::owner::Zone;
use crate::buffer::Buffer;
use crate::dedupe::contexts::{ContextTally, Contexts};
use crate::dedupe::{Action, Answer, HashZoneMachine, LockReport, RequestId, TransitionCounts};
use crate::depot::{IncrementBudget, WriteKind};
use crate::error::VdoError;
use crate::index::{AnswerMode, IndexShard};
use crate::packer::Packer;
use crate::runtime::base::IoEnd;
use crate::runtime::queue::Queue;
use crate::runtime::table::Table;
use crate::runtime::task::{Scheduler, WaitList};
use crate::seam::Nanos;
use crate::stats::ZoneStatistics;
use crate::types::{Pbn, ZoneIndex};

struct HashState {
    machine: HashZoneMachine,
    contexts: Contexts,
    index: IndexShard,
    members: Vec<Option<Member>>,
    loners: Loners,
    packing: Packing,
    /// Locks on physical blocks that hash locks (or their writing requests) hold.
    locks: Table<IncrementBudget>,
    /// What the machine has said and nobody has done yet.
    actions: Vec<Action>,
    /// Of those, how many have been done.
    done: usize,
    /// What it said when it was told of what had happened already; empty but for that time.
    replayed: Vec<Action>,
    /// Which context a pending question's answer is about to be an update's.
    updating: Vec<bool>,
}

impl HashState {
    fn answer(&mut self, request: RequestId, answer: Answer) {
        let mut host = Host {
            members: &self.members,
            locks: &self.locks,
        };
        self.machine
            .answer(request, answer, &mut host, &mut self.actions);
    }

    /// The next thing to be done.
    #[inline]
    fn next_action(&mut self) -> Option<Action> {
        match self.actions.get(self.done) {
            Some(action) => {
                self.done += 1;
                Some(*action)
            }
            None => {
                self.actions.clear();
                self.done = 0;
                None
            }
        }
    }
}

/// One hash zone. See the [module](self).
pub struct HashZone {
    state: RefCell<HashState>,
    /// Whether actions are being carried out.
    carrying_out: Cell<bool>,
    /// Woken when everything that was asked of the index has ended, after it was stopped.
    index_idle: WaitList,
    invalid_advice: Cell<u64>,
    /// Answers of the index and members whose time is up, in the making.
    answers: RefCell<Queue<(RequestId, Answer)>>,
    /// Members that wait for room.
    short: RefCell<Vec<RequestId>>,
}

impl HashZone {
    /// A hash zone for `requests` requests of a whole volume of so many zone threads, with `index` as its share of the index, and
    /// `packer` beside it.
    pub fn new(
        scheduler: &Rc<Scheduler>,
        requests: u32,
        zones: u8,
        index: IndexShard,
        packer: Packer,
    ) -> HashZone {
        let machine = HashZoneMachine::new(requests);
        let actions = Vec::with_capacity(machine.max_actions());
        HashZone {
            state: RefCell::new(HashState {
                machine,
                contexts: Contexts::new(requests),
                index,
                members: (0..requests).map(|_| None).collect(),
                loners: Loners::new(requests),
                packing: Packing::new(packer, zones),
                locks: Table::with_capacity(2 * requests as usize),
                actions,
                done: 0,
                replayed: Vec::with_capacity(8),
                updating: vec![false; requests as usize],
            }),
            carrying_out: Cell::new(false),
            index_idle: WaitList::new(scheduler),
            invalid_advice: Cell::new(0),
            answers: RefCell::new(Queue::with_capacity(requests as usize)),
            short: RefCell::new(Vec::new()),
        }
    }

    /// A write comes with its data. Says whether there will be a place for that, whatever comes, to a request of this
    /// thread; if that is not known yet, and on other threads, the request is told when it is.
    pub fn enter(&self, zone: &Zone, entrant: Entrant) -> bool {
        let from = entrant.from;
        let id = number_of(from, zone.shared.slots_per_zone);
        if self.waits(id).is_some() {
            self.astray(zone, id, "entered twice");
            return false;
        }
        let mut member = Member::new(entrant);
        member.room_seen = zone.shared.room.seen();
        self.state.borrow_mut().members[id.0 as usize] = Some(member);
        let block = zone.physical.allocate(WriteKind::Data);
        let promised = block.is_ok();
        self.allocated(zone, id, block, 1);
        promised
    }

    /// A zone has answered the wish for a block; `asked` zones have.
    fn allocated(&self, zone: &Zone, id: RequestId, block: Result<Pbn, VdoError>, asked: u8) {
        match block {
            Err(VdoError::NoSpace) if asked < zone.shared.zones => {
                self.set(id, Waits::Allocation { asked });
                let next = (zone.index.get() + asked) % zone.shared.zones;
                zone.call_for_member(ZoneIndex(next), id, MemberCall::Allocate);
            }
            Ok(pbn) => {
                let from = self.with(id, |member| {
                    member.allocation = Some(pbn);
                    member.from
                });
                // A request that entered from here is told by that very call.
                if let Some(from) = from.filter(|from| asked > 1 || from.zone != zone.index) {
                    zone.tell(from, Verdict::Promise);
                }
                self.admit(zone, id, Some(pbn));
            }
            Err(VdoError::NoSpace) if self.may_come(zone, id) => self.wait_for_room(id),
            // A duplicate needs none.
            Err(VdoError::NoSpace) => self.admit(zone, id, None),
            Err(error) => {
                self.with(id, |member| member.failure = Some(error.into()));
                self.dismiss(zone, id);
            }
        }
    }

    fn admit(&self, zone: &Zone, id: RequestId, allocation: Option<Pbn>) {
        let Some(name) = self.with(id, |member| member.name) else {
            return self.astray(zone, id, "was to be admitted");
        };
        if self.go_alone(zone, id, name, allocation) {
            return;
        }
        {
            let state = &mut *self.state.borrow_mut();
            if let Some(member) = &mut state.members[id.0 as usize] {
                member.waits = Waits::Machine;
            }
            let mut host = Host {
                members: &state.members,
                locks: &state.locks,
            };
            state
                .machine
                .enter(id, name, allocation, &mut host, &mut state.actions);
        }
        self.carry_out(zone);
    }

    /// A request has mapped its block to where its data is, or failed to. Says whether it is forgotten; if not yet,
    /// it will be told.
    pub fn mapped(&self, zone: &Zone, from: RequestAddress, succeeded: bool) -> bool {
        let id = number_of(from, zone.shared.slots_per_zone);
        if !succeeded || !self.end_alone(zone, id) {
            self.mapped_with_lock(zone, id, succeeded);
            return false;
        }
        let is_here = from.zone == zone.index;
        if !is_here {
            zone.tell(from, Verdict::Release);
        }
        is_here
    }

    fn mapped_with_lock(&self, zone: &Zone, id: RequestId, succeeded: bool) {
        let Some(Waits::Mapping(place)) = self.waits(id) else {
            return self.astray(zone, id, "mapped what it was not told");
        };
        match (succeeded, place) {
            (_, Place::Alone) => self.dismiss(zone, id),
            (true, Place::Own) => self.downgrade(zone, id),
            (true, Place::Shared) => self.answer(zone, id, Answer::Deduplicated),
            (_, Place::Fragment) => self.fragment_mapped(zone, id, succeeded),
            (false, Place::Own | Place::Shared) => {
                self.answer(zone, id, Answer::Failed { shared: None });
            }
        }
    }

    /// Another zone has answered on behalf of a member.
    pub(super) fn replied(&self, zone: &Zone, id: RequestId, reply: MemberReply) {
        match (self.waits(id), reply) {
            (Some(Waits::Allocation { asked }), MemberReply::Allocated(block)) => {
                self.allocated(zone, id, block, asked + 1);
            }
            (Some(Waits::Lock), MemberReply::Locked(lock)) => self.locked(zone, id, lock),
            (Some(Waits::Downgrade), MemberReply::Downgraded(budget)) => {
                self.downgraded(zone, id, budget);
            }
            (Some(Waits::Packed { batch }), MemberReply::Downgraded(budget)) => {
                self.packed_shared(zone, batch, budget);
            }
            (_, reply) => self.astray(zone, id, &format!("got {reply:?}")),
        }
    }

    /// An I/O of a member has ended.
    pub(crate) fn io_ended(&self, zone: &Zone, id: RequestId, end: IoEnd) {
        match self.waits(id) {
            Some(Waits::Write { alone }) => self.written(zone, id, alone, end.result()),
            Some(Waits::Packed { batch }) => self.packed_written(zone, batch, end),
            Some(Waits::Compare { at }) => self.compared(zone, id, at, end),
            _ => self.astray(zone, id, &format!("got {end:?}")),
        }
    }

    /// There is a buffer for a member to read into.
    pub(crate) fn buffer_free(&self, zone: &Zone, id: RequestId, buffer: Buffer) {
        match self.waits(id) {
            Some(Waits::Buffer { at }) => self.compare_into(zone, id, at, buffer),
            _ => {
                zone.scratch.give(buffer);
                self.astray(zone, id, "got a buffer");
            }
        }
    }

    #[inline]
    fn with<T>(&self, id: RequestId, act: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let mut state = self.state.borrow_mut();
        let member = state.members.get_mut(id.0 as usize)?;
        member.as_mut().map(act)
    }

    #[inline]
    fn waits(&self, id: RequestId) -> Option<Waits> {
        self.with(id, |member| member.waits)
    }

    #[inline]
    fn set(&self, id: RequestId, waits: Waits) {
        self.with(id, |member| member.waits = waits);
    }

    /// Something came for a member that does not wait for it, or for nobody.
    #[cold]
    fn astray(&self, zone: &Zone, id: RequestId, what: &str) {
        let waits = self.waits(id);
        let error = VdoError::Inconsistent(format!("{id:?} ({waits:?}) {what}"));
        zone.services.enter_read_only_because(
            &error,
            format_args!("something went astray in hash zone {}", zone.index),
        );
    }

    /// Gives the machine an answer, and does what it says then; if the write is alone, it knows itself what to do.
    fn answer(&self, zone: &Zone, id: RequestId, answer: Answer) {
        if self.answered_alone(zone, id, answer) {
            return;
        }
        {
            let state = &mut *self.state.borrow_mut();
            if let Some(member) = &mut state.members[id.0 as usize] {
                member.waits = Waits::Machine;
            }
            state.answer(id, answer);
        }
        self.carry_out(zone);
    }

    /// Gives the machine the answer of a member who met an error.
    fn fail(&self, zone: &Zone, id: RequestId, error: VdoError) {
        self.with(id, |member| {
            member.failure.get_or_insert(error.into());
        });
        self.answer(zone, id, Answer::Failed { shared: None });
    }

    /// When the zone wants to be polled although nothing happens.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let state = self.state.borrow();
        let index = [state.contexts.next_deadline(), state.index.next_wakeup()];
        let packer = state.packing.deadline();
        index.into_iter().chain([packer]).flatten().min()
    }

    /// Does something with the share of the index that is here.
    #[inline]
    pub(crate) fn with_index<T>(&self, act: impl FnOnce(&mut IndexShard) -> T) -> T {
        act(&mut self.state.borrow_mut().index)
    }

    /// Stops the share of the index, and waits until everything that was asked of it has ended.
    pub(crate) async fn stop_index(&self) {
        self.with_index(IndexShard::stop);
        let is_idle = || self.with_index(|shard| shard.is_idle());
        self.index_idle.wait_until(is_idle).await;
    }

    /// Makes the index slow, silent or failing, to see what becomes of writes.
    pub fn set_answer_mode(&self, mode: AnswerMode) {
        self.state.borrow_mut().index.set_answer_mode(mode);
    }

    /// How long a question to the index may take, and how rarely late ones are looked for.
    /// Holds at `now`, for those who wait already too.
    pub fn set_timeouts(&self, now: Nanos, timeout_ms: Option<u64>, minimum_timer_ms: Option<u64>) {
        let contexts = &mut self.state.borrow_mut().contexts;
        if let Some(timeout) = timeout_ms {
            contexts.set_timeout_ms(timeout);
        }
        if let Some(timer) = minimum_timer_ms {
            contexts.set_minimum_timer_ms(timer);
        }
        contexts.look_again(now);
    }

    /// Adds what the zone counted.
    pub fn fill(&self, counters: &mut ZoneStatistics) {
        let state = self.state.borrow();
        counters.packer = state.packing.statistics();
        counters.hash_lock = state.machine.statistics();
        counters.hash_lock.curr_dedupe_queries = state.contexts.active();
        counters.hash_lock_paths = state.machine.path_statistics();
        counters.hash_lock_steps = state.machine.transitions().steps();
        counters.hash_lock_paths.context_busy = state.contexts.busy();
        counters.dedupe_advice_timeouts = state.contexts.timeouts() + state.contexts.busy();
        counters.errors.invalid_advice_pbn_count = self.invalid_advice.get();
        counters.index = state.index.statistics();
    }

    /// The live hash locks.
    pub fn lock_reports(&self) -> Vec<LockReport> {
        let state = self.state.borrow();
        state.machine.locks().chain(state.lone_reports()).collect()
    }

    /// How often each step of the table was taken.
    pub fn transitions(&self) -> TransitionCounts {
        self.state.borrow().machine.transitions().clone()
    }

    /// Whether no request is in the zone.
    pub fn is_idle(&self) -> bool {
        let state = self.state.borrow();
        state.machine.is_idle() && state.loners.is_empty() && state.packing.is_empty()
    }

    /// Bytes of memory that hash locks, the writes in them and the index hold.
    pub fn memory_held(&self) -> u64 {
        let state = self.state.borrow();
        let members = state.members.len() * size_of::<Option<Member>>();
        let actions = state.actions.capacity() * size_of::<Action>();
        let contexts = state.contexts.memory_held() + state.updating.capacity();
        let locks =
            state.machine.footprint() + state.loners.memory_held() + state.locks.memory_held();
        let all = members + actions + contexts + locks + state.packing.memory_held();
        state.index.memory_held() + all as u64
    }

    /// Dedupe contexts by state.
    pub fn context_tally(&self) -> ContextTally {
        self.state.borrow().contexts.tally()
    }
}
