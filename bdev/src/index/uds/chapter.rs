//! Closing a chapter: its records, which zones have gathered, become index pages and record pages.
//!
//! The records of all zones take turns, so that what came at the same time is near each other; the first thousand go on the first
//! record page, and so on. There must be no gap, so a record that some zone does not have is replaced by a copy of another one,
//! which the chapter's index does not know. The index has a delta list for every 64 records, and its lists are laid on index pages
//! one after the other. If the last page has no room for all that is left, whole lists are left empty: their names are lost.
//!
//! The lists are made by sorting all names once, not one by one (as dm-vdo does it); the bits are the same.

use crate::format::index::bits;
use crate::format::index::chapter_page::PackedLists;
use crate::format::index::delta_list::{DeltaError, LONGEST_LIST, NAME_BITS};
use crate::format::index::{IndexGeometry, IndexRecord};

/// The records of a chapter in the order of its record pages, from what each zone gathered.
///
/// A zone may have fewer than its share, but one must have all of it.
pub fn collate(geometry: &IndexGeometry, zones: &[&[IndexRecord]]) -> Collated {
    let all = geometry.records_per_chapter() as usize;
    let share = all / zones.len().max(1);
    let fill = zones
        .iter()
        .find(|zone| zone.len() == share)
        .and_then(|zone| zone.last());
    let fill = fill
        .or_else(|| zones.iter().find_map(|zone| zone.last()))
        .copied();
    let fill = fill.unwrap_or_default();
    let mut records = Vec::with_capacity(all);
    let mut is_known = Vec::with_capacity(all);
    for index in 0..all {
        let record = zones[index % zones.len()].get(index / zones.len());
        is_known.push(record.is_some());
        records.push(record.copied().unwrap_or(fill));
    }
    Collated { records, is_known }
}

/// The records of a chapter.
#[derive(Clone, Debug)]
pub struct Collated {
    /// As many as a chapter has.
    pub records: Vec<IndexRecord>,
    /// Whether a record is one of its own, or a copy of another one to fill a gap.
    pub is_known: Vec<bool>,
}

/// The index of a chapter, before it is on pages.
#[derive(Clone, Debug)]
pub struct ChapterIndex {
    geometry: IndexGeometry,
    bytes: Vec<u8>,
    places: Vec<u64>,
    /// Names that found no room.
    pub lost: u32,
}

impl ChapterIndex {
    /// The index of these records.
    pub fn new(geometry: &IndexGeometry, chapter: &Collated) -> ChapterIndex {
        let arrival_bits = u32::BITS - geometry.records_per_chapter().leading_zeros();
        let mut order: Vec<u64> = (0_u64..)
            .zip(chapter.records.iter().zip(&chapter.is_known))
            .filter(|(_, (_, is_known))| **is_known)
            .map(|(arrival, (record, _))| {
                let place = geometry.chapter_list_key(&record.name);
                let place =
                    u64::from(place.list) << geometry.chapter_key_bits | u64::from(place.key);
                place << arrival_bits | arrival
            })
            .collect();
        order.sort_unstable();
        let mut index = ChapterIndex {
            geometry: *geometry,
            // One page more than there are, as lists may end up on more pages than they fill.
            bytes: vec![0; ((geometry.index_pages + 1) * geometry.page_bytes) as usize],
            places: vec![0; geometry.chapter_lists() as usize + 1],
            lost: 0,
        };
        let mut writer = ListWriter::default();
        let place = |entry: &u64| entry >> arrival_bits;
        for names in order.chunk_by(|one, other| place(one) == place(other)) {
            let at = place(&names[0]);
            let list = (at >> geometry.chapter_key_bits) as usize;
            let key = (at & ((1 << geometry.chapter_key_bits) - 1)) as u32;
            if writer.list != list {
                index.begin_list(&mut writer, list);
            }
            // The first to come is the entry; of the others, each was put right behind it.
            let others = names[1..].iter().rev();
            for arrival in [&names[0]].into_iter().chain(others) {
                let arrival = (arrival & ((1 << arrival_bits) - 1)) as usize;
                index.write(&mut writer, key, &chapter.records[arrival], arrival);
            }
        }
        index.begin_list(&mut writer, geometry.chapter_lists() as usize);
        index
    }

    fn begin_list(&mut self, writer: &mut ListWriter, list: usize) {
        self.places[writer.list + 1..=list].fill(writer.at);
        *writer = ListWriter {
            list,
            start: writer.at,
            at: writer.at,
            key: 0,
        };
    }

    fn write(&mut self, writer: &mut ListWriter, key: u32, record: &IndexRecord, arrival: usize) {
        let code = self.geometry.chapter_code;
        let delta = key - writer.key;
        let is_collision = delta == 0 && writer.at > writer.start;
        let size = code.entry_bits(delta) + if is_collision { NAME_BITS } else { 0 };
        let end = writer.at + u64::from(size);
        if end - writer.start > u64::from(LONGEST_LIST) || end > self.bytes.len() as u64 * 8 {
            self.lost += 1;
            return;
        }
        let page = arrival as u32 / self.geometry.records_per_page();
        let name = is_collision.then_some(&record.name);
        code.write(&mut self.bytes, writer.at, delta, page, name);
        writer.at = end;
        writer.key = key;
    }

    fn lists(&self) -> PackedLists<'_> {
        PackedLists {
            bytes: &self.bytes,
            places: &self.places,
        }
    }

    /// Empties a list.
    fn drop_list(&mut self, list: u32) {
        let list = list as usize;
        let (start, end) = (self.places[list], self.places[list + 1]);
        let last = self.places[self.places.len() - 1];
        bits::shift(&mut self.bytes, end, start, last - end);
        for place in &mut self.places[list + 1..] {
            *place -= end - start;
        }
    }

    /// Decides which lists go on which index page: for each page, the first, and how many. Lists that find no room are emptied.
    ///
    /// # Errors
    /// Pages so small that not even empty lists fit.
    pub fn lay_out(&mut self) -> Result<Vec<(u32, u32)>, DeltaError> {
        let geometry = self.geometry;
        let mut pages = Vec::with_capacity(geometry.index_pages as usize);
        let mut first = 0;
        for page in 0..geometry.index_pages {
            let is_last = page + 1 == geometry.index_pages;
            let lists = loop {
                let lists = self.lists().fitting(first, geometry.page_bytes);
                let is_done = first + lists == geometry.chapter_lists();
                if is_done || (lists > 0 && !is_last) {
                    break lists;
                }
                let list = (first..=first + lists)
                    .rev()
                    .find(|list| self.places[*list as usize + 1] > self.places[*list as usize])
                    .ok_or(DeltaError::Overflow)?;
                log::warn!(
                    "a list of names of a chapter of the deduplication index has no room and is left out"
                );
                self.drop_list(list);
            };
            pages.push((first, lists));
            first += lists;
        }
        Ok(pages)
    }

    /// Writes an index page that was laid out.
    pub fn write_page(&self, page: &mut [u8], nonce: u64, chapter: u64, lists: (u32, u32)) {
        self.lists()
            .write_page(page, nonce, chapter, lists.0, lists.1);
    }
}

/// Where the list being written is.
#[derive(Clone, Copy, Debug, Default)]
struct ListWriter {
    list: usize,
    start: u64,
    at: u64,
    key: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::index::chapter_page::ChapterPage;
    use crate::format::index::record_page::{self, RecordData};
    use crate::hash::murmur3_x64_128;
    use crate::index::uds::delta_lists::DeltaLists;
    use crate::types::RecordName;

    fn record(number: u64) -> IndexRecord {
        let mut data = [0; 16];
        data[..8].copy_from_slice(&number.to_le_bytes());
        IndexRecord {
            name: RecordName(murmur3_x64_128(&number.to_le_bytes(), 1)),
            data: RecordData(data),
        }
    }

    /// Makes all pages of a chapter: index pages and record pages.
    fn pages(geometry: &IndexGeometry, zones: &[&[IndexRecord]]) -> Vec<Vec<u8>> {
        let collated = collate(geometry, zones);
        let mut index = ChapterIndex::new(geometry, &collated);
        let layout = index.lay_out().expect("room for empty lists");
        let empty = || vec![0xee; geometry.page_bytes as usize];
        let mut pages = Vec::new();
        for lists in layout {
            let mut page = empty();
            index.write_page(&mut page, 77, 9, lists);
            pages.push(page);
        }
        let mut records = collated.records;
        for records in records.chunks_mut(geometry.records_per_page() as usize) {
            let mut page = empty();
            record_page::write(records, &mut page);
            pages.push(page);
        }
        pages
    }

    fn find(
        geometry: &IndexGeometry,
        pages: &[Vec<u8>],
        record: &IndexRecord,
    ) -> Option<RecordData> {
        let list = geometry.chapter_list_key(&record.name).list;
        let page = pages[..geometry.index_pages as usize]
            .iter()
            .map(|page| ChapterPage::read(page, 77, geometry).expect("a page"))
            .find(|page| i64::from(list) <= page.last_list())
            .expect("a page for each list");
        let page = page.find(&record.name).expect("whole")?;
        record_page::find(&pages[(geometry.index_pages + page) as usize], &record.name)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_record_of_a_chapter_is_found_and_no_other(
            zones in 1_usize..4, short in 0_usize..30, seed in any::<u32>(), pages_each in 2_u32..5,
        ) {
            let geometry = IndexGeometry::new(4096, pages_each, 8, 0, false);
            let share = geometry.records_per_chapter() as usize / zones;
            let from = u64::from(seed) << 20;
            let mut next = from;
            let gathered: Vec<Vec<IndexRecord>> = (0..zones)
                .map(|zone| {
                    let count = if zone == 0 { share } else { share - short.min(share) };
                    (0..count).map(|_| { next += 1; record(next) }).collect()
                })
                .collect();
            let slices: Vec<&[IndexRecord]> = gathered.iter().map(Vec::as_slice).collect();
            let pages = pages(&geometry, &slices);
            prop_assert_eq!(pages.len() as u32, geometry.pages_per_chapter());
            for known in gathered.iter().flatten() {
                prop_assert_eq!(find(&geometry, &pages, known), Some(known.data));
            }
            for other in next + 1..next + 200 {
                prop_assert_eq!(find(&geometry, &pages, &record(other)), None);
            }
            for page in &pages[..geometry.index_pages as usize] {
                prop_assert_eq!(ChapterPage::read(page, 77, &geometry).expect("a page").validate(), Ok(()));
            }
        }

        /// The bits are those that putting in one name after the other would give.
        #[test]
        fn sorting_gives_the_bits_of_inserting(numbers in prop::collection::vec(0_u64..90, 2..120)) {
            let geometry = IndexGeometry::new(4096, 4, 8, 0, false);
            let mut records: Vec<IndexRecord> = Vec::new();
            for number in numbers {
                // Names alike in all that the chapter's index goes by, or nearly.
                let mut record = record(number % 9);
                record.name.0[0] = (number / 9) as u8;
                if !records.contains(&record) {
                    records.push(record);
                }
            }
            let collated = Collated { is_known: vec![true; records.len()], records };
            let index = ChapterIndex::new(&geometry, &collated);
            let code = geometry.chapter_code;
            let mut lists = DeltaLists::new(geometry.chapter_lists() as usize, code, 1 << 20).expect("little memory");
            for (arrival, record) in collated.records.iter().enumerate() {
                let place = geometry.chapter_list_key(&record.name);
                let entry = lists.find(place.list as usize, place.key, &record.name).expect("whole");
                let page = arrival as u32 / geometry.records_per_page();
                lists.insert(place.list as usize, &entry, place.key, page, &record.name).expect("room");
            }
            for list in 0..geometry.chapter_lists() as usize {
                let inserted = lists.list(list);
                let start = index.places[list];
                prop_assert_eq!(index.places[list + 1] - start, u64::from(inserted.size));
                for bit in 0..u64::from(inserted.size) {
                    let one = bits::get(&index.bytes, start + bit, 1);
                    prop_assert_eq!(one, bits::get(inserted.bytes, inserted.start + bit, 1), "list {} bit {}", list, bit);
                }
            }
        }
    }

    #[test]
    fn lists_that_find_no_room_are_left_out_and_the_others_are_whole() {
        let geometry = IndexGeometry::new(4096, 4, 8, 0, false);
        // All names in few lists, far more alike than chance makes them.
        let records: Vec<IndexRecord> = (0..u64::from(geometry.records_per_chapter()))
            .map(|number| {
                let mut record = record(number);
                record.name.0[8..14].copy_from_slice(&[0, 0, 0, 0, 0, (number % 3) as u8]);
                if number % 4 == 0 {
                    record.name.0[11] = 0xff;
                }
                record
            })
            .collect();
        let pages = pages(&geometry, &[&records]);
        let found = records
            .iter()
            .filter(|known| find(&geometry, &pages, known).is_some())
            .count();
        assert!(found < records.len(), "{found}");
        for page in &pages[..geometry.index_pages as usize] {
            let page = ChapterPage::read(page, 77, &geometry).expect("a page");
            assert_eq!(page.validate(), Ok(()));
        }
    }
}
