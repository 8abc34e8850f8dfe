//! The hash locks of one zone: who gets in, where an answer goes, and what is left when a lock ends.
//!
//! A request's life here: it enters with its data's name. If no write of that name is in flight, it gets a
//! new lock and acts for it; if one is, and the bytes are the same, it joins that lock, waiting or sharing as
//! the lock's state has it. Then it does what it is told, answer by answer, until it is let go.
//!
//! A lock's life: taken from the pool for the first request of a name, put into the map of names, moved
//! from state to state by the answers of its requests ([`super::paths`]), possibly replaced in
//! the map by a younger one, and back in the pool when its last request leaves.
//!
//! One zone thread owns the machine. All memory is taken when it is made: there are more locks than
//! requests, since each lock has at least one, and the lists run through the requests themselves. Whoever
//! calls brings the queue for the [`Action`]s; [`HashZoneMachine::max_actions`] says how long it can get.

use hashbrown::HashTable;

use super::action::{Action, Answer, Inconsistency, LockHost, RequestId};
use super::lock::{Lock, LockId, LockReport};
use super::members::{Chain, Members};
use super::state::LockState;
use super::transitions::{Row, TransitionCounts};
use crate::stats::{HashLockPathStatistics, HashLockStatistics};
use crate::types::{Pbn, RecordName};

/// All hash locks of a zone.
#[derive(Clone, Debug)]
pub struct HashZoneMachine {
    pub(super) locks: Vec<Lock>,
    free: Vec<LockId>,
    by_name: HashTable<LockId>,
    pub(super) members: Members,
    pub(super) counts: TransitionCounts,
    pub(super) statistics: HashLockStatistics,
}

/// One call into the machine: the machine, what it may ask at once, and where its actions go.
pub(super) struct Turn<'a, H> {
    pub(super) zone: &'a mut HashZoneMachine,
    pub(super) host: &'a mut H,
    pub(super) out: &'a mut Vec<Action>,
}

impl HashZoneMachine {
    /// A zone without locks, for requests numbered below `max_requests`.
    pub fn new(max_requests: u32) -> HashZoneMachine {
        // One more than requests: a lock that is replaced ends just after the new one begins.
        let locks = max_requests + 1;
        HashZoneMachine {
            locks: vec![Lock::UNUSED; locks as usize],
            free: (0..locks).rev().map(LockId).collect(),
            // A map at most half full never grows: it cleans itself up in place.
            by_name: HashTable::with_capacity(2 * locks as usize),
            members: Members::new(max_requests),
            counts: TransitionCounts::default(),
            statistics: HashLockStatistics::default(),
        }
    }

    /// The most actions one call can add to the queue.
    pub fn max_actions(&self) -> usize {
        2 * self.members.capacity() + 8
    }

    /// A request comes with data of this name, perhaps with a block it can write it to. `host` is asked
    /// whether the data is that of the lock it meets.
    pub fn enter<H: LockHost>(
        &mut self,
        request: RequestId,
        name: RecordName,
        allocation: Option<Pbn>,
        host: &mut H,
        out: &mut Vec<Action>,
    ) {
        let wrong = match self.members.get(request) {
            None => Some(Inconsistency::UnknownRequest(request)),
            Some(member) if member.lock.is_some() => Some(Inconsistency::AlreadyEntered(request)),
            Some(_) => None,
        };
        match wrong {
            Some(what) => out.push(Action::Inconsistent(what)),
            None => Turn {
                zone: self,
                host,
                out,
            }
            .enter(request, name, allocation),
        }
    }

    /// A request answers the last [`Action`] that wanted an answer.
    pub fn answer<H: LockHost>(
        &mut self,
        request: RequestId,
        answer: Answer,
        host: &mut H,
        out: &mut Vec<Action>,
    ) {
        match self.members.get(request) {
            None => out.push(Action::Inconsistent(Inconsistency::UnknownRequest(request))),
            Some(member) => match member.lock {
                Some(lock) if member.asked => {
                    self.members.set_asked(request, false);
                    Turn {
                        zone: self,
                        host,
                        out,
                    }
                    .answer(lock, request, answer);
                }
                _ => out.push(Action::Inconsistent(Inconsistency::NotAsked(request))),
            },
        }
    }

    /// Whether a write with this name would come to a lock.
    #[inline]
    pub fn knows(&self, name: &RecordName) -> bool {
        !self.by_name.is_empty() && self.find(name).is_some()
    }

    /// Counts the steps of a lock that nobody else came to, and that was not needed for that reason.
    #[inline]
    pub fn count_unneeded(&mut self, shared: bool) {
        if !shared {
            for row in [Row::Taken, Row::Unadvised, Row::Written] {
                self.counts.count(row);
            }
            return;
        }
        for row in [
            Row::Taken,
            Row::Advised,
            Row::Unverified,
            Row::Equal,
            Row::Last,
            Row::Unlocked,
        ] {
            self.counts.count(row);
        }
        self.statistics.dedupe_advice_valid += 1;
    }

    /// Whether no request is in the zone.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.locks.len() && self.by_name.is_empty()
    }

    /// The locks in use.
    pub fn locks(&self) -> impl Iterator<Item = LockReport> + '_ {
        (0u32..)
            .zip(&self.locks)
            .filter(|(_, lock)| lock.is_live())
            .map(|(id, lock)| LockReport::new(LockId(id), lock))
    }

    /// The lock a request belongs to.
    pub fn lock_of(&self, request: RequestId) -> Option<LockReport> {
        let id = self.members.get(request)?.lock?;
        Some(LockReport::new(id, &self.locks[id.0 as usize]))
    }

    /// The requests of a lock in the order they joined, waiters included.
    pub fn holders(&self, lock: LockId) -> impl Iterator<Item = RequestId> + '_ {
        let holders = self
            .locks
            .get(lock.0 as usize)
            .map_or(Chain::EMPTY, |lock| lock.holders);
        self.members.holders(holders)
    }

    /// The waiting requests of a lock, first come first.
    pub fn waiters(&self, lock: LockId) -> impl Iterator<Item = RequestId> + '_ {
        let waiters = self
            .locks
            .get(lock.0 as usize)
            .map_or(Chain::EMPTY, |lock| lock.waiters);
        self.members.waiters(waiters)
    }

    /// How often each step was taken since the zone was made.
    pub fn transitions(&self) -> &TransitionCounts {
        &self.counts
    }

    /// What the locks saw, as dm-vdo counts it. The queries under way are not known here
    /// ([`super::Contexts::active`]).
    pub fn statistics(&self) -> HashLockStatistics {
        self.statistics
    }

    /// How often each state was entered. `context_busy` is not known here
    /// ([`super::Contexts::busy`]).
    pub fn path_statistics(&self) -> HashLockPathStatistics {
        let entered = |state| self.counts.entered(state);
        HashLockPathStatistics {
            initializing: self.counts.get(Row::Taken) + self.counts.get(Row::Forked),
            querying: entered(LockState::Querying),
            locking: entered(LockState::Locking),
            verifying: entered(LockState::Verifying),
            writing: entered(LockState::Writing),
            deduping: entered(LockState::Deduping),
            updating: entered(LockState::Updating),
            unlocking: entered(LockState::Unlocking),
            bypassing: entered(LockState::Bypassing),
            forked: self.counts.get(Row::Forked),
            failed: LockState::ALL
                .into_iter()
                .filter_map(Row::failure)
                .map(|row| self.counts.get(row))
                .sum(),
            context_busy: 0,
        }
    }

    /// Bytes of memory the zone takes, all of it when it is made.
    pub fn footprint(&self) -> usize {
        self.locks.capacity() * size_of::<Lock>()
            + self.free.capacity() * size_of::<LockId>()
            + self.by_name.allocation_size()
            + self.members.footprint()
            + size_of::<HashZoneMachine>()
    }

    /// Everything the machine's future depends on, as numbers: two machines with the same behaviour
    /// now and under the same calls have the same (which locks of the pool they use, and what they counted, is
    /// left out). For exploring states; not for the data path.
    pub fn behaviour(&self) -> Vec<u64> {
        let mut form = Vec::new();
        let mut live: Vec<&Lock> = self.locks.iter().filter(|lock| lock.is_live()).collect();
        live.sort_by_key(|lock| lock.holders.first());
        for lock in live {
            let flags = [
                lock.agent_done,
                lock.registered,
                lock.update_advice,
                lock.index_on,
                lock.unjudged,
                lock.written,
                lock.may_pack,
                lock.verified,
            ];
            let bits = flags
                .iter()
                .fold(0, |bits, &flag| bits << 1 | u64::from(flag));
            form.extend([lock.state as u64, bits, lock.name.key()]);
            form.push(lock.agent.map_or(u64::MAX, |agent| u64::from(agent.0)));
            form.extend([lock.at.pbn.0, u64::from(lock.at.state.bits())]);
            form.push(lock.read_lock.map_or(u64::MAX, |held| held.0));
            form.push(lock.writer_lock.map_or(u64::MAX, |held| held.0));
            for chain in [
                self.members.holders(lock.holders).collect(),
                self.members.waiters(lock.waiters).collect::<Vec<_>>(),
            ] {
                form.push(chain.len() as u64);
                for request in chain {
                    let member = self.members.get(request).filter(|member| member.asked);
                    form.push(u64::from(request.0) << 1 | u64::from(member.is_some()));
                }
            }
        }
        form
    }

    pub(super) fn lock(&mut self, id: LockId) -> &mut Lock {
        &mut self.locks[id.0 as usize]
    }

    fn find(&self, name: &RecordName) -> Option<LockId> {
        let same = |id: &LockId| self.locks[id.0 as usize].name == *name;
        self.by_name.find(name.key(), same).copied()
    }
}

impl<H: LockHost> Turn<'_, H> {
    fn enter(&mut self, request: RequestId, name: RecordName, allocation: Option<Pbn>) {
        self.zone.members.admit(request, allocation);
        let Some(id) = self.zone.find(&name) else {
            match self.take_lock(name) {
                Some(id) => {
                    self.insert(id);
                    self.join(id, request);
                    self.start_querying(id, request);
                }
                None => self.stand_alone(request),
            }
            return;
        };

        let holder = self.zone.lock(id).holders.first();
        if holder.is_some_and(|holder| !self.host.same_data(holder, request)) {
            self.zone.statistics.concurrent_hash_collisions += 1;
            self.stand_alone(request);
            return;
        }
        self.zone.statistics.concurrent_data_matches += 1;

        match self.zone.lock(id).state {
            LockState::Bypassing => self.stand_alone(request),
            LockState::Deduping => {
                self.join(id, request);
                self.launch_dedupe(id, request);
            }
            LockState::Initializing
            | LockState::Querying
            | LockState::Locking
            | LockState::Verifying
            | LockState::Writing
            | LockState::Updating
            | LockState::Unlocking => {
                self.join(id, request);
                self.wait(id, request);
            }
        }
    }

    fn answer(&mut self, id: LockId, request: RequestId, answer: Answer) {
        let lock = self.zone.lock(id);
        let state = lock.state;
        let is_agent = lock.agent == Some(request);
        match (state, answer) {
            (_, Answer::Failed { shared }) => self.fail(id, request, shared),
            (LockState::Deduping, Answer::Deduplicated) => self.finish_deduping(id, request),
            (LockState::Bypassing, Answer::Deduplicated) => self.finish_bypassed(id, request),
            (LockState::Querying, Answer::Advice(at)) if is_agent => {
                self.finish_querying(id, request, Some(at));
            }
            (LockState::Querying, Answer::NoAdvice) if is_agent => {
                self.finish_querying(id, request, None);
            }
            (LockState::Querying, Answer::IndexOff) if is_agent => {
                self.zone.lock(id).index_on = false;
                self.finish_querying(id, request, None);
            }
            (LockState::Locking, Answer::Locked(held)) if is_agent => {
                self.finish_locking(id, request, held);
            }
            (LockState::Locking, Answer::NotLocked) if is_agent => self.finish_refused(id),
            (LockState::Verifying, Answer::Verified { equal }) if is_agent => {
                self.finish_verifying(id, request, equal);
            }
            (LockState::Writing, Answer::Written(written)) if is_agent => {
                self.finish_writing(id, request, written);
            }
            (LockState::Updating, Answer::Updated) if is_agent => self.finish_updating(id, request),
            (LockState::Unlocking, Answer::Unlocked { anchored }) if is_agent => {
                self.finish_unlocking(id, request, anchored);
            }
            (LockState::Bypassing, Answer::Unlocked { .. }) if is_agent => self.exit(id, request),
            _ => {
                self.inconsistent(Inconsistency::WrongAnswer { request, state });
                self.fail(id, request, None);
            }
        }
    }

    /// Reports what cannot be.
    pub(super) fn inconsistent(&mut self, what: Inconsistency) {
        self.out.push(Action::Inconsistent(what));
    }

    /// Gives a request an action it will answer.
    pub(super) fn ask(&mut self, request: RequestId, action: Action) {
        self.zone.members.set_asked(request, true);
        self.out.push(action);
    }

    /// The one place where a lock changes its state.
    pub(super) fn step(&mut self, id: LockId, row: Row) {
        let lock = self.zone.lock(id);
        let state = std::mem::replace(&mut lock.state, row.to());
        let first = lock.holders.first();
        self.zone.counts.count(row);
        if state != row.from() {
            let request = first.unwrap_or(RequestId(u32::MAX));
            self.inconsistent(Inconsistency::WrongStep {
                request,
                state,
                row: row.name(),
            });
        }
    }

    /// Lets a request that belongs to no lock go its own way.
    pub(super) fn stand_alone(&mut self, request: RequestId) {
        self.out.push(match self.zone.members.allocation(request) {
            Some(_) => Action::WriteAlone { request },
            None => Action::NoSpace { request },
        });
    }

    /// Lets a request that is done leave its lock.
    pub(super) fn exit(&mut self, id: LockId, request: RequestId) {
        self.leave(id, request);
        self.out.push(Action::Exit { request });
    }

    /// Takes an unused lock for data of this name. It is not in the map yet.
    pub(super) fn take_lock(&mut self, name: RecordName) -> Option<LockId> {
        let Some(id) = self.zone.free.pop() else {
            self.inconsistent(Inconsistency::OutOfLocks);
            return None;
        };
        *self.zone.lock(id) = Lock {
            name,
            ..Lock::UNUSED
        };
        Some(id)
    }

    /// Puts a lock into the map under its name, which must be free.
    fn insert(&mut self, id: LockId) {
        let lock = self.zone.lock(id);
        lock.registered = true;
        let hash = lock.name.key();
        let HashZoneMachine { by_name, locks, .. } = &mut *self.zone;
        by_name.insert_unique(hash, id, |other| locks[other.0 as usize].name.key());
    }

    /// Puts `new` into the map in the place of `old`, which has the same name.
    pub(super) fn replace(&mut self, old: LockId, new: LockId) {
        self.zone.lock(new).registered = true;
        self.zone.lock(old).registered = false;
        let hash = self.zone.lock(new).name.key();
        match self.zone.by_name.find_mut(hash, |&id| id == old) {
            Some(entry) => *entry = new,
            None => self.inconsistent(Inconsistency::Map),
        }
    }

    /// Makes a request one of a lock's.
    pub(super) fn join(&mut self, id: LockId, request: RequestId) {
        let HashZoneMachine { locks, members, .. } = &mut *self.zone;
        let lock = &mut locks[id.0 as usize];
        members.join(&mut lock.holders, id, request);
        lock.max_references = lock.max_references.max(lock.holders.len);
    }

    /// Takes a request from a lock; the last to leave ends it.
    pub(super) fn leave(&mut self, id: LockId, request: RequestId) {
        let HashZoneMachine { locks, members, .. } = &mut *self.zone;
        let lock = &mut locks[id.0 as usize];
        members.leave(&mut lock.holders, request);
        if lock.holders.is_empty() {
            self.end(id);
        }
    }

    /// Puts a request last in the queue of its lock.
    pub(super) fn push_waiter(&mut self, id: LockId, request: RequestId) {
        let HashZoneMachine { locks, members, .. } = &mut *self.zone;
        members.push_waiter(&mut locks[id.0 as usize].waiters, request);
    }

    /// Takes the first from the queue of a lock.
    pub(super) fn pop_waiter(&mut self, id: LockId) -> Option<RequestId> {
        let HashZoneMachine { locks, members, .. } = &mut *self.zone;
        members.pop_waiter(&mut locks[id.0 as usize].waiters)
    }

    /// A lock without requests goes back to the pool. It must have come to its end, and hold nothing.
    fn end(&mut self, id: LockId) {
        let lock = self.zone.lock(id);
        let (state, registered) = (lock.state, lock.registered);
        let hash = lock.name.key();
        let left = if state != LockState::Bypassing {
            Some("a state")
        } else if !lock.waiters.is_empty() {
            Some("waiters")
        } else if lock.read_lock.is_some() {
            Some("a lock on its copy of the data")
        } else {
            None
        };
        if let Some(left) = left {
            self.inconsistent(Inconsistency::Leftover { state, left });
        }
        let found = self.zone.by_name.find_entry(hash, |&other| other == id);
        let was_mapped = match found {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        };
        if was_mapped != registered {
            self.inconsistent(Inconsistency::Map);
        }
        self.zone.free.push(id);
    }
}
