//! Several blocks at once on any processor.
//!
//! One block's hash is a chain: each round waits for the one before, and most of the processor
//! waits with it. Two or three blocks side by side are as many independent chains, and their rounds
//! fill each other's gaps. More than that run out of registers.

use super::murmur3::{State, words};
use super::{Block, RECORD_NAME_SEED, record_name};
use crate::types::{BLOCK_SIZE, RecordName};

/// As many lanes as pay on a processor without wide vectors.
pub(super) const PREFERRED: usize = 2;

/// The record names of `LANES` blocks, hashed side by side.
#[inline]
pub fn hash_lanes<const LANES: usize>(blocks: [&Block; LANES]) -> [RecordName; LANES] {
    let mut states = [State::new(RECORD_NAME_SEED); LANES];
    const ROUNDS: usize = BLOCK_SIZE / 16;
    let pieces: [&[[u8; 16]; ROUNDS]; LANES] = blocks.map(|block| {
        block
            .as_chunks()
            .0
            .try_into()
            .expect("a block is that many pieces")
    });
    for round in 0..ROUNDS {
        for (state, pieces) in states.iter_mut().zip(&pieces) {
            let (k1, k2) = words(&pieces[round]);
            state.round(k1, k2);
        }
    }
    states.map(|state| RecordName(state.finish(BLOCK_SIZE as u64)))
}

/// The record names of any number of blocks, two at a time. `out` is as long as `blocks`.
pub(super) fn hash_blocks(blocks: &[&Block], out: &mut [RecordName]) {
    let (pairs, rest) = blocks.as_chunks::<PREFERRED>();
    let (out_pairs, out_rest) = out.as_chunks_mut::<PREFERRED>();
    for (pair, out) in pairs.iter().zip(out_pairs) {
        *out = hash_lanes(*pair);
    }
    for (block, out) in rest.iter().zip(out_rest) {
        *out = record_name(block);
    }
}
