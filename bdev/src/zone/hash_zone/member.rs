//! The writes in a hash zone: their data, the blocks they may write to, and what each waits for.
//!
//! A write is a member from its entrance until the machine has said its last word about it. Its number is the
//! same for all of that time: zone thread and slot of the request it comes from.

use std::sync::Arc;

use super::super::events::Verdict;
use super::super::generations::Generation;
use super::super::message::{Entrant, RequestAddress};
use super::super::room::RoomSeen;
use super::lone::Lone;
use crate::buffer::Buffer;
use crate::dedupe::{LockHost, ReadLock, RequestId};
use crate::depot::IncrementBudget;
use crate::error::VdoError;
use crate::hash::blocks_equal;
use crate::packer::Company;
use crate::runtime::table::{Key, Table};
use crate::types::{Mapping, Pbn, RecordName, ZoneIndex};

/// What a member waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// For others in its hash lock, or for the index: for whatever the machine says next.
    Machine,
    /// For another zone to allocate a block; `asked` have none.
    Allocation { asked: u8 },
    /// For room, since there is no free block to be had yet.
    Room,
    /// For the owner of a block to lock it.
    Lock,
    /// For a buffer to read a block into.
    Buffer { at: Mapping },
    /// For the block to be read and compared.
    Compare { at: Mapping },
    /// For its data to be written; `alone` if the machine has no more to say.
    Write { alone: bool },
    /// For company in the packer.
    Packer,
    /// For the block that its fragment is in to be written and shared.
    Packed { batch: Key<Company> },
    /// For its request to map the block to where its data is.
    Mapping(Place),
    /// For the owner of the block it wrote to make its lock a read lock.
    Downgrade,
}

/// Where a member's data is when its request has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the block allocated to it.
    Own,
    /// There too, and the machine has no more to say.
    Alone,
    /// In a copy that was there before.
    Shared,
    /// In its [`Member::fragment`].
    Fragment,
}

/// One write.
pub(super) struct Member {
    pub(super) from: RequestAddress,
    /// The name of its data.
    pub(super) name: RecordName,
    pub(super) waits: Waits,
    /// Until this is closed it may lie in the packer.
    pub(super) packs: Generation,
    /// How far it has come, as long as it needs no hash lock.
    pub(super) lone: Option<Lone>,
    /// How often room had come when it last began to ask for a block.
    pub(super) room_seen: RoomSeen,
    /// Compared with newcomers', written, and let go of before the request hears the last word.
    pub(super) data: Arc<Buffer>,
    /// The block allocated to it, as long as the lock on that is its own.
    pub(super) allocation: Option<Pbn>,
    /// That lock by number, once it is a read lock.
    pub(super) own_lock: Option<ReadLock>,
    /// Where its data was packed, and the lock by which its hash lock shares that block.
    pub(super) fragment: Option<(Mapping, ReadLock)>,
    /// Whether its request was told where the data is.
    pub(super) placed: bool,
    /// Its first error, for its request.
    pub(super) failure: Option<Box<VdoError>>,
}

impl Member {
    pub(super) fn new(entrant: Entrant) -> Member {
        let Entrant {
            from,
            name,
            data,
            packs,
        } = entrant;
        Member {
            from,
            name,
            waits: Waits::Machine,
            packs,
            lone: None,
            room_seen: RoomSeen::default(),
            data,
            allocation: None,
            own_lock: None,
            fragment: None,
            placed: false,
            failure: None,
        }
    }

    /// What to say to its request when it is no longer a member.
    pub(super) fn last_word(&mut self) -> Verdict {
        match (self.placed, self.failure.take()) {
            (true, _) => Verdict::Release,
            (false, Some(error)) => Verdict::Refuse(error),
            (false, None) => Verdict::Refuse(Box::new(VdoError::Inconsistent(
                "a hash zone let go of a write without a place for its data".into(),
            ))),
        }
    }
}

/// What the machine asks at once.
pub(super) struct Host<'a> {
    pub(super) members: &'a [Option<Member>],
    pub(super) locks: &'a Table<IncrementBudget>,
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

/// To the questions about a write whose claim was granted before the machine heard of it.
pub(super) struct Granted;

impl LockHost for Granted {
    fn same_data(&mut self, _holder: RequestId, _candidate: RequestId) -> bool {
        false
    }

    fn claim_increment(&mut self, _lock: ReadLock) -> bool {
        true
    }
}

/// Where a lock the machine knows by number is kept.
pub(super) fn key_of(lock: ReadLock) -> Key<IncrementBudget> {
    Key::new(lock.0 as u32)
}

/// The number of the write of a request.
pub(super) fn number_of(address: RequestAddress, slots_per_zone: u32) -> RequestId {
    let ZoneIndex(zone) = address.zone;
    RequestId(u32::from(zone) * slots_per_zone + address.slot.0)
}
