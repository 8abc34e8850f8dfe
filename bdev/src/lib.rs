//! The spdk-vdo engine: inline block deduplication in the dm-vdo on-disk format.
//!
//! The engine knows no operating system, no thread and no clock. A host hands it those through
//! [`seam`], and calls each zone thread to poll it. Everything a volume owns is split over zone
//! threads, and only the owner touches its part.
//!
//! Each folder knows only those below it. What a host needs is public here; the rest is the engine's own, and
//! `pub` in it means that other folders may use it.
//!
//! - [`volume`]: what a host holds: a volume found or made, started, given requests, shut down.
//! - `poll`: a zone thread, with its mailbox, to be polled.
//! - `request`: the life of one request for one block.
//! - `zone`: who owns what, and how the owners talk; the administration of the whole volume.
//! - `block_map`, `depot`, `journal`, `dedupe` (the hash-lock machine), `packer`, `index`: the parts that are owned.
//! - `recovery`: what a crash left, and how it is made whole, as computation on blocks.
//! - `runtime`: tasks, base I/O, and the traits by which a part asks for what is not its own.
//! - [`mod@format`], `hash`, `lz4`, [`stats`], [`buffer`], [`types`]: what is on disk, and the words everybody uses.
//!
//! [`content`] is the door for who wants to know what the engine would make of data, and has no volume.

#![allow(
    unreachable_pub,
    reason = "what can be reached from outside is decided in this file, and by the feature `testing`"
)]

mod block_map;
pub mod buffer;
pub mod content;
mod depot;
pub mod error;
pub mod format;
mod journal;
mod poll;
mod request;
mod runtime;
pub mod seam;
pub mod stats;
pub mod types;
pub mod volume;

// Parts that tests and benchmarks look into, with the feature `testing`. Each is written down twice and not by a macro, for the
// formatter follows no module that a macro declares.
#[cfg(feature = "testing")]
pub mod dedupe;
#[cfg(not(feature = "testing"))]
#[allow(dead_code, unused_imports, reason = "tests use more of it")]
mod dedupe;
#[cfg(feature = "testing")]
pub mod hash;
#[cfg(not(feature = "testing"))]
#[allow(dead_code, unused_imports, reason = "tests use more of it")]
mod hash;
#[cfg(feature = "testing")]
pub mod index;
#[cfg(not(feature = "testing"))]
#[allow(dead_code, unused_imports, reason = "tests use more of it")]
mod index;
#[cfg(feature = "testing")]
pub mod lz4;
#[cfg(not(feature = "testing"))]
mod lz4;
#[cfg(feature = "testing")]
pub mod packer;
#[cfg(not(feature = "testing"))]
mod packer;
#[cfg(feature = "testing")]
pub mod recovery;
#[cfg(not(feature = "testing"))]
#[allow(dead_code, unused_imports, reason = "tests use more of it")]
mod recovery;
#[cfg(feature = "testing")]
pub mod zone;
#[cfg(not(feature = "testing"))]
#[allow(dead_code, unused_imports, reason = "tests use more of it")]
mod zone;

pub use error::VdoError;
