//! What zone threads say to each other.
//!
//! Three shapes: a *call* expects a reply and names the caller's place to put it; a *reply* goes back
//! there; a *note* expects nothing. Messages from one thread to another arrive in the order they were
//! sent, and a message sent because of another arrives after it (causal order), which the journal's
//! lock counts rely on.

use std::sync::Arc;

use super::logical_locks::SlotIndex;
use crate::buffer::Buffer;
use crate::dedupe::Action;
use crate::depot::{DuplicateLock, IncrementBudget, ReferenceChange, WriteKind};
use crate::error::VdoError;
use crate::format::recovery_journal::RecoveryJournalEntry;
use crate::index::IndexVerb;
use crate::runtime::services::JournalHolder;
use crate::types::{JournalPoint, Mapping, Pbn, RecordName, SequenceNumber, ZoneIndex};

/// A step of starting or stopping a volume that each zone thread takes for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminStep {
    /// Read the slab summary and the reference counters.
    Load,
    /// Wait until no request is under way.
    DrainRequests,
    /// Do something with the shard of the index.
    Index(IndexVerb),
    /// Write out the block map.
    DrainBlockMap,
    /// Write out slab journals, reference counters and slab summary.
    DrainDepot,
}

/// Where the replies to a [`MappingChange`] go.
#[derive(Clone, Copy, Debug)]
pub struct ChangeTokens {
    /// The journal's.
    pub entry: u32,
    /// The owner's of the block that gains a reference, if one does.
    pub increment: Option<u32>,
    /// The owner's of the block that loses one.
    pub decrement: Option<u32>,
}

/// A change of mapping to be journaled and then counted.
#[derive(Clone, Copy, Debug)]
pub struct MappingChange {
    /// Who wants it.
    pub from: ZoneIndex,
    /// Where the replies go.
    pub tokens: ChangeTokens,
    /// The change.
    pub entry: RecoveryJournalEntry,
    /// Whether the block that gains a reference was just written and has its writer's lock.
    pub written: bool,
}

/// A question to the owner of something.
#[derive(Debug)]
pub enum Call {
    /// To a physical zone: a block to write, write-locked.
    Allocate(WriteKind),
    /// To a physical zone, from the journal's on a request's behalf: count a reference.
    Adjust {
        /// The change.
        change: ReferenceChange,
        /// Whether the block was just written: its write lock becomes a read lock first.
        written: bool,
    },
    /// To a physical zone: lock a block that may hold wanted data.
    LockDuplicate(Pbn),
    /// To a logical zone: wait for the writes now under way.
    Barrier,
    /// To every zone: a step of starting or stopping.
    Admin(AdminStep),
}

/// The answer to a [`Call`], in the shape its kind asks for.
#[derive(Debug)]
pub enum Reply {
    /// To `Allocate`.
    Allocated(Result<Pbn, VdoError>),
    /// To `Barrier` and `Admin`.
    Done(Result<(), VdoError>),
    /// To `Adjust`, with the budget of a block just written.
    Adjusted(Result<Option<IncrementBudget>, VdoError>),
    /// To `LockDuplicate`.
    Locked(Result<DuplicateLock, VdoError>),
    /// To a [`MappingChange`], by the journal.
    Appended(Result<JournalPoint, VdoError>),
}

/// Names a request slot of the volume: a zone thread and one of its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestAddress {
    /// The zone thread the request lives on.
    pub zone: ZoneIndex,
    /// Its slot there.
    pub slot: SlotIndex,
}

/// A write that wants to share its data.
#[derive(Debug)]
pub struct Entrant {
    /// Who it is.
    pub from: RequestAddress,
    /// The name of its data.
    pub name: RecordName,
    /// The data. The hash zone compares it with others', and lets go of it with the last action.
    pub data: Arc<Buffer>,
    /// The block it may write to, if it got one.
    pub allocation: Option<Pbn>,
}

/// What a request brings back from an [`Action`] of its hash zone.
#[derive(Debug)]
pub enum Outcome {
    /// The block is read-locked.
    Locked(IncrementBudget),
    /// The block could not be locked.
    NotLocked,
    /// The block was compared.
    Verified {
        /// Whether every byte is the same.
        equal: bool,
    },
    /// The data is in the request's own block, whose lock is a read lock now.
    Written(Mapping, IncrementBudget),
    /// The logical block refers to the shared copy.
    Deduplicated,
    /// The block is unlocked.
    Unlocked,
    /// It went wrong.
    Failed,
}

/// Something the other should know.
#[derive(Debug)]
pub enum Note {
    /// To a physical zone: a lock on a block is given up.
    ReleaseLock(Pbn),
    /// To the journal's zone: journal a change of mapping and pass on what it means.
    Journal(MappingChange),
    /// To the journal's zone: keep a journal block.
    AcquireJournal(SequenceNumber, JournalHolder),
    /// To the journal's zone: a journal block is kept no longer.
    ReleaseJournal(SequenceNumber, JournalHolder),
    /// To the journal's zone: a request is done with its entry.
    ReleaseEntry(JournalPoint),
    /// To a logical zone: the journal's tail has advanced; write pages that are too old.
    AdvanceEra(SequenceNumber),
    /// To a physical zone: write slab journals that hold journal blocks up to this.
    CommitSlabJournals(SequenceNumber),
    /// To a hash zone: a write wants to share.
    Enter(Entrant),
    /// To a hash zone: a request has done what it was told.
    Outcome(RequestAddress, Outcome),
    /// To a request: what its hash zone wants of it.
    Act(SlotIndex, Action),
}

/// What travels between zone threads.
#[derive(Debug)]
pub enum PeerMessage {
    /// A question, and where its reply goes.
    Call {
        /// Who asks.
        from: ZoneIndex,
        /// The asker's place for the reply.
        token: u32,
        /// The question.
        call: Call,
    },
    /// The reply to the question with this token.
    Reply {
        /// The asker's place.
        token: u32,
        /// The answer.
        reply: Reply,
    },
    /// Something the other should know.
    Note(Note),
}
