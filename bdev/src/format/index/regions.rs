//! Tables of regions: at the front of the index, and at the front of each save, a block that says what lies where behind it.
//!
//! ```text
//!   magic  blocks   type  version  regions  payload | start  blocks  0  kind  instance | ... | payload
//!     8      8       2       2        2        2    |   8      8     4   2       2     |
//! ```
//!
//! Blocks are counted from the start of the device. A table's regions follow each other without a gap.

use super::super::codec::{Reader, Writer};
use crate::format::Block;
use crate::format::error::DecodeError;
use crate::format::layout::Extent;
use crate::types::{BLOCK_SIZE, Pbn};

const MAGIC: u64 = 0x416c_6252_676e_3031;
const HEADER: usize = 24;
const REGION: usize = 24;

/// The instance of a region of which there is one.
const ONLY: u16 = u16::MAX;

/// Refuses bytes that do not begin with `magic`.
pub(super) fn check_magic(
    what: &'static str,
    bytes: &[u8],
    magic: &'static [u8],
) -> Result<(), DecodeError> {
    if bytes.starts_with(magic) {
        return Ok(());
    }
    Err(DecodeError::WrongMagic {
        what,
        expected: magic,
        found: bytes[..magic.len().min(bytes.len())].to_vec(),
    })
}

/// What a table is at the front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum TableType {
    /// The index.
    SuperBlock = 1,
    /// A save that is whole.
    Saved = 2,
    /// A save that is not.
    Unsaved = 4,
}

/// What a region holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// Nothing.
    Free,
    /// The table itself.
    Header,
    /// The configuration.
    Config,
    /// Volume and saves.
    Index,
    /// The last block, which is never written.
    Seal,
    /// The chapters.
    Volume,
    /// A save, by number.
    Save(u16),
    /// The index page map.
    PageMap,
    /// The volume index of a zone.
    VolumeIndex(u16),
    /// The open chapter.
    OpenChapter,
}

impl RegionKind {
    fn code(self) -> (u16, u16) {
        match self {
            RegionKind::Free => (0, ONLY),
            RegionKind::Header => (1, ONLY),
            RegionKind::Config => (100, ONLY),
            RegionKind::Index => (101, 0),
            RegionKind::Seal => (102, ONLY),
            RegionKind::Volume => (201, ONLY),
            RegionKind::Save(number) => (202, number),
            RegionKind::PageMap => (301, ONLY),
            RegionKind::VolumeIndex(zone) => (302, zone),
            RegionKind::OpenChapter => (303, ONLY),
        }
    }

    fn from_code(kind: u16, instance: u16) -> Option<RegionKind> {
        let known = match kind {
            0 => RegionKind::Free,
            1 => RegionKind::Header,
            100 => RegionKind::Config,
            101 => RegionKind::Index,
            102 => RegionKind::Seal,
            201 => RegionKind::Volume,
            202 => RegionKind::Save(instance),
            301 => RegionKind::PageMap,
            302 => RegionKind::VolumeIndex(instance),
            303 => RegionKind::OpenChapter,
            _ => return None,
        };
        (known.code() == (kind, instance)).then_some(known)
    }
}

/// One region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// What it holds.
    pub kind: RegionKind,
    /// Where it is.
    pub extent: Extent,
}

/// A table, without the payload behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionTable {
    /// What it is at the front of.
    pub of: TableType,
    /// Blocks of all that, the table's included.
    pub blocks: u64,
    /// Its regions.
    pub regions: Vec<Region>,
}

impl RegionTable {
    /// The block of a table and its payload.
    pub fn encode(&self, payload: &[u8]) -> Block {
        let mut block = [0; BLOCK_SIZE];
        let mut writer = Writer::new(&mut block);
        writer.u64(MAGIC);
        writer.u64(self.blocks);
        writer.u16(self.of as u16);
        writer.u16(1);
        writer.u16(self.regions.len() as u16);
        writer.u16(payload.len() as u16);
        for region in &self.regions {
            let (kind, instance) = region.kind.code();
            writer.u64(region.extent.start.get());
            writer.u64(region.extent.blocks);
            writer.u32(0);
            writer.u16(kind);
            writer.u16(instance);
        }
        writer.bytes(payload);
        block
    }

    /// The table at the front of a block, and its payload.
    ///
    /// # Errors
    /// No table, one of another version, one that does not fit into its block, or one with a region nobody knows.
    pub fn decode<'a>(
        what: &'static str,
        block: &'a Block,
    ) -> Result<(RegionTable, &'a [u8]), DecodeError> {
        let wrong = DecodeError::in_field_of(what);
        let mut reader = Reader::new(what, block);
        let magic = reader.u64()?;
        if magic != MAGIC {
            let expected = b"10ngRblA";
            let found = magic.to_le_bytes().to_vec();
            return Err(DecodeError::WrongMagic {
                what,
                expected,
                found,
            });
        }
        let blocks = reader.u64()?;
        let code = reader.u16()?;
        let version = reader.u16()?;
        let (count, payload) = (reader.u16()?, usize::from(reader.u16()?));
        if version != 1 {
            return Err(DecodeError::UnknownVersion {
                what,
                found: super::super::Version::new(version.into(), 0),
                known: "1.0".to_owned(),
            });
        }
        let of = match code {
            1 => TableType::SuperBlock,
            2 => TableType::Saved,
            4 => TableType::Unsaved,
            _ => return Err(wrong("type", code.into(), "no table has it")),
        };
        let end = HEADER + usize::from(count) * REGION + payload;
        if end > BLOCK_SIZE {
            return Err(wrong(
                "size",
                end as u64,
                "the table does not fit into its block",
            ));
        }
        let mut regions = Vec::with_capacity(count.into());
        for _ in 0..count {
            let extent = Extent {
                start: Pbn(reader.u64()?),
                blocks: reader.u64()?,
            };
            reader.u32()?;
            let (kind, instance) = (reader.u16()?, reader.u16()?);
            let kind = RegionKind::from_code(kind, instance)
                .ok_or_else(|| wrong("kind of a region", kind.into(), "no region has it"))?;
            regions.push(Region { kind, extent });
        }
        let table = RegionTable {
            of,
            blocks,
            regions,
        };
        Ok((table, &block[end - payload..end]))
    }
}

/// Shares out blocks that follow each other.
pub(super) struct Cutter(pub(super) u64);

impl Cutter {
    pub(super) fn cut(&mut self, blocks: u64) -> Extent {
        let start = Pbn(self.0);
        self.0 = self.0.saturating_add(blocks);
        Extent { start, blocks }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = RegionKind> {
        prop_oneof![
            Just(RegionKind::Free),
            Just(RegionKind::Header),
            Just(RegionKind::Config),
            Just(RegionKind::Index),
            Just(RegionKind::Seal),
            Just(RegionKind::Volume),
            any::<u16>().prop_map(RegionKind::Save),
            Just(RegionKind::PageMap),
            any::<u16>().prop_map(RegionKind::VolumeIndex),
            Just(RegionKind::OpenChapter),
        ]
    }

    proptest! {
        #[test]
        fn a_table_comes_back(
            regions in prop::collection::vec((kind(), any::<u64>(), any::<u64>()), 0..20), blocks: u64,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let regions = regions
                .into_iter()
                .map(|(kind, start, blocks)| Region { kind, extent: Extent { start: Pbn(start), blocks } })
                .collect();
            let table = RegionTable { of: TableType::Saved, blocks, regions };
            let block = table.encode(&payload);
            prop_assert_eq!(RegionTable::decode("a save", &block), Ok((table, &payload[..])));
        }

        #[test]
        fn any_block_is_a_table_or_refused(patches in prop::collection::vec((0_usize..600, any::<u8>()), 0..30)) {
            let region = Region { kind: RegionKind::Header, extent: Extent { start: Pbn(3), blocks: 1 } };
            let table = RegionTable { of: TableType::Saved, blocks: 7, regions: vec![region; 9] };
            let mut block = table.encode(&[1; 64]);
            for (at, byte) in patches {
                block[at] = byte;
            }
            let _ = RegionTable::decode("a save", &block);
        }
    }

    #[test]
    fn a_block_without_a_table_is_refused() {
        let error = RegionTable::decode("the index", &[0; BLOCK_SIZE]).expect_err("nothing");
        assert!(matches!(error, DecodeError::WrongMagic { .. }), "{error}");
    }
}
