//! Growing a volume: the super block it gets, or why it cannot be.
//!
//! *Logical* growth changes one number: blocks the volume presents. Trees of the block map have their full height from the start, so
//! the pages that map the new blocks are made when they are first needed, like all others.
//!
//! *Physical* growth takes a device that has become larger. Recovery journal and slab summary lie at the end of a volume and go to the
//! new one; the depot takes all between:
//!
//! ```text
//!   before   | roots | slab 0 | ... | slab n | rest | journal | summary |
//!   after    | roots | slab 0 | ... | slab n |  slab n+1  |  ...  | slab m | rest | journal | summary |
//! ```
//!
//! The new places do not overlap the old ones. So they can be filled while the volume is what it was, and
//! one write of the super block makes it what it will be. What the new slabs hold is never read: the summary, which has an entry for
//! every slab there can be, says that they were never used.
//!
//! Nothing is written here.

use thiserror::Error;

use super::layout::{Layout, PartitionId};
use super::open::{Volume, VolumeLayout};
use super::slab::MAXIMUM_SLABS;
use super::{MAXIMUM_LOGICAL_BLOCKS, MAXIMUM_PHYSICAL_BLOCKS};
use crate::types::Pbn;

/// How a volume is to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// It is to present so many blocks.
    Logical(u64),
    /// It is to use a device of so many blocks, from block 0 on.
    Physical(u64),
}

/// Why a volume cannot grow so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GrowthError {
    /// It has that size, or is larger.
    #[error(
        "the volume presents {now} blocks of 4096 bytes, and can only be made larger, not {asked}"
    )]
    NotLarger {
        /// Blocks it presents.
        now: u64,
        /// Blocks asked for.
        asked: u64,
    },
    /// No volume presents so much.
    #[error(
        "a volume presents at most {MAXIMUM_LOGICAL_BLOCKS} blocks of 4096 bytes (4 PiB), not {asked}"
    )]
    TooManyLogicalBlocks {
        /// Blocks asked for.
        asked: u64,
    },
    /// The device is as it was.
    #[error(
        "the base device has {device} blocks of 4096 bytes, and the volume uses {now} of them already; enlarge the base device first"
    )]
    DeviceNotLarger {
        /// Blocks the volume uses.
        now: u64,
        /// Blocks of the device.
        device: u64,
    },
    /// No volume uses so much.
    #[error(
        "the base device has {device} blocks of 4096 bytes, and a volume can use {MAXIMUM_PHYSICAL_BLOCKS} (256 TiB)"
    )]
    TooManyPhysicalBlocks {
        /// Blocks of the device.
        device: u64,
    },
    /// What came to the device is of no use yet.
    #[error(
        "the base device has {device} blocks of 4096 bytes, {} more than the volume uses; enlarge it to at least {needed}, so that \
         there is room for a further slab and for moving the journal",
        device - now
    )]
    IncrementTooSmall {
        /// Blocks the volume uses.
        now: u64,
        /// Blocks of the device.
        device: u64,
        /// Blocks it must have at least.
        needed: u64,
    },
    /// More slabs than a depot can have.
    #[error(
        "the base device of {device} blocks of 4096 bytes would make {slabs} slabs of {slab_blocks} blocks, and a volume has at \
         most {MAXIMUM_SLABS}; slabs keep the size the volume was formatted with"
    )]
    TooManySlabs {
        /// Blocks of the device.
        device: u64,
        /// Slabs there would be.
        slabs: u64,
        /// Blocks in each.
        slab_blocks: u64,
    },
}

impl Volume {
    /// The volume after it has grown.
    ///
    /// # Errors
    /// Why it cannot, with the numbers.
    pub fn grown(&self, growth: Growth) -> Result<Volume, GrowthError> {
        let mut grown = self.clone();
        match growth {
            Growth::Logical(asked) => grown.grow_logically(asked)?,
            Growth::Physical(device) => grown.grow_physically(device)?,
        }
        grown.layout = VolumeLayout::new(&grown.geometry, &grown.super_block);
        Ok(grown)
    }

    fn grow_logically(&mut self, asked: u64) -> Result<(), GrowthError> {
        let blocks = &mut self.super_block.volume.config.logical_blocks;
        if asked <= *blocks {
            return Err(GrowthError::NotLarger {
                now: *blocks,
                asked,
            });
        }
        if asked > MAXIMUM_LOGICAL_BLOCKS {
            return Err(GrowthError::TooManyLogicalBlocks { asked });
        }
        *blocks = asked;
        Ok(())
    }

    fn grow_physically(&mut self, device: u64) -> Result<(), GrowthError> {
        let now = self.layout.physical_blocks;
        if device <= now {
            return Err(GrowthError::DeviceNotLarger { now, device });
        }
        if device > MAXIMUM_PHYSICAL_BLOCKS {
            return Err(GrowthError::TooManyPhysicalBlocks { device });
        }
        let (journal, summary) = (
            self.layout.recovery_journal.blocks,
            self.layout.slab_summary.blocks,
        );
        let slabs = &self.layout.slabs;
        let slab_blocks = slabs.config.slab_blocks;
        let with_one_more = slabs.end().get() + slab_blocks + journal + summary;
        let needed = with_one_more.max(now + journal + summary);
        if device < needed {
            return Err(GrowthError::IncrementTooSmall {
                now,
                device,
                needed,
            });
        }
        let roots = self.layout.block_map_roots;
        let layout = Layout::new(roots.start, device, roots.blocks, journal, summary);
        let layout = layout.expect("a larger device has room for what was on the smaller");
        let depot = layout.partition(PartitionId::SlabDepot);
        let slabs = depot.blocks / slab_blocks;
        if slabs > MAXIMUM_SLABS {
            return Err(GrowthError::TooManySlabs {
                device,
                slabs,
                slab_blocks,
            });
        }
        let state = &mut self.super_block.slab_depot;
        state.last_block = Pbn(depot.start.get() + slabs * slab_blocks);
        self.super_block.layout = layout;
        self.super_block.volume.config.physical_blocks = device;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::format::open::read_volume;
    use crate::format::{FormatOptions, FormatPlan};
    use crate::types::BLOCK_SIZE;

    fn volume(device: u64, slab_blocks: u64) -> Volume {
        let options = FormatOptions::miniature(slab_blocks, 16, 64);
        let plan = FormatPlan::new(&options, device, 7, Uuid::nil()).expect("it has room");
        plan.into_volume()
    }

    /// As it is read again from a device of `device` blocks.
    fn read_again(volume: &Volume, device: u64) -> Volume {
        let mut block = [0; BLOCK_SIZE];
        volume.super_block.encode(&mut block);
        read_volume(volume.geometry.clone(), &block, device).expect("it can be opened")
    }

    #[test]
    fn a_logical_size_that_is_not_larger_or_too_large_is_refused_with_the_numbers() {
        let volume = volume(4000, 512);
        let now = volume.layout.logical_blocks;
        for asked in [0, now - 1, now] {
            let error = volume.grown(Growth::Logical(asked)).unwrap_err();
            assert_eq!(error, GrowthError::NotLarger { now, asked });
            assert!(error.to_string().contains(&now.to_string()), "{error}");
        }
        let asked = MAXIMUM_LOGICAL_BLOCKS + 1;
        let error = volume.grown(Growth::Logical(asked)).unwrap_err();
        assert_eq!(error, GrowthError::TooManyLogicalBlocks { asked });
        assert!(error.to_string().contains(&asked.to_string()), "{error}");
    }

    #[test]
    fn logical_growth_changes_that_number_and_nothing_else() {
        let volume = volume(4000, 512);
        for asked in [volume.layout.logical_blocks + 1, MAXIMUM_LOGICAL_BLOCKS] {
            let grown = volume.grown(Growth::Logical(asked)).unwrap();
            let mut expected = volume.clone();
            expected.super_block.volume.config.logical_blocks = asked;
            expected.layout.logical_blocks = asked;
            expected.layout.tree.logical_blocks = asked;
            assert_eq!(grown, expected);
            assert_eq!(read_again(&grown, 4000), grown);
        }
    }

    #[test]
    fn a_device_that_has_not_grown_by_enough_is_refused_with_what_would_do() {
        let volume = volume(4000, 512);
        let (now, slabs) = (4000, volume.layout.slabs.slab_count);
        for device in [1, 3999, 4000] {
            let error = volume.grown(Growth::Physical(device)).unwrap_err();
            assert_eq!(error, GrowthError::DeviceNotLarger { now, device });
        }
        let error = volume.grown(Growth::Physical(4001)).unwrap_err();
        let GrowthError::IncrementTooSmall { needed, .. } = error else {
            panic!("{error}");
        };
        assert!(error.to_string().contains(&needed.to_string()), "{error}");
        let short = volume.grown(Growth::Physical(needed - 1)).unwrap_err();
        assert!(
            matches!(short, GrowthError::IncrementTooSmall { .. }),
            "{short}"
        );
        let grown = volume.grown(Growth::Physical(needed)).unwrap();
        assert_eq!(grown.layout.slabs.slab_count, slabs + 1);

        let device = MAXIMUM_PHYSICAL_BLOCKS + 1;
        let error = volume.grown(Growth::Physical(device)).unwrap_err();
        assert_eq!(error, GrowthError::TooManyPhysicalBlocks { device });
        let device = MAXIMUM_SLABS * 512 + 5000;
        let error = volume.grown(Growth::Physical(device)).unwrap_err();
        assert!(matches!(error, GrowthError::TooManySlabs { .. }), "{error}");
        assert!(error.to_string().contains("8192"), "{error}");
    }

    proptest! {
        #[test]
        fn a_grown_volume_is_as_one_formatted_so_large_and_what_moves_overlaps_nothing(
            device in 3000_u64..20_000, more in 0_u64..40_000, shift in 7_u32..11,
        ) {
            let volume = volume(device, 1 << shift);
            let Ok(grown) = volume.grown(Growth::Physical(device + more)) else {
                return Ok(());
            };
            let (old, new) = (&volume.layout, &grown.layout);
            prop_assert!(new.slabs.slab_count > old.slabs.slab_count);
            prop_assert_eq!(new.slabs.first_block, old.slabs.first_block);
            prop_assert!(new.recovery_journal.start >= Pbn(device));
            prop_assert_eq!(new.slab_summary.end(), Pbn(device + more));
            let formatted = super::tests::volume(device + more, 1 << shift);
            prop_assert_eq!(&new.slabs, &formatted.layout.slabs);
            prop_assert_eq!(&grown.super_block.layout, &formatted.super_block.layout);
            prop_assert_eq!(&read_again(&grown, device + more), &grown);
        }
    }
}
