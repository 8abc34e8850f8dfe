//! Several blocks at once in the vector registers of x86-64 processors.
//!
//! A round is the same arithmetic as for one block, on vectors with a 64-bit lane for each block.
//! What costs besides is bringing the words of several blocks together: a register is loaded with
//! as much of each block as it holds, and as many registers as there are lanes are transposed, so
//! that register *i* holds word *i* of every block.
//!
//! AVX-512 multiplies 64-bit lanes, with eight or four blocks in a register. AVX2 has to put such a
//! product together from three smaller ones and gains less. What the processor has is asked once and
//! remembered by the standard library.

/// One round on vectors: two words of each block into the two halves. The file that uses it has
/// the operations of its registers.
macro_rules! round {
    ($h1:ident, $h2:ident, $k1:expr, $k2:expr) => {
        $h1 = xor($h1, multiply(rotate::<31, 33>(multiply($k1, C1)), C2));
        $h1 = add(rotate::<27, 37>($h1), $h2);
        $h1 = add(times_four($h1), add($h1, same(ADD1)));
        $h2 = xor($h2, multiply(rotate::<33, 31>(multiply($k2, C2)), C1));
        $h2 = add(rotate::<31, 33>($h2), $h1);
        $h2 = add(times_four($h2), add($h2, same(ADD2)));
    };
}

mod avx2;
mod avx512;

use super::murmur3::State;
use super::{Block, lanes, record_name};
use crate::types::{BLOCK_SIZE, RecordName};

/// What this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vectors {
    Avx512,
    Avx2,
    None,
}

#[inline]
fn vectors() -> Vectors {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        Vectors::Avx512
    } else if is_x86_feature_detected!("avx2") {
        Vectors::Avx2
    } else {
        Vectors::None
    }
}

/// The batch size that takes the least time for each block.
pub(super) fn preferred_batch() -> usize {
    match vectors() {
        Vectors::Avx512 => 8,
        Vectors::Avx2 => 4,
        Vectors::None => lanes::PREFERRED,
    }
}

/// The record names of any number of blocks. `out` is as long as `blocks`.
pub(super) fn hash_blocks(blocks: &[&Block], out: &mut [RecordName]) {
    hash_with(vectors(), blocks, out);
}

fn hash_with(vectors: Vectors, mut blocks: &[&Block], mut out: &mut [RecordName]) {
    while !blocks.is_empty() {
        // As many as go together; a vector with idle lanes costs as much as a full one.
        let taken = match (vectors, blocks.len()) {
            (Vectors::None, _) => return lanes::hash_blocks(blocks, out),
            (Vectors::Avx512, 5..) => {
                let eight = filled(blocks);
                // SAFETY: `vectors` says that the processor has these instructions.
                put(out, &unsafe { avx512::hash_eight(&eight) })
            }
            (Vectors::Avx512, 3..) => {
                let four = filled(blocks);
                // SAFETY: `vectors` says that the processor has these instructions.
                put(out, &unsafe { avx512::hash_four(&four) })
            }
            (Vectors::Avx2, 4..) => {
                let four = filled(blocks);
                // SAFETY: `vectors` says that the processor has these instructions.
                put(out, &unsafe { avx2::hash_four(&four) })
            }
            (_, 2..) => put(out, &lanes::hash_lanes([blocks[0], blocks[1]])),
            (_, _) => put(out, &[record_name(blocks[0])]),
        };
        blocks = &blocks[taken..];
        out = &mut out[taken..];
    }
}

/// The first blocks, one for each lane. Lanes left over hash the first block again.
#[inline]
fn filled<'a, const LANES: usize>(blocks: &[&'a Block]) -> [&'a Block; LANES] {
    std::array::from_fn(|lane| *blocks.get(lane).unwrap_or(&blocks[0]))
}

/// Writes as many of the names as there are blocks, and says how many that is.
#[inline]
fn put(out: &mut [RecordName], names: &[RecordName]) -> usize {
    let count = out.len().min(names.len());
    out[..count].copy_from_slice(&names[..count]);
    count
}

/// The names out of the halves, lane by lane.
#[inline(always)]
fn names<const LANES: usize>(h1: [u64; LANES], h2: [u64; LANES]) -> [RecordName; LANES] {
    let state = |lane: usize| State {
        h1: h1[lane],
        h2: h2[lane],
    };
    std::array::from_fn(|lane| RecordName(state(lane).finish(BLOCK_SIZE as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_vector_names_every_number_of_blocks_alike() {
        let most = if cfg!(miri) { 9 } else { 21 };
        let blocks: Vec<Block> = (0..most)
            .map(|lane| std::array::from_fn(|i| ((i * 31) ^ (i >> 3) ^ (lane * 57)) as u8))
            .collect();
        let references: Vec<&Block> = blocks.iter().collect();
        let alone: Vec<RecordName> = blocks.iter().map(record_name).collect();
        let kinds = match vectors() {
            Vectors::Avx512 => &[Vectors::Avx512, Vectors::Avx2, Vectors::None][..],
            Vectors::Avx2 => &[Vectors::Avx2, Vectors::None],
            Vectors::None => &[Vectors::None],
        };
        if kinds.len() < 3 {
            eprintln!("this processor has no AVX-512: tried only {kinds:?}");
        }
        for kind in kinds {
            for count in 0..=blocks.len() {
                let mut names = vec![RecordName::default(); count];
                hash_with(*kind, &references[..count], &mut names);
                assert_eq!(names, alone[..count], "{count} blocks with {kind:?}");
            }
        }
    }
}
