//! How large the index region is: the same arithmetic as the index itself does when it lays itself
//! out, so that the data region begins where dm-vdo expects it.
//!
//! The index keeps the newest names in *chapters* of fixed size. On disk it is: a header page and all
//! the chapters (each its record pages and the index pages that find a name in them), and two slots
//! to save the in-memory state to (the volume index, the map of index pages, the open chapter), plus
//! three blocks for its own super block and configuration. Everything follows from two choices, how
//! much memory the index may use and whether it is sparse.

use std::fmt;

use thiserror::Error;

/// How much memory the index may use, as the number stored on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexMemory(u32);

impl IndexMemory {
    /// A quarter of a gigabyte, the default.
    pub const MB_256: IndexMemory = IndexMemory(-256_i32 as u32);
    /// Half a gigabyte.
    pub const MB_512: IndexMemory = IndexMemory(-512_i32 as u32);
    /// Three quarters of a gigabyte.
    pub const MB_768: IndexMemory = IndexMemory(-768_i32 as u32);
    /// No index region at all. No volume of dm-vdo is so; tests are, to be small.
    pub const NONE: IndexMemory = IndexMemory(0);

    /// The largest index, in gigabytes.
    pub const MAXIMUM_GB: u32 = 1024;

    /// Added to a number of gigabytes (subtracted from a negative number) for an index that gave up
    /// one chapter when its volume was converted for LVM.
    const REDUCED: u32 = 0x1000;

    /// The memory a person asked for.
    ///
    /// # Errors
    /// Anything but 0.25, 0.5, 0.75 and the whole numbers from 1 to 1024.
    pub fn from_gb(gb: f64) -> Result<IndexMemory, IndexError> {
        if gb == 0.25 {
            Ok(IndexMemory::MB_256)
        } else if gb == 0.5 {
            Ok(IndexMemory::MB_512)
        } else if gb == 0.75 {
            Ok(IndexMemory::MB_768)
        } else if gb.fract() == 0.0 && (1.0..=f64::from(IndexMemory::MAXIMUM_GB)).contains(&gb) {
            Ok(IndexMemory(gb as u32))
        } else {
            Err(IndexError::Memory { gb: gb.to_string() })
        }
    }

    /// From the number on disk; any number, [`index_blocks`] judges it.
    pub const fn from_code(code: u32) -> IndexMemory {
        IndexMemory(code)
    }

    /// The number on disk.
    pub const fn code(self) -> u32 {
        self.0
    }

    /// How many megabytes this is; `None` for a number without a meaning.
    pub fn megabytes(self) -> Option<u64> {
        self.shape().map(|shape| u64::from(shape.memory_mb))
    }

    /// Chapters, record pages and reduction of a known memory size.
    fn shape(self) -> Option<Shape> {
        const REDUCED_MAX: u32 = IndexMemory::REDUCED + IndexMemory::MAXIMUM_GB;
        let small = |memory_mb, reduced| {
            let record_pages = SMALL_RECORD_PAGES * (memory_mb / 256);
            Some(Shape {
                memory_mb,
                chapters: CHAPTERS,
                record_pages,
                reduced,
            })
        };
        let large = |gb: u32, reduced| {
            let (memory_mb, chapters) = (gb * 1024, gb * CHAPTERS);
            Some(Shape {
                memory_mb,
                chapters,
                record_pages: LARGE_RECORD_PAGES,
                reduced,
            })
        };
        match self.0 as i32 {
            -256 => small(256, false),
            -512 => small(512, false),
            -768 => small(768, false),
            -1280 => small(256, true),
            -1536 => small(512, true),
            -1792 => small(768, true),
            _ => match self.0 {
                1..=IndexMemory::MAXIMUM_GB => large(self.0, false),
                0x1001..=REDUCED_MAX => large(self.0 - IndexMemory::REDUCED, true),
                _ => None,
            },
        }
    }
}

impl fmt::Display for IndexMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.megabytes() {
            Some(megabytes) if megabytes % 1024 == 0 => write!(f, "{} GB", megabytes / 1024),
            Some(megabytes) => write!(f, "{} GB", megabytes as f64 / 1024.0),
            None if *self == IndexMemory::NONE => f.write_str("none"),
            None => write!(f, "unknown ({:#x})", self.0),
        }
    }
}

/// How the index is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexConfig {
    /// Memory it may use.
    pub memory: IndexMemory,
    /// Whether most chapters are indexed by a sample of their names only: ten times the names and ten
    /// times the disk for the same memory.
    pub sparse: bool,
}

impl Default for IndexConfig {
    fn default() -> Self {
        IndexConfig {
            memory: IndexMemory::MB_256,
            sparse: false,
        }
    }
}

/// An index that can not be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IndexError {
    /// A size nobody offers.
    #[error(
        "index memory of {gb} GB is not possible; take 0.25, 0.5, 0.75 or a whole number up to 1024"
    )]
    Memory {
        /// What was asked for.
        gb: String,
    },
    /// A number on disk without a meaning.
    #[error("the index is configured with memory size {code:#x}, which this program does not know")]
    UnknownMemory {
        /// The number.
        code: u32,
    },
    /// A volume index too large for its own numbers.
    #[error(
        "a sparse index of {memory} is too large: its volume index would need {lists} delta lists"
    )]
    TooManyLists {
        /// The memory asked for.
        memory: IndexMemory,
        /// The lists needed.
        lists: u64,
    },
}

const PAGE_BYTES: u64 = 32 * 1024;
const BLOCK_BYTES: u64 = 4096;
const RECORD_BYTES: u64 = 32;
const RECORDS_PER_PAGE: u64 = PAGE_BYTES / RECORD_BYTES;
const CHAPTERS: u32 = 1024;
const SMALL_RECORD_PAGES: u32 = 64;
const LARGE_RECORD_PAGES: u32 = 256;
const CHAPTER_MEAN_DELTA: u64 = 1 << 16;
const VOLUME_MEAN_DELTA: u64 = 4096;
const SPARSE_SAMPLE_RATE: u64 = 32;
const MAX_ZONES: u64 = 16;
const SAVE_SLOTS: u64 = 2;

/// What a memory size stands for.
#[derive(Clone, Copy)]
struct Shape {
    memory_mb: u32,
    /// Chapters of a dense, unreduced index.
    chapters: u32,
    /// Record pages in a chapter.
    record_pages: u32,
    /// Whether one chapter was given up.
    reduced: bool,
}

/// Blocks of 4096 bytes the index region takes.
///
/// # Errors
/// A memory size that is none, or an index that can not be built.
pub fn index_blocks(config: &IndexConfig) -> Result<u64, IndexError> {
    if config.memory == IndexMemory::NONE {
        return Ok(0);
    }
    let Some(shape) = config.memory.shape() else {
        return Err(IndexError::UnknownMemory {
            code: config.memory.code(),
        });
    };
    let base = u64::from(shape.chapters);
    let (whole, sparse_chapters) = if config.sparse {
        (base * 10, 19 * base / 2)
    } else {
        (base, 0)
    };
    let chapters = whole - u64::from(shape.reduced);
    let record_pages = u64::from(shape.record_pages);
    let records = RECORDS_PER_PAGE * record_pages;
    let index_pages = chapter_index_pages(records, record_pages);

    let volume_blocks = (1 + (index_pages + record_pages) * chapters) * (PAGE_BYTES / BLOCK_BYTES);

    let mut volume_index_bytes = DELTA_LIST_INFO_BYTES;
    if config.sparse {
        let sampled = records / SPARSE_SAMPLE_RATE;
        let dense = chapters - sparse_chapters;
        volume_index_bytes += sub_index_bytes(config, sampled, chapters, shape.reduced)?;
        volume_index_bytes += sub_index_bytes(config, records - sampled, dense, shape.reduced)?;
        volume_index_bytes += VOLUME_INDEX_HEADER_BYTES;
    } else {
        volume_index_bytes += sub_index_bytes(config, records, chapters, shape.reduced)?;
    }
    let volume_index_blocks = volume_index_bytes.div_ceil(BLOCK_BYTES) + MAX_ZONES;

    // "ALBIPM02", the newest chapter, a 16-bit list number for all but the last page of each chapter.
    let page_map_bytes = 8 + 8 + 2 * chapters * (index_pages - 1);
    // "ALBOC02.00", a count, one record's worth of space for each name of a chapter.
    let open_chapter_bytes = 5 + 5 + 4 + records * RECORD_BYTES;
    let save_blocks = 1
        + volume_index_blocks
        + page_map_bytes.div_ceil(BLOCK_BYTES)
        + open_chapter_bytes.div_ceil(BLOCK_BYTES);

    Ok(3 + volume_blocks + SAVE_SLOTS * save_blocks)
}

/// Position and length of one saved delta list.
const DELTA_LIST_INFO_BYTES: u64 = 8;
/// Header of a saved sub-index.
const SUB_INDEX_HEADER_BYTES: u64 = 40;
/// Header of a saved delta index.
const DELTA_INDEX_HEADER_BYTES: u64 = 40;
/// Header of a saved sparse volume index, padded to a whole number of words.
const VOLUME_INDEX_HEADER_BYTES: u64 = 12;

/// Bits needed to write `number`.
fn bits(number: u64) -> u64 {
    u64::from(u64::BITS - number.leading_zeros())
}

/// Bits that `entries` entries of a delta index take on average: each its payload and a number coded
/// for the mean delta.
fn delta_index_bits(entries: u64, mean_delta: u64, payload_bits: u64) -> u64 {
    // ln(2) * mean delta, rounded.
    let increment = (836_158 * mean_delta + 603_160) / 1_206_321;
    entries * (payload_bits + bits(increment + 1) + 1) + entries / 2
}

/// Index pages in a chapter of `records` records.
fn chapter_index_pages(records: u64, record_pages: u64) -> u64 {
    const LIST_HEADER_BITS: u64 = 19;
    const PAGE_HEADER_BYTES: u64 = 20;
    let payload_bits = bits(record_pages - 1);
    let lists = 1 << (bits((records - 1) | 0o77) - 6);
    let entry_bits = delta_index_bits(records, CHAPTER_MEAN_DELTA, payload_bits);
    let list_bits = entry_bits / lists;
    let index_bits = entry_bits + lists * LIST_HEADER_BITS;
    let page_bits = (PAGE_BYTES - PAGE_HEADER_BYTES) * 8 - LIST_HEADER_BITS - list_bits;
    index_bits.div_ceil(page_bits)
}

/// Bytes of one saved sub-index of the volume index.
fn sub_index_bytes(
    config: &IndexConfig,
    records_per_chapter: u64,
    chapters: u64,
    reduced: bool,
) -> Result<u64, IndexError> {
    const RECORDS_PER_LIST: u64 = 256;
    const ZONE_GRAIN: u64 = 64 * 1024;
    let rounded = chapters + u64::from(reduced);
    let lists = (records_per_chapter * rounded / RECORDS_PER_LIST).max(MAX_ZONES * MAX_ZONES);
    if u32::try_from(lists).is_err() {
        return Err(IndexError::TooManyLists {
            memory: config.memory,
            lists,
        });
    }
    let address_bits = bits(VOLUME_MEAN_DELTA * RECORDS_PER_LIST - 1);
    let chapter_bits = bits(rounded - 1);

    // Entries of chapters already dropped linger until their list is next touched.
    let lingering = (rounded / 256).max(2);
    let indexed_chapters = rounded + lingering;
    let mean_delta = (lists << address_bits) / (records_per_chapter * indexed_chapters);
    let chapter_size_bits = delta_index_bits(records_per_chapter, mean_delta, chapter_bits);
    let expected_bytes = chapter_size_bits * indexed_chapters / 8;
    let memory_bytes = expected_bytes * 106 / 100;

    Ok(SUB_INDEX_HEADER_BYTES
        + lists * 8
        + DELTA_INDEX_HEADER_BYTES
        + lists * (DELTA_LIST_INFO_BYTES + 1)
        + memory_bytes.next_multiple_of(ZONE_GRAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(gb: f64, sparse: bool) -> u64 {
        let memory = IndexMemory::from_gb(gb).unwrap();
        index_blocks(&IndexConfig { memory, sparse }).unwrap()
    }

    #[test]
    fn every_index_is_as_large_as_vdoformat_makes_it() {
        for (gb, sparse, expected) in [
            (0.25, false, 679_127),
            (0.5, false, 1_366_399),
            (0.75, false, 2_053_669),
            (1.0, false, 2_732_747),
            (2.0, false, 5_496_229),
            (7.0, false, 19_470_433),
            (64.0, false, 181_329_075),
            (0.25, true, 5_822_251),
            (0.5, true, 11_726_359),
            (0.75, true, 17_630_467),
            (1.0, true, 23_452_645),
            (3.0, true, 70_416_617),
            (16.0, true, 376_068_883),
        ] {
            assert_eq!(blocks(gb, sparse), expected, "{gb} GB, sparse: {sparse}");
        }
    }

    #[test]
    fn memory_sizes_nobody_offers_are_refused_with_the_offer() {
        for gb in [0.0, -1.0, 0.3, 1.5, 1025.0, f64::NAN, f64::INFINITY, 1e300] {
            let error = IndexMemory::from_gb(gb).unwrap_err().to_string();
            assert!(error.contains("take 0.25, 0.5, 0.75"), "{gb}: {error}");
        }
        for code in [1025, 0x1000, 0x1401, (-1_i32) as u32, (-1024_i32) as u32] {
            let memory = IndexMemory::from_code(code);
            let refused = Err(IndexError::UnknownMemory { code });
            assert_eq!(
                index_blocks(&IndexConfig {
                    memory,
                    sparse: false
                }),
                refused
            );
            assert_eq!(memory.megabytes(), None);
        }
    }

    #[test]
    fn a_memory_size_reads_as_a_person_would_write_it() {
        let text = |code| IndexMemory::from_code(code).to_string();
        assert_eq!(IndexMemory::MB_256.to_string(), "0.25 GB");
        assert_eq!(text((-1792_i32) as u32), "0.75 GB");
        assert_eq!(text(2), "2 GB");
        assert_eq!(text(0x1003), "3 GB");
        assert_eq!(text(0), "none");
        assert_eq!(text(99_999), "unknown (0x1869f)");
    }

    #[test]
    fn an_index_that_gave_up_a_chapter_is_one_chapter_smaller() {
        let size = |code, sparse| {
            index_blocks(&IndexConfig {
                memory: IndexMemory::from_code(code),
                sparse,
            })
            .unwrap()
        };
        for sparse in [false, true] {
            // A chapter of 64 record pages has 6 index pages; each page is eight blocks. The map of index
            // pages may shrink by a block in each of the two save slots.
            let lost = size((-256_i32) as u32, sparse) - size((-1280_i32) as u32, sparse);
            assert!(
                (70 * 8..70 * 8 + 100).contains(&lost),
                "{lost} blocks, sparse: {sparse}"
            );
        }
    }

    #[test]
    fn no_configuration_overflows() {
        for code in (0..=0x1500).chain(0xffff_f000..=u32::MAX) {
            for sparse in [false, true] {
                let config = IndexConfig {
                    memory: IndexMemory::from_code(code),
                    sparse,
                };
                if let Ok(blocks) = index_blocks(&config) {
                    assert!(blocks < super::super::MAXIMUM_PHYSICAL_BLOCKS, "{code:#x}");
                }
            }
        }
    }
}
