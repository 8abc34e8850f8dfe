//! The deduplication index: which block, as far as anyone remembers, holds the content of that name.
//!
//! What the index says is *advice*. It may be old or wrong, and whoever follows it compares bytes
//! first; losing the index loses savings, never data.
//!
//! Each zone thread has an [`IndexShard`]: the names of its hash zone, which are those of some delta lists of dm-vdo's volume index
//! ([`name_zones`]). Nobody else touches it. What is asked of it is in [`seam`]; [`answers`] is the way out, where answers can be
//! delayed, withheld or turned into failures, so that what a slow index does to a volume can be seen on purpose. [`uds`] has the
//! structures of the index, and what they are on the base device, which a shard reads through its thread's channel ([`zone_device`]).
//!
//! What concerns the whole index (making, opening, rebuilding, saving it, and writing its chapters) is done by zone thread 0 with all others:
//! [`crate::zone::index`].

mod answers;
pub mod name_zones;
pub mod seam;
mod shard;
pub mod uds;
mod zone_device;

pub use self::name_zones::NameZones;
pub use self::seam::{AnswerMode, IndexAnswer, IndexOp, IndexRequest, IndexToken};
pub use self::shard::{ClosedShare, IndexShard, ShardParts, ShardReport};
pub use self::zone_device::ZoneDevice;
pub use crate::error::IndexError;
