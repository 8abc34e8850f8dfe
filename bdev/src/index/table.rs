//! The store of an index in memory: from the name of a content to its block, the oldest forgotten
//! first.
//!
//! # Chapters
//!
//! Records belong to chapters, numbered in the order they were opened. A record that is new, or
//! found again, belongs to the newest, the *open* chapter. When as many records have been put in the
//! open chapter as fit, the next one is opened, and the oldest of [`CHAPTERS`] is forgotten with the
//! records still in it. Forgetting costs nothing: a record carries the low eight bits of its chapter's
//! number, and one whose chapter is [`CHAPTERS`] or more behind the open one is *dead*, its place as
//! good as empty. A sweep that goes around the table, a step with every few records put in, keeps
//! dead records from looking alive again after 256 chapters.
//!
//! # Size
//!
//! Records lie in pages of 4 KiB ([`super::pages`]). A page has places for 384 records and is filled to
//! five sixths: *320 records for every 4096 bytes the index is given*, 12.8 bytes a record (a little
//! less for sizes that are not a power of two of pages). A quarter of a gigabyte is 21 million
//! records, the names of 80 GiB of distinct blocks. As long as there are fewer, the pages in use
//! follow their number, at about 32 bytes a record.
//!
//! A record may be in two places. If both are full of living records, the oldest of the twenty-four
//! is forgotten early, and counted.
//!
//! Of the name itself only 32 bits are stored, and as the table grows up to eight of them say the same
//! as the page. One search in 700 thousand finds a record that is not its own, which costs the asker
//! a comparison and does no harm: it is advice.

use super::bucket::{CHAPTERS, LONG_DEAD_CHAPTERS, is_live};
use super::pages::{BUCKETS, PAGE_SIZE, Pages};
use super::seam::IndexError;
use crate::types::{Mapping, MappingState, Pbn, RecordName};

/// Records in a page when the table holds as many as it should: five sixths of the places. Fuller, and
/// many are forgotten early; emptier wastes memory.
const RECORDS_PER_PAGE: u64 = 320;

/// Records for each page in use before one more page comes into use. The next page to be split has
/// twice as many towards the end of each doubling.
const RECORDS_PER_GROWN_PAGE: u64 = 128;

/// The sweep goes around the table once while this many chapters are filled.
const SWEEP_CHAPTERS: u64 = 48;

const _: () = assert!(SWEEP_CHAPTERS < LONG_DEAD_CHAPTERS);

/// Bits of a packed mapping that are the physical block number.
const PBN_BITS: u32 = 36;

#[inline]
fn pack(mapping: Mapping) -> Result<u64, IndexError> {
    if mapping.pbn.get() >> PBN_BITS != 0 {
        return Err(IndexError::BadMapping(mapping.pbn));
    }
    Ok(mapping.pbn.get() | u64::from(mapping.state.bits()) << PBN_BITS)
}

#[inline]
fn unpack(packed: u64) -> Mapping {
    Mapping {
        pbn: Pbn(packed & ((1 << PBN_BITS) - 1)),
        state: MappingState::from_bits((packed >> PBN_BITS) as u8 & 15).unwrap_or_default(),
    }
}

/// Records by name, in chapters, within a fixed amount of memory.
pub struct RecordTable {
    pages: Pages,
    records_per_chapter: u64,
    /// Low bits of the open chapter's number.
    open: u8,
    /// Records put in the open chapter so far.
    open_count: u64,
    /// Living records by the low bits of their chapter's number.
    live: [u64; 256],
    entries: u64,
    discarded: u64,
    early: u64,
    sweep_at: usize,
    /// Grows with every record put in, and falls with every bucket swept.
    sweep_due: u64,
}

impl RecordTable {
    /// The least bytes a table can be made of.
    pub const LEAST_BYTES: u64 = PAGE_SIZE as u64;

    /// The records that fit in `bytes` bytes.
    pub fn capacity_of(bytes: u64) -> u64 {
        let pages = usize::try_from(bytes / PAGE_SIZE as u64).unwrap_or(usize::MAX);
        let records = (Pages::last_of(pages) as u64).saturating_mul(RECORDS_PER_PAGE);
        records / CHAPTERS * CHAPTERS
    }

    /// An empty table that takes `bytes` bytes at most.
    pub fn new(bytes: u64) -> Result<RecordTable, IndexError> {
        let least = Self::LEAST_BYTES;
        if bytes < least {
            return Err(IndexError::TooSmall { bytes, least });
        }
        let pages = usize::try_from(bytes / PAGE_SIZE as u64)
            .ok()
            .and_then(Pages::new);
        let pages = pages.ok_or(IndexError::NoMemory { bytes })?;
        Ok(Self::with(pages, Self::capacity_of(bytes) / CHAPTERS))
    }

    fn with(pages: Pages, records_per_chapter: u64) -> RecordTable {
        RecordTable {
            pages,
            records_per_chapter,
            // All-zero memory is dead records.
            open: CHAPTERS as u8,
            open_count: 0,
            live: [0; 256],
            entries: 0,
            discarded: 0,
            early: 0,
            sweep_at: 0,
            sweep_due: 0,
        }
    }

    /// Living records.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Records it can hold.
    pub fn capacity(&self) -> u64 {
        self.records_per_chapter * CHAPTERS
    }

    /// Records a chapter takes.
    pub fn records_per_chapter(&self) -> u64 {
        self.records_per_chapter
    }

    /// Records forgotten so far to make room.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// How many of the discarded were forgotten before their chapter was, because their two buckets
    /// were full.
    pub fn discarded_early(&self) -> u64 {
        self.early
    }

    /// Bytes of the pages in use.
    pub fn memory_bytes(&self) -> u64 {
        (self.pages.len() * PAGE_SIZE) as u64
    }

    /// What is known of `name`; changes nothing.
    pub fn peek(&self, name: &RecordName) -> Option<Mapping> {
        let place = self.pages.place(name);
        let page = self.pages.page(place.page);
        let (bucket, way) = page.find(&place, self.open)?;
        Some(unpack(page.0[bucket].mapping(way)))
    }

    /// What is known of `name`, which becomes recent.
    pub fn query(&mut self, name: &RecordName) -> Option<Mapping> {
        let place = self.pages.place(name);
        let open = self.open;
        let page = self.pages.page_mut(place.page);
        let (bucket, way) = page.find(&place, open)?;
        let bucket = &mut page.0[bucket];
        let known = unpack(bucket.mapping(way));
        let chapter = bucket.move_to(way, open);
        self.moved(chapter);
        Some(known)
    }

    /// What is known of `name`, which becomes recent; if nothing, `new` is from now on.
    pub fn post(&mut self, name: &RecordName, new: Mapping) -> Result<Option<Mapping>, IndexError> {
        self.put::<false>(name, new)
    }

    /// What is known of `name`; from now on it is `new`, and recent.
    pub fn update(
        &mut self,
        name: &RecordName,
        new: Mapping,
    ) -> Result<Option<Mapping>, IndexError> {
        self.put::<true>(name, new)
    }

    #[inline]
    fn put<const OVERWRITE: bool>(
        &mut self,
        name: &RecordName,
        new: Mapping,
    ) -> Result<Option<Mapping>, IndexError> {
        let packed = pack(new)?;
        let place = self.pages.place(name);
        let open = self.open;
        let page = self.pages.page_mut(place.page);
        if let Some((bucket, way)) = page.find(&place, open) {
            let bucket = &mut page.0[bucket];
            let known = unpack(bucket.mapping(way));
            if OVERWRITE {
                bucket.set_mapping(way, packed);
            }
            let chapter = bucket.move_to(way, open);
            self.moved(chapter);
            return Ok(Some(known));
        }
        let (bucket, way) = page.room(&place, open);
        let previous = page.0[bucket].put(way, place.tag, packed, open);
        if is_live(previous, open) {
            self.live[usize::from(previous)] -= 1;
            self.entries -= 1;
            self.discarded += 1;
            self.early += 1;
        }
        self.entries += 1;
        self.live[usize::from(open)] += 1;
        self.placed();
        Ok(None)
    }

    /// A record has moved from `chapter` to the open one.
    #[inline]
    fn moved(&mut self, chapter: u8) {
        if chapter != self.open {
            self.live[usize::from(chapter)] -= 1;
            self.live[usize::from(self.open)] += 1;
            self.placed();
        }
    }

    /// A record has been put in the open chapter.
    #[inline]
    fn placed(&mut self) {
        if self.entries > self.pages.len() as u64 * RECORDS_PER_GROWN_PAGE {
            self.pages.grow(self.open);
        }
        // As if all pages were in use, so that it goes around in time while they grow.
        self.sweep_due += (self.pages.last() * BUCKETS) as u64;
        while self.sweep_due >= SWEEP_CHAPTERS * self.records_per_chapter {
            self.sweep_due -= SWEEP_CHAPTERS * self.records_per_chapter;
            self.sweep_bucket();
        }
        self.open_count += 1;
        if self.open_count == self.records_per_chapter {
            self.open_next_chapter();
        }
    }

    fn open_next_chapter(&mut self) {
        self.open = self.open.wrapping_add(1);
        self.open_count = 0;
        let leaving = self.open.wrapping_sub(CHAPTERS as u8);
        let records = std::mem::take(&mut self.live[usize::from(leaving)]);
        self.entries -= records;
        self.discarded += records;
    }

    /// Sweeps one bucket, and goes on to the next.
    #[inline]
    fn sweep_bucket(&mut self) {
        let open = self.open;
        let at = self.sweep_at;
        self.sweep_at = if at + 1 == self.pages.len() * BUCKETS {
            0
        } else {
            at + 1
        };
        self.pages.page_mut(at / BUCKETS).0[at % BUCKETS].sweep(open);
    }
}

impl std::fmt::Debug for RecordTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "RecordTable({} of {} records)",
            self.entries,
            self.capacity()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::hash::murmur3_x64_128;

    fn name(number: u64) -> RecordName {
        RecordName(murmur3_x64_128(&number.to_le_bytes(), 0))
    }

    fn mapping(number: u64) -> Mapping {
        let state = MappingState::from_bits((number % 16) as u8).expect("four bits");
        Mapping {
            pbn: Pbn(number),
            state,
        }
    }

    /// The same rules in the plainest words: a map, and the number of the open chapter.
    struct Model {
        records: HashMap<RecordName, (Mapping, u64)>,
        open: u64,
        open_count: u64,
        records_per_chapter: u64,
        discarded: u64,
    }

    impl Model {
        fn new(records_per_chapter: u64) -> Model {
            Model {
                records: HashMap::new(),
                open: 0,
                open_count: 0,
                records_per_chapter,
                discarded: 0,
            }
        }

        fn put(&mut self, name: RecordName, mapping: Mapping) {
            let previous = self.records.insert(name, (mapping, self.open));
            if previous.is_some_and(|(_, chapter)| chapter == self.open) {
                return;
            }
            self.open_count += 1;
            if self.open_count == self.records_per_chapter {
                self.open += 1;
                self.open_count = 0;
                let before = self.records.len();
                self.records
                    .retain(|_, (_, chapter)| self.open - *chapter < CHAPTERS);
                self.discarded += (before - self.records.len()) as u64;
            }
        }

        fn peek(&self, name: &RecordName) -> Option<Mapping> {
            self.records.get(name).map(|(mapping, _)| *mapping)
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Post,
        Query,
        Update,
        Peek,
    }

    /// Does the same to both, and returns what each knew.
    fn step(
        table: &mut RecordTable,
        model: &mut Model,
        op: Op,
        number: u64,
        new: Mapping,
    ) -> (Option<Mapping>, Option<Mapping>) {
        let name = name(number);
        let known = model.peek(&name);
        let found = match op {
            Op::Post => table.post(&name, new).expect("a valid mapping"),
            Op::Query => table.query(&name),
            Op::Update => table.update(&name, new).expect("a valid mapping"),
            Op::Peek => table.peek(&name),
        };
        match (op, known) {
            (Op::Peek, _) | (Op::Query, None) => {}
            (Op::Update, _) | (Op::Post, None) => model.put(name, new),
            (Op::Post | Op::Query, Some(known)) => model.put(name, known),
        }
        (found, known)
    }

    fn check_ring(table: &RecordTable) {
        assert_eq!(table.live.iter().sum::<u64>(), table.entries);
        assert!(table.entries <= table.capacity());
    }

    /// A sequence of operations, mostly on names used not long before.
    fn ops() -> impl Strategy<Value = Vec<(Op, u64)>> {
        let op = prop_oneof![
            6 => Just(Op::Post), 2 => Just(Op::Query), 2 => Just(Op::Update), 1 => Just(Op::Peek)
        ];
        prop::collection::vec((op, 0u64..600), 1..6000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// With few records in many places nothing is ever forgotten early, and the table is the model
        /// exactly, through several turns of the eight bits that say which chapter.
        #[test]
        fn a_table_with_room_is_the_model(
            ops in ops(), records_per_chapter in 1u64..6, drift in 0u64..3, doublings in 0u32..3,
        ) {
            let pages = Pages::with_shape(4 >> doublings, doublings).expect("little memory");
            let mut table = RecordTable::with(pages, records_per_chapter);
            let mut model = Model::new(records_per_chapter);
            for (at, (op, number)) in ops.into_iter().enumerate() {
                let number = number + at as u64 * drift / 2;
                let (found, known) = step(&mut table, &mut model, op, number, mapping(at as u64));
                prop_assert_eq!(found, known, "operation {}: {:?} of {}", at, op, number);
                prop_assert_eq!(table.entries(), model.records.len() as u64);
                prop_assert_eq!(table.discarded(), model.discarded);
            }
            prop_assert_eq!(table.discarded_early(), 0);
            check_ring(&table);
        }

        /// A full table knows nothing the model does not, forgets no more than it counts, and
        /// what it still knows is right.
        #[test]
        fn a_full_table_loses_no_more_than_it_says(ops in ops(), drift in 0u64..5) {
            let mut table = RecordTable::new(PAGE_SIZE as u64).expect("little memory");
            prop_assert_eq!(table.capacity(), 256);
            let mut model = Model::new(table.records_per_chapter());
            let mut losses = 0;
            for (at, (op, number)) in ops.into_iter().enumerate() {
                let number = number + at as u64 * drift / 4;
                let new = mapping(number);
                let (found, known) = step(&mut table, &mut model, op, number, new);
                match (found, known) {
                    (None, Some(_)) => losses += 1,
                    // A record posted anew after an early loss is younger here than in the model.
                    (Some(found), None) => {
                        prop_assert!(table.discarded_early() > 0);
                        prop_assert_eq!(found, new);
                    }
                    (found, known) => prop_assert_eq!(found, known),
                }
                check_ring(&table);
            }
            prop_assert!(losses <= table.discarded_early() * 8, "{} losses", losses);
        }

        #[test]
        fn every_mapping_comes_back_as_it_was_put(pbn in 0u64..1 << 36, state in 0u8..16) {
            let state = MappingState::from_bits(state).expect("four bits");
            let mapping = Mapping { pbn: Pbn(pbn), state };
            let mut table = RecordTable::new(PAGE_SIZE as u64).expect("little memory");
            prop_assert_eq!(table.update(&name(pbn), mapping), Ok(None));
            prop_assert_eq!(table.peek(&name(pbn)), Some(mapping));
        }
    }

    #[test]
    fn the_oldest_are_forgotten_first_and_a_look_keeps_a_record() {
        let pages = Pages::new(64).expect("little memory");
        let mut table = RecordTable::with(pages, 10);
        let capacity = table.capacity();
        for number in 0..capacity - 1 {
            table
                .post(&name(number), mapping(number))
                .expect("a valid mapping");
        }
        // The first chapter holds 0 to 9. A query keeps 3, a peek does not keep 4.
        assert_eq!(table.peek(&name(4)), Some(mapping(4)));
        assert_eq!(table.query(&name(3)), Some(mapping(3)));
        assert_eq!(table.discarded(), 9);
        for number in 0..10 {
            let kept = (number == 3).then_some(mapping(3));
            assert_eq!(table.peek(&name(number)), kept, "record {number}");
        }
        assert_eq!(table.peek(&name(10)), Some(mapping(10)));
    }

    #[test]
    fn a_post_keeps_what_is_known_and_an_update_replaces_it() {
        let mut table = RecordTable::new(PAGE_SIZE as u64).expect("little memory");
        assert_eq!(table.post(&name(1), mapping(10)), Ok(None));
        assert_eq!(table.post(&name(1), mapping(20)), Ok(Some(mapping(10))));
        assert_eq!(table.update(&name(1), mapping(30)), Ok(Some(mapping(10))));
        assert_eq!(table.query(&name(1)), Some(mapping(30)));
        assert_eq!(table.entries(), 1);
    }

    #[test]
    fn names_that_are_alike_in_the_byte_of_the_zone_fill_a_table_as_well() {
        let mut table = RecordTable::new(16 * PAGE_SIZE as u64).expect("little memory");
        for number in 0..table.capacity() {
            let mut name = name(number);
            name.0[0] = 0x55;
            table.post(&name, mapping(number)).expect("a valid mapping");
        }
        let lost = table.discarded_early() as f64 / table.capacity() as f64;
        assert!(lost < 0.02, "{lost} of the records were lost early");
    }

    #[test]
    fn a_full_table_forgets_few_records_early() {
        let mut table = RecordTable::new(256 * PAGE_SIZE as u64).expect("little memory");
        for number in 0..table.capacity() * 3 {
            table
                .post(&name(number), mapping(number))
                .expect("a valid mapping");
        }
        let lost = table.discarded_early() as f64 / table.capacity() as f64 / 3.0;
        assert!(lost < 0.02, "{lost} of the records were lost early");
        assert!(table.entries() > table.capacity() * 97 / 100);
        // Of the newest half, almost all are still known, each with its own mapping.
        let newest = table.capacity() * 5 / 2..table.capacity() * 3;
        let known = newest
            .clone()
            .filter(|number| {
                let found = table.peek(&name(*number));
                assert!(found.is_none_or(|found| found == mapping(*number)));
                found.is_some()
            })
            .count() as u64;
        assert!(known > (newest.end - newest.start) * 999 / 1000);
    }

    #[test]
    fn impossible_mappings_and_sizes_are_refused() {
        let mut table = RecordTable::new(PAGE_SIZE as u64).expect("little memory");
        let beyond = Mapping {
            pbn: Pbn(1 << 36),
            state: MappingState::UNCOMPRESSED,
        };
        assert_eq!(
            table.post(&name(1), beyond),
            Err(IndexError::BadMapping(beyond.pbn))
        );
        assert_eq!(table.entries(), 0);
        assert!(matches!(
            RecordTable::new(4095),
            Err(IndexError::TooSmall { .. })
        ));
        assert!(matches!(
            RecordTable::new(1 << 62),
            Err(IndexError::NoMemory { .. })
        ));
    }
}
