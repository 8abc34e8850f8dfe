//! The deduplication index on disk, as dm-vdo's UDS lays it out in the volume's index region.
//!
//! ```text
//!   header  config  | volume: page 0, chapter 0, chapter 1, ...  |  save 0  |  save 1  |  seal
//!      1       1                                                                            1      blocks
//! ```
//!
//! An index is a ring of *chapters*, each as many records as fit its *record pages* and, before them, the *index pages* that
//! say on which record page a name is. Chapters have numbers that only grow (*virtual* chapters); each overwrites the one that
//! was in its place a whole ring ago. What is in memory while the index is in use (the *volume index*, which says in which
//! chapter a name is; the *index page map*; the *open chapter*, which is not full yet) is written to one of two *saves* when the
//! index is closed.
//!
//! - [`geometry`]: how large everything is, from two choices; [`names`]: where a name belongs.
//! - [`regions`], [`super_block`], [`config`], [`save`]: the blocks that say what is where, and [`nonce`], what ties them together.
//! - [`delta_list`]: the bit stream in which names are kept, small; [`bits`]: the bits it is made of.
//! - [`chapter_page`], [`record_page`]: the two kinds of page of a chapter.
//! - [`page_map`], [`open_chapter`], [`volume_index`]: the three parts of a save.
//!
//! Like all of [`crate::format`] this does no I/O. Bytes of any kind are decoded or refused.

pub mod bits;
pub mod chapter_page;
pub mod config;
pub mod delta_list;
pub mod geometry;
pub mod names;
pub mod nonce;
pub mod open_chapter;
pub mod page_map;
pub mod record_page;
pub mod regions;
pub mod save;
pub mod super_block;
pub mod volume_index;

pub use geometry::{IndexGeometry, SubIndexGeometry};
pub use record_page::IndexRecord;

/// The most zones an index is cut into.
pub const MAXIMUM_ZONES: u8 = 16;
