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

/// Where fragments are put, one right behind the other, before [`finish`] says how long each of them is.
pub fn data_mut(block: &mut [u8; BLOCK_SIZE]) -> &mut [u8] {
    &mut block[HEADER..]
}

/// Makes a compressed block of the fragments that were put into it: writes its header, and zeroes what lies behind them.
/// `sizes` are their lengths in bytes, zero for slots that are not used.
pub fn finish(block: &mut [u8; BLOCK_SIZE], sizes: &[u16; MAXIMUM_FRAGMENTS]) {
    put32(block, 0, VERSION.major);
    put32(block, 4, VERSION.minor);
    let mut end = HEADER;
    for (slot, size) in sizes.iter().enumerate() {
        put16(block, SIZES + 2 * slot, *size);
        end += usize::from(*size);
    }
    block[end..].fill(0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_header_is_laid_out_as_dm_vdo_lays_it_out() {
        let mut block = [0xee; BLOCK_SIZE];
        data_mut(&mut block)[..5].copy_from_slice(b"abcde");
        let mut sizes = [0; MAXIMUM_FRAGMENTS];
        (sizes[0], sizes[13]) = (3, 2);
        finish(&mut block, &sizes);
        assert_eq!(block[..12], [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(block[34..41], [2, 0, b'a', b'b', b'c', b'd', b'e']);
        assert!(block[41..].iter().all(|byte| *byte == 0));
        assert_eq!(fragment(&block, MappingState::MAX), Ok(39..41));
        assert_eq!(state_of_slot(13), Some(MappingState::MAX));
        assert_eq!(state_of_slot(14), None);
    }

    #[test]
    fn lengths_that_lead_out_of_the_block_are_refused() {
        let mut block = [0; BLOCK_SIZE];
        assert!(matches!(
            fragment(&block, MappingState::COMPRESSED_BASE),
            Err(DecodeError::UnknownVersion { .. })
        ));
        finish(&mut block, &[0; MAXIMUM_FRAGMENTS]);
        put16(&mut block, SIZES, DATA_SIZE as u16);
        assert!(fragment(&block, MappingState::COMPRESSED_BASE).is_ok());
        assert!(
            fragment(&block, state_of_slot(1).unwrap()).is_err(),
            "begins at the block's end"
        );
        put16(&mut block, SIZES, DATA_SIZE as u16 + 1);
        assert!(fragment(&block, MappingState::COMPRESSED_BASE).is_err());
        assert!(fragment(&block, MappingState::UNCOMPRESSED).is_err());
    }

    proptest! {
        #[test]
        fn fragments_are_found_where_they_were_put(
            fragments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..290), 1..=14),
        ) {
            let mut block = [0xee; BLOCK_SIZE];
            let mut sizes = [0; MAXIMUM_FRAGMENTS];
            let mut end = 0;
            for (bytes, size) in fragments.iter().zip(&mut sizes) {
                data_mut(&mut block)[end..][..bytes.len()].copy_from_slice(bytes);
                end += bytes.len();
                *size = bytes.len() as u16;
            }
            finish(&mut block, &sizes);
            for (slot, bytes) in fragments.iter().enumerate() {
                let place = fragment(&block, state_of_slot(slot).unwrap()).unwrap();
                prop_assert_eq!(&block[place], &bytes[..]);
            }
        }

        #[test]
        fn a_fragment_never_leads_out_of_the_block(sizes: [u16; 14], state in 2u8..=15) {
            let mut block = [0; BLOCK_SIZE];
            finish(&mut block, &[0; MAXIMUM_FRAGMENTS]);
            for (slot, size) in sizes.into_iter().enumerate() {
                put16(&mut block, SIZES + 2 * slot, size);
            }
            if let Ok(place) = fragment(&block, MappingState::from_bits(state).unwrap()) {
                prop_assert!(place.start >= HEADER && place.end <= BLOCK_SIZE);
            }
        }
    }
}
