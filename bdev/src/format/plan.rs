//! Making a new volume: from what a person chose to every byte that must be written.
//!
//! Nothing is written here. [`FormatPlan::new`] checks the choices against the device and works out the
//! geometry block and the super block; [`FormatPlan::steps`] lists the writes and the flushes between
//! them, for the engine to carry out through its own I/O. The order makes an interrupted format harmless:
//! the old geometry block is wiped first and the new one is written last, so that what lies between is
//! never taken for a volume.
//!
//! What is not written is left as the device has it: the index region but for its first block, all
//! slabs, and the slab summary. A new volume's state says so, and whoever opens it takes all reference
//! counts as zero, all slab journals as empty, and makes the slab summary.

use thiserror::Error;
use uuid::Uuid;

use super::components::{
    BlockMapState, RecoveryJournalState, SlabDepotState, VolumeComponent, VolumeConfig, VolumeState,
};
use super::geometry::{GEOMETRY_PBN, Geometry, GeometryVersion};
use super::index_region::{IndexConfig, IndexError, IndexMemory, index_blocks};
use super::layout::{Extent, Layout, PartitionId};
use super::open::{Volume, VolumeLayout};
use super::recovery_journal::DEFAULT_JOURNAL_BLOCKS;
use super::slab::{
    DEFAULT_SLAB_BLOCKS, DEFAULT_SLAB_JOURNAL_BLOCKS, MAXIMUM_SLAB_BLOCKS, MAXIMUM_SLABS,
    MINIMUM_SLAB_BLOCKS, SlabConfig, SlabError, SlabGeometry,
};
use super::slab_summary::SUMMARY_BLOCKS;
use super::super_block::SuperBlock;
use super::tree::{DEFAULT_ROOTS, forest_size};
use super::{Block, MAXIMUM_LOGICAL_BLOCKS, MAXIMUM_PHYSICAL_BLOCKS};
use crate::types::{BLOCK_SIZE, Pbn};

/// What a person chooses of a new volume. The default is what `vdoformat` does without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// Blocks the volume presents; `None` for as many as the device can hold of data that neither
    /// deduplicates nor compresses.
    pub logical_blocks: Option<u64>,
    /// Blocks in a slab: a power of two from 2^8 (1 MiB) to 2^23 (32 GiB).
    pub slab_blocks: u64,
    /// The index.
    pub index: IndexConfig,
    /// Blocks of each slab's journal; 224 in every volume but a miniature.
    pub slab_journal_blocks: u64,
    /// Blocks of the recovery journal, a power of two; 32768 in every volume but a miniature.
    pub recovery_journal_blocks: u64,
    /// Lifts the lower limit of the slab size and lets the index be next to none.
    pub miniature: bool,
}

impl Default for FormatOptions {
    fn default() -> Self {
        FormatOptions {
            logical_blocks: None,
            slab_blocks: DEFAULT_SLAB_BLOCKS,
            index: IndexConfig::default(),
            slab_journal_blocks: DEFAULT_SLAB_JOURNAL_BLOCKS,
            recovery_journal_blocks: DEFAULT_JOURNAL_BLOCKS,
            miniature: false,
        }
    }
}

impl FormatOptions {
    /// A volume as small as the format allows, for tests: next to no index, slabs and journals of any
    /// size. It opens here, and with the tools of dm-vdo, but not in the kernel.
    pub fn miniature(
        slab_blocks: u64,
        slab_journal_blocks: u64,
        recovery_journal_blocks: u64,
    ) -> FormatOptions {
        FormatOptions {
            logical_blocks: None,
            slab_blocks,
            index: IndexConfig {
                memory: IndexMemory::MINIATURE,
                sparse: false,
            },
            slab_journal_blocks,
            recovery_journal_blocks,
            miniature: true,
        }
    }

    /// The fewest blocks a device must have for these options: the fixed parts and one slab.
    ///
    /// # Errors
    /// When the index can not be.
    pub fn minimum_device_blocks(&self) -> Result<u64, FormatError> {
        let fixed = 2 + DEFAULT_ROOTS + SUMMARY_BLOCKS;
        let chosen = [
            index_blocks(&self.index)?,
            self.recovery_journal_blocks,
            self.slab_blocks,
        ];
        Ok(chosen.into_iter().fold(fixed, u64::saturating_add))
    }
}

/// A volume that can not be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    /// The device is larger than a volume can use.
    #[error(
        "the base device has {blocks} blocks of 4096 bytes, a volume can use {MAXIMUM_PHYSICAL_BLOCKS} (256 TiB)"
    )]
    DeviceTooLarge {
        /// Blocks of the device.
        blocks: u64,
    },
    /// The device has no room for the fixed parts and one slab.
    #[error(
        "the base device has {blocks} blocks of 4096 bytes, but this volume needs at least {needed}; take smaller slabs, a smaller index or a larger device"
    )]
    DeviceTooSmall {
        /// Blocks of the device.
        blocks: u64,
        /// The fewest that would do.
        needed: u64,
    },
    /// More slabs than a depot can have.
    #[error(
        "the base device would be cut into {slabs} slabs of {slab_blocks} blocks, but a volume has at most {MAXIMUM_SLABS}; take larger slabs"
    )]
    TooManySlabs {
        /// Slabs there would be.
        slabs: u64,
        /// Blocks in each.
        slab_blocks: u64,
    },
    /// A logical size no volume has.
    #[error(
        "a logical size of {blocks} blocks is not possible; it must be 1 to {MAXIMUM_LOGICAL_BLOCKS} (4 PiB)"
    )]
    LogicalSize {
        /// Blocks asked for.
        blocks: u64,
    },
    /// A device too small to hold any data beside its own block map.
    #[error(
        "no logical block is left beside the block map of {blocks} data blocks; name a logical size"
    )]
    NoLogicalBlocks {
        /// Data blocks there would be.
        blocks: u64,
    },
    /// A slab size that is not offered.
    #[error(
        "a slab of {blocks} blocks is not possible; it must be a power of two from {MINIMUM_SLAB_BLOCKS} (1 MiB) to {MAXIMUM_SLAB_BLOCKS} (32 GiB)"
    )]
    SlabSize {
        /// Blocks asked for.
        blocks: u64,
    },
    /// A slab that can not be cut.
    #[error(transparent)]
    Slab(#[from] SlabError),
    /// A recovery journal that can not be.
    #[error("a recovery journal of {blocks} blocks is not possible; it must be a power of two")]
    RecoveryJournal {
        /// Blocks asked for.
        blocks: u64,
    },
    /// An index that can not be.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A real volume has an index region.
    #[error("a volume needs an index; take an index memory of 0.25 GB or more")]
    NoIndex,
}

/// What to write into some blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes.
    Zeroes,
    /// One block of these bytes.
    Block(Box<Block>),
}

/// One step of making a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatStep {
    /// Write these blocks.
    Write {
        /// Which.
        extent: Extent,
        /// With what; if not zeroes, the extent is one block long.
        content: Content,
    },
    /// Make every write before this durable before going on.
    Flush,
}

/// A volume that is about to be made.
#[derive(Clone, Debug)]
pub struct FormatPlan {
    /// The geometry block to come.
    pub geometry: Geometry,
    /// The super block to come.
    pub super_block: SuperBlock,
    /// Where everything will be.
    pub layout: VolumeLayout,
}

impl FormatPlan {
    /// Plans a volume on a device of `device_blocks` whole blocks. The nonce should be one no other
    /// volume has; microseconds since 1970 will do.
    ///
    /// # Errors
    /// Why there can be no such volume.
    pub fn new(
        options: &FormatOptions,
        device_blocks: u64,
        nonce: u64,
        uuid: Uuid,
    ) -> Result<FormatPlan, FormatError> {
        check(options, device_blocks)?;
        let slab = SlabConfig::new(options.slab_blocks, options.slab_journal_blocks)?;
        let geometry = Geometry::new(nonce, uuid, options.index, index_blocks(&options.index)?);
        let too_small = || {
            let needed = options.minimum_device_blocks()?;
            Err(FormatError::DeviceTooSmall {
                blocks: device_blocks,
                needed,
            })
        };
        let Some(layout) = Layout::new(
            Pbn(geometry.super_block().get() + 1),
            device_blocks,
            DEFAULT_ROOTS,
            options.recovery_journal_blocks,
            SUMMARY_BLOCKS,
        ) else {
            return too_small();
        };

        let depot = layout.partition(PartitionId::SlabDepot);
        let slab_count = depot.blocks / slab.slab_blocks;
        if slab_count == 0 {
            return too_small();
        }
        if slab_count > MAXIMUM_SLABS {
            let slab_blocks = slab.slab_blocks;
            return Err(FormatError::TooManySlabs {
                slabs: slab_count,
                slab_blocks,
            });
        }
        let slabs = SlabGeometry::filling(depot, slab);
        let data_blocks = slabs.data_blocks();
        let logical_blocks = match options.logical_blocks {
            Some(blocks) => blocks,
            None => data_blocks.saturating_sub(forest_size(data_blocks, DEFAULT_ROOTS as u32)),
        };
        if logical_blocks == 0 {
            return Err(FormatError::NoLogicalBlocks {
                blocks: data_blocks,
            });
        }

        let super_block = SuperBlock {
            unused: 0,
            volume: VolumeComponent {
                state: VolumeState::New,
                complete_recoveries: 0,
                read_only_recoveries: 0,
                config: VolumeConfig {
                    logical_blocks,
                    physical_blocks: device_blocks,
                    slab_blocks: options.slab_blocks,
                    recovery_journal_blocks: options.recovery_journal_blocks,
                    slab_journal_blocks: options.slab_journal_blocks,
                },
                nonce,
            },
            recovery_journal: RecoveryJournalState::NEW,
            slab_depot: SlabDepotState {
                slab,
                first_block: slabs.first_block,
                last_block: slabs.end(),
                zone_count: 0,
            },
            block_map: BlockMapState {
                root_origin: layout.partition(PartitionId::BlockMap).start,
                root_count: DEFAULT_ROOTS,
            },
            layout,
        };
        let layout = VolumeLayout::new(&geometry, &super_block);
        Ok(FormatPlan {
            geometry,
            super_block,
            layout,
        })
    }

    /// Everything to write, in order.
    pub fn steps(&self) -> Vec<FormatStep> {
        let one = |pbn| Extent {
            start: pbn,
            blocks: 1,
        };
        let zeroes = |extent| FormatStep::Write {
            extent,
            content: Content::Zeroes,
        };
        let mut geometry = Box::new([0; BLOCK_SIZE]);
        self.geometry.encode(GeometryVersion::V5, &mut geometry);
        let mut super_block = Box::new([0; BLOCK_SIZE]);
        self.super_block.encode(&mut super_block);
        let block = |pbn, bytes| FormatStep::Write {
            extent: one(pbn),
            content: Content::Block(bytes),
        };
        vec![
            zeroes(one(GEOMETRY_PBN)),
            FormatStep::Flush,
            // The index's own super block, so that no older index is found there. (In a volume without
            // an index region this is the super block's place, which is written below.)
            zeroes(one(Pbn(1))),
            zeroes(self.layout.block_map_roots),
            zeroes(self.layout.recovery_journal),
            block(self.geometry.super_block(), super_block),
            FormatStep::Flush,
            block(GEOMETRY_PBN, geometry),
            FormatStep::Flush,
        ]
    }

    /// The volume as it will be found once every step is done.
    pub fn into_volume(self) -> Volume {
        let FormatPlan {
            geometry,
            super_block,
            layout,
        } = self;
        Volume {
            geometry,
            super_block,
            layout,
        }
    }
}

/// What can be said of the choices before anything is laid out.
fn check(options: &FormatOptions, device_blocks: u64) -> Result<(), FormatError> {
    if device_blocks > MAXIMUM_PHYSICAL_BLOCKS {
        return Err(FormatError::DeviceTooLarge {
            blocks: device_blocks,
        });
    }
    if let Some(blocks) = options.logical_blocks
        && !(1..=MAXIMUM_LOGICAL_BLOCKS).contains(&blocks)
    {
        return Err(FormatError::LogicalSize { blocks });
    }
    let smallest = if options.miniature {
        1
    } else {
        MINIMUM_SLAB_BLOCKS
    };
    let blocks = options.slab_blocks;
    if !blocks.is_power_of_two() || !(smallest..=MAXIMUM_SLAB_BLOCKS).contains(&blocks) {
        return Err(FormatError::SlabSize { blocks });
    }
    let blocks = options.recovery_journal_blocks;
    if !blocks.is_power_of_two() || blocks > MAXIMUM_PHYSICAL_BLOCKS {
        return Err(FormatError::RecoveryJournal { blocks });
    }
    if !options.miniature && options.index.memory == IndexMemory::MINIATURE {
        return Err(FormatError::NoIndex);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::TREE_HEIGHT;
    use crate::types::Lbn;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 18;

    fn plan(options: &FormatOptions, blocks: u64) -> Result<FormatPlan, FormatError> {
        FormatPlan::new(options, blocks, 77, Uuid::nil())
    }

    #[test]
    fn the_default_volume_is_the_one_vdoformat_makes() {
        let plan = plan(&FormatOptions::default(), 6 * GIB).unwrap();
        let layout = &plan.layout;
        assert_eq!(
            layout.index_region,
            Extent {
                start: Pbn(1),
                blocks: 679_127
            }
        );
        assert_eq!(layout.super_block, Pbn(679_128));
        assert_eq!(
            layout.block_map_roots,
            Extent {
                start: Pbn(679_129),
                blocks: 60
            }
        );
        let journal = Extent {
            start: Pbn(1_540_032),
            blocks: 32_768,
        };
        assert_eq!(layout.recovery_journal, journal);
        assert_eq!(
            layout.slab_summary,
            Extent {
                start: Pbn(1_572_800),
                blocks: 64
            }
        );
        assert_eq!(layout.slabs.slab_count, 1);
        let slab = crate::types::SlabNumber(0);
        assert_eq!(layout.slabs.reference_blocks(slab).start, Pbn(1_203_123));
        assert_eq!(layout.slabs.journal_blocks(slab).start, Pbn(1_203_253));
        assert_eq!(layout.logical_blocks, 523_108);
        assert_eq!(plan.super_block.volume.state, VolumeState::New);
    }

    #[test]
    fn the_smallest_device_is_the_sum_of_the_parts() {
        // Geometry block, super block, 60 roots, one slab, recovery journal, slab summary; and the index.
        let options = FormatOptions {
            logical_blocks: Some(1),
            ..FormatOptions::miniature(8, 4, 32)
        };
        let index = index_blocks(&options.index).unwrap();
        let least = 1 + 1 + 60 + 8 + 32 + 64 + index;
        assert_eq!(options.minimum_device_blocks(), Ok(least));
        assert_eq!(plan(&options, least).unwrap().layout.slabs.slab_count, 1);
        for blocks in [least - 1, least - 8, 64, 1, 0] {
            let too_small = FormatError::DeviceTooSmall {
                blocks,
                needed: least,
            };
            assert_eq!(plan(&options, blocks).unwrap_err(), too_small);
        }
        let usual = FormatOptions::default().minimum_device_blocks().unwrap();
        assert!(plan(&FormatOptions::default(), usual).is_ok());
        assert!(plan(&FormatOptions::default(), usual - 1).is_err());
    }

    #[test]
    fn limits_are_refused_with_the_limit() {
        let refused = |change: fn(&mut FormatOptions), blocks: u64, expected: &str| {
            let mut options = FormatOptions::default();
            change(&mut options);
            let error = plan(&options, blocks).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let large = 100 * GIB;
        refused(|_| (), (1 << 36) + 1, "256 TiB");
        refused(
            |options| options.logical_blocks = Some(0),
            large,
            "1 to 1099511627776",
        );
        refused(
            |options| options.logical_blocks = Some((1 << 40) + 1),
            large,
            "4 PiB",
        );
        refused(|options| options.slab_blocks = 1 << 7, large, "1 MiB");
        refused(|options| options.slab_blocks = 1 << 24, large, "32 GiB");
        refused(
            |options| options.slab_blocks = 10_000,
            large,
            "power of two",
        );
        refused(
            |options| options.recovery_journal_blocks = 1000,
            large,
            "power of two",
        );
        refused(
            |options| options.recovery_journal_blocks = 1 << 40,
            large,
            "power of two",
        );
        refused(
            |options| options.index.memory = IndexMemory::MINIATURE,
            large,
            "0.25 GB or more",
        );
        refused(
            |options| options.index.memory = IndexMemory::from_code(1025),
            large,
            "0x401",
        );
        refused(
            |options| options.slab_journal_blocks = 300,
            large,
            "1 to 256",
        );
        refused(
            |options| options.slab_blocks = 1 << 13,
            1024 * GIB,
            "take larger slabs",
        );
        refused(|_| (), GIB, "needs at least");
        let most = FormatOptions {
            logical_blocks: Some(1 << 40),
            ..FormatOptions::default()
        };
        assert!(plan(&most, large).is_ok());
    }

    #[test]
    fn every_page_of_the_default_logical_size_fits_the_slabs() {
        let options = FormatOptions::miniature(256, 8, 32);
        let layout = plan(&options, 60 * 1024 * 2).unwrap().layout;
        let tree = &layout.tree;
        assert!(tree.leaf_count() >= 60, "every tree has a leaf");
        // Count the pages that are needed exactly, one by one.
        let mut pages = std::collections::HashSet::new();
        for leaf in 0..tree.leaf_count() {
            let mut page = tree.leaf_page(leaf);
            while usize::from(page.height) + 1 < TREE_HEIGHT {
                pages.insert(page);
                page = page.parent().expect("below the root").0;
            }
        }
        let left = layout.slabs.data_blocks() - pages.len() as u64;
        assert!(
            left >= tree.logical_blocks,
            "{left} blocks for {} of data",
            tree.logical_blocks
        );
        assert!(left - tree.logical_blocks < 60, "the estimate is close");
        assert!(tree.leaf(Lbn(tree.logical_blocks - 1)).0.index < tree.pages_per_tree()[0]);
    }

    #[test]
    fn the_geometry_block_is_wiped_first_and_written_last() {
        let plan = plan(&FormatOptions::miniature(64, 8, 32), 4096).unwrap();
        let steps = plan.steps();
        let geometry_writes: Vec<_> = steps
            .iter()
            .enumerate()
            .filter_map(|(at, step)| match step {
                FormatStep::Write { extent, content } if extent.start == GEOMETRY_PBN => {
                    Some((at, *content == Content::Zeroes))
                }
                _ => None,
            })
            .collect();
        let last = steps.len() - 2;
        assert_eq!(geometry_writes, [(0, true), (last, false)]);
        for at in [1, last - 1, last + 1] {
            assert_eq!(steps[at], FormatStep::Flush);
        }
    }

    #[test]
    fn roots_and_journal_are_zeroed_and_slabs_and_summary_are_not_touched() {
        let plan = plan(&FormatOptions::miniature(64, 8, 32), 4096).unwrap();
        let layout = &plan.layout;
        let mut zeroed = Vec::new();
        for step in plan.steps() {
            let FormatStep::Write { extent, content } = step else {
                continue;
            };
            for part in [layout.slab_depot, layout.slab_summary] {
                assert!(extent.end() <= part.start || part.end() <= extent.start);
            }
            match content {
                Content::Zeroes => zeroed.push(extent),
                Content::Block(_) => assert_eq!(extent.blocks, 1),
            }
        }
        assert!(zeroed.contains(&layout.block_map_roots));
        assert!(zeroed.contains(&layout.recovery_journal));
    }

    proptest! {
        #[test]
        fn every_plan_reads_back_as_the_volume_it_promised(
            shift in 4u32..=16, slabs in 1u64..200, spare: u16, journal_shift in 0u32..12,
            slab_journal in 1u64..12, logical in prop::option::of(1u64..1 << 40), nonce: u64, uuid: u128,
        ) {
            let options = FormatOptions {
                logical_blocks: logical,
                ..FormatOptions::miniature(1 << shift, slab_journal, 1 << journal_shift)
            };
            let slab_blocks = 1 << shift;
            let least = options.minimum_device_blocks().unwrap();
            let blocks = least + (slabs - 1) * slab_blocks + u64::from(spare) % slab_blocks;
            let uuid = Uuid::from_u128(uuid);
            let plan = match FormatPlan::new(&options, blocks, nonce, uuid) {
                Ok(plan) => plan,
                Err(FormatError::NoLogicalBlocks { .. }) => return Ok(()),
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            };
            prop_assert_eq!(u64::from(plan.layout.slabs.slab_count), slabs);

            let written = |pbn| {
                let steps = plan.steps().into_iter().rev();
                let mut found = steps.filter_map(|step| match step {
                    FormatStep::Write { extent, content: Content::Block(block) }
                        if extent.start == pbn => Some(block),
                    _ => None,
                });
                found.next().expect("the plan writes this block")
            };
            let geometry = crate::format::open::read_geometry(&written(Pbn(0))[..], blocks).unwrap();
            let super_block = written(geometry.super_block());
            let volume = crate::format::open::read_volume(geometry, &super_block[..], blocks).unwrap();
            prop_assert_eq!(volume.require_clean(), Ok(()));
            prop_assert_eq!(&volume.layout, &plan.layout);
            prop_assert_eq!(volume, plan.into_volume());
        }
    }
}
