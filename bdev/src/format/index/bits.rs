//! Fields of bits at any bit of a slice of bytes, lowest bit of the lowest byte first.
//!
//! A place is counted in bits from the slice's start. Places past the end read as zeroes, so that a decoder that runs off the end
//! of damaged bytes finds something it refuses. Nothing is written past the end.

/// The longest field that [`get`] and [`set`] take, in bits.
pub const LONGEST_FIELD: u32 = 56;

/// Eight bytes from `at` on, as a number; those past the end are zero.
#[inline]
pub fn load64(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|bytes| bytes.first_chunk::<8>()) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => load_last(bytes, at),
    }
}

#[cold]
fn load_last(bytes: &[u8], at: usize) -> u64 {
    let mut chunk = [0; 8];
    if let Some(rest) = bytes.get(at..) {
        chunk[..rest.len()].copy_from_slice(rest);
    }
    u64::from_le_bytes(chunk)
}

/// The `count` bits at `bit`, at most [`LONGEST_FIELD`].
#[inline]
pub fn get(bytes: &[u8], bit: u64, count: u32) -> u64 {
    debug_assert!(count <= LONGEST_FIELD);
    (load64(bytes, (bit / 8) as usize) >> (bit % 8)) & ((1 << count) - 1)
}

/// Puts the low `count` bits of `value` at `bit`, and leaves all others as they are.
#[inline]
pub fn set(bytes: &mut [u8], bit: u64, count: u32, value: u64) {
    debug_assert!(count <= LONGEST_FIELD);
    let (at, shift) = ((bit / 8) as usize, bit % 8);
    let mask = ((1 << count) - 1) << shift;
    let word = load64(bytes, at) & !mask | (value << shift) & mask;
    let word = word.to_le_bytes();
    match bytes
        .get_mut(at..)
        .and_then(|bytes| bytes.first_chunk_mut::<8>())
    {
        Some(chunk) => *chunk = word,
        None => {
            if let Some(rest) = bytes.get_mut(at..) {
                let count = rest.len();
                rest.copy_from_slice(&word[..count]);
            }
        }
    }
}

/// The 64 bits at `bit`.
#[inline]
fn get64(bytes: &[u8], bit: u64) -> u64 {
    let (at, shift) = ((bit / 8) as usize, (bit % 8) as u32);
    let low = load64(bytes, at) >> shift;
    if shift == 0 {
        return low;
    }
    let high = bytes.get(at + 8).copied().unwrap_or(0);
    low | u64::from(high) << (64 - shift)
}

/// Copies `count` bits from one slice to another.
pub fn copy(from: &[u8], from_bit: u64, to: &mut [u8], to_bit: u64, count: u64) {
    let mut done = 0;
    let step = |done: u64, left: u64| {
        // The first step brings the target to a whole byte.
        let to_byte = (8 - (to_bit + done) % 8) % 8;
        if to_byte > 0 {
            to_byte.min(left)
        } else {
            left.min(64)
        }
    };
    while done < count {
        let bits = step(done, count - done);
        let field = get64(from, from_bit + done);
        put_field(to, to_bit + done, bits, field);
        done += bits;
    }
}

/// Moves `count` bits to another place of the same slice; the two may overlap.
pub fn shift(bytes: &mut [u8], from_bit: u64, to_bit: u64, count: u64) {
    if to_bit < from_bit {
        let mut done = 0;
        while done < count {
            let left = count - done;
            let to_byte = (8 - (to_bit + done) % 8) % 8;
            let bits = if to_byte > 0 {
                to_byte.min(left)
            } else {
                left.min(64)
            };
            let field = get64(bytes, from_bit + done);
            put_field(bytes, to_bit + done, bits, field);
            done += bits;
        }
    } else if to_bit > from_bit {
        let mut left = count;
        while left > 0 {
            let over = (to_bit + left) % 8;
            let bits = if over > 0 {
                over.min(left)
            } else {
                left.min(64)
            };
            left -= bits;
            let field = get64(bytes, from_bit + left);
            put_field(bytes, to_bit + left, bits, field);
        }
    }
}

/// Puts up to 64 bits at a place that is a whole byte if they are more than [`LONGEST_FIELD`].
#[inline]
fn put_field(bytes: &mut [u8], bit: u64, count: u64, field: u64) {
    if count == 64 && bit.is_multiple_of(8) {
        let at = (bit / 8) as usize;
        if let Some(chunk) = bytes
            .get_mut(at..)
            .and_then(|bytes| bytes.first_chunk_mut::<8>())
        {
            *chunk = field.to_le_bytes();
            return;
        }
    }
    let low = count.min(32) as u32;
    set(bytes, bit, low, field);
    if count > 32 {
        set(bytes, bit + 32, (count - 32) as u32, field >> 32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bit(bytes: &[u8], at: usize) -> bool {
        bytes[at / 8] >> (at % 8) & 1 == 1
    }

    proptest! {
        #[test]
        fn a_field_comes_back_and_its_neighbours_stay(
            mut bytes in prop::collection::vec(any::<u8>(), 1..40), at: u16, count in 0_u32..=56, value: u64,
        ) {
            let bits = bytes.len() as u64 * 8;
            let at = u64::from(at) % bits;
            let count = count.min((bits - at) as u32);
            let before = bytes.clone();
            set(&mut bytes, at, count, value);
            prop_assert_eq!(get(&bytes, at, count), value & ((1 << count) - 1));
            for other in (0..bits).filter(|bit| !(at..at + u64::from(count)).contains(bit)) {
                prop_assert_eq!(bit(&bytes, other as usize), bit(&before, other as usize));
            }
        }

        #[test]
        fn moving_is_reading_all_and_then_writing_all(
            bytes in prop::collection::vec(any::<u8>(), 1..80), from: u16, to: u16, count: u16,
        ) {
            let bits = bytes.len() as u64 * 8;
            let (from, to) = (u64::from(from) % bits, u64::from(to) % bits);
            let count = u64::from(count) % (bits - from.max(to) + 1);
            let expected: Vec<bool> = (0..bits)
                .map(|at| {
                    let source = if (to..to + count).contains(&at) { at - to + from } else { at };
                    bit(&bytes, source as usize)
                })
                .collect();
            let mut moved = bytes.clone();
            shift(&mut moved, from, to, count);
            let mut copied = bytes.clone();
            copy(&bytes, from, &mut copied, to, count);
            for (at, expected) in expected.into_iter().enumerate() {
                prop_assert_eq!(bit(&moved, at), expected, "moved, bit {}", at);
                prop_assert_eq!(bit(&copied, at), expected, "copied, bit {}", at);
            }
        }

        #[test]
        fn past_the_end_there_are_zeroes(bytes in prop::collection::vec(any::<u8>(), 0..12), at in 0_usize..40) {
            for offset in 0..8 {
                let byte = (load64(&bytes, at) >> (8 * offset)) as u8;
                prop_assert_eq!(byte, bytes.get(at + offset).copied().unwrap_or(0));
            }
        }
    }
}
