//! How large everything in an index is: all of it follows from the record pages of a chapter and the number of chapters.
//!
//! Those two follow from what a person chooses, the memory the index may take and whether it is *sparse*
//! ([`super::super::index_region`]). The rest is arithmetic that must give what dm-vdo's gives, since none of it is on disk: how
//! many delta lists there are, how many bits a key has, how many index pages a chapter needs.
//!
//! A sparse index keeps most of its chapters (the older ones) in memory by a sample of their names only. Its volume index has two
//! parts, one for the names that are samples and one for all others; a dense index has the one.

use std::ops::Range;

use super::delta_list::DeltaCode;
use super::page_map;
use super::{MAXIMUM_ZONES, open_chapter, volume_index};
use crate::types::BLOCK_SIZE;

/// Bytes of a page of any index that is not a test's.
pub const PAGE_BYTES: u32 = 32 * 1024;

/// Bytes of a record: a name and what is known of it.
pub const RECORD_BYTES: u32 = 32;

/// In a sparse index, one name in so many is a sample.
pub const SAMPLE_RATE: u32 = 32;

/// How far apart the keys in a list of the volume index would be on average if it had 256 of them.
pub const VOLUME_MEAN_DELTA: u32 = 4096;

/// The same in the index of a chapter.
const CHAPTER_MEAN_DELTA_BITS: u32 = 16;

/// Entries a list of the volume index is meant for.
const VOLUME_LIST_ENTRIES: u64 = 256;

/// Bits of a list's place in the table at the front of a chapter index page.
pub const LIST_OFFSET_BITS: u32 = 19;

/// Bytes before that table.
pub const CHAPTER_PAGE_HEADER: usize = 20;

/// The memory of a zone's delta lists is a multiple of so many bytes.
const ZONE_GRAIN: u64 = 64 * 1024;

/// Bits needed to write `number`.
pub(super) fn bits(number: u64) -> u32 {
    u64::BITS - number.leading_zeros()
}

/// The sizes of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexGeometry {
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Record pages of a chapter.
    pub record_pages: u32,
    /// Chapters of the ring.
    pub chapters: u32,
    /// How many of them are known by samples only when the ring is full; 0 in a dense index.
    pub sparse_chapters: u32,
    /// Whether one chapter was given up when the volume was moved for LVM.
    pub reduced: bool,
    /// Index pages of a chapter.
    pub index_pages: u32,
    /// Bits that say which list of its chapter's index a name is in.
    pub chapter_list_bits: u32,
    /// Bits of a key in such a list.
    pub chapter_key_bits: u32,
    /// How such a list is coded; the values are numbers of record pages.
    pub chapter_code: DeltaCode,
}

impl IndexGeometry {
    /// A geometry of any size. Real ones come from [`crate::format::index_region::IndexConfig::geometry`].
    ///
    /// `record_pages` and `chapters` are at least 2, and `page_bytes` is 1024 or more.
    pub fn new(
        page_bytes: u32,
        record_pages: u32,
        chapters: u32,
        sparse_chapters: u32,
        reduced: bool,
    ) -> IndexGeometry {
        let records = u64::from(page_bytes / RECORD_BYTES * record_pages);
        let chapter_list_bits = bits((records - 1) | 0o77) - 6;
        let chapter_code = DeltaCode::new(
            1 << CHAPTER_MEAN_DELTA_BITS,
            bits(u64::from(record_pages) - 1),
        );
        let lists = 1_u64 << chapter_list_bits;
        let entry_bits = chapter_code.expected_bits(records);
        let page_bits = (u64::from(page_bytes) - CHAPTER_PAGE_HEADER as u64) * 8
            - u64::from(LIST_OFFSET_BITS)
            - entry_bits / lists;
        let index_bits = entry_bits + lists * u64::from(LIST_OFFSET_BITS);
        IndexGeometry {
            page_bytes,
            record_pages,
            chapters,
            sparse_chapters,
            reduced,
            index_pages: index_bits.div_ceil(page_bits) as u32,
            chapter_list_bits,
            chapter_key_bits: CHAPTER_MEAN_DELTA_BITS - chapter_list_bits + bits(records - 1),
            chapter_code,
        }
    }

    /// Whether most chapters are known by samples.
    pub fn is_sparse(&self) -> bool {
        self.sparse_chapters > 0
    }

    /// Chapters all of whose names are in the volume index.
    pub fn dense_chapters(&self) -> u32 {
        self.chapters - self.sparse_chapters
    }

    /// Records on a page.
    pub fn records_per_page(&self) -> u32 {
        self.page_bytes / RECORD_BYTES
    }

    /// Records of a chapter.
    pub fn records_per_chapter(&self) -> u32 {
        self.records_per_page() * self.record_pages
    }

    /// Delta lists of a chapter's index.
    pub fn chapter_lists(&self) -> u32 {
        1 << self.chapter_list_bits
    }

    /// All pages of a chapter.
    pub fn pages_per_chapter(&self) -> u32 {
        self.index_pages + self.record_pages
    }

    /// Where in the ring a virtual chapter is.
    #[inline]
    pub fn place(&self, chapter: u64) -> u32 {
        (chapter % u64::from(self.chapters)) as u32
    }

    /// The page of the volume region at which the chapter in a place of the ring begins. Page 0 is not used.
    #[inline]
    pub fn first_page(&self, place: u32) -> u64 {
        1 + u64::from(place) * u64::from(self.pages_per_chapter())
    }

    /// Blocks of a page; pages smaller than a block are tests' that do no I/O.
    pub fn page_blocks(&self) -> u64 {
        u64::from(self.page_bytes) / BLOCK_SIZE as u64
    }

    /// Blocks of the volume region.
    pub fn volume_blocks(&self) -> u64 {
        (1 + u64::from(self.pages_per_chapter()) * u64::from(self.chapters))
            * u64::from(self.page_bytes)
            / BLOCK_SIZE as u64
    }

    /// Whether `chapter` is known by samples only, when the index reaches from `oldest` to `newest`.
    #[inline]
    pub fn is_chapter_sparse(&self, oldest: u64, newest: u64, chapter: u64) -> bool {
        let dense = u64::from(self.dense_chapters());
        self.is_sparse() && newest - oldest + 1 > dense && chapter + dense <= newest
    }

    /// The oldest chapter there still is when `newest` is the open one, if nothing was lost.
    #[inline]
    pub fn oldest(&self, newest: u64) -> u64 {
        (newest + 1).saturating_sub(u64::from(self.chapters))
    }

    /// The part of the volume index for names that are no samples; in a dense index, for all names.
    pub fn dense_part(&self) -> SubIndexGeometry {
        let records = self.records_per_chapter();
        if self.is_sparse() {
            let records = records - records / SAMPLE_RATE;
            SubIndexGeometry::new(records, self.dense_chapters(), self.reduced)
        } else {
            SubIndexGeometry::new(records, self.chapters, self.reduced)
        }
    }

    /// The part of a sparse index's volume index for samples, of all chapters.
    pub fn sampled_part(&self) -> Option<SubIndexGeometry> {
        let records = self.records_per_chapter() / SAMPLE_RATE;
        self.is_sparse()
            .then(|| SubIndexGeometry::new(records, self.chapters, self.reduced))
    }

    /// Most names the volume index holds: of sparse chapters, samples only.
    pub fn most_names(&self) -> u64 {
        let records = u64::from(self.records_per_chapter());
        let samples = records / u64::from(SAMPLE_RATE);
        u64::from(self.dense_chapters()) * records + u64::from(self.sparse_chapters) * samples
    }

    /// Blocks of a save that the volume index may take.
    pub fn volume_index_blocks(&self) -> u64 {
        let parts = match self.sampled_part() {
            Some(samples) => {
                volume_index::SPARSE_HEADER as u64
                    + samples.saved_bytes()
                    + self.dense_part().saved_bytes()
            }
            None => self.dense_part().saved_bytes(),
        };
        let bytes = parts + volume_index::LIST_HEADER as u64;
        bytes.div_ceil(BLOCK_SIZE as u64) + u64::from(MAXIMUM_ZONES)
    }

    /// Blocks of a save that the index page map takes.
    pub fn page_map_blocks(&self) -> u64 {
        page_map::saved_bytes(self).div_ceil(BLOCK_SIZE as u64)
    }

    /// Blocks of a save that the open chapter may take.
    pub fn open_chapter_blocks(&self) -> u64 {
        open_chapter::saved_bytes(self).div_ceil(BLOCK_SIZE as u64)
    }

    /// Blocks of a save.
    pub fn save_blocks(&self) -> u64 {
        1 + self.volume_index_blocks() + self.page_map_blocks() + self.open_chapter_blocks()
    }

    /// Blocks of the whole index region.
    pub fn region_blocks(&self) -> u64 {
        3 + self.volume_blocks() + 2 * self.save_blocks()
    }
}

/// The sizes of one part of the volume index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubIndexGeometry {
    /// Bits of a key in a list.
    pub key_bits: u32,
    /// Low bits of a chapter's number that an entry has.
    pub chapter_bits: u32,
    /// Delta lists, in all zones together. Fits in 32 bits in every index that can be made.
    pub lists: u64,
    /// Chapters whose names are in this part.
    pub chapters: u32,
    /// How its lists are coded; the values are low bits of chapter numbers.
    pub code: DeltaCode,
    /// Bits that the entries of a chapter are expected to take.
    pub chapter_size_bits: u64,
    /// Bytes that the entries of all chapters are expected to take.
    expected_bytes: u64,
}

impl SubIndexGeometry {
    fn new(records_per_chapter: u32, chapters: u32, reduced: bool) -> SubIndexGeometry {
        let records = u64::from(records_per_chapter);
        // An index that gave up a chapter keeps its lists, so that names stay where they are.
        let rounded = u64::from(chapters) + u64::from(reduced);
        let least = u64::from(MAXIMUM_ZONES) * u64::from(MAXIMUM_ZONES);
        let lists = (records * rounded / VOLUME_LIST_ENTRIES).max(least);
        let key_bits = bits(u64::from(VOLUME_MEAN_DELTA) * VOLUME_LIST_ENTRIES - 1);
        let chapter_bits = bits(rounded - 1);
        // Entries of chapters already dropped linger until their list is next touched.
        let with_lingering = rounded + (rounded / 256).max(2);
        let mean_delta = (lists << key_bits) / (records * with_lingering);
        let code = DeltaCode::new(mean_delta as u32, chapter_bits);
        let chapter_size_bits = code.expected_bits(records);
        SubIndexGeometry {
            key_bits,
            chapter_bits,
            lists,
            chapters,
            code,
            chapter_size_bits,
            expected_bytes: chapter_size_bits * with_lingering / 8,
        }
    }

    /// Lists of each zone but the last of `zones`, which has what is left.
    pub fn lists_per_zone(&self, zones: u8) -> u32 {
        self.lists.div_ceil(u64::from(zones.max(1))) as u32
    }

    /// The lists of one of `zones` zones.
    pub fn zone_lists(&self, zone: u8, zones: u8) -> Range<u32> {
        let each = u64::from(self.lists_per_zone(zones));
        let first = (each * u64::from(zone)).min(self.lists);
        let end = if zone + 1 >= zones {
            self.lists
        } else {
            (first + each).min(self.lists)
        };
        first as u32..end as u32
    }

    /// Bytes of delta lists of one of `zones` zones.
    pub fn zone_memory(&self, zones: u8) -> u64 {
        (self.memory_bytes() / u64::from(zones.max(1))).next_multiple_of(ZONE_GRAIN)
    }

    /// Bits that the lists of one of `zones` zones may have before chapters are dropped early.
    pub fn zone_bits_limit(&self, zones: u8) -> u64 {
        let zones = u64::from(zones.max(1));
        let all = self.zone_memory(zones as u8) * zones;
        all.saturating_sub(self.expected_bytes / 20) * 8 / zones
    }

    fn memory_bytes(&self) -> u64 {
        self.expected_bytes * 106 / 100
    }

    fn saved_bytes(&self) -> u64 {
        volume_index::PART_HEADER as u64
            + self.lists * 8
            + volume_index::DELTA_HEADER as u64
            + self.lists * (volume_index::LIST_HEADER as u64 + 1)
            + self.zone_memory(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index_region::{IndexConfig, IndexMemory};

    fn geometry(gb: f64, sparse: bool) -> IndexGeometry {
        let memory = IndexMemory::from_gb(gb).expect("a size there is");
        let config = IndexConfig { memory, sparse };
        config.geometry().expect("an index of this size")
    }

    #[test]
    fn chapters_are_as_large_as_dm_vdo_makes_them() {
        for (gb, record_pages, index_pages, lists, value_bits) in [
            (0.25, 64, 6, 1024, 6),
            (0.5, 128, 13, 2048, 7),
            (0.75, 192, 20, 4096, 8),
            (1.0, 256, 26, 4096, 8),
            (64.0, 256, 26, 4096, 8),
        ] {
            let geometry = geometry(gb, false);
            assert_eq!(geometry.record_pages, record_pages);
            assert_eq!(geometry.index_pages, index_pages);
            assert_eq!(geometry.chapter_lists(), lists);
            assert_eq!(geometry.chapter_code.value_bits, value_bits);
            assert_eq!(geometry.chapter_key_bits, 22, "{gb} GB");
            assert_eq!(geometry.records_per_page(), 1024);
        }
    }

    #[test]
    fn the_volume_index_is_as_large_as_dm_vdo_makes_it() {
        for (gb, lists, chapter_bits) in [
            (0.25, 262_144, 10),
            (0.5, 524_288, 10),
            (0.75, 786_432, 10),
            (1.0, 1_048_576, 10),
            (3.0, 3_145_728, 12),
            (4.0, 4_194_304, 12),
        ] {
            let part = geometry(gb, false).dense_part();
            assert_eq!(
                (part.lists, part.chapter_bits),
                (lists, chapter_bits),
                "{gb} GB"
            );
            assert_eq!(part.key_bits, 20);
        }
        let code = geometry(0.25, false).dense_part().code;
        assert_eq!(
            (code.min_bits, code.min_keys, code.increment),
            (12, 1268, 2828)
        );
        let code = geometry(0.25, false).chapter_code;
        assert_eq!(
            (code.min_bits, code.min_keys, code.increment),
            (16, 20110, 45426)
        );
    }

    #[test]
    fn a_sparse_index_has_two_parts() {
        let geometry = geometry(1.0, true);
        assert_eq!(
            (geometry.chapters, geometry.dense_chapters()),
            (10_240, 512)
        );
        let (dense, samples) = (geometry.dense_part(), geometry.sampled_part());
        let samples = samples.expect("samples");
        assert_eq!((dense.chapters, dense.chapter_bits), (512, 9));
        assert_eq!((samples.chapters, samples.chapter_bits), (10_240, 14));
        assert!(geometry.is_chapter_sparse(0, 600, 88));
        assert!(!geometry.is_chapter_sparse(0, 600, 89));
        assert!(!geometry.is_chapter_sparse(0, 511, 0));
    }

    #[test]
    fn zones_share_all_lists_out() {
        let part = IndexGeometry::new(4096, 2, 8, 0, false).dense_part();
        assert_eq!(part.lists, 256);
        for zones in 1..=MAXIMUM_ZONES {
            let mut next = 0;
            for zone in 0..zones {
                let lists = part.zone_lists(zone, zones);
                assert_eq!(lists.start, next);
                assert!(!lists.is_empty(), "zone {zone} of {zones}");
                next = lists.end;
            }
            assert_eq!(next, 256);
        }
    }

    #[test]
    fn the_ring_keeps_as_many_chapters_as_it_has_places() {
        let geometry = IndexGeometry::new(4096, 2, 8, 0, false);
        assert_eq!((geometry.oldest(0), geometry.oldest(7)), (0, 0));
        assert_eq!((geometry.oldest(8), geometry.oldest(100)), (1, 93));
        assert_eq!((geometry.place(7), geometry.place(8)), (7, 0));
    }
}
