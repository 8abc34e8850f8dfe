//! What a hash lock does in each state, and where it goes from there.
//!
//! The functions come in pairs named after states: `start_x` enters state X and tells the agent what to do,
//! `finish_x` takes the agent's answer and decides what comes next. The question behind every decision is
//! whether anybody waits: as long as someone does, the lock tries to get to DEDUPING, where all can share
//! one copy; once nobody does, it tells the index what is new, gives up its hold on the copy, and ends.
//!
//! To share a copy takes three things: to know that the bytes are the same (`verified`), a read lock on the block so
//! that they stay the same (`read_lock`), and an increment claimed for each request that refers to it.
//! When the increments run out the lock *forks*: those that got none move to a new lock, which
//! takes the old one's place in the map and writes another copy.

use super::action::{Action, Inconsistency, LockHost, ReadLock, RequestId, WrittenAt};
use super::lock::{Lock, LockId};
use super::state::LockState;
use super::transitions::Row;
use super::zone_machine::{HashZoneMachine, Turn};
use crate::types::{Mapping, Pbn};

impl<H: LockHost> Turn<'_, H> {
    // ---- waiting -------------------------------------------------------------------------------------

    /// A request that just joined a busy lock waits. It must not wait for a packer that waits for company.
    pub(super) fn wait(&mut self, id: LockId, request: RequestId) {
        self.push_waiter(id, request);
        let lock = self.zone.lock(id);
        let cancel = lock.state == LockState::Writing && std::mem::take(&mut lock.may_pack);
        if let Some(request) = lock.agent.filter(|_| cancel) {
            self.out.push(Action::CancelPacking { request });
        }
    }

    /// The agent, whose own write is over, leaves; the first waiter acts for the lock from now on.
    fn relieve_agent(&mut self, id: LockId) -> Option<RequestId> {
        let next = self.pop_waiter(id);
        let lock = self.zone.lock(id);
        lock.agent_done = false;
        let old = std::mem::replace(&mut lock.agent, next);
        if let Some(old) = old {
            self.exit(id, old);
        }
        next
    }

    // ---- QUERYING ------------------------------------------------------------------------------------

    pub(super) fn start_querying(&mut self, id: LockId, request: RequestId) {
        self.step(id, Row::Taken);
        let lock = self.zone.lock(id);
        lock.agent = Some(request);
        let name = lock.name;
        let post = self.zone.members.allocation(request).map(Mapping::block);
        self.ask(
            request,
            Action::Query {
                request,
                name,
                post,
            },
        );
    }

    pub(super) fn finish_querying(
        &mut self,
        id: LockId,
        agent: RequestId,
        advice: Option<Mapping>,
    ) {
        let has_allocation = self.zone.members.allocation(agent).is_some();
        let lock = self.zone.lock(id);
        match advice.filter(|at| at.pbn != Pbn::ZERO && at.state.is_mapped()) {
            Some(at) => {
                lock.at = at;
                lock.unjudged = true;
                self.start_locking(id, agent, Row::Advised);
            }
            None => {
                // An agent that holds an allocation has told the index where the data will be.
                if !has_allocation {
                    lock.want_update();
                }
                self.start_writing(id, Row::Unadvised, Row::Unadvised);
            }
        }
    }

    // ---- LOCKING -------------------------------------------------------------------------------------

    fn start_locking(&mut self, id: LockId, agent: RequestId, row: Row) {
        self.step(id, row);
        let at = self.zone.lock(id).at;
        self.ask(agent, Action::Lock { request: agent, at });
    }

    /// The block cannot be used: someone writes it, or it has all the references it can have.
    pub(super) fn finish_refused(&mut self, id: LockId) {
        self.judge(id, false);
        let lock = self.zone.lock(id);
        lock.verified = false;
        lock.want_update();
        self.start_writing(id, Row::Refused, Row::RefusedAfterWriting);
    }

    pub(super) fn finish_locking(&mut self, id: LockId, agent: RequestId, held: ReadLock) {
        let lock = self.zone.lock(id);
        lock.read_lock = Some(held);
        if !lock.verified {
            let at = lock.at;
            self.step(id, Row::Unverified);
            self.ask(agent, Action::Verify { request: agent, at });
        } else if self.host.claim_increment(held) {
            // The agent has its reference already; the claim is for the first of those that wait.
            let first = self.pop_waiter(id);
            self.start_deduping(id, Row::RelockedClaimed, first, Some(agent));
        } else {
            let lock = self.zone.lock(id);
            lock.verified = false;
            lock.want_update();
            self.start_unlocking(id, agent, Row::RelockedUnclaimed);
        }
    }

    // ---- VERIFYING -----------------------------------------------------------------------------------

    pub(super) fn finish_verifying(&mut self, id: LockId, agent: RequestId, equal: bool) {
        self.judge(id, equal);
        let held = self.zone.lock(id).read_lock;
        // Equal bytes are of no use without a reference to them. To begin sharing and fork at once would
        // leave nobody to unlock the block.
        if equal && held.is_some_and(|held| self.host.claim_increment(held)) {
            self.zone.lock(id).verified = true;
            self.start_deduping(id, Row::Equal, Some(agent), None);
        } else {
            self.zone.lock(id).want_update();
            let row = if equal {
                Row::EqualUnclaimed
            } else {
                Row::Different
            };
            self.start_unlocking(id, agent, row);
        }
    }

    /// Counts advice as valid or stale: once, and only if there was any.
    fn judge(&mut self, id: LockId, valid: bool) {
        if std::mem::take(&mut self.zone.lock(id).unjudged) {
            let statistics = &mut self.zone.statistics;
            if valid {
                statistics.dedupe_advice_valid += 1;
            } else {
                statistics.dedupe_advice_stale += 1;
            }
        }
    }

    // ---- WRITING -------------------------------------------------------------------------------------

    /// The lock needs a copy of its own: someone must write. A lock that has written once is replaced by
    /// a new one (`again`), because the place of its data never changes.
    fn start_writing(&mut self, id: LockId, row: Row, again: Row) {
        if self.zone.lock(id).agent_done {
            self.relieve_agent(id);
        }
        let lock = self.zone.lock(id);
        match lock.agent {
            Some(agent) if lock.written => {
                self.step(id, again);
                self.fork(id, agent);
            }
            _ => {
                self.step(id, row);
                self.write(id);
            }
        }
    }

    /// A lock that has just entered WRITING sends off an agent that can write.
    fn write(&mut self, id: LockId) {
        if std::mem::replace(&mut self.zone.lock(id).written, true) {
            self.inconsistent(Inconsistency::Twice {
                state: LockState::Writing,
            });
        }
        let Some(request) = self.select_writer(id) else {
            self.fail_without_space(id);
            return;
        };
        let lock = self.zone.lock(id);
        lock.agent = Some(request);
        lock.may_pack = lock.waiters.is_empty();
        let may_pack = lock.may_pack;
        self.ask(request, Action::Write { request, may_pack });
    }

    /// The agent if it holds an allocation, else the first waiter that does; the agent then becomes the
    /// first waiter, as it came before them all.
    fn select_writer(&mut self, id: LockId) -> Option<RequestId> {
        let HashZoneMachine { locks, members, .. } = &mut *self.zone;
        let lock = &mut locks[id.0 as usize];
        let agent = lock.agent?;
        if members.allocation(agent).is_some() {
            return Some(agent);
        }
        let writer = members.take_waiter_with_allocation(&mut lock.waiters)?;
        members.push_first_waiter(&mut lock.waiters, agent);
        Some(writer)
    }

    /// Nobody in the lock can write, so nobody can be served.
    fn fail_without_space(&mut self, id: LockId) {
        self.step(id, Row::NoSpace);
        let mut next = self.zone.lock(id).agent.take();
        while let Some(request) = next {
            next = self.pop_waiter(id);
            self.leave(id, request);
            self.out.push(Action::NoSpace { request });
        }
    }

    pub(super) fn finish_writing(&mut self, id: LockId, agent: RequestId, written: WrittenAt) {
        let lock = self.zone.lock(id);
        lock.agent_done = true;
        lock.may_pack = false;
        lock.verified = true;
        match written {
            WrittenAt::Allocation(pbn, own) => {
                lock.at = Mapping::block(pbn);
                lock.writer_lock = Some(own);
            }
            WrittenAt::Compressed(at, shared) => {
                // Not where the query said the data would be.
                lock.at = at;
                lock.read_lock = Some(shared);
                lock.want_update();
            }
        }
        if !lock.waiters.is_empty() {
            self.start_deduping(id, Row::WrittenForWaiters, None, Some(agent));
        } else if lock.update_advice {
            self.start_updating(id, agent, Row::WrittenElsewhere);
        } else if lock.read_lock.is_some() {
            self.start_unlocking(id, agent, Row::WrittenShared);
        } else {
            self.step(id, Row::Written);
            self.exit(id, agent);
        }
    }

    // ---- DEDUPING ------------------------------------------------------------------------------------

    /// All that wait take references to the copy. `claimed` has an increment already; `done` is an agent
    /// that needs none, and that stays if all others have to fork.
    fn start_deduping(
        &mut self,
        id: LockId,
        row: Row,
        claimed: Option<RequestId>,
        done: Option<RequestId>,
    ) {
        self.step(id, row);
        let lock = self.zone.lock(id);
        lock.agent = None;
        // The writer's own lock is taken only now that there is someone to share its block with.
        let own = lock.writer_lock.take();
        if lock.read_lock.is_none() {
            lock.read_lock = own;
            if let (Some(request), Some(lock)) = (done, own) {
                self.out.push(Action::TakeAllocation { request, lock });
            }
        }
        if let Some(request) = claimed {
            self.dedupe(id, request);
        }
        while self.zone.lock(id).state == LockState::Deduping
            && let Some(request) = self.pop_waiter(id)
        {
            self.launch_dedupe(id, request);
        }
        if let Some(request) = done {
            self.finish_deduping(id, request);
        }
    }

    /// Claims an increment for a request and lets it share the copy; if none is left, forks.
    pub(super) fn launch_dedupe(&mut self, id: LockId, request: RequestId) {
        let held = self.zone.lock(id).read_lock;
        if held.is_some_and(|held| self.host.claim_increment(held)) {
            self.dedupe(id, request);
        } else {
            self.fork(id, request);
        }
    }

    fn dedupe(&mut self, id: LockId, request: RequestId) {
        let Lock {
            at,
            read_lock,
            state,
            ..
        } = *self.zone.lock(id);
        match read_lock {
            Some(lock) => self.ask(request, Action::Dedupe { request, at, lock }),
            None => {
                self.inconsistent(Inconsistency::Unprotected { state });
                self.leave(id, request);
                self.stand_alone(request);
            }
        }
    }

    /// A new lock takes the place of `old`, with `agent` to write for it and all that wait. Only
    /// the new one may tell the index: the old one's copy is full.
    fn fork(&mut self, old: LockId, agent: RequestId) {
        let Lock { name, index_on, .. } = *self.zone.lock(old);
        let Some(new) = self.take_lock(name) else {
            self.disperse(old, agent);
            return;
        };
        self.replace(old, new);
        self.zone.lock(old).update_advice = false;
        let lock = self.zone.lock(new);
        lock.index_on = index_on;
        lock.want_update();
        lock.agent = Some(agent);

        let mut next = Some(agent);
        while let Some(request) = next {
            next = self.pop_waiter(old);
            self.leave(old, request);
            self.join(new, request);
            if request != agent {
                self.push_waiter(new, request);
            }
        }
        self.step(new, Row::Forked);
        self.write(new);
    }

    /// `agent` and all that wait leave the lock and write alone.
    fn disperse(&mut self, id: LockId, agent: RequestId) {
        let mut next = Some(agent);
        while let Some(request) = next {
            next = self.pop_waiter(id);
            self.leave(id, request);
            self.stand_alone(request);
        }
    }

    /// A request has its reference. All but the last just leave; the last cleans up.
    pub(super) fn finish_deduping(&mut self, id: LockId, request: RequestId) {
        let lock = self.zone.lock(id);
        if lock.holders.len > 1 {
            self.exit(id, request);
            return;
        }
        lock.agent = Some(request);
        lock.agent_done = true;
        if lock.update_advice {
            self.start_updating(id, request, Row::LastWithAdvice);
        } else {
            self.start_unlocking(id, request, Row::Last);
        }
    }

    // ---- UPDATING ------------------------------------------------------------------------------------

    fn start_updating(&mut self, id: LockId, agent: RequestId, row: Row) {
        self.step(id, row);
        let Lock { name, at, .. } = *self.zone.lock(id);
        self.ask(
            agent,
            Action::Update {
                request: agent,
                name,
                at,
            },
        );
    }

    pub(super) fn finish_updating(&mut self, id: LockId, agent: RequestId) {
        let lock = self.zone.lock(id);
        lock.update_advice = false;
        if !lock.waiters.is_empty() {
            self.start_deduping(id, Row::UpdatedForWaiters, None, Some(agent));
        } else if lock.read_lock.is_some() {
            self.start_unlocking(id, agent, Row::UpdatedLocked);
        } else {
            self.step(id, Row::Updated);
            self.exit(id, agent);
        }
    }

    // ---- UNLOCKING -----------------------------------------------------------------------------------

    fn start_unlocking(&mut self, id: LockId, agent: RequestId, row: Row) {
        self.step(id, row);
        self.unlock(id, agent);
    }

    /// Has `agent` give up the hold on the copy. From now on it is the agent's to release, not the lock's.
    fn unlock(&mut self, id: LockId, agent: RequestId) {
        let lock = self.zone.lock(id);
        lock.agent = Some(agent);
        let Lock { at, state, .. } = *lock;
        match lock.read_lock.take() {
            Some(lock) => self.ask(
                agent,
                Action::Unlock {
                    request: agent,
                    at,
                    lock,
                },
            ),
            None => {
                self.inconsistent(Inconsistency::Unprotected { state });
                self.fail(id, agent, None);
            }
        }
    }

    pub(super) fn finish_unlocking(&mut self, id: LockId, agent: RequestId, anchored: bool) {
        let lock = self.zone.lock(id);
        if !lock.verified {
            self.start_writing(id, Row::UnlockedUnverified, Row::UnverifiedAfterWriting);
        } else if lock.waiters.is_empty() {
            self.step(id, Row::Unlocked);
            self.exit(id, agent);
        } else if anchored && lock.agent_done {
            // The block cannot lose the agent's reference, so what was verified stays so.
            self.start_locking(id, agent, Row::UnlockedAnchored);
        } else {
            // Unlocked and perhaps unreferenced, the block may hold anything by now.
            lock.verified = false;
            if let Some(next) = self.relieve_agent(id) {
                self.start_locking(id, next, Row::UnlockedForWaiters);
            }
        }
    }

    // ---- BYPASSING -----------------------------------------------------------------------------------

    /// A request failed. If it acted for the lock, or shared with others, the lock is of no more use: who waits
    /// writes alone, the index hears nothing, and the last to leave gives up what is held.
    pub(super) fn fail(
        &mut self,
        id: LockId,
        request: RequestId,
        shared: Option<(Mapping, ReadLock)>,
    ) {
        if let Some(row) = Row::failure(self.zone.lock(id).state) {
            self.step(id, row);
            let lock = self.zone.lock(id);
            lock.update_advice = false;
            lock.agent = None;
            if let Some((at, held)) = shared.filter(|_| lock.read_lock.is_none()) {
                lock.at = at;
                lock.read_lock = Some(held);
            }
            if let Some(waiter) = self.pop_waiter(id) {
                self.disperse(id, waiter);
            }
        }
        self.finish_bypassed(id, request);
    }

    /// A request of a failed lock is done. Others may still be taking references to the copy, so its
    /// lock is kept until the last of them.
    pub(super) fn finish_bypassed(&mut self, id: LockId, request: RequestId) {
        let lock = self.zone.lock(id);
        if lock.holders.len == 1 && lock.read_lock.is_some() {
            self.unlock(id, request);
        } else {
            self.exit(id, request);
        }
    }
}
