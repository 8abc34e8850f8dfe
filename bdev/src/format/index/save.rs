//! The two slots for what is in memory, and how one is told that is whole from one that is not.
//!
//! ```text
//!   saved:    header | page map | volume index of zone 0, 1, ... | open chapter | free
//!   unsaved:  header | page map | free
//! ```
//!
//! A save is written from the back to the front: first the slot is marked as unsaved, and the header that says otherwise is
//! written last. Of two whole saves the one with the later time counts. Its header's nonce is made of the index's, the time and
//! the slot; so a save of another index does not count.

use super::super::codec::{Reader, Writer};
use super::MAXIMUM_ZONES;
use super::geometry::IndexGeometry;
use super::nonce::save_nonce;
use super::regions::{Cutter, Region, RegionKind, RegionTable, TableType};
use crate::format::error::DecodeError;
use crate::format::layout::Extent;
use crate::format::{Block, Version};
use crate::types::Pbn;

const WHAT: &str = "a save of the index";
const SAVED_PAYLOAD: usize = 64;
const UNSAVED_PAYLOAD: usize = 24;
const STATE_VERSION: (u32, u32) = (u32::MAX, 301);

/// What a save says of the index besides its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// When it was written, in milliseconds since 1970. Never 0.
    pub time: u64,
    /// The open chapter.
    pub newest: u64,
    /// The oldest chapter there still is.
    pub oldest: u64,
}

impl SavedState {
    /// The last chapter on disk, as a save has it.
    fn last_save(&self) -> u64 {
        self.newest.checked_sub(1).unwrap_or(u64::MAX)
    }
}

/// Where the parts of a save are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveLayout {
    /// The header.
    pub header: Pbn,
    /// The index page map.
    pub page_map: Extent,
    /// The volume index of each zone.
    pub volume_index: Vec<Extent>,
    /// The open chapter.
    pub open_chapter: Extent,
    free: Extent,
}

impl SaveLayout {
    /// The layout of a save by `zones` zones in a slot.
    pub fn new(slot: Extent, geometry: &IndexGeometry, zones: u8) -> SaveLayout {
        let mut cutter = Cutter(slot.start.get());
        let zones = u64::from(zones.max(1));
        let (page_map, open) = (geometry.page_map_blocks(), geometry.open_chapter_blocks());
        let shared = slot.blocks.saturating_sub(1 + page_map + open);
        SaveLayout {
            header: cutter.cut(1).start,
            page_map: cutter.cut(page_map),
            volume_index: (0..zones).map(|_| cutter.cut(shared / zones)).collect(),
            open_chapter: cutter.cut(open),
            free: cutter.cut(shared % zones),
        }
    }

    fn regions(&self) -> Vec<Region> {
        let region = |kind, extent| Region { kind, extent };
        let header = Extent {
            start: self.header,
            blocks: 1,
        };
        let mut regions = vec![
            region(RegionKind::Header, header),
            region(RegionKind::PageMap, self.page_map),
        ];
        let zones = self.volume_index.iter().zip(0..);
        regions.extend(zones.map(|(extent, zone)| region(RegionKind::VolumeIndex(zone), *extent)));
        regions.push(region(RegionKind::OpenChapter, self.open_chapter));
        if self.free.blocks > 0 {
            regions.push(region(RegionKind::Free, self.free));
        }
        regions
    }

    /// The header that makes the save whole.
    pub fn encode(&self, slot: Extent, volume_nonce: u64, state: &SavedState) -> Block {
        let mut payload = [0; SAVED_PAYLOAD];
        let mut writer = Writer::new(&mut payload);
        writer.u64(state.time);
        writer.u64(save_nonce(volume_nonce, state.time, slot.start.get()));
        writer.u32(1);
        writer.u32(0);
        writer.u32(STATE_VERSION.0);
        writer.u32(STATE_VERSION.1);
        writer.u64(state.newest);
        writer.u64(state.oldest);
        writer.u64(state.last_save());
        let table = RegionTable {
            of: TableType::Saved,
            blocks: slot.blocks,
            regions: self.regions(),
        };
        table.encode(&payload)
    }
}

/// The header of a slot without a save.
pub fn unsaved(slot: Extent, geometry: &IndexGeometry) -> Block {
    let mut cutter = Cutter(slot.start.get());
    let page_map = geometry.page_map_blocks();
    let region = |kind, extent| Region { kind, extent };
    let table = RegionTable {
        of: TableType::Unsaved,
        blocks: slot.blocks,
        regions: vec![
            region(RegionKind::Header, cutter.cut(1)),
            region(RegionKind::PageMap, cutter.cut(page_map)),
            region(RegionKind::Free, cutter.cut(slot.blocks - page_map - 1)),
        ],
    };
    table.encode(&[0; UNSAVED_PAYLOAD])
}

/// The save in a slot, by its header; `None` if there is none, or one of another index.
///
/// # Errors
/// A header that is none, of another version, or that contradicts itself.
pub fn decode(
    block: &Block,
    slot: Extent,
    volume_nonce: u64,
) -> Result<Option<(SavedState, SaveLayout)>, DecodeError> {
    let wrong = DecodeError::in_field_of(WHAT);
    let (table, payload) = RegionTable::decode(WHAT, block)?;
    if table.blocks != slot.blocks {
        return Err(wrong("blocks", table.blocks, "its slot has others"));
    }
    match table.of {
        TableType::Unsaved => return Ok(None),
        TableType::Saved => {}
        TableType::SuperBlock => return Err(wrong("type", 1, "it is the super block's")),
    }
    if payload.len() != SAVED_PAYLOAD {
        let found = payload.len() as u64;
        return Err(wrong("bytes of payload", found, "a save has 64"));
    }
    let mut reader = Reader::new(WHAT, payload);
    let (time, nonce) = (reader.u64()?, reader.u64()?);
    let version = reader.u32()?;
    reader.u32()?;
    let state_version = (reader.u32()?, reader.u32()?);
    if version > 1 || state_version != STATE_VERSION {
        return Err(DecodeError::UnknownVersion {
            what: WHAT,
            found: Version::new(version, state_version.1),
            known: "1.301".to_owned(),
        });
    }
    let state = SavedState {
        time,
        newest: reader.u64()?,
        oldest: reader.u64()?,
    };
    if time == 0 || nonce != save_nonce(volume_nonce, time, slot.start.get()) {
        return Ok(None);
    }
    if state.oldest > state.newest {
        return Err(wrong(
            "oldest chapter",
            state.oldest,
            "it is newer than the newest",
        ));
    }
    let layout = read_regions(&table.regions)
        .filter(|layout| layout.regions() == table.regions && layout.fills(slot))
        .ok_or_else(|| {
            wrong(
                "regions",
                table.regions.len() as u64,
                "they are not those of a save",
            )
        })?;
    Ok(Some((state, layout)))
}

fn read_regions(regions: &[Region]) -> Option<SaveLayout> {
    let [header, page_map, rest @ ..] = regions else {
        return None;
    };
    let (rest, free) = match rest.split_last()? {
        (free, rest) if free.kind == RegionKind::Free => (rest, free.extent),
        (open, _) => (
            rest,
            Extent {
                start: open.extent.end(),
                blocks: 0,
            },
        ),
    };
    let (open_chapter, zones) = rest.split_last()?;
    (1..=usize::from(MAXIMUM_ZONES))
        .contains(&zones.len())
        .then(|| SaveLayout {
            header: header.extent.start,
            page_map: page_map.extent,
            volume_index: zones.iter().map(|zone| zone.extent).collect(),
            open_chapter: open_chapter.extent,
            free,
        })
}

impl SaveLayout {
    /// Whether its parts follow each other and are all of the slot.
    fn fills(&self, slot: Extent) -> bool {
        let parts = self
            .volume_index
            .iter()
            .chain([&self.open_chapter, &self.free]);
        let mut next = Pbn(slot.start.get().saturating_add(1));
        for part in [&self.page_map].into_iter().chain(parts) {
            let follows = part.start == next && part.blocks <= slot.blocks;
            if !follows {
                return false;
            }
            next = part.end();
        }
        self.header == slot.start && next == slot.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometry() -> IndexGeometry {
        IndexGeometry::new(4096, 2, 8, 0, false)
    }

    fn slot(start: u64) -> Extent {
        Extent {
            start: Pbn(start),
            blocks: geometry().save_blocks(),
        }
    }

    proptest! {
        #[test]
        fn a_save_comes_back(zones in 1_u8..=16, time in 1_u64.., newest: u64, age: u64, start in 3_u64..1 << 30, nonce: u64) {
            let state = SavedState { time, newest, oldest: newest - age.min(newest) };
            let layout = SaveLayout::new(slot(start), &geometry(), zones);
            let block = layout.encode(slot(start), nonce, &state);
            prop_assert_eq!(decode(&block, slot(start), nonce), Ok(Some((state, layout))));
            prop_assert_eq!(decode(&block, slot(start), nonce ^ 1), Ok(None), "another index");
            prop_assert_eq!(decode(&block, slot(start + 1), nonce), Ok(None), "another slot");
        }

        #[test]
        fn any_header_is_read_or_refused(
            zones in 1_u8..=16, patches in prop::collection::vec((0_usize..700, any::<u8>()), 1..4),
        ) {
            let state = SavedState { time: 5, newest: 9, oldest: 2 };
            let layout = SaveLayout::new(slot(3), &geometry(), zones);
            let mut block = layout.encode(slot(3), 1, &state);
            for (at, byte) in patches {
                block[at] = byte;
            }
            if let Ok(Some((_, layout))) = decode(&block, slot(3), 1) {
                prop_assert!(layout.volume_index.iter().all(|zone| zone.start > slot(3).start && zone.end() < slot(3).end()));
            }
        }
    }

    #[test]
    fn a_slot_without_a_save_says_so() {
        let block = unsaved(slot(3), &geometry());
        assert_eq!(decode(&block, slot(3), 1), Ok(None));
        assert!(decode(&[0; 4096], slot(3), 1).is_err());
    }

    #[test]
    fn zones_have_equal_shares_and_the_rest_is_free() {
        let layout = SaveLayout::new(slot(3), &geometry(), 7);
        let sizes: Vec<u64> = layout.volume_index.iter().map(|zone| zone.blocks).collect();
        assert_eq!(sizes, [sizes[0]; 7]);
        assert!(layout.free.blocks < 7);
        assert!(layout.fills(slot(3)));
    }
}
