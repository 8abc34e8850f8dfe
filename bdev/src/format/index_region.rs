//! What a person chooses of the index, how much memory it may use and whether it is sparse, and how large its region is for that,
//! so that the data region begins where dm-vdo expects it.
//!
//! The region holds the index as [`super::index`] describes it, whose [`IndexGeometry`] has the arithmetic.

use std::fmt;

use thiserror::Error;

use super::index::geometry::{IndexGeometry, PAGE_BYTES};
use crate::types::BLOCK_SIZE;

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
    /// One gigabyte.
    pub const GB_1: IndexMemory = IndexMemory(1);
    /// Next to nothing: an index of some thousand names. No volume of dm-vdo has it; those of tests have, to be small.
    pub const MINIATURE: IndexMemory = IndexMemory(0);

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
                page_bytes: PAGE_BYTES,
                reduced,
            })
        };
        let large = |gb: u32, reduced| {
            let (memory_mb, chapters) = (gb * 1024, gb * CHAPTERS);
            Some(Shape {
                memory_mb,
                chapters,
                record_pages: LARGE_RECORD_PAGES,
                page_bytes: PAGE_BYTES,
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
            0 => Some(Shape {
                memory_mb: 1,
                chapters: MINIATURE_CHAPTERS,
                record_pages: 2,
                page_bytes: BLOCK_SIZE as u32,
                reduced: false,
            }),
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
            _ if *self == IndexMemory::MINIATURE => f.write_str("miniature"),
            Some(megabytes) if megabytes % 1024 == 0 => write!(f, "{} GB", megabytes / 1024),
            Some(megabytes) => write!(f, "{} GB", megabytes as f64 / 1024.0),
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

const CHAPTERS: u32 = 1024;
const SMALL_RECORD_PAGES: u32 = 64;
const LARGE_RECORD_PAGES: u32 = 256;
const MINIATURE_CHAPTERS: u32 = 8;

/// What a memory size stands for.
#[derive(Clone, Copy)]
struct Shape {
    memory_mb: u32,
    /// Chapters of a dense, unreduced index.
    chapters: u32,
    /// Record pages in a chapter.
    record_pages: u32,
    page_bytes: u32,
    /// Whether one chapter was given up.
    reduced: bool,
}

impl IndexConfig {
    /// The sizes of the index.
    ///
    /// # Errors
    /// A memory size that is none, or an index that can not be built.
    pub fn geometry(&self) -> Result<IndexGeometry, IndexError> {
        let Some(shape) = self.memory.shape() else {
            return Err(IndexError::UnknownMemory {
                code: self.memory.code(),
            });
        };
        let base = shape.chapters;
        let (whole, sparse_chapters) = if self.sparse {
            (base * 10, 19 * base / 2)
        } else {
            (base, 0)
        };
        let geometry = IndexGeometry::new(
            shape.page_bytes,
            shape.record_pages,
            whole - u32::from(shape.reduced),
            sparse_chapters,
            shape.reduced,
        );
        let parts = [Some(geometry.dense_part()), geometry.sampled_part()];
        for part in parts.into_iter().flatten() {
            if u32::try_from(part.lists).is_err() {
                return Err(IndexError::TooManyLists {
                    memory: self.memory,
                    lists: part.lists,
                });
            }
        }
        Ok(geometry)
    }
}

/// Blocks of 4096 bytes the index region takes.
///
/// # Errors
/// A memory size that is none, or an index that can not be built.
pub fn index_blocks(config: &IndexConfig) -> Result<u64, IndexError> {
    Ok(config.geometry()?.region_blocks())
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
        assert_eq!(text(0), "miniature");
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
