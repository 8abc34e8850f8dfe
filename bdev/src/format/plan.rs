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
    /// Blocks in a slab: a power of two from 2^13 (32 MiB) to 2^23 (32 GiB).
    pub slab_blocks: u64,
    /// The index.
    pub index: IndexConfig,
    /// Blocks of each slab's journal; 224 in every volume but a miniature.
    pub slab_journal_blocks: u64,
    /// Blocks of the recovery journal, a power of two; 32768 in every volume but a miniature.
    pub recovery_journal_blocks: u64,
    /// Lifts the lower limit of the slab size and lets there be no index region.
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
    /// A volume as small as the format allows, for tests: no index region, slabs and journals of any
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
                memory: IndexMemory::NONE,
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
        "a slab of {blocks} blocks is not possible; it must be a power of two from {MINIMUM_SLAB_BLOCKS} (32 MiB) to {MAXIMUM_SLAB_BLOCKS} (32 GiB)"
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
    if !options.miniature && options.index.memory == IndexMemory::NONE {
        return Err(FormatError::NoIndex);
    }
    Ok(())
}
