//! The super block: the first block of the data region, where a volume saves its state.
//!
//! It is rewritten when a volume is opened (as dirty), suspended (as clean) and when it turns
//! read-only. All of it, 438 bytes, fits in the first sector, so a torn write leaves the old one or
//! the new one.
//!
//! A header and a checksum hold the components between them: the volume's version and own state,
//! the layout, and what recovery journal, slab depot and block map save.

use super::codec::{Header, Reader, Version, Writer, crc32};
use super::components::{BlockMapState, RecoveryJournalState, SlabDepotState, VolumeComponent};
use super::error::DecodeError;
use super::geometry::Geometry;
use super::layout::Layout;
use crate::types::{BLOCK_SIZE, Pbn};

const WHAT: &str = "the super block";
const VOLUME_VERSION: Version = Version::new(67, 0);
const CHECKSUM_BYTES: usize = 4;
const COMPONENT_BYTES: usize = 4
    + 8
    + VolumeComponent::SIZE
    + Layout::SIZE
    + RecoveryJournalState::SIZE
    + SlabDepotState::SIZE
    + BlockMapState::SIZE;
const HEADER: Header = Header {
    id: 0,
    version: Version::new(12, 0),
    size: (COMPONENT_BYTES + CHECKSUM_BYTES) as u64,
};
/// Bytes of the super block up to its end, the checksum.
const SIZE: usize = Header::SIZE + COMPONENT_BYTES + CHECKSUM_BYTES;
const _: () = assert!(SIZE <= super::SECTOR_SIZE, "a super block must not be torn");

/// What the super block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuperBlock {
    /// A word that has no meaning any more; kept as found.
    pub unused: u32,
    /// The volume's own state and sizes.
    pub volume: VolumeComponent,
    /// Where its parts are.
    pub layout: Layout,
    /// What the recovery journal saved.
    pub recovery_journal: RecoveryJournalState,
    /// What the slab depot saved.
    pub slab_depot: SlabDepotState,
    /// What the block map saved.
    pub block_map: BlockMapState,
}

impl SuperBlock {
    /// Fills `block` with the super block, zeroes after it.
    pub fn encode(&self, block: &mut [u8; BLOCK_SIZE]) {
        block.fill(0);
        let mut to = Writer::new(block);
        HEADER.encode(&mut to);
        to.u32(self.unused);
        to.version(VOLUME_VERSION);
        self.volume.encode(&mut to);
        self.layout.encode(&mut to);
        self.recovery_journal.encode(&mut to);
        self.slab_depot.encode(&mut to);
        self.block_map.encode(&mut to);
        let checksum = crc32(to.written());
        to.u32(checksum);
        debug_assert_eq!(to.position(), SIZE);
    }

    /// Reads the super block of the volume with this geometry. Says only that the bytes are a super
    /// block: whether the volume may be opened, and fits its device, [`super::open`] judges.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8], geometry: &Geometry) -> Result<SuperBlock, DecodeError> {
        let mut from = Reader::new(WHAT, bytes);
        HEADER.expect(WHAT, &mut from)?;
        if bytes.len() < SIZE {
            return Err(DecodeError::TooShort {
                what: WHAT,
                needed: SIZE,
                found: bytes.len(),
            });
        }
        let computed = crc32(&bytes[..SIZE - CHECKSUM_BYTES]);
        let stored = super::codec::le32(bytes, SIZE - CHECKSUM_BYTES);
        if stored != computed {
            return Err(DecodeError::Checksum {
                what: WHAT,
                stored,
                computed,
            });
        }

        let unused = from.u32()?;
        let found = from.version()?;
        if found != VOLUME_VERSION {
            let known = VOLUME_VERSION.to_string();
            return Err(DecodeError::UnknownVersion {
                what: "the volume",
                found,
                known,
            });
        }
        let volume = VolumeComponent::decode(&mut from)?;
        volume.config.check()?;
        let layout_start = Pbn(geometry.data_start.get().saturating_add(1));
        let layout = Layout::decode(&mut from, layout_start, volume.config.physical_blocks)?;
        let recovery_journal = RecoveryJournalState::decode(&mut from)?;
        let slab_depot = SlabDepotState::decode(&mut from)?;
        let block_map = BlockMapState::decode(&mut from)?;
        debug_assert_eq!(from.position(), SIZE - CHECKSUM_BYTES);
        Ok(SuperBlock {
            unused,
            volume,
            layout,
            recovery_journal,
            slab_depot,
            block_map,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::components::{VolumeConfig, VolumeState};
    use crate::format::index_region::IndexConfig;
    use crate::format::slab::SlabConfig;
    use crate::types::SequenceNumber;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn geometry() -> Geometry {
        Geometry::new(0x77, Uuid::nil(), IndexConfig::default(), 99)
    }

    fn sample() -> SuperBlock {
        let layout = Layout::new(Pbn(101), 100_000, 60, 1024, 64).unwrap();
        SuperBlock {
            unused: 0x1111_1111,
            volume: VolumeComponent {
                state: VolumeState::Clean,
                complete_recoveries: 2,
                read_only_recoveries: 3,
                config: VolumeConfig {
                    logical_blocks: 5,
                    physical_blocks: 100_000,
                    slab_blocks: 8192,
                    recovery_journal_blocks: 1024,
                    slab_journal_blocks: 224,
                },
                nonce: 0x77,
            },
            layout,
            recovery_journal: RecoveryJournalState {
                journal_start: SequenceNumber(6),
                logical_blocks_used: 7,
                block_map_data_blocks: 8,
            },
            slab_depot: SlabDepotState {
                slab: SlabConfig::new(8192, 224).unwrap(),
                first_block: Pbn(161),
                last_block: Pbn(161 + 8192 * 12),
                zone_count: 9,
            },
            block_map: BlockMapState {
                root_origin: Pbn(101),
                root_count: 60,
            },
        }
    }

    fn encoded(super_block: &SuperBlock) -> [u8; BLOCK_SIZE] {
        let mut block = [0xee; BLOCK_SIZE];
        super_block.encode(&mut block);
        block
    }

    /// Changes a byte and makes the checksum right again.
    fn with_byte(mut block: [u8; BLOCK_SIZE], at: usize, value: u8) -> [u8; BLOCK_SIZE] {
        block[at] = value;
        let checksum = crc32(&block[..SIZE - CHECKSUM_BYTES]);
        block[SIZE - CHECKSUM_BYTES..SIZE].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    #[test]
    fn the_header_and_the_places_of_the_components_are_those_of_dm_vdo() {
        let block = encoded(&sample());
        let header = [
            0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0xa2, 1, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(block[..20], header);
        assert_eq!(block[20..24], [0x11; 4]);
        assert_eq!(
            (block[24], block[32]),
            (67, 41),
            "volume and component versions"
        );
        assert_eq!(block[40], 2, "the state");
        assert_eq!(
            (block[108], block[245], block[289], block[382]),
            (1, 2, 3, 4),
            "component ids"
        );
        assert_eq!(SIZE, 438);
        assert!(block[438..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_state_change_changes_the_state_and_the_checksum_alone() {
        let clean = encoded(&sample());
        let mut dirty = sample();
        dirty.volume.state = VolumeState::Dirty;
        let dirty = encoded(&dirty);
        let changed: Vec<_> = (0..BLOCK_SIZE)
            .filter(|&at| clean[at] != dirty[at])
            .collect();
        assert!(
            changed
                .iter()
                .all(|&at| at == 40 || (434..438).contains(&at)),
            "{changed:?}"
        );
        assert_eq!(
            SuperBlock::decode(&dirty, &geometry())
                .unwrap()
                .volume
                .state,
            VolumeState::Dirty
        );
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let sound = encoded(&sample());
        assert_eq!(SuperBlock::decode(&sound, &geometry()), Ok(sample()));
        assert_eq!(SuperBlock::decode(&sound[..438], &geometry()), Ok(sample()));
        for at in 0..438 {
            let mut block = sound;
            block[at] ^= 0x10;
            assert!(
                SuperBlock::decode(&block, &geometry()).is_err(),
                "byte {at}"
            );
        }
        let short = SuperBlock::decode(&sound[..437], &geometry()).unwrap_err();
        assert!(matches!(short, DecodeError::TooShort { .. }));
    }

    #[test]
    fn other_versions_are_named() {
        let sound = encoded(&sample());
        let text = |block: &[u8]| {
            SuperBlock::decode(block, &geometry())
                .unwrap_err()
                .to_string()
        };
        let mut other = sound;
        other[4] += 3;
        other[8] += 29;
        assert!(
            text(&other).starts_with("the super block is version 15.29, this program knows 12.0")
        );
        let volume = text(&with_byte(sound, 24, 66));
        assert!(
            volume.starts_with("the volume is version 66.0, this program knows 67.0"),
            "{volume}"
        );
        let component = text(&with_byte(sound, 32, 42));
        assert!(
            component.starts_with("the volume component is version 42.0"),
            "{component}"
        );
        for (id, version) in [(108, 112), (245, 249), (289, 293), (382, 386)] {
            assert!(text(&with_byte(sound, id, 0)).contains("its header says component 0"));
            assert!(text(&with_byte(sound, version, 99)).contains("is version 99.0"));
        }
        assert!(text(&with_byte(sound, 40, 8)).contains("states are numbered 0 to 7"));
        assert!(text(&with_byte(sound, 402, 2)).contains("the origin of the flat map is 2"));
    }

    #[test]
    fn the_retired_word_may_be_anything() {
        let block = with_byte(encoded(&sample()), 20, 0x12);
        let decoded = SuperBlock::decode(&block, &geometry()).unwrap();
        assert_eq!(decoded.unused, 0x1111_1112);
    }

    #[test]
    fn sizes_no_volume_has_are_refused() {
        let refused = |change: fn(&mut VolumeConfig)| {
            let mut super_block = sample();
            change(&mut super_block.volume.config);
            let error = SuperBlock::decode(&encoded(&super_block), &geometry()).unwrap_err();
            assert!(matches!(error, DecodeError::Field { .. }), "{error}");
        };
        refused(|config| config.logical_blocks = 0);
        refused(|config| config.logical_blocks = (1 << 40) + 1);
        refused(|config| config.physical_blocks = 0);
        refused(|config| config.physical_blocks = (1 << 36) + 1);
        refused(|config| config.recovery_journal_blocks = 0);
        refused(|config| config.recovery_journal_blocks = 1000);
    }

    proptest! {
        #[test]
        fn a_super_block_survives_encoding(
            numbers: [u64; 6], unused: u32, state in 0u32..8, zone_count: u8,
            slab: [u64; 7], depot: [u64; 2], roots: [u64; 2], logical in 1u64..=1 << 40,
        ) {
            let mut super_block = sample();
            super_block.unused = unused;
            super_block.volume.state = VolumeState::from_code(state).unwrap();
            super_block.volume.complete_recoveries = numbers[0];
            super_block.volume.read_only_recoveries = numbers[1];
            super_block.volume.config.logical_blocks = logical;
            super_block.volume.config.slab_blocks = slab[0];
            super_block.volume.config.slab_journal_blocks = slab[3];
            super_block.volume.nonce = numbers[2];
            super_block.recovery_journal = RecoveryJournalState {
                journal_start: SequenceNumber(numbers[3]),
                logical_blocks_used: numbers[4],
                block_map_data_blocks: numbers[5],
            };
            super_block.slab_depot = SlabDepotState {
                slab: SlabConfig {
                    slab_blocks: slab[0],
                    data_blocks: slab[1],
                    reference_count_blocks: slab[2],
                    slab_journal_blocks: slab[3],
                    flushing_threshold: slab[4],
                    blocking_threshold: slab[5],
                    scrubbing_threshold: slab[6],
                },
                first_block: Pbn(depot[0]),
                last_block: Pbn(depot[1]),
                zone_count,
            };
            super_block.block_map =
                BlockMapState { root_origin: Pbn(roots[0]), root_count: roots[1] };
            prop_assert_eq!(SuperBlock::decode(&encoded(&super_block), &geometry()), Ok(super_block));
        }
    }
}
