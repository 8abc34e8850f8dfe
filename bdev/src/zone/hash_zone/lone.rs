//! Writes that are alone with their data: no hash lock is needed as long as no second write of the same data comes.
//!
//! That is nearly every write. What a hash lock would have such a write do is known beforehand: ask the index;
//! if it knows of no copy, write; if it does, lock the block, compare, and share it. So a lone write goes that way by
//! itself. All it needs is a place where a second one finds it by the name of its data.
//!
//! As soon as anything else happens (a second write of the data, advice that is wrong, an error), it gets
//! its hash lock after all: the machine is told what has happened so far, and what it says to that is what is
//! under way already ([`HashState::adopt`]). From there on the write is like any other, and no decision is made twice.

use super::super::events::Placed;
use super::super::owner::Zone;
use super::advice::ask_now;
use super::member::{Granted, Member, Place, Waits, key_of};
use super::{HashState, HashZone};
use crate::dedupe::{Action, Answer, LockId, LockReport, LockState, ReadLock, RequestId};
use crate::index::IndexRequest;
use crate::runtime::chains::Chains;
use crate::types::{Mapping, Pbn, RecordName};

/// How far a lone write has come, in answers the machine would have been given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lone {
    /// Whether there was an index to ask.
    asked: bool,
    /// Where the index said the data may be.
    advice: Option<Mapping>,
    /// The hold on that block.
    held: Option<ReadLock>,
    /// It holds the same data, and a reference to it has been claimed.
    shares: bool,
}

impl Lone {
    fn answers(self) -> impl Iterator<Item = Answer> {
        let advice = match (self.asked, self.advice) {
            (false, _) => Answer::IndexOff,
            (true, None) => Answer::NoAdvice,
            (true, Some(at)) => Answer::Advice(at),
        };
        let locked = self.held.map(Answer::Locked);
        let verified = self.shares.then_some(Answer::Verified { equal: true });
        [Some(advice), locked, verified].into_iter().flatten()
    }

    /// What state its hash lock would be in.
    fn state(self) -> LockState {
        match (self.advice, self.held, self.shares) {
            (None, ..) => LockState::Writing,
            (Some(_), None, _) => LockState::Locking,
            (Some(_), Some(_), false) => LockState::Verifying,
            (Some(_), Some(_), true) => LockState::Deduping,
        }
    }
}

/// Finds lone writes by a part of their names.
#[derive(Debug)]
pub(super) struct Loners {
    by_name: Chains,
    count: usize,
}

impl Loners {
    /// None, of writes numbered below `requests`.
    pub(super) fn new(requests: u32) -> Loners {
        Loners {
            by_name: Chains::new(requests as usize),
            count: 0,
        }
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_held(&self) -> usize {
        self.by_name.memory_held()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[inline]
    fn insert(&mut self, name: &RecordName, id: RequestId) {
        self.by_name.insert(name.key(), id.0);
        self.count += 1;
    }

    #[inline]
    fn remove(&mut self, id: RequestId) {
        self.by_name.remove(id.0);
        self.count -= 1;
    }
}

impl HashState {
    /// Gives a write its hash lock, if it has none.
    pub(super) fn adopt(&mut self, id: RequestId) {
        let Some(member) = &mut self.members[id.0 as usize] else {
            return;
        };
        let Some(lone) = member.lone.take() else {
            return;
        };
        self.loners.remove(id);
        let (machine, said) = (&mut self.machine, &mut self.replayed);
        machine.enter(id, member.name, member.allocation, &mut Granted, said);
        for answer in lone.answers() {
            machine.answer(id, answer, &mut Granted, said);
        }
        // All it says to do is done or under way.
        let wrong = |action: &Action| matches!(action, Action::Inconsistent(_));
        self.actions.extend(said.drain(..).filter(wrong));
    }

    /// Whether a write with this name goes alone. If there is a lone one, that gets its lock.
    fn is_alone(&mut self, name: &RecordName) -> bool {
        match self.loners.by_name.find(name.key()) {
            None => !self.machine.knows(name),
            Some(other) => {
                let member = self.members[other as usize].as_ref();
                if member.is_some_and(|member| member.name == *name) {
                    self.adopt(RequestId(other));
                }
                false
            }
        }
    }

    /// The lone writes as if they had locks.
    pub(super) fn lone_reports(&self) -> impl Iterator<Item = LockReport> + '_ {
        let lone = |(id, member): (u32, &Option<Member>)| {
            let member = member.as_ref()?;
            let lone = member.lone?;
            let at = match (lone.advice, member.allocation) {
                (Some(at), _) => at,
                (None, Some(pbn)) => Mapping::block(pbn),
                (None, None) => Mapping::UNMAPPED,
            };
            let id = RequestId(id);
            Some(report(id, member.name, lone.state(), at))
        };
        (0..).zip(&self.members).filter_map(lone)
    }
}

impl HashZone {
    /// Sends a write on its way without a hash lock, if it is alone with its data, has a block to write to, and the index
    /// answers at once; says whether it is on its way. If not, no lone write of that name is left.
    #[inline]
    pub(super) fn go_alone(
        &self,
        zone: &Zone,
        id: RequestId,
        name: RecordName,
        allocation: Option<Pbn>,
    ) -> bool {
        let advice = {
            let state = &mut *self.state.borrow_mut();
            // Asked in any case: a lone write of that name has to get its lock.
            let alone = state.is_alone(&name);
            let Some(pbn) = allocation.filter(|_| alone) else {
                return false;
            };
            let post = IndexRequest::post(name, Mapping::block(pbn));
            let asked = zone.shared.index_answers();
            let advice = match asked.then(|| ask_now(zone, &mut state.index, id, &post)) {
                None => None,
                Some(None) => return false,
                Some(Some(advice)) => self.advised(zone, advice),
            };
            let Some(member) = &mut state.members[id.0 as usize] else {
                return false;
            };
            member.lone = Some(Lone {
                asked,
                advice,
                held: None,
                shares: false,
            });
            state.loners.insert(&name, id);
            advice
        };
        match advice {
            Some(at) => self.lock(zone, id, at.pbn),
            None => self.write_or_pack(zone, id),
        }
        true
    }

    /// Deals with what the machine would have been told. Says whether that was so: if not, the write has
    /// its hash lock now.
    #[inline]
    pub(super) fn answered_alone(&self, zone: &Zone, id: RequestId, answer: Answer) -> bool {
        let at = {
            let state = &mut *self.state.borrow_mut();
            let Some(member) = &mut state.members[id.0 as usize] else {
                return false;
            };
            let Some(lone) = &mut member.lone else {
                return false;
            };
            match (answer, lone.advice, lone.held) {
                (Answer::Locked(held), Some(at), None) => {
                    lone.held = Some(held);
                    Ok(at)
                }
                (Answer::Verified { equal: true }, Some(at), Some(held))
                    if state
                        .locks
                        .get(key_of(held))
                        .is_some_and(|budget| budget.claim()) =>
                {
                    lone.shares = true;
                    Err(at)
                }
                _ => {
                    state.adopt(id);
                    return false;
                }
            }
        };
        match at {
            Ok(at) => self.compare(zone, id, at),
            Err(at) => self.place(zone, id, Placed::Shared(at), Place::Shared),
        }
        true
    }

    /// If a write is alone, and is mapped now to where its data is, it is a member no longer; says whether that is so.
    #[inline]
    pub(super) fn end_alone(&self, zone: &Zone, id: RequestId) -> bool {
        let Some((allocation, shared)) = self.take_alone(id) else {
            return false;
        };
        for pbn in [shared, allocation].into_iter().flatten() {
            zone.release_lock(pbn);
        }
        true
    }

    /// Takes a write that is alone and mapped out of the zone. Returns the blocks it had locked: its own, and that which
    /// it shares.
    fn take_alone(&self, id: RequestId) -> Option<(Option<Pbn>, Option<Pbn>)> {
        let state = &mut *self.state.borrow_mut();
        let place = &mut state.members[id.0 as usize];
        let placed = |member: &Member| matches!(member.waits, Waits::Mapping(_));
        let lone = place.as_ref().filter(|member| placed(member))?.lone?;
        let allocation = place.as_mut()?.allocation.take();
        *place = None;
        state.loners.remove(id);
        state.machine.count_unneeded(lone.shares);
        if let Some(held) = lone.held {
            state.locks.remove(key_of(held));
        }
        Some((allocation, lone.advice.map(|at| at.pbn)))
    }
}

/// Of the lock that a lone write would have.
fn report(request: RequestId, name: RecordName, state: LockState, at: Mapping) -> LockReport {
    let shares = state == LockState::Deduping;
    LockReport {
        id: LockId(request.0),
        name,
        state,
        registered: true,
        at,
        verified: shares,
        locked: shares || state == LockState::Verifying,
        update_advice: false,
        references: 1,
        max_references: 1,
        waiters: 0,
        agent: Some(request).filter(|_| !shares),
    }
}
