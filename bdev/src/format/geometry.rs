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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A geometry whose every field shows the order of its bytes.
    fn telling() -> Geometry {
        Geometry {
            unused: 0x1a1b_1c1d,
            nonce: 0x1020_304b_eef5_1ab5,
            uuid: Uuid::from_bytes(*b"fake\0uuid hares\0"),
            bio_offset: 0x1112_1314_1516_1718,
            index_start: Pbn(0x2122_2324_2526_2728),
            data_start: Pbn(0x3132_3334_3536_3738),
            index: IndexConfig {
                memory: IndexMemory::from_code(0x4a4b_4c4d),
                sparse: true,
            },
        }
    }

    fn encoded(geometry: &Geometry, version: GeometryVersion) -> [u8; BLOCK_SIZE] {
        let mut block = [0xee; BLOCK_SIZE];
        geometry.encode(version, &mut block);
        block
    }

    #[test]
    fn version_5_has_the_bytes_dm_vdo_gives_it() {
        #[rustfmt::skip]
        let expected = [
            b'd', b'm', b'v', b'd', b'o', b'0', b'0', b'1',
            0x05, 0x00, 0x00, 0x00,
            0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x65, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x1d, 0x1c, 0x1b, 0x1a,
            0xb5, 0x1a, 0xf5, 0xee, 0x4b, 0x30, 0x20, 0x10,
            0x66, 0x61, 0x6b, 0x65, 0x00, 0x75, 0x75, 0x69, 0x64, 0x20, 0x68, 0x61, 0x72, 0x65, 0x73, 0x00,
            0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
            0x00, 0x00, 0x00, 0x00, 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
            0x01, 0x00, 0x00, 0x00, 0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31,
            0x4d, 0x4c, 0x4b, 0x4a, 0x00, 0x00, 0x00, 0x00, 0x01,
            0xd6, 0x99, 0x9d, 0x04,
        ];
        let block = encoded(&telling(), GeometryVersion::V5);
        assert_eq!(block[..expected.len()], expected);
        assert!(block[expected.len()..].iter().all(|&byte| byte == 0));
        assert_eq!(
            Geometry::decode(&block),
            Ok((telling(), GeometryVersion::V5))
        );
    }

    #[test]
    fn version_4_has_the_bytes_dm_vdo_gives_it() {
        let block = encoded(&telling(), GeometryVersion::V4);
        let newer = encoded(&telling(), GeometryVersion::V5);
        assert_eq!((block[12], block[20]), (4, 0x5d));
        // The same fields without the bio offset.
        assert_eq!(block[28..56], newer[28..56]);
        assert_eq!(block[56..89], newer[64..97]);
        assert_eq!(block[89..93], [0x39, 0x34, 0xe4, 0x3e]);
        let older = Geometry {
            bio_offset: 0,
            ..telling()
        };
        assert_eq!(Geometry::decode(&block), Ok((older, GeometryVersion::V4)));
    }

    #[test]
    fn each_kind_of_damage_is_told_apart() {
        let geometry = Geometry::new(7, Uuid::nil(), IndexConfig::default(), 100);
        assert_eq!(
            geometry.index_region(),
            Extent {
                start: Pbn(1),
                blocks: 100
            }
        );
        assert_eq!(geometry.super_block(), Pbn(101));
        let sound = encoded(&geometry, GeometryVersion::V5);
        let damaged = |at: usize, value: u8| {
            let mut block = sound;
            block[at] = value;
            Geometry::decode(&block).unwrap_err()
        };
        assert!(matches!(damaged(0, b'D'), DecodeError::NotVdo { .. }));
        assert!(matches!(
            damaged(8, 4),
            DecodeError::WrongComponent { found: 4, .. }
        ));
        let version = damaged(12, 6);
        let text = "the geometry block is version 6.0, this program knows 4.0 and 5.0";
        assert!(version.to_string().starts_with(text), "{version}");
        assert!(matches!(damaged(16, 1), DecodeError::UnknownVersion { .. }));
        assert!(matches!(
            damaged(20, 0x5d),
            DecodeError::WrongSize { found: 93, .. }
        ));
        for (at, byte) in sound.iter().enumerate().take(101).skip(28) {
            let error = damaged(at, !byte);
            assert!(
                matches!(error, DecodeError::Checksum { .. }),
                "byte {at}: {error}"
            );
        }
        assert!(matches!(
            Geometry::decode(&sound[..100]),
            Err(DecodeError::TooShort { .. })
        ));
        assert_eq!(
            Geometry::decode(&sound[..101]).map(|(decoded, _)| decoded),
            Ok(geometry)
        );
    }

    #[test]
    fn regions_out_of_order_are_refused_even_with_a_good_checksum() {
        let mut block = encoded(&telling(), GeometryVersion::V5);
        block[64] = 1;
        let checksum = crc32(&block[..97]);
        block[97..101].copy_from_slice(&checksum.to_le_bytes());
        let error = Geometry::decode(&block).unwrap_err();
        assert!(
            matches!(error, DecodeError::Field { found: 1, .. }),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn a_geometry_survives_encoding(
            unused: u32, nonce: u64, uuid: u128, bio_offset: u64, index: u64, data: u64,
            memory: u32, sparse: bool,
        ) {
            let geometry = Geometry {
                unused,
                nonce,
                uuid: Uuid::from_u128(uuid),
                bio_offset,
                index_start: Pbn(index),
                data_start: Pbn(data),
                index: IndexConfig { memory: IndexMemory::from_code(memory), sparse },
            };
            let block = encoded(&geometry, GeometryVersion::V5);
            prop_assert_eq!(Geometry::decode(&block).unwrap(), (geometry, GeometryVersion::V5));
        }
    }
}
