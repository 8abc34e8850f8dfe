//! How much room a zone thread's share of the volume takes, for any thread to read at any time.
//!
//! The zone thread writes its counts down at the end of every poll that did something: a few plain stores
//! into a cache line of its own, no locked instruction. A reader adds up the zones' counts, which are of
//! slightly different moments while the volume works, and exact once it is quiet.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one zone thread has written down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ZoneUsage {
    allocated: AtomicU64,
    logical: AtomicU64,
    block_map: AtomicU64,
}

/// The counts of one zone thread, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageCounts {
    /// Blocks of slabs in use, whatever they hold.
    pub allocated: u64,
    /// Logical blocks that are mapped; only zone thread 0, with the recovery journal, knows.
    pub logical: u64,
    /// Of the blocks allocated in the whole volume, those with pages of the block map; zone thread 0's too.
    pub block_map: u64,
}

impl ZoneUsage {
    /// Writes the counts down. The zone thread does.
    #[inline]
    pub fn publish(&self, counts: UsageCounts) {
        self.allocated.store(counts.allocated, Ordering::Relaxed);
        self.logical.store(counts.logical, Ordering::Relaxed);
        self.block_map.store(counts.block_map, Ordering::Relaxed);
    }

    /// What was written down last.
    pub fn read(&self) -> UsageCounts {
        UsageCounts {
            allocated: self.allocated.load(Ordering::Relaxed),
            logical: self.logical.load(Ordering::Relaxed),
            block_map: self.block_map.load(Ordering::Relaxed),
        }
    }
}

impl std::iter::Sum for UsageCounts {
    fn sum<I: Iterator<Item = UsageCounts>>(counts: I) -> UsageCounts {
        counts.fold(UsageCounts::default(), |sum, one| UsageCounts {
            allocated: sum.allocated + one.allocated,
            logical: sum.logical + one.logical,
            block_map: sum.block_map + one.block_map,
        })
    }
}
