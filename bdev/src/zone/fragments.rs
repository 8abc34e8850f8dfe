//! Blocks whose data is a fragment of a compressed block.

use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::compressed_block::fragment;
use crate::lz4;
use crate::types::{BLOCK_SIZE, Mapping};

/// Makes of `block`, read from where `mapping` says, the data that is mapped there.
///
/// # Errors
/// [`VdoError::BadFragment`] when that cannot be had from the compressed block.
#[inline]
pub fn unpack(block: &mut Buffer, mapping: Mapping) -> Result<(), VdoError> {
    match mapping.state.is_compressed() {
        true => unpack_fragment(block, mapping),
        false => Ok(()),
    }
}

fn unpack_fragment(block: &mut Buffer, mapping: Mapping) -> Result<(), VdoError> {
    let bad = |why: String| VdoError::BadFragment {
        pbn: mapping.pbn,
        why,
    };
    let packed = block.first_block();
    let range = fragment(packed, mapping.state).map_err(|error| bad(error.to_string()))?;
    let mut data = [0; BLOCK_SIZE];
    match lz4::decompress(&packed[range], &mut data) {
        Ok(BLOCK_SIZE) => {
            block[..BLOCK_SIZE].copy_from_slice(&data);
            Ok(())
        }
        Ok(size) => Err(bad(format!(
            "its fragment unpacks to {size} bytes, not {BLOCK_SIZE}"
        ))),
        Err(error) => Err(bad(error.to_string())),
    }
}
