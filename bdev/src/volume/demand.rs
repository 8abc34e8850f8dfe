//! How much memory a volume will want, told before anything is taken or written.
//!
//! A system that overcommits hands out addresses without memory behind them, and kills the process when they are used.
//! So whether a machine can have a volume is not found out by trying: what the volume will come to use is added up here,
//! from its layout and its options, and compared with what the host says there is.

use std::mem::size_of;

use super::VolumeError;
use crate::block_map;
use crate::format;
use crate::format::index_region::IndexMemory;
use crate::types::BLOCK_SIZE;

/// What a zone thread takes for requests and I/O, in bytes: less than 12 KiB for each request, with its buffers.
const REQUEST_BYTES: u64 = 12 * 1024;

/// What a block of the recovery journal takes, in bytes: its locks, and what a recovery notes of it.
const JOURNAL_BLOCK_BYTES: u64 = 128;

/// What a slab takes beside its counters, in bytes: its journal's tail, locks and queues.
const SLAB_BYTES: u64 = 16 * 1024;

/// What the memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The cache of block-map pages: an option.
    Cache,
    /// The deduplication index: what the volume was formatted with.
    Index,
    /// Counters of references, a byte for each block of data: the size of the device.
    Counters,
    /// The upper pages of the block map, and where they are: the size of the volume.
    Trees,
    /// Requests, journal and I/O.
    Requests,
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Purpose::Cache => "the cache of block-map pages",
            Purpose::Index => "the deduplication index it was formatted with",
            Purpose::Counters => "reference counts, a byte for each block of the base device",
            Purpose::Trees => "the block map's upper pages",
            Purpose::Requests => "requests",
        })
    }
}

/// The memory a volume will want, in bytes, by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand([(Purpose, u64); 5]);

impl Demand {
    /// Of a volume of this layout, with `index` memory (`None` for one that asks no index), `cache_blocks` pages of cache
    /// and `requests` requests at once.
    pub fn of(
        layout: &format::VolumeLayout,
        index: Option<IndexMemory>,
        cache_blocks: u32,
        requests: u32,
    ) -> Demand {
        let slabs = &layout.slabs;
        let data = slabs.data_blocks();
        Demand([
            (
                Purpose::Cache,
                u64::from(cache_blocks) * block_map::CACHE_PAGE_BYTES,
            ),
            (Purpose::Index, index_bytes(index)),
            // Beside each 4 KiB of counters, what is known of them.
            (
                Purpose::Counters,
                data + data / 32 + u64::from(slabs.slab_count) * SLAB_BYTES,
            ),
            (Purpose::Trees, directory_bytes(layout)),
            (Purpose::Requests, {
                let journal = layout.recovery_journal.blocks * JOURNAL_BLOCK_BYTES;
                u64::from(requests) * REQUEST_BYTES + journal
            }),
        ])
    }

    /// What this wants beside `less`.
    pub fn beyond(&self, less: &Demand) -> Demand {
        let mut beyond = *self;
        for ((_, bytes), (_, less)) in beyond.0.iter_mut().zip(&less.0) {
            *bytes = bytes.saturating_sub(*less);
        }
        beyond
    }

    /// All of it, in bytes.
    pub fn total(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Which purpose wants most, and how much, in bytes.
    pub fn largest(&self) -> (Purpose, u64) {
        let first = self.0[0];
        self.0.into_iter().fold(
            first,
            |most, part| if part.1 > most.1 { part } else { most },
        )
    }

    /// Whether `available` bytes are enough, and the process can have them in one piece.
    ///
    /// # Errors
    /// [`VolumeError::TooMuchMemory`].
    pub fn check(&self, available: u64) -> Result<(), VolumeError> {
        let needed = self.total();
        // Given back at once: this only asks whether limits of the process allow it.
        let mut all = Vec::<u8>::new();
        let length = usize::try_from(needed).unwrap_or(usize::MAX);
        if needed <= available && all.try_reserve_exact(length).is_ok() {
            return Ok(());
        }
        let (purpose, bytes) = self.largest();
        Err(VolumeError::TooMuchMemory {
            needed,
            available,
            purpose,
            bytes,
        })
    }
}

/// What an index of this memory takes, in bytes.
pub(super) fn index_bytes(index: Option<IndexMemory>) -> u64 {
    index.and_then(IndexMemory::megabytes).unwrap_or(0) << 20
}

/// The places of upper pages: one number for each that there can be. (The pages come with the data, and are 812 times
/// fewer than the leaves that are in the cache.)
fn directory_bytes(layout: &format::VolumeLayout) -> u64 {
    let pages: u64 = layout.tree.pages_per_tree().into_iter().skip(1).sum();
    u64::from(layout.tree.roots) * pages * size_of::<u32>() as u64
        + u64::from(layout.tree.roots) * BLOCK_SIZE as u64
}
