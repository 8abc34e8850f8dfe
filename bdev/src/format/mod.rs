//! The dm-vdo on-disk format: the only place that knows a byte offset.
//!
//! Nothing here does I/O, keeps state or knows a thread. There are three kinds of thing:
//!
//! - *structures* that are read once and written now and then, decoded into plain structs and encoded
//!   back to the same bytes: [`geometry`], [`super_block`] with its [`components`] and [`layout`],
//!   [`slab_summary`];
//! - *views* over a 4096-byte buffer that the engine edits in place while it runs:
//!   [`block_map_page`], [`recovery_journal`], [`slab_journal`], [`reference_block`],
//!   [`compressed_block`];
//! - *arithmetic*: where a physical block lies in the depot ([`slab`]), which tree pages map a
//!   logical block ([`tree`]), how large the index is ([`index_region`]); and the [`mod@index`] itself, which has a folder of its own.
//!
//! On top of them stand [`plan`], which says what to write to make a new volume, [`open`], which
//! says what a device holds and whether it may be opened, and [`growth`], which says what a larger one looks like. All numbers on disk are little-endian.
//! `docs/format.md` describes the same in words and drawings.

pub mod block_map_page;
mod codec;
pub mod components;
pub mod compressed_block;
pub mod error;
pub mod geometry;
pub mod growth;
pub mod identify;
pub mod index;
pub mod index_region;
pub mod layout;
pub mod open;
pub mod plan;
pub mod recovery_journal;
pub mod reference_block;
pub mod slab;
pub mod slab_journal;
pub mod slab_summary;
pub mod super_block;
pub mod tree;

pub use codec::Version;
pub use error::DecodeError;
pub use growth::{Growth, GrowthError};
pub use layout::Extent;
pub use open::{OpenError, Volume, VolumeLayout};
pub use plan::{FormatError, FormatOptions, FormatPlan};

use crate::types::BLOCK_SIZE;

/// Bytes a device writes all or nothing of; metadata that must not be torn fits in one.
pub const SECTOR_SIZE: usize = 512;

/// Sectors in a block.
pub const SECTORS_PER_BLOCK: usize = BLOCK_SIZE / SECTOR_SIZE;

/// The largest base device a volume can use, in blocks: 256 TiB.
pub const MAXIMUM_PHYSICAL_BLOCKS: u64 = 1 << 36;

/// The largest size a volume can present, in blocks: 4 PiB.
pub const MAXIMUM_LOGICAL_BLOCKS: u64 = 1 << 40;

/// One block of bytes.
pub type Block = [u8; BLOCK_SIZE];
