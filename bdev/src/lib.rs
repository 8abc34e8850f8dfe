//! The spdk-vdo engine: inline block deduplication in the dm-vdo on-disk format.
//!
//! The engine knows no operating system, no thread and no clock. A host hands it those through
//! [`seam`], and calls each zone thread to poll it. Everything a volume owns is split over zone
//! threads ([`zone`]), and only the owner touches its part: the block map ([`block_map`]), the slab
//! depot ([`depot`]), the recovery journal ([`journal`]) and the hash locks ([`dedupe`]).

pub mod block_map;
pub mod buffer;
pub mod dedupe;
pub mod depot;
pub mod error;
pub mod format;
pub mod hash;
pub mod index;
pub mod journal;
mod request;
pub mod seam;
pub mod stats;
pub mod types;
pub mod volume;
pub mod zone;

pub use error::VdoError;
