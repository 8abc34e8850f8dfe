//! The seam between a volume and its deduplication index.
//!
//! A shard of the index lives on the zone thread that owns the hash zone, and is called by no one
//! else. Submitting only takes a request in; all work is done, and every answer given, in
//! [`DedupeIndex::poll`]. An index that keeps its records on the base device does its I/O by tasks
//! of its own in the zone's executor, with what its constructor was given, so none of that is
//! seen here.
//!
//! The semantics of the requests are those of UDS, the index of dm-vdo, whose records age: an index
//! of bounded size forgets the records that were neither written nor found for longest.

use thiserror::Error;

use crate::seam::Nanos;
use crate::stats::IndexStatistics;
use crate::types::{Mapping, Pbn, RecordName, ZoneIndex};

/// Names one request from submission to answer; the asker's own number.
pub type IndexToken = u32;

/// What is asked of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexOp {
    /// What is known of this name? If nothing, remember `new`. What is found becomes recent.
    Post,
    /// What is known of this name? What is found becomes recent.
    Query,
    /// Remember `new` from now on, whatever was known, as most recent.
    Update,
    /// What is known of this name? Nothing changes, not even how recent it is.
    Peek,
}

/// A request to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRequest {
    /// What is asked.
    pub op: IndexOp,
    /// The name of the content.
    pub name: RecordName,
    /// Where the content is, as the asker knows: for posts and updates.
    pub new: Mapping,
    /// Returned with the answer.
    pub token: IndexToken,
}

impl IndexRequest {
    /// That a block with this name is about to be written at `new`, unless there is one already.
    #[inline]
    pub fn post(name: RecordName, new: Mapping) -> IndexRequest {
        IndexRequest {
            op: IndexOp::Post,
            name,
            new,
            token: 0,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexAnswer {
    /// The token of the request.
    pub token: IndexToken,
    /// What the index knew before the request, if anything.
    pub advice: Result<Option<Mapping>, IndexError>,
}

/// What the whole index is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexVerb {
    /// Start anew with no records, and open.
    Create,
    /// Open with the records there are, rebuilding what was not saved. May take long. Where there
    /// is nothing that can be opened it fails as [`IndexError::Missing`].
    Open,
    /// Answer what was asked, save, and close.
    Close,
    /// Answer what was asked, save if told to, and touch nothing until resumed.
    Suspend {
        /// Whether to save.
        save: bool,
    },
    /// Go on after a suspend; does nothing to an index that is not suspended.
    Resume,
}

/// What comes out of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexEvent {
    /// A request is answered.
    Answer(IndexAnswer),
    /// A verb has ended. One that fails leaves the index closed, except that a verb refused in
    /// the state the index is in ([`IndexError::AlreadyOpen`], [`IndexError::Suspended`],
    /// [`IndexError::Busy`]) changes nothing.
    Done(IndexVerb, Result<(), IndexError>),
}

/// Why the index did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IndexError {
    /// The index is closed.
    #[error("the deduplication index is not open; open or create it first")]
    NotOpen,
    /// The index is open already.
    #[error("the deduplication index is open already; close it first")]
    AlreadyOpen,
    /// The index is suspended.
    #[error("the deduplication index is suspended; resume it first")]
    Suspended,
    /// The index is busy opening, closing or suspending.
    #[error("the deduplication index is opening or closing; wait for that to end")]
    Busy,
    /// There is no index in the region to open, or none that can be used.
    #[error("there is no deduplication index that can be opened; create one")]
    Missing,
    /// The index is one of a program of another age.
    #[error(
        "the deduplication index was made by a program of another age; use such a one, or create a new index"
    )]
    Foreign,
    /// What the index has on the base device contradicts itself.
    #[error("the deduplication index is damaged; create a new one")]
    Damaged,
    /// The machine has not the memory the index was configured to use.
    #[error("no memory for {bytes} bytes of deduplication index; configure a smaller one")]
    NoMemory {
        /// The bytes asked for.
        bytes: u64,
    },
    /// The index is configured too small to hold anything.
    #[error("{bytes} bytes are too few for a deduplication index; give it {least} or more")]
    TooSmall {
        /// The bytes configured for a shard.
        bytes: u64,
        /// The bytes a shard needs.
        least: u64,
    },
    /// A block number that no volume has.
    #[error("physical block {0} is beyond any volume; the index cannot hold it")]
    BadMapping(Pbn),
    /// The base device failed.
    #[error("the base device failed at block {pbn} of the deduplication index (errno {errno})")]
    Io {
        /// The physical block.
        pbn: Pbn,
        /// The device's errno, positive.
        errno: i32,
    },
    /// The answer was withheld, and now the index stops.
    #[error("the deduplication index stopped before it answered")]
    Abandoned,
    /// A failure made on purpose ([`AnswerMode::Fail`]).
    #[error("the deduplication index was told to fail")]
    Injected,
}

/// How the index answers: promptly, unless someone wants to see what happens otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerMode {
    /// As soon as it can.
    #[default]
    Prompt,
    /// So long after it could have.
    Delayed(Nanos),
    /// Not at all. What is withheld is answered when another mode is set, or as
    /// [`IndexError::Abandoned`] when the index is closed or suspended.
    Never,
    /// With [`IndexError::Injected`], and without having done what was asked.
    Fail,
}

/// Where on the base device an index may keep itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexRegion {
    /// The first block.
    pub start: Pbn,
    /// How many blocks.
    pub blocks: u64,
}

/// What a shard of an index is made for. (What of it the volume's super block knows is
/// [`crate::format::index_region`]'s.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    /// Memory for the records of the whole index, all its shards together, in bytes.
    pub memory_bytes: u64,
    /// Whether most records may be on the base device only: ten times as many on disk for the same
    /// memory. An index that is in memory only has no such records, so this changes nothing for it.
    pub sparse: bool,
    /// The volume's blocks set aside for the index.
    pub region: IndexRegion,
    /// Tells this index from a previous one in the same blocks.
    pub nonce: u64,
    /// The hash zone of this shard.
    pub zone: ZoneIndex,
    /// How many hash zones (and shards) there are, at least one.
    pub zones: u8,
    /// How many requests the asker is likely to have in this shard at once: room for so many is made now.
    pub requests: usize,
}

/// One gigabyte of index memory, as `index_memory_gb` counts.
pub const INDEX_GIGABYTE: u64 = 1 << 30;

/// One shard of a deduplication index.
pub trait DedupeIndex {
    /// Begins to do what `verb` says. Its end comes out of a later poll as [`IndexEvent::Done`];
    /// until then any other verb fails as [`IndexError::Busy`].
    fn start(&mut self, verb: IndexVerb);

    /// Does what is asked and answers at once, if that can be done without waiting; the request's token means
    /// nothing then. `None` if it cannot be, or if earlier requests are not answered yet: then it is
    /// to be submitted.
    fn answer_now(&mut self, request: &IndexRequest)
    -> Option<Result<Option<Mapping>, IndexError>>;

    /// Takes a request in. Its answer comes out of a later poll, exactly once, with an error if the
    /// index cannot take it now. Never blocks.
    fn submit(&mut self, request: IndexRequest);

    /// Does what can be done now, hands out what has come to an end, in any order, and says whether
    /// it did anything.
    fn poll(&mut self, now: Nanos, out: &mut dyn FnMut(IndexEvent)) -> bool;

    /// When it next needs to be polled although nothing was submitted or started: `None` for not
    /// before something is, a time that has passed for at once.
    fn next_wakeup(&self) -> Option<Nanos>;

    /// Counts since the index was last opened.
    fn statistics(&self) -> IndexStatistics;

    /// Bytes of memory the records take now or may come to take.
    fn memory_bytes(&self) -> u64;

    /// From now on (and for answers already held back), answers so.
    fn set_answer_mode(&mut self, mode: AnswerMode);
}
