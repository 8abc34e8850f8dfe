//! MurmurHash3, the x64 variant with 128 bits, of one piece of data.
//!
//! Austin Appleby's public-domain hash: two 64-bit halves take turns to swallow 16 bytes at a time.
//! The round and the finish are small functions of their own, so that the versions that
//! hash several blocks at once are the same arithmetic in another order.

/// The two halves of the hash while it runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// First half.
    pub(super) h1: u64,
    /// Second half.
    pub(super) h2: u64,
}

/// Multiplies the first word before and the second word after its rotation.
pub(super) const C1: u64 = 0x87c3_7b91_1142_53d5;
/// Multiplies the first word after and the second word before its rotation.
pub(super) const C2: u64 = 0x4cf5_ad43_2745_937f;
/// Added to the first half in each round.
pub(super) const ADD1: u64 = 0x52dc_e729;
/// Added to the second half in each round.
pub(super) const ADD2: u64 = 0x3849_5ab5;

impl State {
    #[inline(always)]
    pub(super) fn new(seed: u32) -> State {
        State {
            h1: u64::from(seed),
            h2: u64::from(seed),
        }
    }

    /// Swallows 16 bytes, given as two little-endian words.
    ///
    /// The second half takes the first half's sum before its constant is added, and makes up for it
    /// in its own: one step less in the chain that every round waits for.
    #[inline(always)]
    pub(super) fn round(&mut self, k1: u64, k2: u64) {
        const BOTH: u64 = ADD1 * 5 + ADD2;
        let first = (self.h1 ^ scramble_first(k1))
            .rotate_left(27)
            .wrapping_add(self.h2);
        let five = first.wrapping_mul(5);
        self.h1 = five.wrapping_add(ADD1);
        let second = (self.h2 ^ scramble_second(k2))
            .rotate_left(31)
            .wrapping_add(five);
        self.h2 = second.wrapping_mul(5).wrapping_add(BOTH);
    }

    /// Mixes in the number of bytes hashed, lets every bit of it touch every other, and gives the
    /// sixteen bytes: both halves little-endian, the first half first.
    #[inline(always)]
    pub(super) fn finish(self, length: u64) -> [u8; 16] {
        let h1 = self.h1 ^ length;
        let h2 = self.h2 ^ length;
        let h1 = h1.wrapping_add(h2);
        let h2 = h2.wrapping_add(h1);
        let h1 = avalanche(h1);
        let h2 = avalanche(h2);
        let h1 = h1.wrapping_add(h2);
        let h2 = h2.wrapping_add(h1);
        (u128::from(h1) | u128::from(h2) << 64).to_le_bytes()
    }
}

#[inline(always)]
fn scramble_first(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

#[inline(always)]
fn scramble_second(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

#[inline(always)]
fn avalanche(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ k >> 33
}

/// The two little-endian words of 16 bytes.
#[inline(always)]
pub(super) fn words(bytes: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*bytes);
    (both as u64, (both >> 64) as u64)
}

/// The MurmurHash3 x64 128 of `data`, as the sixteen bytes dm-vdo stores.
#[inline]
pub fn murmur3_x64_128(data: &[u8], seed: u32) -> [u8; 16] {
    let mut state = State::new(seed);
    // Four rounds for each turn of the loop: a tenth fewer instructions.
    let (lines, rest) = data.as_chunks::<64>();
    for line in lines {
        for piece in line.as_chunks::<16>().0 {
            let (k1, k2) = words(piece);
            state.round(k1, k2);
        }
    }
    let (pieces, tail) = rest.as_chunks::<16>();
    for piece in pieces {
        let (k1, k2) = words(piece);
        state.round(k1, k2);
    }
    if !tail.is_empty() {
        // The last bytes are scrambled and mixed in, but do not turn the halves.
        let mut last = [0; 16];
        last[..tail.len()].copy_from_slice(tail);
        let (k1, k2) = words(&last);
        state.h1 ^= scramble_first(k1);
        state.h2 ^= scramble_second(k2);
    }
    state.finish(data.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::RECORD_NAME_SEED;

    fn hex(bytes: [u8; 16]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const DOG: &[u8] = b"The quick brown fox jumps over the lazy dog";
    const COG: &[u8] = b"The quick brown fox jumps over the lazy cog";

    #[test]
    fn agrees_with_the_published_vectors_without_a_seed() {
        assert_eq!(
            hex(murmur3_x64_128(DOG, 0)),
            "6c1b07bc7bbc4be347939ac4a93c437a"
        );
        assert_eq!(
            hex(murmur3_x64_128(COG, 0)),
            "9a2685ff70a98c653e5c8ea6eae3fe43"
        );
        assert_eq!(
            hex(murmur3_x64_128(b"", 0)),
            "00000000000000000000000000000000"
        );
    }

    #[test]
    fn agrees_with_dm_vdo_on_its_seed_and_byte_order() {
        assert_eq!(
            hex(murmur3_x64_128(DOG, RECORD_NAME_SEED)),
            "43796d74e3938645c389397e23fcfd54"
        );
        assert_eq!(
            hex(murmur3_x64_128(COG, RECORD_NAME_SEED)),
            "2d323c15216c39fb3679fc8d073ccda6"
        );
    }

    /// SMHasher's own check of an implementation: hash every prefix of 0, 1, 2... with a seed that
    /// falls, then hash the hashes. It covers every length of tail.
    #[test]
    fn passes_the_verification_of_smhasher() {
        let key: Vec<u8> = (0..=255).collect();
        let hashes: Vec<u8> = (0..256)
            .flat_map(|n| murmur3_x64_128(&key[..n], 256 - n as u32))
            .collect();
        let last = murmur3_x64_128(&hashes, 0);
        assert_eq!(last[..4], 0x6384_ba69_u32.to_le_bytes());
    }
}
