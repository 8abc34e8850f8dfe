//! Putting mappings from the recovery journal into the pages of the block map.
//!
//! An entry of the journal names the page and the slot, so no tree has to be walked, and pages of all heights are
//! treated alike. Entries are gathered in a batch of bounded size, sorted by page, and applied page by page; of several
//! for the same slot the last one stays. A journal that is longer than a batch takes several, one after the other, which
//! comes to the same.
//!
//! A page that was never written is begun empty, and must then be written twice, first without and then with the mark that says
//! it is one: else a crash that tears the first write would leave a page that is part old data.

use super::plan::Refusal;
use crate::format::Block;
use crate::format::block_map_page::{BlockMapPage, BlockMapPageMut, PageValidity};
use crate::format::block_map_page::{decode_entry, encode_entry};
use crate::format::recovery_journal::RecoveryJournalEntry;
use crate::types::Pbn;

const SLOT_BITS: u32 = 10;
const MAPPING_BITS: u32 = 40;

/// The most mappings a batch can tell the order of.
const ORDER_LIMIT: usize = 1 << (u64::BITS - MAPPING_BITS);

/// No batch is larger.
pub const LARGEST_BATCH: usize = ORDER_LIMIT;

/// Bytes of a mapping in a batch.
pub const MAPPING_BYTES: usize = 16;

/// Mappings gathered to be applied together.
#[derive(Debug)]
pub struct MapBatch {
    /// Page and slot; order and mapping. So sorting them sorts by page, then slot, then order.
    mappings: Vec<(u64, u64)>,
    limit: usize,
}

impl MapBatch {
    /// A batch of at most `limit` mappings, of `expected` in all.
    pub fn new(limit: usize, expected: u64) -> MapBatch {
        let limit = limit.clamp(1, ORDER_LIMIT);
        let room = usize::try_from(expected).unwrap_or(usize::MAX).min(limit);
        MapBatch {
            mappings: Vec::with_capacity(room),
            limit,
        }
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.mappings.len() >= self.limit
    }

    /// Adds the new mapping of an entry; the batch must not be full.
    pub fn push(&mut self, entry: &RecoveryJournalEntry) {
        assert!(!self.is_full(), "a full batch is applied first");
        let [first, low @ ..] = encode_entry(entry.mapping);
        let mapping = u64::from(first) << 32 | u64::from(u32::from_le_bytes(low));
        let page = entry.slot.pbn.get() << SLOT_BITS | u64::from(entry.slot.slot);
        let order = self.mappings.len() as u64;
        self.mappings.push((page, order << MAPPING_BITS | mapping));
    }

    /// Sorts what was gathered and gives it page by page, in the order of the device.
    pub fn pages(&mut self) -> impl Iterator<Item = PageChanges<'_>> {
        self.mappings.sort_unstable();
        self.mappings
            .chunk_by(|one, other| one.0 >> SLOT_BITS == other.0 >> SLOT_BITS)
            .map(PageChanges)
    }

    /// All that was gathered, to be looked up.
    pub fn into_overlay(mut self) -> Overlay {
        self.mappings.sort_unstable();
        self.mappings.shrink_to_fit();
        Overlay(self.mappings)
    }

    /// Forgets what was applied.
    pub fn clear(&mut self) {
        self.mappings.clear();
    }
}

/// What the journal of a volume that is read-only knows better than its block map, for it must not be written to. Pages are
/// changed in memory when they were read, so that it reads as it would when it was rebuilt. Bounded by the journal: 113 MB
/// for one of the usual size that is full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay(Vec<(u64, u64)>);

impl Overlay {
    /// Whether the journal knows nothing better.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes the page at `pbn`, which was read into `block` and checked, or was never written.
    pub fn apply(&self, pbn: Pbn, block: &mut Block, nonce: u64) {
        let page = |mapping: &(u64, u64)| mapping.0 >> SLOT_BITS;
        let first = self.0.partition_point(|one| page(one) < pbn.get());
        let rest = &self.0[first..];
        let count = rest.partition_point(|one| page(one) == pbn.get());
        if count == 0 {
            return;
        }
        let changes = PageChanges(&rest[..count]);
        if let Ok(ChangedPage::First) = changes.apply(block, nonce) {
            BlockMapPageMut::new(block).set_initialized(true);
        }
    }
}

/// What changes in one page.
#[derive(Clone, Copy, Debug)]
pub struct PageChanges<'a>(&'a [(u64, u64)]);

/// What is to be done with a page that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangedPage {
    /// It is to be written.
    Known,
    /// It was never written: it is to be written as it is, and when that is durable, with the mark set
    /// (see [`BlockMapPageMut::set_initialized`]).
    First,
}

impl PageChanges<'_> {
    /// Where the page is.
    pub fn pbn(&self) -> Pbn {
        Pbn(self.0[0].0 >> SLOT_BITS)
    }

    /// Changes the page, which was read into `block`, of the volume with this nonce.
    ///
    /// # Errors
    /// When it is another page of the volume, or its header is damaged.
    pub fn apply(&self, block: &mut Block, nonce: u64) -> Result<ChangedPage, Refusal> {
        let pbn = self.pbn();
        match BlockMapPage::new(block).validity(nonce, pbn) {
            PageValidity::Misplaced { found } => Err(Refusal::MisplacedPage { pbn, found }),
            PageValidity::Damaged => Err(Refusal::DamagedPage { pbn }),
            PageValidity::Valid => {
                self.change(BlockMapPageMut::new(block));
                Ok(ChangedPage::Known)
            }
            PageValidity::Unwritten => Ok(self.apply_to_empty(block, nonce)),
        }
    }

    /// As [`PageChanges::apply`], whatever was read: what is not this page is taken as one never written, and a header that is
    /// damaged is mended. Says too whether it was another page.
    pub fn apply_anyway(&self, block: &mut Block, nonce: u64) -> (ChangedPage, bool) {
        if let Err(Refusal::DamagedPage { pbn }) = self.apply(block, nonce) {
            BlockMapPageMut::new(block).put_header(nonce, pbn, true);
        }
        match self.apply(block, nonce) {
            Ok(changed) => (changed, false),
            Err(_) => (self.apply_to_empty(block, nonce), true),
        }
    }

    /// The changes to a page of which nothing is known.
    pub fn apply_to_empty(&self, block: &mut Block, nonce: u64) -> ChangedPage {
        self.change(BlockMapPageMut::format(block, nonce, self.pbn(), false));
        ChangedPage::First
    }

    fn change(&self, mut page: BlockMapPageMut<'_>) {
        const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
        for &(place, value) in self.0 {
            let low = (value as u32).to_le_bytes();
            let mapping = decode_entry([(value >> 32) as u8, low[0], low[1], low[2], low[3]]);
            page.set((place & SLOT_MASK) as u16, mapping);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recovery_journal::{BlockMapSlot, JournalOperation};
    use crate::types::{BLOCK_SIZE, Mapping, MappingState};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NONCE: u64 = 7;

    fn entry(page: u64, slot: u16, pbn: u64, state: u8) -> RecoveryJournalEntry {
        RecoveryJournalEntry {
            operation: JournalOperation::DataRemapping,
            slot: BlockMapSlot {
                pbn: Pbn(page),
                slot,
            },
            mapping: Mapping {
                pbn: Pbn(pbn),
                state: MappingState::from_bits(state).unwrap(),
            },
            unmapping: Mapping::UNMAPPED,
        }
    }

    #[test]
    fn an_overlay_changes_pages_as_a_replay_does() {
        let entries = [
            entry(5, 3, 100, 1),
            entry(9, 0, 200, 1),
            entry(5, 3, 101, 1),
            entry(5, 811, 102, 2),
        ];
        let mut batch = MapBatch::new(LARGEST_BATCH, 4);
        entries.iter().for_each(|entry| batch.push(entry));
        let overlay = batch.into_overlay();
        let mut disk = BTreeMap::new();
        replay(&mut disk, &entries, 100);
        for page in [4, 5, 9, 10] {
            let mut block = [0; BLOCK_SIZE];
            overlay.apply(Pbn(page), &mut block, NONCE);
            let written = disk.get(&page).copied().unwrap_or([0; BLOCK_SIZE]);
            assert!(block == written, "page {page}");
        }
    }

    /// Applies entries to pages on a disk in batches of `limit`, as a driver does.
    fn replay(disk: &mut BTreeMap<u64, Block>, entries: &[RecoveryJournalEntry], limit: usize) {
        let mut batch = MapBatch::new(limit, entries.len() as u64);
        let mut apply = |batch: &mut MapBatch| {
            for changes in batch.pages() {
                let block = disk.entry(changes.pbn().get()).or_insert([0; BLOCK_SIZE]);
                if changes.apply(block, NONCE).unwrap() == ChangedPage::First {
                    assert!(!BlockMapPageMut::new(block).set_initialized(true));
                }
            }
            batch.clear();
        };
        for entry in entries {
            if batch.is_full() {
                apply(&mut batch);
            }
            batch.push(entry);
        }
        apply(&mut batch);
    }

    #[test]
    fn a_page_never_written_begins_empty_and_is_marked_only_by_its_second_write() {
        let mut batch = MapBatch::new(10, 1);
        batch.push(&entry(5, 811, 0xf_ffff_ffff, 15));
        let mut block = [0xee; BLOCK_SIZE];
        let changes = batch.pages().next().unwrap();
        assert_eq!(changes.apply(&mut block, NONCE), Ok(ChangedPage::First));
        let page = BlockMapPage::new(&block);
        assert_eq!(page.validity(NONCE, Pbn(5)), PageValidity::Unwritten);
        BlockMapPageMut::new(&mut block).set_initialized(true);
        let page = BlockMapPage::new(&block);
        assert_eq!(page.validity(NONCE, Pbn(5)), PageValidity::Valid);
        assert_eq!(page.get(811).pbn, Pbn(0xf_ffff_ffff));
        assert_eq!(page.get(811).state, MappingState::MAX);
        assert_eq!(
            page.entries().filter(|one| one.state.is_mapped()).count(),
            1
        );
    }

    #[test]
    fn another_page_is_refused_unless_the_volume_is_rebuilt() {
        let mut batch = MapBatch::new(10, 1);
        batch.push(&entry(5, 1, 9, 1));
        let mut block = [0; BLOCK_SIZE];
        BlockMapPageMut::format(&mut block, NONCE, Pbn(6), true).set(2, Mapping::ZERO);
        let changes = batch.pages().next().unwrap();
        let refused = Refusal::MisplacedPage {
            pbn: Pbn(5),
            found: Pbn(6),
        };
        assert_eq!(changes.apply(&mut block, NONCE), Err(refused));
        assert_eq!(
            changes.apply_anyway(&mut block, NONCE),
            (ChangedPage::First, true)
        );
        assert_eq!(BlockMapPage::new(&block).get(2), Mapping::UNMAPPED);
        assert_eq!(BlockMapPage::new(&block).get(1).pbn, Pbn(9));
    }

    proptest! {
        #[test]
        fn the_last_mapping_of_each_slot_wins_whatever_the_batches(
            entries in prop::collection::vec((1u64..6, 0u16..4, 1u64..1 << 36, 1u8..16), 0..200),
            limit in 1usize..50,
        ) {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(page, slot, pbn, state)| entry(page, slot, pbn, state))
                .collect();
            let mut wanted = BTreeMap::new();
            for entry in &entries {
                wanted.insert((entry.slot.pbn.get(), entry.slot.slot), entry.mapping);
            }
            let mut disk = BTreeMap::new();
            // None, a part, all: again and again, each time from the same head.
            for times in 0..3 {
                replay(&mut disk, &entries[..entries.len() * times / 2], limit);
            }
            for (&pbn, block) in &disk {
                let page = BlockMapPage::new(block);
                prop_assert_eq!(page.validity(NONCE, Pbn(pbn)), PageValidity::Valid);
                for slot in 0..4 {
                    let mapping = wanted.remove(&(pbn, slot)).unwrap_or(Mapping::UNMAPPED);
                    prop_assert_eq!(page.get(slot), mapping);
                }
            }
            prop_assert!(wanted.is_empty());
        }
    }
}
