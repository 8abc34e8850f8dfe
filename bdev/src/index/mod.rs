//! The deduplication index: which block, as far as anyone remembers, holds the content of that name.
//!
//! What the index says is *advice*. It may be old or wrong, and whoever follows it compares bytes
//! first; losing the index loses savings, never data. The engine knows it only through the
//! [`DedupeIndex`] trait in [`seam`]: requests go in, answers come out of a later poll, in any order,
//! and any of them may be slow, fail, or never come.
//!
//! An index is cut into shards as the volume is into hash zones: each zone thread owns the shard for
//! the names of its hash zone, and nobody else touches it. A shard is made closed when the volume starts,
//! is told to create or open itself, serves requests, and is closed (which saves it, if it is of a
//! kind that can be saved) before the volume stops.
//!
//! The volume's index today is [`MemoryIndex`], which keeps its records in memory only: [`table`] is its store and `memory` its life.
//! [`uds`] has the structures of dm-vdo's index, which keeps them on the base device.
//! [`answers`] is the way out that any kind of index uses, where answers can be delayed, withheld or
//! turned into failures, so that what a slow index does to a volume can be seen on purpose.

mod answers;
mod bucket;
mod memory;
mod pages;
pub mod seam;
mod table;
pub mod uds;

pub use answers::AnswerQueue;
pub use memory::MemoryIndex;
pub use seam::{
    AnswerMode, DedupeIndex, IndexAnswer, IndexError, IndexEvent, IndexOp, IndexRegion,
    IndexRequest, IndexToken, IndexVerb, ShardConfig,
};
pub use table::RecordTable;
