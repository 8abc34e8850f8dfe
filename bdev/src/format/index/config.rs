//! The second block of an index: its configuration, which must be the volume's, and the volume's nonce.
//!
//! ```text
//!   "ALBIC"  "06.02"  record pages  chapters  sparse chapters  7  0  4096  page bytes  sample rate  volume's nonce
//!      5        5          4           4            4          4  4   4        4           4              8
//! ```
//!
//! That nonce is all that ties an index to its volume.

use super::super::codec::{Reader, Writer};
use super::geometry::{IndexGeometry, SAMPLE_RATE, VOLUME_MEAN_DELTA};
use super::regions::check_magic;
use crate::format::Block;
use crate::format::error::DecodeError;
use crate::types::BLOCK_SIZE;

const WHAT: &str = "the index's configuration";
const MAGIC: [u8; 5] = *b"ALBIC";
const VERSION: [u8; 5] = *b"06.02";

/// Chapters whose pages fit into the page cache; written, and of no other meaning.
pub const CACHE_CHAPTERS: u32 = 7;

fn numbers(geometry: &IndexGeometry) -> [(&'static str, u32); 8] {
    let sample_rate = if geometry.is_sparse() { SAMPLE_RATE } else { 0 };
    [
        ("record pages in a chapter", geometry.record_pages),
        ("chapters", geometry.chapters),
        ("sparse chapters", geometry.sparse_chapters),
        ("chapters in the cache", CACHE_CHAPTERS),
        ("", 0),
        ("mean delta", VOLUME_MEAN_DELTA),
        ("bytes of a page", geometry.page_bytes),
        ("sample rate", sample_rate),
    ]
}

/// The block for an index of a volume with this nonce.
pub fn encode(geometry: &IndexGeometry, nonce: u64) -> Block {
    let mut block = [0; BLOCK_SIZE];
    let mut writer = Writer::new(&mut block);
    writer.bytes(&MAGIC);
    writer.bytes(&VERSION);
    for (_, number) in numbers(geometry) {
        writer.u32(number);
    }
    writer.u64(nonce);
    block
}

/// Whether a block is the configuration of an index of this geometry, of a volume with this nonce.
///
/// # Errors
/// What is different.
pub fn check(block: &Block, geometry: &IndexGeometry, nonce: u64) -> Result<(), DecodeError> {
    let mut reader = Reader::new(WHAT, block);
    check_magic(WHAT, block, &MAGIC)?;
    check_magic(WHAT, &block[MAGIC.len()..], &VERSION)?;
    reader.array::<{ MAGIC.len() + VERSION.len() }>()?;
    let differs = |field, found| DecodeError::Field {
        what: WHAT,
        field,
        found,
        why: "the volume's index has another",
    };
    for (field, expected) in numbers(geometry) {
        let found = reader.u32()?;
        if found != expected && !field.is_empty() {
            return Err(differs(field, found.into()));
        }
    }
    match reader.u64()? {
        found if found == nonce => Ok(()),
        found => Err(differs("volume's nonce", found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_fits_its_volume_only() {
        let dense = IndexGeometry::new(4096, 2, 8, 0, false);
        let block = encode(&dense, 77);
        assert_eq!(check(&block, &dense, 77), Ok(()));
        let text = |geometry: &IndexGeometry, nonce| {
            check(&block, geometry, nonce)
                .expect_err("another")
                .to_string()
        };
        assert!(text(&dense, 78).contains("nonce"));
        let larger = IndexGeometry::new(4096, 2, 80, 76, false);
        assert!(text(&larger, 77).contains("chapters"));
        assert!(check(&[0; BLOCK_SIZE], &dense, 0).is_err());
        let mut newer = block;
        newer[6] = b'8';
        assert!(check(&newer, &dense, 77).is_err());
    }
}
