//! Compressed blocks: up to 14 fragments, each one logical block squeezed, in one physical block.
//!
//! ```text
//!   bytes 0-7    version, 1.0
//!   bytes 8-35   the length of each of 14 fragments, 16 bits each; zero past the last
//!   bytes 36-    the fragments, one behind the other
//! ```
//!
//! The state of a block-map entry says which fragment is meant: 2 is the first, 15 the fourteenth.

use std::ops::Range;

use super::codec::{Version, le16, le32, put16, put32};
use super::error::DecodeError;
use crate::types::{BLOCK_SIZE, MappingState};

/// Fragments a block can hold.
pub const MAXIMUM_FRAGMENTS: usize = 14;

/// Bytes of a block that are left for fragments.
pub const DATA_SIZE: usize = BLOCK_SIZE - HEADER;

/// The longest fragment worth packing: two must fit in a block.
pub const MAXIMUM_FRAGMENT_SIZE: usize = DATA_SIZE - 1;

const VERSION: Version = Version::new(1, 0);
const SIZES: usize = 8;
const HEADER: usize = SIZES + 2 * MAXIMUM_FRAGMENTS;
const WHAT: &str = "a compressed block";

/// Begins an empty compressed block.
pub fn begin(block: &mut [u8; BLOCK_SIZE]) {
    block[..HEADER].fill(0);
    put32(block, 0, VERSION.major);
    put32(block, 4, VERSION.minor);
}

/// Puts a fragment in `slot` (0 to 13), `offset` bytes behind the header; returns the offset behind it,
/// or `None` if it does not fit.
pub fn put_fragment(
    block: &mut [u8; BLOCK_SIZE],
    slot: usize,
    offset: usize,
    fragment: &[u8],
) -> Option<usize> {
    let end = offset
        .checked_add(fragment.len())
        .filter(|&end| end <= DATA_SIZE)?;
    if slot >= MAXIMUM_FRAGMENTS {
        return None;
    }
    put16(block, SIZES + 2 * slot, fragment.len() as u16);
    block[HEADER + offset..HEADER + end].copy_from_slice(fragment);
    Some(end)
}

/// The mapping state that means the fragment in `slot` (0 to 13).
pub fn state_of_slot(slot: usize) -> Option<MappingState> {
    let bits = u8::try_from(slot)
        .ok()?
        .checked_add(MappingState::COMPRESSED_BASE.bits())?;
    MappingState::from_bits(bits)
}

/// Where in the block the fragment of a mapping state is.
///
/// # Errors
/// When the block is no compressed block, or its lengths lead out of it, or the state is not one of a
/// fragment.
pub fn fragment(
    block: &[u8; BLOCK_SIZE],
    state: MappingState,
) -> Result<Range<usize>, DecodeError> {
    let Some(slot) = state
        .bits()
        .checked_sub(MappingState::COMPRESSED_BASE.bits())
    else {
        let (field, found) = ("the mapping state", state.bits().into());
        return Err(DecodeError::Field {
            what: WHAT,
            field,
            found,
            why: "it names no fragment",
        });
    };
    let found = Version::new(le32(block, 0), le32(block, 4));
    if found != VERSION {
        let known = VERSION.to_string();
        return Err(DecodeError::UnknownVersion {
            what: WHAT,
            found,
            known,
        });
    }
    let size = |slot: usize| usize::from(le16(block, SIZES + 2 * slot));
    let slot = usize::from(slot);
    let start: usize = (0..slot).map(size).sum();
    let end = start + size(slot);
    if end > DATA_SIZE || start >= DATA_SIZE {
        let why = "the fragments do not fit the block";
        let (field, found) = ("the end of a fragment", end as u64);
        return Err(DecodeError::Field {
            what: WHAT,
            field,
            found,
            why,
        });
    }
    Ok(HEADER + start..HEADER + end)
}
