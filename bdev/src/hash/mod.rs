//! Record names: what a block's content is called.
//!
//! A block's name is its MurmurHash3 (x64, 128 bits) with dm-vdo's seed, so that the names here, the
//! names in a volume's index and the names the Linux kernel computes are the same. It is not a
//! cryptographic hash: an equal name is a hint that two blocks are equal, and bytes are compared
//! before one is stored as the other.
//!
//! Nothing here has state, so any thread may call any of it. The file [`murmur3`] is the hash of one
//! piece of data; [`lanes`] hashes two blocks side by side on any processor; `x86` hashes four or
//! eight in the lanes of vector registers. [`hash_blocks`] picks what was measured to be fastest for
//! as many blocks as there are, on the processor it runs on. The file [`compare`] has the other
//! questions asked of a whole block: is it all zero, is it equal to that one.

mod compare;
mod lanes;
mod murmur3;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use compare::{blocks_equal, is_zero_block};
pub use lanes::hash_lanes;
pub use murmur3::murmur3_x64_128;

use crate::types::{BLOCK_SIZE, RecordName};

/// The seed of every record name, dm-vdo's.
pub const RECORD_NAME_SEED: u32 = 0x62ea_60be;

/// A block as the hash takes it.
pub type Block = [u8; BLOCK_SIZE];

/// The record name of one block.
pub fn record_name(block: &Block) -> RecordName {
    RecordName(murmur3_x64_128(block, RECORD_NAME_SEED))
}

/// The record names of several blocks, `out[i]` that of `blocks[i]`: the same as [`record_name`] of
/// each, in less time. Any number of blocks; multiples of [`preferred_batch`] take the least.
///
/// # Panics
/// If `out` is not as long as `blocks`.
pub fn hash_blocks(blocks: &[&Block], out: &mut [RecordName]) {
    assert_eq!(blocks.len(), out.len(), "one name per block");
    #[cfg(target_arch = "x86_64")]
    x86::hash_blocks(blocks, out);
    #[cfg(not(target_arch = "x86_64"))]
    lanes::hash_blocks(blocks, out);
}

/// How many blocks at once [`hash_blocks`] does best with on this processor.
pub fn preferred_batch() -> usize {
    #[cfg(target_arch = "x86_64")]
    return x86::preferred_batch();
    #[cfg(not(target_arch = "x86_64"))]
    lanes::PREFERRED
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(name: RecordName) -> String {
        name.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Bytes that look random, the same for every program that computes them.
    fn generated() -> Block {
        let mut x = 1u64;
        std::array::from_fn(|_| {
            x = x
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (x >> 56) as u8
        })
    }

    /// Names computed by another implementation (the Python package `mmh3`).
    #[test]
    fn names_of_whole_blocks_are_those_of_another_implementation() {
        let counted: Block = std::array::from_fn(|i| i as u8);
        let numbered: Block = std::array::from_fn(|i| (i as u32 / 4).to_le_bytes()[i % 4]);
        let mut first = [0; BLOCK_SIZE];
        first[0] = 0x80;
        let mut last = [0; BLOCK_SIZE];
        last[BLOCK_SIZE - 1] = 1;
        for (block, name) in [
            ([0; BLOCK_SIZE], "81a3ec86657ee7844a63fd811c8008b7"),
            ([0xff; BLOCK_SIZE], "2cf69009d52d6d3523e969b0c066121a"),
            (counted, "e780e2dafd9f88cdac7f54d5960be94c"),
            (numbered, "0998323cbb9968ae9585ff484a42b58b"),
            (generated(), "0a24c23f10ac5ebc90c2989ca01a4dcd"),
            (first, "2cfa6817d7eeb42f98ce7862c8697b1f"),
            (last, "638ee582d063365540148762418c88f0"),
        ] {
            assert_eq!(hex(record_name(&block)), name);
        }
    }

    /// Distinct blocks, a function of the seed.
    fn blocks(seed: u64, count: usize) -> Vec<Block> {
        let mut x = seed;
        (0..count)
            .map(|_| {
                std::array::from_fn(|_| {
                    x = x
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    (x >> 56) as u8
                })
            })
            .collect()
    }

    fn check_batch(blocks: &[Block]) {
        let references: Vec<&Block> = blocks.iter().collect();
        let alone: Vec<RecordName> = blocks.iter().map(record_name).collect();
        let mut names = vec![RecordName::default(); blocks.len()];
        hash_blocks(&references, &mut names);
        assert_eq!(names, alone);
        names.fill(RecordName::default());
        lanes::hash_blocks(&references, &mut names);
        assert_eq!(names, alone);
    }

    #[test]
    fn any_number_of_blocks_at_once_is_each_block_alone() {
        // Miri takes a second for a few blocks, and nine are every way to deal them out.
        let blocks = blocks(7, if cfg!(miri) { 9 } else { 33 });
        for count in 0..=blocks.len() {
            check_batch(&blocks[..count]);
        }
    }

    #[test]
    fn any_number_of_lanes_is_each_block_alone() {
        let blocks = blocks(11, 4);
        let alone: Vec<RecordName> = blocks.iter().map(record_name).collect();
        assert_eq!(hash_lanes([&blocks[0]])[..], alone[..1]);
        assert_eq!(hash_lanes([&blocks[0], &blocks[1]])[..], alone[..2]);
        assert_eq!(
            hash_lanes([&blocks[0], &blocks[1], &blocks[2]])[..],
            alone[..3]
        );
        assert_eq!(
            hash_lanes(std::array::from_fn::<_, 4, _>(|i| &blocks[i]))[..],
            alone[..]
        );
    }

    #[test]
    #[should_panic(expected = "one name per block")]
    fn a_list_of_names_of_the_wrong_length_is_refused() {
        hash_blocks(&[&[0; BLOCK_SIZE]], &mut []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 64 }))]
        #[test]
        fn batches_of_arbitrary_blocks_are_each_block_alone(
            seed in any::<u64>(), count in 1usize..=17,
            bits in prop::collection::vec((0usize..17, 0usize..BLOCK_SIZE * 8), 0..8),
        ) {
            let mut blocks = blocks(seed, count);
            for (block, bit) in bits {
                blocks[block % count][bit / 8] ^= 1 << (bit % 8);
            }
            check_batch(&blocks);
        }
    }
}
