//! What zone threads say to each other.
//!
//! Three shapes: a *call* expects a reply and names the caller's place to put it; a *reply* goes back
//! there; a *note* expects nothing. Messages from one thread to another arrive in the order they were
//! sent, and a message sent because of another arrives after it (causal order), which the journal's
//! lock counts rely on.

use std::sync::Arc;

use super::events::Verdict;
use super::generations::Generation;
use super::growth::GrowthStep;
use super::index::{ShardStep, WrittenChapter};
use super::journaling::{Committed, JournalerTag};
use super::logical_locks::SlotIndex;
use crate::buffer::Buffer;
use crate::dedupe::RequestId;
use crate::depot::{DuplicateLock, IncrementBudget, WriteKind};
use crate::error::VdoError;
use crate::format::recovery_journal::RecoveryJournalEntry;
use crate::index::uds::chapter_pages::ChapterPages;
use crate::index::{ClosedShare, IndexError};
use crate::runtime::services::JournalHolder;
use crate::types::{JournalPoint, Pbn, RecordName, SequenceNumber, ZoneIndex};

/// A step of starting, stopping or growing a volume that each zone thread takes for itself.
#[derive(Clone, Debug)]
pub enum AdminStep {
    /// Read the slab summary and the reference counters.
    Load,
    /// Wait until no request is under way.
    DrainRequests,
    /// Do something with the share of the index.
    Index(ShardStep),
    /// Write out the block map.
    DrainBlockMap,
    /// Write out slab journals, reference counters and slab summary.
    DrainDepot,
    /// Grow, or get ready for it.
    Grow(GrowthStep),
}

/// A question to the owner of something.
#[derive(Debug)]
pub enum Call {
    /// To a physical zone: a block to write, write-locked.
    Allocate(WriteKind),
    /// To a logical zone: wait for the writes now under way.
    Barrier,
    /// To every zone: a step of starting, stopping or growing.
    Admin(AdminStep),
}

/// The answer to a [`Call`], in the shape its kind asks for.
#[derive(Debug)]
pub enum Reply {
    /// To `Allocate`.
    Allocated(Result<Pbn, VdoError>),
    /// To `Barrier` and `Admin`.
    Done(Result<(), VdoError>),
    /// To a task that wanted an entry journaled and counted.
    Counted(Result<JournalPoint, Box<VdoError>>),
}

/// Names a request slot of the volume: a zone thread and one of its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestAddress {
    /// The zone thread the request lives on.
    pub zone: ZoneIndex,
    /// Its slot there.
    pub slot: SlotIndex,
}

/// A write that wants a place for its data.
#[derive(Debug)]
pub struct Entrant {
    /// Who it is.
    pub from: RequestAddress,
    /// The name of its data.
    pub name: RecordName,
    /// The data. The hash zone writes it and compares it with others', and lets go of it before its last word.
    pub data: Arc<Buffer>,
    /// What a flush waits for: until that is closed the write may lie in the packer.
    pub packs: Generation,
}

/// What a hash zone asks the owner of a block on behalf of one of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberCall {
    /// A block to write data to, write-locked.
    Allocate,
    /// Lock a block that may hold wanted data.
    Lock(Pbn),
    /// A block was written: make its write lock a read lock, held by so many writers.
    Downgrade(Pbn, u8),
}

/// The answer to a [`MemberCall`].
#[derive(Debug)]
pub enum MemberReply {
    /// To `Allocate`.
    Allocated(Result<Pbn, VdoError>),
    /// To `Lock`.
    Locked(Result<DuplicateLock, VdoError>),
    /// To `Downgrade`.
    Downgraded(Result<IncrementBudget, VdoError>),
}

/// Something the other should know.
#[derive(Debug)]
pub enum Note {
    /// To a physical zone: a lock on a block is given up.
    ReleaseLock(Pbn),
    /// To the journal's zone: journal a change of mapping.
    Journal(JournalerTag, RecoveryJournalEntry),
    /// From the journal's zone: these entries are durable.
    Committed(Committed),
    /// From the journal's zone: this entry will not be durable.
    NotJournaled(JournalerTag, VdoError),
    /// To the journal's zone: keep a journal block.
    AcquireJournal(SequenceNumber, JournalHolder),
    /// To the journal's zone: a journal block is kept no longer.
    ReleaseJournal(SequenceNumber, JournalHolder),
    /// To the journal's zone: so many requests are done with their entries in a block.
    ReleaseEntries(SequenceNumber, u16),
    /// To a logical zone: the journal's tail has advanced; write pages that are too old.
    AdvanceEra(SequenceNumber),
    /// To a physical zone: write slab journals that hold journal blocks up to this.
    CommitSlabJournals(SequenceNumber),
    /// To zone thread 0: a share of a chapter of the index that is closed.
    IndexShare(ZoneIndex, ClosedShare),
    /// From zone thread 0: this chapter of the index is closed.
    CloseChapter(u64),
    /// From zone thread 0: a chapter of the index is on disk.
    ChapterWritten(Arc<WrittenChapter>),
    /// From another zone thread: the index of a chapter, as a whole.
    ChapterPages(Arc<ChapterPages>),
    /// To zone thread 0: the index is of no use any more.
    IndexFailed(IndexError),
    /// To a hash zone: a write wants a place for its data.
    Enter(Entrant),
    /// To a hash zone: a request has mapped its block to where its data is, or failed to.
    Mapped(RequestAddress, bool),
    /// To a hash zone: somebody waits for this write, which is not to lie in the packer.
    Hurry(RequestAddress),
    /// To a hash zone: no write of this zone thread is to lie in the packer any more, if it is of this generation or an older
    /// one. All that lie there leave.
    EmptyPacker(ZoneIndex, Generation),
    /// To a request: what its hash zone says.
    Verdict(SlotIndex, Verdict),
    /// To the owner of a block, from a hash zone.
    MemberCall {
        /// The hash zone.
        from: ZoneIndex,
        /// Its write.
        member: RequestId,
        /// The question.
        call: MemberCall,
    },
    /// To a hash zone: the answer for one of its writes.
    MemberReply(RequestId, MemberReply),
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
