//! The components of the super block: the state each part of the volume saves there.
//!
//! Each stands behind its own header (the volume's own behind a version alone) at a place fixed by
//! the sizes of those before it. The super block reads and writes them all together.

use super::MAXIMUM_LOGICAL_BLOCKS;
use super::codec::{Header, Reader, Version, Writer};
use super::error::DecodeError;
use super::slab::SlabConfig;
use crate::types::{Pbn, SequenceNumber};

/// What the volume was doing when the super block was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// In use, or was when it stopped without a shutdown.
    Dirty,
    /// Made and never opened: nothing but the fixed parts has been written.
    New,
    /// Shut down.
    Clean,
    /// Stopped taking writes after an error.
    ReadOnly,
    /// Asked to be rebuilt from its block map, after it was read-only.
    ForceRebuild,
    /// In use again after a recovery that has not replayed every slab yet.
    Recovering,
    /// As [`VolumeState::Dirty`], as old programs wrote it.
    Replaying,
    /// Asked to be rebuilt by an upgrade.
    RebuildForUpgrade,
}

impl VolumeState {
    const ALL: [VolumeState; 8] = [
        VolumeState::Dirty,
        VolumeState::New,
        VolumeState::Clean,
        VolumeState::ReadOnly,
        VolumeState::ForceRebuild,
        VolumeState::Recovering,
        VolumeState::Replaying,
        VolumeState::RebuildForUpgrade,
    ];

    /// The number on disk.
    pub fn code(self) -> u32 {
        match self {
            VolumeState::Dirty => 0,
            VolumeState::New => 1,
            VolumeState::Clean => 2,
            VolumeState::ReadOnly => 3,
            VolumeState::ForceRebuild => 4,
            VolumeState::Recovering => 5,
            VolumeState::Replaying => 6,
            VolumeState::RebuildForUpgrade => 7,
        }
    }

    /// The state of a number on disk.
    pub fn from_code(code: u32) -> Option<VolumeState> {
        VolumeState::ALL
            .into_iter()
            .find(|state| state.code() == code)
    }

    /// Whether the volume may be opened without recovering anything.
    pub fn is_clean(self) -> bool {
        matches!(self, VolumeState::New | VolumeState::Clean)
    }

    /// The name dm-vdo reports.
    pub fn name(self) -> &'static str {
        match self {
            VolumeState::Dirty => "dirty",
            VolumeState::New => "new",
            VolumeState::Clean => "clean",
            VolumeState::ReadOnly => "read-only",
            VolumeState::ForceRebuild => "force-rebuild",
            VolumeState::Recovering => "recovering",
            VolumeState::Replaying => "replaying",
            VolumeState::RebuildForUpgrade => "rebuild-for-upgrade",
        }
    }
}

/// The sizes a volume was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeConfig {
    /// Blocks it presents.
    pub logical_blocks: u64,
    /// Blocks of the device it uses, geometry block and index included.
    pub physical_blocks: u64,
    /// Blocks in a slab; a power of two.
    pub slab_blocks: u64,
    /// Blocks of the recovery journal; a power of two.
    pub recovery_journal_blocks: u64,
    /// Blocks of each slab's journal.
    pub slab_journal_blocks: u64,
}

/// The volume's own component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeComponent {
    /// What it was doing.
    pub state: VolumeState,
    /// Recoveries completed in its life; the low byte marks recovery-journal blocks.
    pub complete_recoveries: u64,
    /// Read-only rebuilds completed.
    pub read_only_recoveries: u64,
    /// Its sizes.
    pub config: VolumeConfig,
    /// The nonce, as in the geometry block.
    pub nonce: u64,
}

impl VolumeComponent {
    const VERSION: Version = Version::new(41, 0);
    const WHAT: &str = "the volume component";
    pub(super) const SIZE: usize = 8 + 4 + 8 + 8 + 5 * 8 + 8;

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        to.version(Self::VERSION);
        to.u32(self.state.code());
        to.u64(self.complete_recoveries);
        to.u64(self.read_only_recoveries);
        to.u64(self.config.logical_blocks);
        to.u64(self.config.physical_blocks);
        to.u64(self.config.slab_blocks);
        to.u64(self.config.recovery_journal_blocks);
        to.u64(self.config.slab_journal_blocks);
        to.u64(self.nonce);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<VolumeComponent, DecodeError> {
        let what = Self::WHAT;
        let found = from.version()?;
        if found != Self::VERSION {
            let known = Self::VERSION.to_string();
            return Err(DecodeError::UnknownVersion { what, found, known });
        }
        let code = from.u32()?;
        let Some(state) = VolumeState::from_code(code) else {
            let (field, found, why) = ("its state", code.into(), "states are numbered 0 to 7");
            return Err(DecodeError::Field {
                what,
                field,
                found,
                why,
            });
        };
        Ok(VolumeComponent {
            state,
            complete_recoveries: from.u64()?,
            read_only_recoveries: from.u64()?,
            config: VolumeConfig {
                logical_blocks: from.u64()?,
                physical_blocks: from.u64()?,
                slab_blocks: from.u64()?,
                recovery_journal_blocks: from.u64()?,
                slab_journal_blocks: from.u64()?,
            },
            nonce: from.u64()?,
        })
    }
}

impl VolumeConfig {
    /// Whether the sizes can be those of a volume.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        let what = VolumeComponent::WHAT;
        let check = |good: bool, field, found, why| {
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
        check(
            (1..=super::MAXIMUM_PHYSICAL_BLOCKS).contains(&self.physical_blocks),
            "the number of physical blocks",
            self.physical_blocks,
            "a volume has between 1 and 2^36",
        )?;
        check(
            (1..=MAXIMUM_LOGICAL_BLOCKS).contains(&self.logical_blocks),
            "the number of logical blocks",
            self.logical_blocks,
            "a volume has between 1 and 2^40",
        )?;
        check(
            self.recovery_journal_blocks.is_power_of_two(),
            "the size of the recovery journal",
            self.recovery_journal_blocks,
            "it is a power of two",
        )
    }
}

/// What the recovery journal saves at shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryJournalState {
    /// The sequence number the next journal block gets.
    pub journal_start: SequenceNumber,
    /// Logical blocks that are mapped.
    pub logical_blocks_used: u64,
    /// Physical blocks that hold block-map tree pages.
    pub block_map_data_blocks: u64,
}

impl RecoveryJournalState {
    const WHAT: &str = "the recovery journal component";
    const HEADER: Header = Header {
        id: 2,
        version: Version::new(7, 0),
        size: 24,
    };
    pub(super) const SIZE: usize = Header::SIZE + 24;

    /// The state of a journal that has never been written.
    pub const NEW: RecoveryJournalState = RecoveryJournalState {
        journal_start: SequenceNumber(1),
        logical_blocks_used: 0,
        block_map_data_blocks: 0,
    };

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        Self::HEADER.encode(to);
        to.u64(self.journal_start.get());
        to.u64(self.logical_blocks_used);
        to.u64(self.block_map_data_blocks);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<RecoveryJournalState, DecodeError> {
        Self::HEADER.expect(Self::WHAT, from)?;
        Ok(RecoveryJournalState {
            journal_start: SequenceNumber(from.u64()?),
            logical_blocks_used: from.u64()?,
            block_map_data_blocks: from.u64()?,
        })
    }
}

/// What the slab depot saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabDepotState {
    /// How each slab is cut.
    pub slab: SlabConfig,
    /// The first block of the first slab.
    pub first_block: Pbn,
    /// The block after the last slab.
    pub last_block: Pbn,
    /// Physical zones of the last run; tells which copies of the slab summary are current. Zero in a
    /// new volume.
    pub zone_count: u8,
}

impl SlabDepotState {
    pub(super) const WHAT: &str = "the slab depot component";
    const HEADER: Header = Header {
        id: 3,
        version: Version::new(2, 0),
        size: 73,
    };
    pub(super) const SIZE: usize = Header::SIZE + 73;

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        Self::HEADER.encode(to);
        to.u64(self.slab.slab_blocks);
        to.u64(self.slab.data_blocks);
        to.u64(self.slab.reference_count_blocks);
        to.u64(self.slab.slab_journal_blocks);
        to.u64(self.slab.flushing_threshold);
        to.u64(self.slab.blocking_threshold);
        to.u64(self.slab.scrubbing_threshold);
        to.u64(self.first_block.get());
        to.u64(self.last_block.get());
        to.u8(self.zone_count);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<SlabDepotState, DecodeError> {
        Self::HEADER.expect(Self::WHAT, from)?;
        Ok(SlabDepotState {
            slab: SlabConfig {
                slab_blocks: from.u64()?,
                data_blocks: from.u64()?,
                reference_count_blocks: from.u64()?,
                slab_journal_blocks: from.u64()?,
                flushing_threshold: from.u64()?,
                blocking_threshold: from.u64()?,
                scrubbing_threshold: from.u64()?,
            },
            first_block: Pbn(from.u64()?),
            last_block: Pbn(from.u64()?),
            zone_count: from.u8()?,
        })
    }
}

/// What the block map saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMapState {
    /// Where the roots of the trees are.
    pub root_origin: Pbn,
    /// How many trees there are.
    pub root_count: u64,
}

impl BlockMapState {
    pub(super) const WHAT: &str = "the block map component";
    const HEADER: Header = Header {
        id: 4,
        version: Version::new(2, 0),
        size: 32,
    };
    /// Old volumes began with a flat map; since there is none, these two are fixed.
    const FLAT_PAGE_ORIGIN: u64 = 1;
    const FLAT_PAGE_COUNT: u64 = 0;
    pub(super) const SIZE: usize = Header::SIZE + 32;

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        Self::HEADER.encode(to);
        to.u64(Self::FLAT_PAGE_ORIGIN);
        to.u64(Self::FLAT_PAGE_COUNT);
        to.u64(self.root_origin.get());
        to.u64(self.root_count);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<BlockMapState, DecodeError> {
        Self::HEADER.expect(Self::WHAT, from)?;
        for (field, expected, why) in [
            (
                "the origin of the flat map",
                Self::FLAT_PAGE_ORIGIN,
                "it is always 1",
            ),
            (
                "the size of the flat map",
                Self::FLAT_PAGE_COUNT,
                "there is none any more",
            ),
        ] {
            let found = from.u64()?;
            if found != expected {
                return Err(DecodeError::Field {
                    what: Self::WHAT,
                    field,
                    found,
                    why,
                });
            }
        }
        Ok(BlockMapState {
            root_origin: Pbn(from.u64()?),
            root_count: from.u64()?,
        })
    }
}
