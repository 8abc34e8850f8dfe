//! Opening a volume: from the geometry block and the super block to where everything is, or to a
//! precise refusal.
//!
//! All of this looks at bytes it is given and touches no device. To open a volume, read block 0 and hand
//! it to [`read_geometry`]; read the block that names, and hand it to [`read_volume`]; then look at its state, or ask
//! [`Volume::require_clean`]. A refusal means that nothing has been changed.

use thiserror::Error;
use uuid::Uuid;

use super::components::{BlockMapState, SlabDepotState, VolumeState};
use super::error::DecodeError;
use super::geometry::Geometry;
use super::identify::{Contents, identify_first_block};
use super::layout::{Extent, PartitionId};
use super::slab::{MAXIMUM_SLABS, SlabGeometry};
use super::slab_summary::SUMMARY_BLOCKS;
use super::super_block::SuperBlock;
use super::tree::TreeGeometry;
use crate::types::Pbn;

/// Why a device is not opened as a volume.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// There is nothing at the front of the device.
    #[error("the base device holds no volume: its first block is blank")]
    Blank,
    /// There is something else at the front of the device.
    #[error("the base device holds no volume but {what}")]
    Foreign {
        /// What.
        what: String,
    },
    /// Geometry block or super block can not be understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Geometry block and super block are of different volumes.
    #[error(
        "the super block is of another volume: its nonce is {super_block:#018x}, the geometry block's is {geometry:#018x}"
    )]
    Nonce {
        /// The geometry block's nonce.
        geometry: u64,
        /// The super block's.
        super_block: u64,
    },
    /// The device has lost its end.
    #[error(
        "the volume needs {needed} blocks of 4096 bytes, but the base device has {found}; give it its full size back"
    )]
    DeviceTooSmall {
        /// Blocks of the volume.
        needed: u64,
        /// Blocks of the device.
        found: u64,
    },
    /// A volume that was moved on its device for LVM.
    #[error(
        "the volume was converted for LVM (its blocks are moved by {offset}), which this program does not support; use it in the kernel"
    )]
    Converted {
        /// By how many blocks.
        offset: u64,
    },
    /// The volume needs something done before it can be used.
    #[error("the volume is {}: {}", .state.name(), what_to_do(*.state))]
    NotClean {
        /// What its super block says.
        state: VolumeState,
    },
}

fn what_to_do(state: VolumeState) -> &'static str {
    match state {
        VolumeState::New | VolumeState::Clean => "it can be opened",
        VolumeState::Dirty | VolumeState::Recovering | VolumeState::Replaying => {
            "it was not shut down and must be recovered"
        }
        VolumeState::ReadOnly => {
            "it stopped after an error; look for its cause, then have it rebuilt"
        }
        VolumeState::ForceRebuild | VolumeState::RebuildForUpgrade => "it waits to be rebuilt",
    }
}

/// A volume on disk: its two fixed blocks, decoded, and what follows from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The geometry block.
    pub geometry: Geometry,
    /// The super block; changed and encoded anew when the volume's state changes.
    pub super_block: SuperBlock,
    /// Where everything is.
    pub layout: VolumeLayout,
}

/// Where every part of a volume is, and how large. While a volume is open that changes only by [growing](super::growth).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeLayout {
    /// The volume's nonce.
    pub nonce: u64,
    /// The volume's name to the outside.
    pub uuid: Uuid,
    /// Blocks it presents.
    pub logical_blocks: u64,
    /// Blocks of the device it uses, from block 0 on.
    pub physical_blocks: u64,
    /// The index.
    pub index_region: Extent,
    /// The super block.
    pub super_block: Pbn,
    /// The roots of the block map's trees, one block each.
    pub block_map_roots: Extent,
    /// How the block map's trees are numbered.
    pub tree: TreeGeometry,
    /// The blocks slabs are cut from.
    pub slab_depot: Extent,
    /// How they are cut.
    pub slabs: SlabGeometry,
    /// The recovery journal; a power of two of blocks.
    pub recovery_journal: Extent,
    /// The slab summary, all zones' copies.
    pub slab_summary: Extent,
}

impl VolumeLayout {
    /// What follows from geometry block and super block, which must be sound.
    pub(super) fn new(geometry: &Geometry, super_block: &SuperBlock) -> VolumeLayout {
        let config = &super_block.volume.config;
        let partition = |id| super_block.layout.partition(id);
        let depot = &super_block.slab_depot;
        let depot_blocks = depot
            .last_block
            .get()
            .saturating_sub(depot.first_block.get());
        let slabs = Extent {
            start: depot.first_block,
            blocks: depot_blocks,
        };
        VolumeLayout {
            nonce: geometry.nonce,
            uuid: geometry.uuid,
            logical_blocks: config.logical_blocks,
            physical_blocks: config.physical_blocks,
            index_region: geometry.index_region(),
            super_block: geometry.super_block(),
            block_map_roots: partition(PartitionId::BlockMap),
            tree: TreeGeometry {
                root_origin: super_block.block_map.root_origin,
                roots: super_block.block_map.root_count as u32,
                logical_blocks: config.logical_blocks,
            },
            slab_depot: partition(PartitionId::SlabDepot),
            slabs: SlabGeometry::filling(slabs, depot.slab),
            recovery_journal: partition(PartitionId::RecoveryJournal),
            slab_summary: partition(PartitionId::SlabSummary),
        }
    }

    /// Blocks of the device outside of what slabs offer: metadata with a place of its own, and what is left over.
    pub fn fixed_overhead(&self) -> u64 {
        self.physical_blocks - self.slabs.data_blocks()
    }
}

/// Reads the geometry block out of the first block of a device of `device_blocks` blocks.
///
/// # Errors
/// What is there instead of a volume this program can open. On success
/// [`Geometry::super_block`] lies on the device.
pub fn read_geometry(first_block: &[u8], device_blocks: u64) -> Result<Geometry, OpenError> {
    let (geometry, _) = match Geometry::decode(first_block) {
        Ok(decoded) => decoded,
        Err(error @ DecodeError::NotVdo { .. }) => {
            return Err(match identify_first_block(first_block) {
                Contents::Blank => OpenError::Blank,
                Contents::Foreign { what } => OpenError::Foreign { what },
                Contents::Volume | Contents::Unknown { .. } => OpenError::Decode(error),
            });
        }
        Err(error) => return Err(OpenError::Decode(error)),
    };
    if geometry.bio_offset != 0 {
        return Err(OpenError::Converted {
            offset: geometry.bio_offset,
        });
    }
    let what = "the geometry block";
    let (index, data) = (geometry.index_start.get(), geometry.data_start.get());
    if index == 0 || data < index || data >= super::MAXIMUM_PHYSICAL_BLOCKS {
        let (field, why) = (
            "the start of the data region",
            "it follows the index, which follows block 0",
        );
        return Err(DecodeError::Field {
            what,
            field,
            found: data,
            why,
        }
        .into());
    }
    if data >= device_blocks {
        return Err(OpenError::DeviceTooSmall {
            needed: data + 1,
            found: device_blocks,
        });
    }
    Ok(geometry)
}

/// Reads the super block and puts it together with the geometry block. Whether the volume was shut down
/// is not asked; see [`Volume::require_clean`].
///
/// # Errors
/// When the two do not make a sound volume, or the device is smaller than it.
pub fn read_volume(
    geometry: Geometry,
    super_block: &[u8],
    device_blocks: u64,
) -> Result<Volume, OpenError> {
    let super_block = SuperBlock::decode(super_block, &geometry)?;
    let volume = &super_block.volume;
    if volume.nonce != geometry.nonce {
        let (geometry, super_block) = (geometry.nonce, volume.nonce);
        return Err(OpenError::Nonce {
            geometry,
            super_block,
        });
    }
    let needed = volume.config.physical_blocks;
    if needed > device_blocks {
        return Err(OpenError::DeviceTooSmall {
            needed,
            found: device_blocks,
        });
    }
    check_components(&super_block)?;
    let layout = VolumeLayout::new(&geometry, &super_block);
    Ok(Volume {
        geometry,
        super_block,
        layout,
    })
}

/// Whether what the components say agrees with the sizes and the partitions.
fn check_components(super_block: &SuperBlock) -> Result<(), DecodeError> {
    let config = &super_block.volume.config;
    let partition = |id| super_block.layout.partition(id);
    let check = |good: bool, what, field, found, why| {
        if good {
            Ok(())
        } else {
            Err(DecodeError::Field {
                what,
                field,
                found,
                why,
            })
        }
    };

    let depot = &super_block.slab_depot;
    let what = SlabDepotState::WHAT;
    if let Some((field, found, why)) = depot.slab.problem() {
        return Err(DecodeError::Field {
            what,
            field,
            found,
            why,
        });
    }
    let (slab, journal) = (depot.slab.slab_blocks, depot.slab.slab_journal_blocks);
    let why = "the volume component has another";
    check(slab == config.slab_blocks, what, "the slab size", slab, why)?;
    check(
        journal == config.slab_journal_blocks,
        what,
        "the size of a slab journal",
        journal,
        why,
    )?;
    let slabs = partition(PartitionId::SlabDepot);
    let (first, last) = (depot.first_block, depot.last_block);
    let why = "it should be where the partition begins";
    check(
        first == slabs.start,
        what,
        "the first block",
        first.get(),
        why,
    )?;
    let used = last.get().wrapping_sub(first.get());
    let whole =
        last > first && last <= slabs.end() && used % slab == 0 && used / slab <= MAXIMUM_SLABS;
    let why = "there should be 1 to 8192 whole slabs inside the partition";
    check(whole, what, "the last block", last.get(), why)?;

    let map = &super_block.block_map;
    let roots = partition(PartitionId::BlockMap);
    let what = BlockMapState::WHAT;
    let why = "it should be where the partition begins";
    check(
        map.root_origin == roots.start,
        what,
        "the first root",
        map.root_origin.get(),
        why,
    )?;
    let count = map.root_count;
    let why = "it should be the size of the partition, at most 255";
    check(
        count == roots.blocks && count <= 255,
        what,
        "the number of roots",
        count,
        why,
    )?;

    let journal = partition(PartitionId::RecoveryJournal).blocks;
    let (what, why) = (
        "the recovery journal partition",
        "the volume component has another",
    );
    check(
        journal == config.recovery_journal_blocks,
        what,
        "its number of blocks",
        journal,
        why,
    )?;
    let summary = partition(PartitionId::SlabSummary).blocks;
    let (what, why) = ("the slab summary partition", "it is always 64");
    check(
        summary == SUMMARY_BLOCKS,
        what,
        "its number of blocks",
        summary,
        why,
    )
}

impl Volume {
    /// Refuses a volume that must be recovered or rebuilt first.
    ///
    /// # Errors
    /// Its state, unless that is new or clean.
    pub fn require_clean(&self) -> Result<(), OpenError> {
        let state = self.super_block.volume.state;
        if state.is_clean() {
            Ok(())
        } else {
            Err(OpenError::NotClean { state })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::geometry::GeometryVersion;
    use crate::format::plan::{FormatOptions, FormatPlan};
    use crate::types::BLOCK_SIZE;

    const BLOCKS: u64 = 4096;

    fn volume() -> Volume {
        let options = FormatOptions::miniature(64, 8, 32);
        FormatPlan::new(&options, BLOCKS, 0x55, Uuid::nil())
            .unwrap()
            .into_volume()
    }

    fn opened(volume: &Volume, device_blocks: u64) -> Result<Volume, OpenError> {
        let mut block = [0; BLOCK_SIZE];
        volume.geometry.encode(GeometryVersion::V5, &mut block);
        let geometry = read_geometry(&block, device_blocks)?;
        volume.super_block.encode(&mut block);
        read_volume(geometry, &block, device_blocks)
    }

    fn refusal(change: impl FnOnce(&mut Volume)) -> String {
        let mut volume = volume();
        change(&mut volume);
        opened(&volume, BLOCKS).unwrap_err().to_string()
    }

    #[test]
    fn a_volume_opens_on_its_device_and_on_a_larger_one() {
        assert_eq!(opened(&volume(), BLOCKS), Ok(volume()));
        assert_eq!(opened(&volume(), BLOCKS + 1), Ok(volume()));
    }

    #[test]
    fn a_device_smaller_than_the_volume_is_refused_with_both_sizes() {
        let too_small = |found, needed| Err(OpenError::DeviceTooSmall { needed, found });
        assert_eq!(opened(&volume(), BLOCKS - 1), too_small(BLOCKS - 1, BLOCKS));
        assert_eq!(
            opened(&volume(), 1),
            too_small(1, volume().geometry.super_block().get() + 1),
            "not even the super block is there"
        );
    }

    #[test]
    fn only_a_volume_that_is_new_or_was_shut_down_is_clean() {
        for code in 0..8 {
            let mut volume = volume();
            let state = VolumeState::from_code(code).unwrap();
            volume.super_block.volume.state = state;
            let found = opened(&volume, BLOCKS).unwrap().require_clean();
            match state {
                VolumeState::New | VolumeState::Clean => assert_eq!(found, Ok(())),
                _ => assert_eq!(found, Err(OpenError::NotClean { state })),
            }
        }
        let dirty = OpenError::NotClean {
            state: VolumeState::Dirty,
        }
        .to_string();
        assert!(
            dirty.contains("dirty") && dirty.contains("recovered"),
            "{dirty}"
        );
    }

    #[test]
    fn geometry_and_super_block_of_different_volumes_are_refused() {
        let text = refusal(|volume| volume.geometry.nonce += 1);
        assert!(
            text.contains("0x0000000000000055") && text.contains("0x0000000000000056"),
            "{text}"
        );
    }

    #[test]
    fn the_retired_word_of_the_geometry_does_not_matter() {
        let mut volume = volume();
        volume.geometry.unused += 1;
        assert!(opened(&volume, BLOCKS).is_ok());
    }

    #[test]
    fn a_volume_converted_for_lvm_is_refused() {
        assert!(refusal(|volume| volume.geometry.bio_offset = 9).contains("moved by 9"));
    }

    #[test]
    fn a_data_region_out_of_place_is_refused() {
        let refuse = |index, data| {
            refusal(|volume| {
                volume.geometry.index_start = Pbn(index);
                volume.geometry.data_start = Pbn(data);
            })
        };
        for (index, data) in [(0, 1), (2, 1), (1, u64::MAX), (1, 1 << 36)] {
            let text = refuse(index, data);
            assert!(text.contains("the start of the data region"), "{text}");
        }
    }

    #[test]
    fn components_that_disagree_with_the_sizes_are_refused() {
        let refused = |expected: &str, change: fn(&mut SuperBlock)| {
            let text = refusal(|volume| change(&mut volume.super_block));
            assert!(text.contains(expected), "{text}");
        };
        refused("the slab size", |block| {
            block.slab_depot.slab.slab_blocks = 63
        });
        refused("the slab size", |block| {
            block.slab_depot.slab.slab_blocks = 128
        });
        refused("the size of a slab journal", |block| {
            block.slab_depot.slab.slab_journal_blocks = 7
        });
        refused("data blocks in a slab", |block| {
            block.slab_depot.slab.data_blocks += 1
        });
        refused("data blocks in a slab", |block| {
            block.slab_depot.slab.data_blocks = u64::MAX
        });
        refused("data blocks in a slab", |block| {
            block.slab_depot.slab.data_blocks = 0
        });
        refused("data blocks in a slab", |block| {
            block.slab_depot.slab.reference_count_blocks = 0;
        });
        refused("no threshold", |block| {
            block.slab_depot.slab.scrubbing_threshold = 9
        });
        refused("the first block", |block| {
            block.slab_depot.first_block.0 += 64
        });
        refused("the last block", |block| block.slab_depot.last_block.0 += 1);
        refused("the last block", |block| {
            block.slab_depot.last_block.0 += 64
        });
        refused("the last block", |block| {
            block.slab_depot.last_block = block.slab_depot.first_block;
        });
        refused("the last block", |block| {
            block.slab_depot.last_block = Pbn(0)
        });
        refused("the first root", |block| block.block_map.root_origin.0 += 1);
        refused("the number of roots", |block| {
            block.block_map.root_count = 59
        });
        refused("the recovery journal partition", |block| {
            block.volume.config.recovery_journal_blocks = 64;
        });
    }

    #[test]
    fn a_slab_with_too_few_counters_is_refused() {
        // 8 x 4032 data blocks need eight blocks of counters.
        let options = FormatOptions::miniature(1 << 16, 8, 32);
        let mut volume = FormatPlan::new(&options, 1 << 17, 1, Uuid::nil())
            .unwrap()
            .into_volume();
        volume.super_block.slab_depot.slab.reference_count_blocks -= 1;
        let text = opened(&volume, 1 << 17).unwrap_err().to_string();
        assert!(text.contains("reference blocks in a slab"), "{text}");
    }

    #[test]
    fn what_is_there_instead_of_a_volume_is_said() {
        let refused = |block: &[u8]| read_geometry(block, BLOCKS).unwrap_err();
        assert_eq!(refused(&[0; BLOCK_SIZE]), OpenError::Blank);
        let mut block = [0; BLOCK_SIZE];
        block[..4].copy_from_slice(b"XFSB");
        let text = refused(&block).to_string();
        assert_eq!(
            text,
            "the base device holds no volume but an XFS file system"
        );
        block[..4].copy_from_slice(b"\x01odd");
        assert!(
            refused(&block).to_string().contains("\"\\x01odd\\x00"),
            "the bytes are shown"
        );
        assert!(matches!(
            refused(b"dm"),
            OpenError::Decode(DecodeError::TooShort { .. })
        ));
    }
}
