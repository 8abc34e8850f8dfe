//! The states of a hash lock.
//!
//! A lock is born INITIALIZING and ends BYPASSING; it is in either only for an instant, or, having
//! failed, in BYPASSING until its last request has left. Each other state lasts as long as one asynchronous
//! operation, which one request, the *agent*, carries out while all others wait. DEDUPING alone has
//! no agent: there, every request of the lock takes its own reference to the one copy of the data, at
//! the same time as the others.

use std::fmt;

/// Where a hash lock is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LockState {
    /// Taken from the pool a moment ago.
    Initializing,
    /// The index is asked whether the data is known.
    Querying,
    /// The block named by the index, or used before, is being locked against change.
    Locking,
    /// The locked block is read and compared.
    Verifying,
    /// The agent writes the data to a block of its own, or has it packed.
    Writing,
    /// Requests take references to the one copy, each for itself. No agent.
    Deduping,
    /// The index is told where the data is now.
    Updating,
    /// The copy's block is being unlocked.
    Unlocking,
    /// Of no more use: whoever comes writes by itself.
    Bypassing,
}

impl LockState {
    /// Every state, in order.
    pub const ALL: [LockState; 9] = [
        LockState::Initializing,
        LockState::Querying,
        LockState::Locking,
        LockState::Verifying,
        LockState::Writing,
        LockState::Deduping,
        LockState::Updating,
        LockState::Unlocking,
        LockState::Bypassing,
    ];

    /// The state's name as dm-vdo prints it.
    pub const fn name(self) -> &'static str {
        match self {
            LockState::Initializing => "INITIALIZING",
            LockState::Querying => "QUERYING",
            LockState::Locking => "LOCKING",
            LockState::Verifying => "VERIFYING",
            LockState::Writing => "WRITING",
            LockState::Deduping => "DEDUPING",
            LockState::Updating => "UPDATING",
            LockState::Unlocking => "UNLOCKING",
            LockState::Bypassing => "BYPASSING",
        }
    }
}

impl fmt::Display for LockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
