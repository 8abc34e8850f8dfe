//! LZ4 in its block format, in which dm-vdo keeps compressed data.
//!
//! The crate is the one in Rust without unsafe code: on real files it is as good as the C library, which dm-vdo uses, and nearly as
//! fast (`make bench` measures it).

use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into,
    get_maximum_output_size,
};

use crate::format::compressed_block::MAXIMUM_FRAGMENT_SIZE;
use crate::types::BLOCK_SIZE;

/// Room for a block that became longer by being compressed.
const ROOM: usize = BLOCK_SIZE + BLOCK_SIZE / 8;

/// Bytes of the table of what a block has held so far: 4096 places.
const TABLE: usize = 4096 * size_of::<u16>();

/// Compresses one block at a time.
pub struct Compressor {
    room: Box<[u8; ROOM]>,
    table: CompressTable,
}

impl Default for Compressor {
    fn default() -> Compressor {
        const { assert!(get_maximum_output_size(BLOCK_SIZE) <= ROOM) };
        Compressor {
            room: Box::new([0; ROOM]),
            table: CompressTable::small(),
        }
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    /// The data of a block as a fragment, if that can share a block with another.
    pub fn compress(&mut self, block: &[u8; BLOCK_SIZE]) -> Option<&[u8]> {
        let size = compress_into_with_table(block, &mut self.room[..], &mut self.table).ok()?;
        (size <= MAXIMUM_FRAGMENT_SIZE).then(|| &self.room[..size])
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        ROOM + TABLE
    }
}

/// Makes a block of a fragment again; returns how many bytes there were.
///
/// # Errors
/// When it is no LZ4, or of more than a block.
pub fn decompress(fragment: &[u8], block: &mut [u8; BLOCK_SIZE]) -> Result<usize, DecompressError> {
    decompress_into(fragment, block)
}
