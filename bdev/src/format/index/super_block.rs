//! The first block of an index: that it is one, what lies where, and the chance its nonces come from.
//!
//! ```text
//!   label  nonce info  nonce  version  4096  1  2  0 | open chapter blocks  page map blocks
//!     32       32        8       4       4   2  2  4 |         8                  8          payload of the table
//! ```
//!
//! Version 3 is written and read. Version 7 is that of an index that was moved together with its volume, which is refused for the
//! volume's sake.

use super::super::codec::{Reader, Writer};
use super::geometry::IndexGeometry;
use super::nonce::NonceInfo;
use super::regions::{Cutter, Region, RegionKind, RegionTable, TableType, check_magic};
use crate::format::error::DecodeError;
use crate::format::layout::Extent;
use crate::format::{Block, Version};
use crate::types::{BLOCK_SIZE, Pbn};

const WHAT: &str = "the index's super block";
const LABEL: [u8; 32] = *b"*ALBIREO*SINGLE*FILE*LAYOUT*001*";
const VERSION: u32 = 3;
const PAYLOAD: usize = 104;

/// Slots for saves.
pub const SAVES: usize = 2;

/// Where the parts of an index are, in blocks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLayout {
    /// The super block.
    pub header: Pbn,
    /// The configuration.
    pub config: Pbn,
    /// The chapters.
    pub volume: Extent,
    /// The saves.
    pub saves: [Extent; SAVES],
    /// The last block, which is never written.
    pub seal: Pbn,
}

impl IndexLayout {
    /// The layout of an index that begins at `start`.
    pub fn new(start: Pbn, geometry: &IndexGeometry) -> IndexLayout {
        let mut cutter = Cutter(start.get());
        IndexLayout {
            header: cutter.cut(1).start,
            config: cutter.cut(1).start,
            volume: cutter.cut(geometry.volume_blocks()),
            saves: [(); SAVES].map(|()| cutter.cut(geometry.save_blocks())),
            seal: cutter.cut(1).start,
        }
    }

    /// All its blocks.
    pub fn blocks(&self) -> u64 {
        self.seal.get() + 1 - self.header.get()
    }

    fn regions(&self) -> Vec<Region> {
        let region = |kind, extent| Region { kind, extent };
        let one = |kind, start| region(kind, Extent { start, blocks: 1 });
        let [first, second] = self.saves;
        let index = Extent {
            start: self.volume.start,
            blocks: self.volume.blocks + first.blocks + second.blocks,
        };
        vec![
            one(RegionKind::Header, self.header),
            one(RegionKind::Config, self.config),
            region(RegionKind::Index, index),
            region(RegionKind::Volume, self.volume),
            region(RegionKind::Save(0), first),
            region(RegionKind::Save(1), second),
            one(RegionKind::Seal, self.seal),
        ]
    }
}

/// What the super block says that the geometry does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSuperBlock {
    /// What its nonces come from.
    pub nonce_info: NonceInfo,
}

impl IndexSuperBlock {
    /// The nonce of chapters and volume index.
    pub fn volume_nonce(&self, layout: &IndexLayout) -> u64 {
        self.nonce_info.volume(layout.volume.start.get())
    }

    /// As it is on disk.
    pub fn encode(&self, layout: &IndexLayout, geometry: &IndexGeometry) -> Block {
        let mut payload = [0; PAYLOAD];
        let mut writer = Writer::new(&mut payload);
        writer.bytes(&LABEL);
        writer.bytes(&self.nonce_info.0);
        writer.u64(self.nonce_info.primary());
        writer.u32(VERSION);
        writer.u32(BLOCK_SIZE as u32);
        writer.u16(1);
        writer.u16(SAVES as u16);
        writer.u32(0);
        writer.u64(geometry.open_chapter_blocks());
        writer.u64(geometry.page_map_blocks());
        let table = RegionTable {
            of: TableType::SuperBlock,
            blocks: layout.blocks(),
            regions: layout.regions(),
        };
        table.encode(&payload)
    }

    /// From disk.
    ///
    /// # Errors
    /// [`DecodeError::UnknownVersion`] for an index that programs of another age may use; any other means that there is none that
    /// is worth keeping here.
    pub fn decode(
        block: &Block,
        layout: &IndexLayout,
        geometry: &IndexGeometry,
    ) -> Result<IndexSuperBlock, DecodeError> {
        let wrong = DecodeError::in_field_of(WHAT);
        let (table, payload) = RegionTable::decode(WHAT, block)?;
        if table.of != TableType::SuperBlock {
            return Err(wrong("type", table.of as u64, "it is a save's"));
        }
        let mut reader = Reader::new(WHAT, payload);
        check_magic(WHAT, payload, &LABEL)?;
        reader.array::<32>()?;
        let nonce_info = NonceInfo(reader.array()?);
        let nonce = reader.u64()?;
        let version = reader.u32()?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion {
                what: WHAT,
                found: Version::new(version, 0),
                known: "3.0".to_owned(),
            });
        }
        let length = payload.len() as u64;
        if length != PAYLOAD as u64 {
            return Err(wrong("bytes of payload", length, "this version has 104"));
        }
        let fields: [(&str, u64, u64); 5] = [
            ("block size", reader.u32()?.into(), BLOCK_SIZE as u64),
            ("number of indexes", reader.u16()?.into(), 1),
            ("number of saves", reader.u16()?.into(), SAVES as u64),
            ("", reader.u32()?.into(), 0),
            ("nonce", nonce, nonce_info.primary()),
        ];
        for (field, found, expected) in fields {
            if found != expected && !field.is_empty() {
                return Err(wrong(field, found, "an index of this program has another"));
            }
        }
        let sizes: [(&str, u64, u64); 3] = [
            (
                "open chapter blocks",
                reader.u64()?,
                geometry.open_chapter_blocks(),
            ),
            ("page map blocks", reader.u64()?, geometry.page_map_blocks()),
            ("blocks", table.blocks, layout.blocks()),
        ];
        for (field, found, expected) in sizes {
            if found != expected {
                return Err(wrong(
                    field,
                    found,
                    "an index of the volume's size has others",
                ));
            }
        }
        if table.regions != layout.regions() {
            let found = table.regions.len() as u64;
            return Err(wrong(
                "regions",
                found,
                "they are not where this volume's index has them",
            ));
        }
        Ok(IndexSuperBlock { nonce_info })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometry() -> IndexGeometry {
        IndexGeometry::new(4096, 2, 8, 0, false)
    }

    #[test]
    fn the_parts_follow_each_other_and_fill_the_region() {
        let geometry = geometry();
        let layout = IndexLayout::new(Pbn(1), &geometry);
        assert_eq!(layout.volume.start, Pbn(3));
        assert_eq!(layout.saves[0].start, layout.volume.end());
        assert_eq!(layout.saves[1].start, layout.saves[0].end());
        assert_eq!(layout.seal, layout.saves[1].end());
        assert_eq!(layout.blocks(), geometry.region_blocks());
    }

    proptest! {
        #[test]
        fn a_super_block_comes_back(time: u64, random: u32, start in 0_u64..1 << 36) {
            let (geometry, layout) = (geometry(), IndexLayout::new(Pbn(start), &geometry()));
            let super_block = IndexSuperBlock { nonce_info: NonceInfo::new(time, random) };
            let block = super_block.encode(&layout, &geometry);
            prop_assert_eq!(IndexSuperBlock::decode(&block, &layout, &geometry), Ok(super_block));
            let elsewhere = IndexLayout::new(Pbn(start + 1), &geometry);
            prop_assert!(IndexSuperBlock::decode(&block, &elsewhere, &geometry).is_err());
        }

        #[test]
        fn damage_anywhere_is_refused(at in 0_usize..296, bit in 0_u8..8) {
            // All bytes but those that mean nothing: the unused word of each region, and the payload's.
            let region = |at: usize| (24..192).contains(&at) && (16..20).contains(&((at - 24) % 24));
            prop_assume!(!region(at) && !(276..280).contains(&at));
            let (geometry, layout) = (geometry(), IndexLayout::new(Pbn(1), &geometry()));
            let super_block = IndexSuperBlock { nonce_info: NonceInfo::new(8, 9) };
            let mut block = super_block.encode(&layout, &geometry);
            block[at] ^= 1 << bit;
            prop_assert!(IndexSuperBlock::decode(&block, &layout, &geometry).is_err(), "byte {}", at);
        }
    }

    #[test]
    fn a_version_of_another_age_is_told_from_damage() {
        let (geometry, layout) = (geometry(), IndexLayout::new(Pbn(1), &geometry()));
        let super_block = IndexSuperBlock {
            nonce_info: NonceInfo::new(8, 9),
        };
        let mut block = super_block.encode(&layout, &geometry);
        // Seven regions of 24 bytes, label, nonce info and nonce are before it.
        block[24 + 7 * 24 + 72] = 7;
        let error = IndexSuperBlock::decode(&block, &layout, &geometry).expect_err("newer");
        assert!(
            matches!(error, DecodeError::UnknownVersion { .. }),
            "{error}"
        );
    }
}
