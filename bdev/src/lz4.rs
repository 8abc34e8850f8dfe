//! LZ4 in its block format, in which dm-vdo keeps compressed data.
//!
//! The crate is the one in Rust without unsafe code: on real files it is as good as the C library, which dm-vdo uses, and nearly as
//! fast (`make bench` measures it).

use lz4_flex::block::{DecompressError, compress_into, decompress_into, get_maximum_output_size};

use crate::format::compressed_block::MAXIMUM_FRAGMENT_SIZE;
use crate::types::BLOCK_SIZE;

/// Room for a block that became longer by being compressed.
const ROOM: usize = BLOCK_SIZE + BLOCK_SIZE / 8;

/// Compresses one block at a time.
#[derive(Debug)]
pub struct Compressor(Box<[u8; ROOM]>);

impl Default for Compressor {
    fn default() -> Compressor {
        const { assert!(get_maximum_output_size(BLOCK_SIZE) <= ROOM) };
        Compressor(Box::new([0; ROOM]))
    }
}

impl Compressor {
    /// The data of a block as a fragment, if that can share a block with another.
    pub fn compress(&mut self, block: &[u8; BLOCK_SIZE]) -> Option<&[u8]> {
        let size = compress_into(block, &mut self.0[..]).ok()?;
        (size <= MAXIMUM_FRAGMENT_SIZE).then(|| &self.0[..size])
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// Makes a block of a fragment again; returns how many bytes there were.
///
/// # Errors
/// When it is no LZ4, or of more than a block.
pub fn decompress(fragment: &[u8], block: &mut [u8; BLOCK_SIZE]) -> Result<usize, DecompressError> {
    decompress_into(fragment, block)
}
