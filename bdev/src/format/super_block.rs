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
