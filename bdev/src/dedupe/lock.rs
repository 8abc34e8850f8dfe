//! One hash lock: what it knows of its data, and who belongs to it.

use super::action::{ReadLock, RequestId};
use super::members::Chain;
use super::state::LockState;
use crate::types::{Mapping, RecordName};

/// Names a lock of a zone: its place in the zone's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(pub u32);

/// A hash lock. Lives in its zone's pool; in use exactly while it has holders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lock {
    /// The name of the data.
    pub(super) name: RecordName,
    pub(super) state: LockState,
    /// The request that acts for the lock. None in DEDUPING.
    pub(super) agent: Option<RequestId>,
    /// The agent's own write is over: it stays for the lock's sake only.
    pub(super) agent_done: bool,
    /// All requests of the lock; the waiters among them.
    pub(super) holders: Chain,
    pub(super) waiters: Chain,
    /// The most holders there ever were.
    pub(super) max_references: u32,
    /// The map of names leads to this lock. Not so once another has taken its place.
    pub(super) registered: bool,
    /// The index is to be told where the data is.
    pub(super) update_advice: bool,
    /// There was an index when this lock asked, so it makes sense to tell it something.
    pub(super) index_on: bool,
    /// Advice was given and not yet found valid or stale.
    pub(super) unjudged: bool,
    /// WRITING was entered.
    pub(super) written: bool,
    /// The writing agent may be waiting in the packer.
    pub(super) may_pack: bool,
    /// Where the data is, or may be.
    pub(super) at: Mapping,
    /// The data is known to be at `at`.
    pub(super) verified: bool,
    /// The hold on the block of `at` that lets requests take references: the *duplicate lock*.
    pub(super) read_lock: Option<ReadLock>,
    /// The lock on the block the agent wrote, which is still the agent's own but may be taken.
    pub(super) writer_lock: Option<ReadLock>,
}

impl Lock {
    /// A lock that nobody uses.
    pub(super) const UNUSED: Lock = Lock {
        name: RecordName([0; 16]),
        state: LockState::Initializing,
        agent: None,
        agent_done: false,
        holders: Chain::EMPTY,
        waiters: Chain::EMPTY,
        max_references: 0,
        registered: false,
        update_advice: false,
        index_on: true,
        unjudged: false,
        written: false,
        may_pack: false,
        at: Mapping::UNMAPPED,
        verified: false,
        read_lock: None,
        writer_lock: None,
    };

    /// Whether the lock is in use.
    pub(super) fn is_live(&self) -> bool {
        !self.holders.is_empty()
    }

    /// Notes that the index should be told of a new place, if there is one and if it is this lock's to tell.
    pub(super) fn want_update(&mut self) {
        self.update_advice = self.index_on && self.registered;
    }
}

/// A live lock as `bdev_vdo_dump` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockReport {
    /// Which lock.
    pub id: LockId,
    /// The name of its data.
    pub name: RecordName,
    /// Its state.
    pub state: LockState,
    /// Whether new writes of the data come to this lock; if not, a newer lock has taken its place.
    pub registered: bool,
    /// Where the data is, or may be.
    pub at: Mapping,
    /// Whether the data is known to be there.
    pub verified: bool,
    /// Whether that block is locked on behalf of this lock.
    pub locked: bool,
    /// Whether the index will be told before the lock ends.
    pub update_advice: bool,
    /// Requests in the lock, waiters included.
    pub references: u32,
    /// The most there ever were.
    pub max_references: u32,
    /// Requests that wait.
    pub waiters: u32,
    /// The request that acts for the lock.
    pub agent: Option<RequestId>,
}

impl LockReport {
    pub(super) fn new(id: LockId, lock: &Lock) -> LockReport {
        LockReport {
            id,
            name: lock.name,
            state: lock.state,
            registered: lock.registered,
            at: lock.at,
            verified: lock.verified,
            locked: lock.read_lock.is_some(),
            update_advice: lock.update_advice,
            references: lock.holders.len,
            max_references: lock.max_references,
            waiters: lock.waiters.len,
            agent: lock.agent,
        }
    }
}
