//! The spdk-vdo engine: inline block deduplication in the dm-vdo on-disk format.
//!
//! The engine knows no operating system, no thread and no clock. A host hands it those through
//! [`seam`], and calls each zone thread to poll it. Everything a volume owns is split over zone
//! threads, and only the owner touches its part.
//!
//! Each folder knows only those below it:
//!
//! - [`volume`]: what a host holds: a volume found or made, started, given requests, shut down.
//! - [`poll`]: a zone thread, with its mailbox, to be polled.
//! - `request`: the life of one request for one block.
//! - [`zone`]: who owns what, and how the owners talk; the administration of the whole volume.
//! - [`block_map`], [`depot`], [`journal`], [`dedupe`] (the hash-lock machine), [`index`]: the parts that are owned.
//! - [`recovery`]: what a crash left, and how it is made whole, as computation on blocks.
//! - [`runtime`]: tasks, base I/O, and the traits by which a part asks for what is not its own.
//! - [`mod@format`], [`hash`], [`stats`], [`buffer`], [`types`]: what is on disk, and the words everybody uses.

pub mod block_map;
pub mod buffer;
pub mod dedupe;
pub mod depot;
pub mod error;
pub mod format;
pub mod hash;
pub mod index;
pub mod journal;
pub mod poll;
pub mod recovery;
mod request;
pub mod runtime;
pub mod seam;
pub mod stats;
pub mod types;
pub mod volume;
pub mod zone;

pub use error::VdoError;
