//! The geometry block: block 0 of the device, the one place everything else is found from.
//!
//! It names the volume (nonce and uuid), says where the index region and the data region begin and
//! how the index is configured. It is written last when a volume is made and never changed after.
//!
//! Version 5.0 is written. Version 4.0, without the bio offset, is read too. Both are covered by the
//! checksum in their last four bytes, and the header's size counts the whole block structure from the
//! magic to the checksum.

use uuid::Uuid;

use super::codec::{Header, Reader, Version, Writer, crc32};
use super::error::DecodeError;
use super::index_region::{IndexConfig, IndexMemory};
use super::layout::Extent;
use crate::types::{BLOCK_SIZE, Pbn};

/// Where the geometry block is.
pub const GEOMETRY_PBN: Pbn = Pbn(0);

/// The first bytes of a device that holds a VDO.
pub const MAGIC: [u8; 8] = *b"dmvdo001";

const WHAT: &str = "the geometry block";
const COMPONENT: u32 = 5;
const INDEX_REGION: u32 = 0;
const DATA_REGION: u32 = 1;

/// Bytes of version 4.0, magic and checksum included.
const SIZE_4: u64 = 93;
/// Bytes of version 5.0: eight more, the bio offset.
const SIZE_5: u64 = 101;

/// The versions of the geometry block that can be read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GeometryVersion {
    /// 4.0, without a bio offset.
    V4,
    /// 5.0, what a new volume gets.
    #[default]
    V5,
}

/// What the geometry block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// A word that has no meaning any more; kept as found.
    pub unused: u32,
    /// The number that marks every metadata block of this volume as belonging to it.
    pub nonce: u64,
    /// The volume's name to the outside.
    pub uuid: Uuid,
    /// How far the volume was moved towards the start of the device when it was converted for LVM:
    /// metadata names block `pbn`, the device has it at `pbn - bio_offset` (block 0 excepted). Zero
    /// in any volume that was not converted.
    pub bio_offset: u64,
    /// First block of the index region.
    pub index_start: Pbn,
    /// First block of the data region: the super block.
    pub data_start: Pbn,
    /// How the index was configured.
    pub index: IndexConfig,
}

impl Geometry {
    /// The geometry of a new volume whose index region takes `index_blocks` blocks.
    pub fn new(nonce: u64, uuid: Uuid, index: IndexConfig, index_blocks: u64) -> Geometry {
        Geometry {
            unused: 0,
            nonce,
            uuid,
            bio_offset: 0,
            index_start: Pbn(1),
            data_start: Pbn(1 + index_blocks),
            index,
        }
    }

    /// Where the super block is.
    pub fn super_block(&self) -> Pbn {
        self.data_start
    }

    /// The blocks of the index.
    pub fn index_region(&self) -> Extent {
        let blocks = self.data_start.get().saturating_sub(self.index_start.get());
        Extent {
            start: self.index_start,
            blocks,
        }
    }

    /// Fills `block` with the geometry block, zeroes after it. Writing version 4 loses the bio offset.
    pub fn encode(&self, version: GeometryVersion, block: &mut [u8; BLOCK_SIZE]) {
        block.fill(0);
        let mut to = Writer::new(block);
        to.bytes(&MAGIC);
        let (major, size) = match version {
            GeometryVersion::V4 => (4, SIZE_4),
            GeometryVersion::V5 => (5, SIZE_5),
        };
        Header {
            id: COMPONENT,
            version: Version::new(major, 0),
            size,
        }
        .encode(&mut to);
        to.u32(self.unused);
        to.u64(self.nonce);
        to.bytes(self.uuid.as_bytes());
        if version == GeometryVersion::V5 {
            to.u64(self.bio_offset);
        }
        to.u32(INDEX_REGION);
        to.u64(self.index_start.get());
        to.u32(DATA_REGION);
        to.u64(self.data_start.get());
        to.u32(self.index.memory.code());
        to.u32(0);
        to.u8(u8::from(self.index.sparse));
        let checksum = crc32(to.written());
        to.u32(checksum);
        debug_assert_eq!(to.position() as u64, size);
    }

    /// Reads a geometry block, of either version. `bytes` is the start of the device, at least 101
    /// bytes.
    ///
    /// # Errors
    /// What is wrong with it: no VDO, damage, or a version from another age.
    pub fn decode(bytes: &[u8]) -> Result<(Geometry, GeometryVersion), DecodeError> {
        let mut from = Reader::new(WHAT, bytes);
        let found = from.array::<8>()?;
        if found != MAGIC {
            return Err(DecodeError::NotVdo { found });
        }
        let header = Header::decode(&mut from)?;
        header.check_id(WHAT, COMPONENT)?;
        let (version, size) = match (header.version.major, header.version.minor) {
            (4, 0) => (GeometryVersion::V4, SIZE_4),
            (5, 0) => (GeometryVersion::V5, SIZE_5),
            _ => {
                return Err(DecodeError::UnknownVersion {
                    what: WHAT,
                    found: header.version,
                    known: "4.0 and 5.0".into(),
                });
            }
        };
        header.check_size(WHAT, size)?;

        let unused = from.u32()?;
        let nonce = from.u64()?;
        let uuid = Uuid::from_bytes(from.array()?);
        let bio_offset = if version == GeometryVersion::V5 {
            from.u64()?
        } else {
            0
        };
        let index_region = (from.u32()?, from.u64()?);
        let data_region = (from.u32()?, from.u64()?);
        let memory = from.u32()?;
        from.u32()?;
        let sparse = from.u8()? != 0;
        let computed = crc32(&bytes[..from.position()]);
        let stored = from.u32()?;
        if stored != computed {
            return Err(DecodeError::Checksum {
                what: WHAT,
                stored,
                computed,
            });
        }

        for (field, expected, (id, _)) in [
            ("the id of the first region", INDEX_REGION, index_region),
            ("the id of the second region", DATA_REGION, data_region),
        ] {
            if id != expected {
                let why = "the index region comes first, the data region second";
                return Err(DecodeError::Field {
                    what: WHAT,
                    field,
                    found: id.into(),
                    why,
                });
            }
        }
        let index = IndexConfig {
            memory: IndexMemory::from_code(memory),
            sparse,
        };
        let geometry = Geometry {
            unused,
            nonce,
            uuid,
            bio_offset,
            index_start: Pbn(index_region.1),
            data_start: Pbn(data_region.1),
            index,
        };
        Ok((geometry, version))
    }
}
