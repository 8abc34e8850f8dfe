//! What requests and a hash zone say to each other.
//!
//! A request *enters* the hash zone once. From then on the zone speaks: it gives the request an
//! [`Action`], the request carries it out wherever that must be done, and comes back with exactly one
//! [`Answer`]. In between it may be left waiting without a word. The last thing a request hears is
//! [`Action::Exit`], [`Action::WriteAlone`] or [`Action::NoSpace`]; then the zone has forgotten it and its id may be
//! used again. Two actions need no answer, [`Action::TakeAllocation`] and [`Action::CancelPacking`]. Actions
//! for the same request must reach it in the order given.
//!
//! So the driver's side of a request is a loop: take the action, do it, answer, until it is a last one.

use thiserror::Error;

use super::state::LockState;
use crate::types::{Mapping, Pbn, RecordName};

/// Names a request towards its hash zone: the driver's slot number, below the machine's `max_requests`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// Names a lock on a physical block, held for reading, whose budget of increments can be claimed
/// from. The driver chooses the number; the machine only hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadLock(pub u64);

/// What the machine must know at once, without waiting for a message.
pub trait LockHost {
    /// Whether two requests hold the same 4096 bytes. `holder` is in a lock (its data is still there and
    /// does not change), `candidate` is the one entering.
    fn same_data(&mut self, holder: RequestId, candidate: RequestId) -> bool;

    /// Claims one of the references `lock`'s block may still get, if any is left. Hash locks of several
    /// zones can hold locks on one compressed block, so the real thing is one atomic operation.
    fn claim_increment(&mut self, lock: ReadLock) -> bool;
}

/// What a hash zone tells a request to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ask the index for `name`. Answer [`Answer::Advice`], [`Answer::NoAdvice`] or [`Answer::IndexOff`].
    Query {
        /// The agent.
        request: RequestId,
        /// What to ask for.
        name: RecordName,
        /// Where the data will be if the index knows of no copy: makes this a *post*, which leaves
        /// that as advice for the next to ask.
        post: Option<Mapping>,
    },
    /// Take a read lock on the block of `at`, with as many increments as it can bear. Answer
    /// [`Answer::Locked`] or [`Answer::NotLocked`].
    Lock {
        /// The agent.
        request: RequestId,
        /// The block to lock.
        at: Mapping,
    },
    /// Read `at`, unpack it if it is compressed, and compare it with the request's data. Answer
    /// [`Answer::Verified`].
    Verify {
        /// The agent.
        request: RequestId,
        /// What to read; its block is read-locked.
        at: Mapping,
    },
    /// Write the data, and then journal, count and map it. Answer [`Answer::Written`].
    Write {
        /// The agent. It holds an allocation.
        request: RequestId,
        /// Whether it may wait in the packer for company.
        may_pack: bool,
    },
    /// Make the logical block refer to `at`: journal, count (under `lock`, with an increment already
    /// claimed) and map it. Answer [`Answer::Deduplicated`].
    Dedupe {
        /// One of the lock's requests.
        request: RequestId,
        /// The data's one copy.
        at: Mapping,
        /// The lock it is held by.
        lock: ReadLock,
    },
    /// Tell the index that `name` is at `at`. Answer [`Answer::Updated`], whatever comes of it.
    Update {
        /// The agent.
        request: RequestId,
        /// The data's name.
        name: RecordName,
        /// The data's place.
        at: Mapping,
    },
    /// Give up the hash lock's hold on `lock`. Answer [`Answer::Unlocked`].
    Unlock {
        /// The agent.
        request: RequestId,
        /// The locked block.
        at: Mapping,
        /// The lock.
        lock: ReadLock,
    },
    /// The hash lock now owns the lock on the block the request wrote; the request must not
    /// release it. No answer.
    TakeAllocation {
        /// The agent that wrote.
        request: RequestId,
        /// The lock on the written block.
        lock: ReadLock,
    },
    /// Someone waits for this writing request: if it is in the packer take it out, if it is on its way there
    /// let it not wait. No answer.
    CancelPacking {
        /// The writing agent.
        request: RequestId,
    },
    /// Last. Write the data uncompressed to the request's own allocation, and finish.
    WriteAlone {
        /// A request that shares nothing.
        request: RequestId,
    },
    /// Last. There is no block for the data and no copy to share: fail with "no space".
    NoSpace {
        /// A request without an allocation.
        request: RequestId,
    },
    /// Last. The request needs its lock no more: finish, with success or with the error it failed with.
    Exit {
        /// A request that is done.
        request: RequestId,
    },
    /// Something happened that cannot: turn the volume read-only. The machine goes on, so that every
    /// request still comes to an end.
    Inconsistent(Inconsistency),
}

impl Action {
    /// The request it is for.
    pub fn request(&self) -> Option<RequestId> {
        match *self {
            Action::Query { request, .. }
            | Action::Lock { request, .. }
            | Action::Verify { request, .. }
            | Action::Write { request, .. }
            | Action::Dedupe { request, .. }
            | Action::Update { request, .. }
            | Action::Unlock { request, .. }
            | Action::TakeAllocation { request, .. }
            | Action::CancelPacking { request }
            | Action::WriteAlone { request }
            | Action::NoSpace { request }
            | Action::Exit { request } => Some(request),
            Action::Inconsistent(_) => None,
        }
    }

    /// Whether it is the last the request hears of the zone.
    pub fn is_last(&self) -> bool {
        matches!(
            self,
            Action::WriteAlone { .. } | Action::NoSpace { .. } | Action::Exit { .. }
        )
    }

    /// Whether the request must come back with an [`Answer`].
    pub fn wants_answer(&self) -> bool {
        match self {
            Action::Query { .. }
            | Action::Lock { .. }
            | Action::Verify { .. }
            | Action::Write { .. }
            | Action::Dedupe { .. }
            | Action::Update { .. }
            | Action::Unlock { .. } => true,
            Action::TakeAllocation { .. }
            | Action::CancelPacking { .. }
            | Action::WriteAlone { .. }
            | Action::NoSpace { .. }
            | Action::Exit { .. }
            | Action::Inconsistent(_) => false,
        }
    }
}

/// Where a writing agent's data went, and the lock that keeps it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WrittenAt {
    /// To the block it had allocated. Its write lock is a read lock now (with 253 increments left) and
    /// stays the request's own, unless [`Action::TakeAllocation`] takes it.
    Allocation(Pbn, ReadLock),
    /// To a fragment of a compressed block. The hash lock already shares the lock on that block: a hold
    /// was taken for it, and an increment claimed for the request.
    Compressed(Mapping, ReadLock),
}

/// What a request brings back from an [`Action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// To [`Action::Query`]: the index names a block that can hold data. (What cannot, such as block
    /// zero or a block outside the depot, is [`Answer::NoAdvice`].)
    Advice(Mapping),
    /// To [`Action::Query`]: unknown, not usable, not answered in time, or not asked for want of a context.
    NoAdvice,
    /// To [`Action::Query`]: there is no index to ask, so none to tell either.
    IndexOff,
    /// To [`Action::Lock`]: the read lock is held on the hash lock's behalf.
    Locked(ReadLock),
    /// To [`Action::Lock`]: another writes the block, or it can bear no more references. Nothing is held.
    NotLocked,
    /// To [`Action::Verify`].
    Verified {
        /// Whether all 4096 bytes are the same. A block that cannot be read or unpacked is not equal.
        equal: bool,
    },
    /// To [`Action::Write`]: the write is over, the block map included.
    Written(WrittenAt),
    /// To [`Action::Dedupe`]: over, the block map included.
    Deduplicated,
    /// To [`Action::Update`].
    Updated,
    /// To [`Action::Unlock`].
    Unlocked {
        /// Whether the request holds the lock of its logical block still, and will until its last
        /// action. As long as it does, nobody can take away the reference it made, so that the unlocked
        /// block keeps its data and needs no second verification. When in doubt, `false`.
        anchored: bool,
    },
    /// To any: it failed. A failed [`Action::Lock`] holds nothing, a failed [`Action::Unlock`] nothing any more. The
    /// request keeps its error to itself until it may finish.
    Failed {
        /// What a failed compressed write leaves to the hash lock: the shared lock it took already.
        shared: Option<(Mapping, ReadLock)>,
    },
}

/// What cannot be, and yet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Inconsistency {
    /// A number beyond the pool.
    #[error("request {0:?} spoke to its hash zone, which has no place for that number")]
    UnknownRequest(RequestId),
    /// A second entry.
    #[error("request {0:?} entered its hash zone, where it is already")]
    AlreadyEntered(RequestId),
    /// An answer by someone who was not asked.
    #[error("request {0:?} answered its hash zone, where nobody asked it")]
    NotAsked(RequestId),
    /// An answer to another question.
    #[error("request {request:?} brought its hash lock an answer that does not belong to {state}")]
    WrongAnswer {
        /// Who answered.
        request: RequestId,
        /// The state of its lock.
        state: LockState,
    },
    /// A lock was about to take a step that does not start where it is.
    #[error("hash lock of request {request:?} was to take the step {row} while in {state}")]
    WrongStep {
        /// One of its requests.
        request: RequestId,
        /// The state of the lock.
        state: LockState,
        /// The step.
        row: &'static str,
    },
    /// A lock asked the index or wrote a second time.
    #[error("a hash lock was about to enter {state} for the second time in its life")]
    Twice {
        /// The state it may enter but once.
        state: LockState,
    },
    /// A lock without requests has something left.
    #[error("a hash lock ended in {state} with {left} left")]
    Leftover {
        /// The state it ended in.
        state: LockState,
        /// What is left.
        left: &'static str,
    },
    /// The map of names and the locks disagree.
    #[error("a hash lock is not where the map of names says")]
    Map,
    /// There are as many locks as requests, and yet none is free.
    #[error("no hash lock is free, though there are as many as requests")]
    OutOfLocks,
    /// A lock has to hold a lock on the copy it shares, and holds none.
    #[error("a hash lock in {state} has no lock on its copy of the data")]
    Unprotected {
        /// Its state.
        state: LockState,
    },
}
