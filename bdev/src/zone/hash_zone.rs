//! A hash zone at work: the hash locks, their questions to the index, and the requests they speak to.
//!
//! The machines decide ([`HashZoneMachine`], [`Contexts`]); this file carries messages. A request enters
//! with its data and is told what to do, here or on its own zone thread; what concerns the index is done
//! here, since this zone thread owns the index's shard for these names. The data of every request in
//! a lock stays here as a shared buffer, so that newcomers can be compared with it, and is let go of
//! before the request hears its last action.

use std::cell::RefCell;
use std::sync::Arc;

use super::logical_locks::SlotIndex;
use super::message::{Entrant, Note, Outcome, RequestAddress};
use super::owner::Zone;
use crate::buffer::Buffer;
use crate::dedupe::{
    Action, Answer, ContextId, ContextTally, Contexts, HashZoneMachine, LockHost, LockReport,
    LockState, ReadLock, Reply, RequestId, TransitionCounts, WrittenAt,
};
use crate::depot::IncrementBudget;
use crate::error::VdoError;
use crate::hash::blocks_equal;
use crate::index::{
    AnswerMode, DedupeIndex, IndexError, IndexEvent, IndexOp, IndexRequest, IndexVerb, MemoryIndex,
};
use crate::runtime::table::{Key, Table};
use crate::runtime::task::{Scheduler, WaitList};
use crate::seam::Nanos;
use crate::stats::ZoneStatistics;
use crate::types::{Mapping, ZoneIndex};

/// A request that is in a hash lock, or about to be.
struct Member {
    from: RequestAddress,
    data: Arc<Buffer>,
    /// The lock on the block it wrote, as long as that is its own.
    own_lock: Option<ReadLock>,
    /// The lock it was told to give up.
    unlocking: Option<ReadLock>,
}

/// Locks on physical blocks that hash locks (or their writing requests) hold. Towards the machine each has a number.
type HeldLocks = Table<IncrementBudget>;

fn hold(locks: &mut HeldLocks, budget: IncrementBudget) -> ReadLock {
    ReadLock(u64::from(locks.insert(budget).number()))
}

fn key_of(lock: ReadLock) -> Key<IncrementBudget> {
    Key::new(lock.0 as u32)
}

/// What the machine asks at once.
struct Host<'a> {
    members: &'a [Option<Member>],
    locks: &'a HeldLocks,
}

impl LockHost for Host<'_> {
    fn same_data(&mut self, holder: RequestId, candidate: RequestId) -> bool {
        let data = |request: RequestId| self.members[request.0 as usize].as_ref();
        match (data(holder), data(candidate)) {
            (Some(holder), Some(candidate)) => blocks_equal(&holder.data, &candidate.data),
            _ => false,
        }
    }

    fn claim_increment(&mut self, lock: ReadLock) -> bool {
        let budget = self.locks.get(key_of(lock));
        budget.is_some_and(IncrementBudget::claim)
    }
}

struct HashState {
    machine: HashZoneMachine,
    contexts: Contexts,
    index: MemoryIndex,
    members: Vec<Option<Member>>,
    locks: HeldLocks,
    actions: Vec<Action>,
    /// Which context a pending question's answer is about to be a post's or an update's.
    updating: Vec<bool>,
    verb_result: Option<Result<(), IndexError>>,
}

/// One hash zone.
pub struct HashZone {
    state: RefCell<HashState>,
    verb_done: WaitList,
    invalid_advice: std::cell::Cell<u64>,
}

impl HashZone {
    /// A hash zone for `requests` requests of the whole volume, with `index` as its shard.
    pub fn new(scheduler: &std::rc::Rc<Scheduler>, requests: u32, index: MemoryIndex) -> HashZone {
        let machine = HashZoneMachine::new(requests);
        let actions = Vec::with_capacity(machine.max_actions());
        HashZone {
            state: RefCell::new(HashState {
                machine,
                contexts: Contexts::new(requests),
                index,
                members: (0..requests).map(|_| None).collect(),
                locks: HeldLocks::with_capacity(2 * requests as usize),
                actions,
                updating: vec![false; requests as usize],
                verb_result: None,
            }),
            verb_done: WaitList::new(scheduler),
            invalid_advice: std::cell::Cell::new(0),
        }
    }

    /// A write comes with its data.
    pub fn enter(&self, zone: &Zone, entrant: Entrant) {
        let state = &mut *self.state.borrow_mut();
        let request = id_of(zone, entrant.from);
        state.members[request.0 as usize] = Some(Member {
            from: entrant.from,
            data: entrant.data,
            own_lock: None,
            unlocking: None,
        });
        let mut host = Host {
            members: &state.members,
            locks: &state.locks,
        };
        let (name, allocation) = (entrant.name, entrant.allocation);
        state
            .machine
            .enter(request, name, allocation, &mut host, &mut state.actions);
        self.carry_out(zone, state);
    }

    /// A request has done what it was told.
    pub fn outcome(&self, zone: &Zone, from: RequestAddress, outcome: Outcome) {
        let state = &mut *self.state.borrow_mut();
        let request = id_of(zone, from);
        let Some(member) = state.members[request.0 as usize].as_mut() else {
            log::error!("{from:?} reports {outcome:?} to a hash zone it is not in");
            return;
        };
        let answer = match outcome {
            Outcome::Locked(budget) => Answer::Locked(hold(&mut state.locks, budget)),
            Outcome::NotLocked => Answer::NotLocked,
            Outcome::Verified { equal } => Answer::Verified { equal },
            Outcome::Written(mapping, budget) => {
                let lock = hold(&mut state.locks, budget);
                member.own_lock = Some(lock);
                Answer::Written(WrittenAt::Allocation(mapping.pbn, lock))
            }
            Outcome::Deduplicated => Answer::Deduplicated,
            Outcome::Unlocked => {
                if let Some(lock) = member.unlocking.take() {
                    state.locks.remove(key_of(lock));
                }
                // The block is compared again before it is shared again: once unlocked, it may change.
                Answer::Unlocked { anchored: false }
            }
            Outcome::Failed => {
                if let Some(lock) = member.unlocking.take() {
                    state.locks.remove(key_of(lock));
                }
                Answer::Failed { shared: None }
            }
        };
        self.tell(state, request, answer);
        self.carry_out(zone, state);
    }

    /// Takes answers of the index; says whether there were any.
    pub fn poll(&self, zone: &Zone, now: Nanos) -> bool {
        let state = &mut *self.state.borrow_mut();
        let HashState {
            machine,
            contexts,
            index,
            members,
            locks,
            actions,
            updating,
            ..
        } = state;
        let mut verb = None;
        let mut host = Host { members, locks };
        let busy = index.poll(now, &mut |event| match event {
            IndexEvent::Done(_, result) => verb = Some(result),
            IndexEvent::Answer(answer) => {
                let Reply::Deliver(request) = contexts.answer(ContextId(answer.token)) else {
                    return;
                };
                let reply = if updating[answer.token as usize] {
                    Answer::Updated
                } else {
                    self.advice(zone, answer.advice)
                };
                machine.answer(request, reply, &mut host, actions);
            }
        });
        if verb.is_some() {
            state.verb_result = verb;
            self.verb_done.wake_all();
        }
        if !state.actions.is_empty() {
            self.carry_out(zone, state);
        }
        busy
    }

    /// Gives up on answers of the index that take too long, if the time to look for them has come; says whether
    /// there were any.
    pub fn expire(&self, zone: &Zone, now: Nanos) -> bool {
        let state = &mut *self.state.borrow_mut();
        let HashState {
            machine,
            contexts,
            members,
            locks,
            actions,
            ..
        } = state;
        let mut host = Host { members, locks };
        let expired = contexts.expire(now, |request| {
            // Whichever it was, the request goes on without the index.
            let querying = machine
                .lock_of(request)
                .is_none_or(|lock| lock.state == LockState::Querying);
            let reply = if querying {
                Answer::NoAdvice
            } else {
                Answer::Updated
            };
            machine.answer(request, reply, &mut host, actions);
        });
        if let Some(count) = expired.report {
            log::warn!(
                "volume {}: hash zone {}: {count} index requests took too long; the writes go on \
                 without deduplication",
                zone.shared.name,
                zone.index,
            );
        }
        if !state.actions.is_empty() {
            self.carry_out(zone, state);
        }
        expired.count > 0
    }

    fn advice(&self, zone: &Zone, advice: Result<Option<Mapping>, IndexError>) -> Answer {
        match advice {
            Ok(Some(at)) if at.state.is_mapped() && zone.shared.slabs.is_data_block(at.pbn) => {
                Answer::Advice(at)
            }
            Ok(Some(_)) => {
                self.invalid_advice.set(self.invalid_advice.get() + 1);
                Answer::NoAdvice
            }
            Ok(None) | Err(_) => Answer::NoAdvice,
        }
    }

    fn tell(&self, state: &mut HashState, request: RequestId, answer: Answer) {
        let mut host = Host {
            members: &state.members,
            locks: &state.locks,
        };
        state
            .machine
            .answer(request, answer, &mut host, &mut state.actions);
    }

    /// Carries out what the machine said, and what it says meanwhile.
    fn carry_out(&self, zone: &Zone, state: &mut HashState) {
        let mut next = 0;
        while let Some(&action) = state.actions.get(next) {
            next += 1;
            match action {
                Action::Query {
                    request,
                    name,
                    post,
                } => {
                    let op = if post.is_some() {
                        IndexOp::Post
                    } else {
                        IndexOp::Query
                    };
                    let new = post.unwrap_or(Mapping::UNMAPPED);
                    let asked = self.ask(zone, state, request, op, name, new);
                    if let Err(answer) = asked {
                        self.tell(state, request, answer);
                    }
                }
                Action::Update { request, name, at } => {
                    if self
                        .ask(zone, state, request, IndexOp::Update, name, at)
                        .is_err()
                    {
                        self.tell(state, request, Answer::Updated);
                    }
                }
                Action::Inconsistent(what) => {
                    let why = VdoError::Inconsistent(what.to_string());
                    zone.services
                        .enter_read_only_because(&why, format_args!("a hash lock"));
                }
                action => self.forward(zone, state, action),
            }
        }
        state.actions.clear();
    }

    fn ask(
        &self,
        zone: &Zone,
        state: &mut HashState,
        request: RequestId,
        op: IndexOp,
        name: crate::types::RecordName,
        new: Mapping,
    ) -> Result<(), Answer> {
        if !zone.shared.index_answers() {
            return Err(Answer::IndexOff);
        }
        let now = zone.scheduler.now();
        let context = state
            .contexts
            .acquire(now, request)
            .ok_or(Answer::NoAdvice)?;
        state.updating[context.0 as usize] = op == IndexOp::Update;
        state.index.submit(IndexRequest {
            op,
            name,
            new,
            token: context.0,
        });
        Ok(())
    }

    fn forward(&self, zone: &Zone, state: &mut HashState, action: Action) {
        let Some(request) = action.request() else {
            return;
        };
        let place = &mut state.members[request.0 as usize];
        let Some(member) = place else {
            log::error!("a hash zone speaks to {request:?}, who is not there");
            return;
        };
        let to = member.from;
        match action {
            Action::Unlock { lock, .. } => member.unlocking = Some(lock),
            Action::TakeAllocation { .. } => member.own_lock = None,
            action if action.is_last() => {
                if let Some(lock) = member.own_lock.take() {
                    state.locks.remove(key_of(lock));
                }
                *place = None;
            }
            _ => {}
        }
        if to.zone == zone.index {
            zone.act(to.slot, action);
        } else {
            zone.post.note(to.zone, Note::Act(to.slot, action));
        }
    }

    /// When the zone wants to be polled although nothing happens.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let state = self.state.borrow();
        match (state.contexts.next_deadline(), state.index.next_wakeup()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Has the index's shard do what `verb` says, and waits for its end.
    pub async fn run_verb(&self, verb: IndexVerb) -> Result<(), IndexError> {
        self.state.borrow_mut().index.start(verb);
        self.verb_done
            .wait_until(|| self.state.borrow().verb_result.is_some())
            .await;
        self.state.borrow_mut().verb_result.take().unwrap_or(Ok(()))
    }

    /// Makes the index slow, silent or failing, to see what becomes of writes.
    pub fn set_answer_mode(&self, mode: AnswerMode) {
        self.state.borrow_mut().index.set_answer_mode(mode);
    }

    /// How long a question to the index may take, and how rarely late ones are looked for.
    pub fn set_timeouts(&self, timeout_ms: Option<u64>, minimum_timer_ms: Option<u64>) {
        let contexts = &mut self.state.borrow_mut().contexts;
        if let Some(timeout) = timeout_ms {
            contexts.set_timeout_ms(timeout);
        }
        if let Some(timer) = minimum_timer_ms {
            contexts.set_minimum_timer_ms(timer);
        }
    }

    /// Adds what the zone counted.
    pub fn fill(&self, counters: &mut ZoneStatistics) {
        let state = self.state.borrow();
        counters.hash_lock = state.machine.statistics();
        counters.hash_lock.curr_dedupe_queries = state.contexts.active();
        counters.hash_lock_paths = state.machine.path_statistics();
        counters.hash_lock_paths.context_busy = state.contexts.busy();
        counters.dedupe_advice_timeouts = state.contexts.timeouts() + state.contexts.busy();
        counters.errors.invalid_advice_pbn_count = self.invalid_advice.get();
        counters.index = state.index.statistics();
    }

    /// The live hash locks.
    pub fn lock_reports(&self) -> Vec<LockReport> {
        self.state.borrow().machine.locks().collect()
    }

    /// How often each step of the table was taken.
    pub fn transitions(&self) -> TransitionCounts {
        self.state.borrow().machine.transitions().clone()
    }

    /// Whether no request is in the zone.
    pub fn is_idle(&self) -> bool {
        self.state.borrow().machine.is_idle()
    }

    /// Bytes the index takes or may come to take.
    pub fn index_memory(&self) -> u64 {
        self.state.borrow().index.memory_bytes()
    }

    /// Dedupe contexts by state.
    pub fn context_tally(&self) -> ContextTally {
        self.state.borrow().contexts.tally()
    }
}

fn id_of(zone: &Zone, address: RequestAddress) -> RequestId {
    let RequestAddress {
        zone: ZoneIndex(index),
        slot: SlotIndex(slot),
    } = address;
    RequestId(u32::from(index) * zone.shared.slots_per_zone + slot)
}
