//! Slab arithmetic: how a slab is cut, and where a physical block lies in the depot.
//!
//! The depot is a row of slabs of equal size, a power of two of blocks. Each begins with its data
//! blocks, then come the blocks of their reference counters, then the slab's journal:
//!
//! ```text
//!   | data blocks ...                     | reference counters | slab journal |
//!   0                             data_blocks      + reference_count_blocks    slab_blocks
//! ```
//!
//! What is left of the depot after the last whole slab is not used.

use thiserror::Error;

use super::layout::Extent;
use super::reference_block::COUNTS_PER_BLOCK;
use super::slab_journal::FULL_ENTRIES_PER_BLOCK;
use crate::types::{Pbn, SlabNumber};

/// The most slabs a depot has.
pub const MAXIMUM_SLABS: u64 = 8192;

/// The smallest slab a new volume may have, in blocks: 1 MiB, which holds a journal of the usual size.
/// (Newer `vdoformat`s make none below 32 MiB, but open them.)
pub const MINIMUM_SLAB_BLOCKS: u64 = 1 << 8;

/// The largest slab, in blocks: 32 GiB. An entry of a slab journal has 23 bits for a block's place.
pub const MAXIMUM_SLAB_BLOCKS: u64 = 1 << 23;

/// The slab size a new volume gets if none is asked for, in blocks: 2 GiB.
pub const DEFAULT_SLAB_BLOCKS: u64 = 1 << 19;

/// Blocks of each slab's journal in a new volume.
pub const DEFAULT_SLAB_JOURNAL_BLOCKS: u64 = 224;

/// The most blocks a slab journal has: the slab summary names one of them in a byte.
pub const MAXIMUM_SLAB_JOURNAL_BLOCKS: u64 = 256;

/// Requests a volume works on at once; the scrubbing threshold leaves room for as many entries.
const USER_REQUESTS: u64 = 2048;

/// How each slab is cut, and when its journal wants to be emptied. All numbers are blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabConfig {
    /// The whole slab.
    pub slab_blocks: u64,
    /// Blocks for data, at the start of the slab.
    pub data_blocks: u64,
    /// Blocks of reference counters, after the data.
    pub reference_count_blocks: u64,
    /// Blocks of the slab journal, at the end.
    pub slab_journal_blocks: u64,
    /// From this length of the journal on, each new journal block writes out a reference block.
    pub flushing_threshold: u64,
    /// From this length on, everyone waits while all reference blocks are written out.
    pub blocking_threshold: u64,
    /// From this length on, a slab must be scrubbed before it is used again.
    pub scrubbing_threshold: u64,
}

/// A slab that can not be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SlabError {
    /// Not a power of two, or too large.
    #[error(
        "a slab of {blocks} blocks is not possible; it must be a power of two up to {MAXIMUM_SLAB_BLOCKS}"
    )]
    Size {
        /// The blocks asked for.
        blocks: u64,
    },
    /// A journal of no blocks, or of more than the slab summary can name.
    #[error(
        "a slab journal of {blocks} blocks is not possible; it has 1 to {MAXIMUM_SLAB_JOURNAL_BLOCKS}"
    )]
    Journal {
        /// The blocks asked for.
        blocks: u64,
    },
    /// No block is left for data.
    #[error(
        "a slab of {blocks} blocks has no room for data beside a journal of {journal_blocks} blocks"
    )]
    NoData {
        /// The blocks of the slab.
        blocks: u64,
        /// The blocks of its journal.
        journal_blocks: u64,
    },
}

impl SlabConfig {
    /// Cuts a slab of `slab_blocks` blocks, `slab_journal_blocks` of them for its journal.
    ///
    /// # Errors
    /// When the size is not one a slab can have, or nothing is left for data.
    pub fn new(slab_blocks: u64, slab_journal_blocks: u64) -> Result<SlabConfig, SlabError> {
        if !slab_blocks.is_power_of_two() || slab_blocks > MAXIMUM_SLAB_BLOCKS {
            return Err(SlabError::Size {
                blocks: slab_blocks,
            });
        }
        if !(1..=MAXIMUM_SLAB_JOURNAL_BLOCKS).contains(&slab_journal_blocks) {
            return Err(SlabError::Journal {
                blocks: slab_journal_blocks,
            });
        }
        let no_data = SlabError::NoData {
            blocks: slab_blocks,
            journal_blocks: slab_journal_blocks,
        };
        let Some(beside_journal) = slab_blocks.checked_sub(slab_journal_blocks) else {
            return Err(no_data);
        };
        // Counters for the counter blocks themselves are made too; they would save one block at most.
        let reference_count_blocks = beside_journal.div_ceil(COUNTS_PER_BLOCK as u64);
        let data_blocks = beside_journal - reference_count_blocks;
        if data_blocks == 0 {
            return Err(no_data);
        }

        let flushing_threshold = (slab_journal_blocks * 3).div_ceil(4);
        let remaining = slab_journal_blocks - flushing_threshold;
        let blocking_threshold = flushing_threshold + remaining * 5 / 7;
        let spare = 1 + USER_REQUESTS / FULL_ENTRIES_PER_BLOCK as u64;
        let scrubbing_threshold = if slab_journal_blocks > spare {
            slab_journal_blocks - spare
        } else {
            blocking_threshold
        };
        Ok(SlabConfig {
            slab_blocks,
            data_blocks,
            reference_count_blocks,
            slab_journal_blocks,
            flushing_threshold,
            blocking_threshold: blocking_threshold.min(scrubbing_threshold),
            scrubbing_threshold,
        })
    }

    /// Whether the parts fit the slab and the thresholds the journal. A volume may have been cut by
    /// other rules than [`SlabConfig::new`]'s; this is what every cut has in common.
    pub(super) fn problem(&self) -> Option<(&'static str, u64, &'static str)> {
        let parts = [
            self.data_blocks,
            self.reference_count_blocks,
            self.slab_journal_blocks,
        ];
        let sum = parts.into_iter().try_fold(0_u64, u64::checked_add);
        if !self.slab_blocks.is_power_of_two() || self.slab_blocks > MAXIMUM_SLAB_BLOCKS {
            Some((
                "the slab size",
                self.slab_blocks,
                "it is a power of two up to 2^23",
            ))
        } else if parts.contains(&0) || sum.is_none_or(|sum| sum > self.slab_blocks) {
            let why = "data, reference counters and journal should fill the slab and no more";
            Some(("the number of data blocks in a slab", self.data_blocks, why))
        } else if self.reference_count_blocks < self.data_blocks.div_ceil(COUNTS_PER_BLOCK as u64) {
            let why = "it should be enough to count every data block";
            Some((
                "the number of reference blocks in a slab",
                self.reference_count_blocks,
                why,
            ))
        } else if self.slab_journal_blocks > MAXIMUM_SLAB_JOURNAL_BLOCKS {
            Some((
                "the size of a slab journal",
                self.slab_journal_blocks,
                "it is at most 256",
            ))
        } else if self.flushing_threshold > self.slab_journal_blocks
            || self.blocking_threshold > self.slab_journal_blocks
            || self.scrubbing_threshold > self.slab_journal_blocks
        {
            let why = "no threshold should be above it";
            Some(("the size of a slab journal", self.slab_journal_blocks, why))
        } else {
            None
        }
    }
}

/// Where the slabs are. Small enough to be copied to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabGeometry {
    /// The first block of slab 0.
    pub first_block: Pbn,
    /// How many slabs there are.
    pub slab_count: u32,
    /// How each is cut.
    pub config: SlabConfig,
    shift: u32,
}

impl SlabGeometry {
    /// `slab_count` slabs from `first_block` on. `config` must be one of [`SlabConfig::new`] or have no
    /// [`SlabConfig::problem`].
    pub fn new(first_block: Pbn, slab_count: u32, config: SlabConfig) -> SlabGeometry {
        SlabGeometry {
            first_block,
            slab_count,
            config,
            shift: config.slab_blocks.trailing_zeros(),
        }
    }

    /// As many whole slabs as `depot` holds.
    pub fn filling(depot: Extent, config: SlabConfig) -> SlabGeometry {
        let slabs = depot.blocks / config.slab_blocks;
        SlabGeometry::new(
            depot.start,
            u32::try_from(slabs).unwrap_or(u32::MAX),
            config,
        )
    }

    /// The block after the last slab.
    pub fn end(&self) -> Pbn {
        Pbn(self.first_block.get() + (u64::from(self.slab_count) << self.shift))
    }

    /// log2 of the blocks in a slab.
    pub fn slab_shift(&self) -> u32 {
        self.shift
    }

    /// Data blocks of all slabs together.
    pub fn data_blocks(&self) -> u64 {
        u64::from(self.slab_count) * self.config.data_blocks
    }

    /// The slab a block belongs to, if it lies in the depot.
    #[inline]
    pub fn slab_of(&self, pbn: Pbn) -> Option<SlabNumber> {
        let offset = pbn.get().checked_sub(self.first_block.get())?;
        let slab = offset >> self.shift;
        (slab < u64::from(self.slab_count)).then_some(SlabNumber(slab as u32))
    }

    /// The slab of a data block and the block's place in it; `None` for any block that is not one.
    #[inline]
    pub fn locate(&self, pbn: Pbn) -> Option<(SlabNumber, u32)> {
        let slab = self.slab_of(pbn)?;
        let offset = (pbn.get() - self.first_block.get()) & (self.config.slab_blocks - 1);
        (offset < self.config.data_blocks).then_some((slab, offset as u32))
    }

    /// Whether a block is one that may hold data or a page of the block map.
    #[inline]
    pub fn is_data_block(&self, pbn: Pbn) -> bool {
        self.locate(pbn).is_some()
    }

    /// The first block of a slab.
    #[inline]
    pub fn start_of(&self, slab: SlabNumber) -> Pbn {
        Pbn(self.first_block.get() + (u64::from(slab.get()) << self.shift))
    }

    /// The block at a place in a slab.
    #[inline]
    pub fn pbn(&self, slab: SlabNumber, offset: u32) -> Pbn {
        Pbn(self.start_of(slab).get() + u64::from(offset))
    }

    /// The blocks of a slab's reference counters.
    pub fn reference_blocks(&self, slab: SlabNumber) -> Extent {
        let start = Pbn(self.start_of(slab).get() + self.config.data_blocks);
        Extent {
            start,
            blocks: self.config.reference_count_blocks,
        }
    }

    /// The blocks of a slab's journal.
    pub fn journal_blocks(&self, slab: SlabNumber) -> Extent {
        let start = self.reference_blocks(slab).end();
        Extent {
            start,
            blocks: self.config.slab_journal_blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_slab_is_cut_as_vdoformat_cuts_it() {
        let slab = SlabConfig::new(DEFAULT_SLAB_BLOCKS, DEFAULT_SLAB_JOURNAL_BLOCKS).unwrap();
        let expected = SlabConfig {
            slab_blocks: 524_288,
            data_blocks: 523_934,
            reference_count_blocks: 130,
            slab_journal_blocks: 224,
            flushing_threshold: 168,
            blocking_threshold: 208,
            scrubbing_threshold: 222,
        };
        assert_eq!(slab, expected);
        assert_eq!(slab.problem(), None);
    }

    #[test]
    fn slabs_that_can_not_be_are_refused() {
        for blocks in [0, 3, 1000, MAXIMUM_SLAB_BLOCKS * 2] {
            assert_eq!(SlabConfig::new(blocks, 1), Err(SlabError::Size { blocks }));
        }
        for blocks in [0, 257] {
            assert_eq!(
                SlabConfig::new(1 << 13, blocks),
                Err(SlabError::Journal { blocks })
            );
        }
        for journal_blocks in [15, 16, 17] {
            let refused = SlabError::NoData {
                blocks: 16,
                journal_blocks,
            };
            assert_eq!(SlabConfig::new(16, journal_blocks), Err(refused));
        }
        assert_eq!(SlabConfig::new(16, 14).unwrap().data_blocks, 1);
    }

    prop_compose! {
        fn geometries()(
            shift in 4u32..=23,
            first in 1u64..1 << 30,
            slab_count in 1u32..=8192,
            fraction in 1u64..10,
        ) -> SlabGeometry {
            let blocks = 1u64 << shift;
            let config = SlabConfig::new(blocks, (blocks * fraction / 16).clamp(1, 256)).unwrap();
            SlabGeometry::new(Pbn(first), slab_count, config)
        }
    }

    proptest! {
        #[test]
        fn every_cut_fills_its_slab_in_order(slabs in geometries()) {
            let SlabConfig {
                slab_blocks, data_blocks, reference_count_blocks, slab_journal_blocks, ..
            } = slabs.config;
            prop_assert_eq!(data_blocks + reference_count_blocks + slab_journal_blocks, slab_blocks);
            prop_assert_eq!(slabs.config.problem(), None);
            prop_assert!(slabs.config.blocking_threshold <= slabs.config.scrubbing_threshold);
        }

        #[test]
        fn a_data_block_is_found_where_it_was_put(
            slabs in geometries(), slab: prop::sample::Index, offset: prop::sample::Index,
        ) {
            let slab = SlabNumber(slab.index(slabs.slab_count as usize) as u32);
            let offset = offset.index(slabs.config.data_blocks as usize) as u32;
            let pbn = slabs.pbn(slab, offset);
            prop_assert_eq!(slabs.locate(pbn), Some((slab, offset)));
            prop_assert_eq!(slabs.slab_of(pbn), Some(slab));
        }

        #[test]
        fn metadata_and_blocks_outside_the_depot_are_no_data_blocks(
            slabs in geometries(), slab: prop::sample::Index, before: u32, after: u32,
        ) {
            let slab = SlabNumber(slab.index(slabs.slab_count as usize) as u32);
            let references = slabs.reference_blocks(slab);
            let journal = slabs.journal_blocks(slab);
            prop_assert_eq!(references.end(), journal.start);
            prop_assert_eq!(journal.end().get() - slabs.start_of(slab).get(), slabs.config.slab_blocks);
            for pbn in [references.start, journal.start, Pbn(journal.end().get() - 1)] {
                prop_assert_eq!(slabs.locate(pbn), None);
                prop_assert_eq!(slabs.slab_of(pbn), Some(slab));
            }
            let below = slabs.first_block.get().saturating_sub(1 + u64::from(before));
            let above = slabs.end().get() + u64::from(after);
            prop_assert_eq!(slabs.slab_of(Pbn(below)), None);
            prop_assert_eq!(slabs.slab_of(Pbn(above)), None);
            prop_assert_eq!(slabs.slab_of(Pbn(u64::MAX)), None);
        }
    }
}
