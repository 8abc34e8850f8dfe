//! What the machine says is done: a block locked, compared, written, unlocked, a request told where its data is.
//!
//! Each `start` here is followed by what ends it: at once, when the owner of the block is this thread; else by a
//! reply ([`HashZone::replied`]), the end of an I/O, or the word of the request.

use std::sync::Arc;

use super::super::events::{Placed, Verdict};
use super::super::fragments;
use super::super::message::MemberCall;
use super::super::owner::Zone;
use super::HashZone;
use super::member::{Member, Place, Waits, key_of};
use crate::buffer::Buffer;
use crate::dedupe::{Action, Answer, ReadLock, RequestId, WrittenAt};
use crate::depot::{DuplicateLock, IncrementBudget};
use crate::error::VdoError;
use crate::hash::blocks_equal;
use crate::runtime::base::{IoEnd, IoOwner};
use crate::runtime::table::Table;
use crate::types::{Mapping, Pbn};

impl HashZone {
    /// Does what the machine says, and what it says meanwhile.
    pub(super) fn carry_out(&self, zone: &Zone) {
        if self.carrying_out.replace(true) {
            // Further up, and it goes on with what has come.
            return;
        }
        loop {
            let action = self.state.borrow_mut().next_action();
            let Some(action) = action else { break };
            match action {
                Action::Query {
                    request,
                    name,
                    post,
                } => self.query(zone, request, name, post),
                Action::Update { request, name, at } => self.update(zone, request, name, at),
                Action::Lock { request, at } => self.lock(zone, request, at.pbn),
                Action::Verify { request, at } => self.compare(zone, request, at),
                Action::Write {
                    request,
                    may_pack: true,
                } => self.write_or_pack(zone, request),
                Action::Write { request, .. } => self.write(zone, request, false),
                Action::WriteAlone { request } => self.write(zone, request, true),
                Action::Dedupe { request, at, .. } => {
                    self.place(zone, request, Placed::Shared(at), Place::Shared);
                }
                Action::Unlock { request, at, lock } => {
                    zone.release_lock(at.pbn);
                    let state = &mut *self.state.borrow_mut();
                    state.locks.remove(key_of(lock));
                    // The block is compared again before it is shared again: once unlocked, it may change.
                    state.answer(request, Answer::Unlocked { anchored: false });
                }
                Action::TakeAllocation { request, .. } => {
                    self.with(request, |member| {
                        member.own_lock = None;
                        member.allocation = None;
                    });
                }
                Action::CancelPacking { request } => self.take_out(zone, request),
                Action::NoSpace { request } => {
                    self.with(request, |member| {
                        member.failure = Some(VdoError::NoSpace.into())
                    });
                    self.dismiss(zone, request);
                }
                Action::Exit { request } => self.dismiss(zone, request),
                Action::Inconsistent(what) => {
                    let why = VdoError::Inconsistent(what.to_string());
                    zone.services
                        .enter_read_only_because(&why, format_args!("a hash lock"));
                }
            }
        }
        self.carrying_out.set(false);
    }

    pub(super) fn lock(&self, zone: &Zone, id: RequestId, pbn: Pbn) {
        match zone.owner_of(pbn) {
            Ok(owner) if owner == zone.index => {
                self.locked(zone, id, zone.physical.lock_duplicate(pbn));
            }
            Ok(owner) => {
                self.set(id, Waits::Lock);
                zone.call_for_member(owner, id, MemberCall::Lock(pbn));
            }
            Err(error) => self.fail(zone, id, error),
        }
    }

    /// The owner of the block has said whether it is locked.
    pub(super) fn locked(&self, zone: &Zone, id: RequestId, lock: Result<DuplicateLock, VdoError>) {
        match lock {
            Ok(lock) => {
                let answer = lock_answer(&mut self.state.borrow_mut().locks, lock);
                self.answer(zone, id, answer);
            }
            Err(error) => self.fail(zone, id, error),
        }
    }

    pub(super) fn compare(&self, zone: &Zone, id: RequestId, at: Mapping) {
        match zone.scratch.take(IoOwner::Member(id.0)) {
            Some(buffer) => self.compare_into(zone, id, at, buffer),
            None => self.set(id, Waits::Buffer { at }),
        }
    }

    pub(super) fn compare_into(&self, zone: &Zone, id: RequestId, at: Mapping, buffer: Buffer) {
        self.set(id, Waits::Compare { at });
        zone.base.start_read(IoOwner::Member(id.0), at.pbn, buffer);
    }

    /// The block that may be a copy has been read.
    pub(super) fn compared(&self, zone: &Zone, id: RequestId, at: Mapping, end: IoEnd) {
        let read = end.result();
        let mut equal = false;
        if let Some(mut buffer) = end.into_buffer() {
            // A copy that cannot be read is no copy.
            if read
                .and_then(|()| fragments::unpack(&mut buffer, at))
                .is_ok()
            {
                let same = self.with(id, |member| blocks_equal(&buffer, &member.data));
                equal = same == Some(true);
            }
            zone.scratch.give(buffer);
        }
        self.answer(zone, id, Answer::Verified { equal });
    }

    pub(super) fn write(&self, zone: &Zone, id: RequestId, alone: bool) {
        let data = self.with(id, |member| {
            let pbn = member.allocation?;
            member.waits = Waits::Write { alone };
            Some((pbn, Arc::clone(&member.data)))
        });
        match data.flatten() {
            Some((pbn, data)) => zone.base.start_write(IoOwner::Member(id.0), pbn, data),
            None => self.written(zone, id, alone, Err(VdoError::NoSpace)),
        }
    }

    /// The data of a member has been written.
    pub(super) fn written(
        &self,
        zone: &Zone,
        id: RequestId,
        alone: bool,
        result: Result<(), VdoError>,
    ) {
        let pbn = self.with(id, |member| member.allocation).flatten();
        match (result, pbn) {
            (Ok(()), Some(pbn)) => {
                let place = match alone {
                    true => Place::Alone,
                    false => Place::Own,
                };
                self.place(zone, id, Placed::Own(Mapping::block(pbn)), place);
            }
            (result, _) => {
                let error = result.err().unwrap_or(VdoError::NoSpace);
                if !alone {
                    return self.fail(zone, id, error);
                }
                self.with(id, |member| member.failure = Some(error.into()));
                self.dismiss(zone, id);
            }
        }
    }

    /// Tells the request where its data is.
    pub(super) fn place(&self, zone: &Zone, id: RequestId, placed: Placed, place: Place) {
        let from = self.with(id, |member| {
            member.waits = Waits::Mapping(place);
            member.placed = true;
            member.from
        });
        match from {
            Some(from) => zone.tell(from, Verdict::Place(placed)),
            None => self.astray(zone, id, "was to be told its place"),
        }
    }

    /// The block a member wrote is mapped: its lock becomes a read lock, and others may share the block.
    pub(super) fn downgrade(&self, zone: &Zone, id: RequestId) {
        let Some(pbn) = self.with(id, |member| member.allocation).flatten() else {
            return self.astray(zone, id, "wrote to no block");
        };
        match zone.owner_of(pbn) {
            Ok(owner) if owner == zone.index => {
                self.downgraded(zone, id, zone.physical.downgrade_write(pbn, 1));
            }
            Ok(owner) => {
                self.set(id, Waits::Downgrade);
                zone.call_for_member(owner, id, MemberCall::Downgrade(pbn, 1));
            }
            Err(error) => self.fail(zone, id, error),
        }
    }

    pub(super) fn downgraded(
        &self,
        zone: &Zone,
        id: RequestId,
        budget: Result<IncrementBudget, VdoError>,
    ) {
        let answer = match budget {
            Ok(budget) => {
                let state = &mut *self.state.borrow_mut();
                let member = state.members[id.0 as usize].as_mut();
                member.and_then(|member| written_at(&mut state.locks, member, budget))
            }
            Err(error) => return self.fail(zone, id, error),
        };
        match answer {
            Some(answer) => self.answer(zone, id, answer),
            None => self.astray(zone, id, "lost the block it wrote"),
        }
    }

    /// A member is one no longer: what it held is let go of, and its request hears the last word.
    pub(super) fn dismiss(&self, zone: &Zone, id: RequestId) {
        let member = {
            let state = &mut *self.state.borrow_mut();
            let member = state.members[id.0 as usize].take();
            if let Some(lock) = member.as_ref().and_then(|member| member.own_lock) {
                state.locks.remove(key_of(lock));
            }
            member
        };
        let Some(mut member) = member else {
            return self.astray(zone, id, "was to leave");
        };
        if let Some(pbn) = member.allocation {
            zone.release_lock(pbn);
        }
        let (from, last_word) = (member.from, member.last_word());
        // Before the request hears, who may change its buffer then.
        drop(member);
        zone.tell(from, last_word);
    }
}

/// What a physical zone says of a duplicate's block, as the machine's answer.
fn lock_answer(locks: &mut Table<IncrementBudget>, lock: DuplicateLock) -> Answer {
    match lock {
        DuplicateLock::Locked(budget) => Answer::Locked(hold(locks, budget)),
        DuplicateLock::WriteLocked | DuplicateLock::NoIncrements => Answer::NotLocked,
    }
}

/// Where the machine finds what a member wrote.
fn written_at(
    locks: &mut Table<IncrementBudget>,
    member: &mut Member,
    budget: IncrementBudget,
) -> Option<Answer> {
    let pbn = member.allocation?;
    let lock = hold(locks, budget);
    member.own_lock = Some(lock);
    Some(Answer::Written(WrittenAt::Allocation(pbn, lock)))
}

/// Keeps a lock on a physical block, and says by which number the machine knows it.
pub(super) fn hold(locks: &mut Table<IncrementBudget>, budget: IncrementBudget) -> ReadLock {
    ReadLock(u64::from(locks.insert(budget).number()))
}
