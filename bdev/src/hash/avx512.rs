//! Eight blocks at once, one in each 64-bit lane of a 512-bit register.
//!
//! A round is the same arithmetic as for one block, on vectors. What costs is bringing the words of
//! eight blocks together: 64 bytes of each block are loaded, and the eight registers transposed, so
//! that register *i* holds word *i* of every block; four rounds later the next 64 bytes follow.

use std::arch::x86_64::*;

use super::murmur3::{ADD1, ADD2, C1, C2, State};
use super::{Block, RECORD_NAME_SEED};
use crate::types::{BLOCK_SIZE, RecordName};

/// Blocks in one vector.
pub(super) const LANES: usize = 8;

/// Fewer blocks than this are hashed by other means: a vector with most lanes idle costs as much as
/// a full one.
const WORTH_A_VECTOR: usize = 4;

/// Whether this processor has what [`hash_eight`] uses.
#[inline]
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq")
}

/// The record names of any number of blocks. `out` is as long as `blocks`. To be called only where
/// [`available`] says so.
pub(super) fn hash_blocks(blocks: &[&Block], out: &mut [RecordName]) {
    assert!(available(), "the caller has asked");
    for (blocks, out) in blocks.chunks(LANES).zip(out.chunks_mut(LANES)) {
        if blocks.len() < WORTH_A_VECTOR {
            super::lanes::hash_blocks(blocks, out);
            continue;
        }
        // Lanes left over hash the first block again.
        let eight = std::array::from_fn(|lane| *blocks.get(lane).unwrap_or(&blocks[0]));
        // SAFETY: the instructions are there, as asserted above.
        let names = unsafe { hash_eight(&eight) };
        out.copy_from_slice(&names[..out.len()]);
    }
}

/// The record names of eight blocks.
#[target_feature(enable = "avx512f,avx512dq")]
fn hash_eight(blocks: &[&Block; LANES]) -> [RecordName; LANES] {
    let c1 = _mm512_set1_epi64(C1 as i64);
    let c2 = _mm512_set1_epi64(C2 as i64);
    let add1 = _mm512_set1_epi64(ADD1 as i64);
    let add2 = _mm512_set1_epi64(ADD2 as i64);
    let mut h1 = _mm512_set1_epi64(i64::from(RECORD_NAME_SEED));
    let mut h2 = h1;
    for piece in 0..BLOCK_SIZE / 64 {
        let words = transpose([
            load(blocks[0], piece),
            load(blocks[1], piece),
            load(blocks[2], piece),
            load(blocks[3], piece),
            load(blocks[4], piece),
            load(blocks[5], piece),
            load(blocks[6], piece),
            load(blocks[7], piece),
        ]);
        for [k1, k2] in words {
            let k1 = _mm512_rol_epi64::<31>(_mm512_mullo_epi64(k1, c1));
            h1 = _mm512_xor_si512(h1, _mm512_mullo_epi64(k1, c2));
            h1 = _mm512_add_epi64(_mm512_rol_epi64::<27>(h1), h2);
            h1 = _mm512_add_epi64(_mm512_slli_epi64::<2>(h1), _mm512_add_epi64(h1, add1));
            let k2 = _mm512_rol_epi64::<33>(_mm512_mullo_epi64(k2, c2));
            h2 = _mm512_xor_si512(h2, _mm512_mullo_epi64(k2, c1));
            h2 = _mm512_add_epi64(_mm512_rol_epi64::<31>(h2), h1);
            h2 = _mm512_add_epi64(_mm512_slli_epi64::<2>(h2), _mm512_add_epi64(h2, add2));
        }
    }
    let (h1, h2) = (store(h1), store(h2));
    std::array::from_fn(|lane| {
        RecordName(
            State {
                h1: h1[lane],
                h2: h2[lane],
            }
            .finish(BLOCK_SIZE as u64),
        )
    })
}

/// Eight little-endian words: 64-byte piece number `piece` of a block. The compiler makes one load
/// of it.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(block: &Block, piece: usize) -> __m512i {
    let words = block.as_chunks::<64>().0[piece].as_chunks::<8>().0;
    let word = |i: usize| i64::from_le_bytes(words[i]);
    _mm512_set_epi64(
        word(7),
        word(6),
        word(5),
        word(4),
        word(3),
        word(2),
        word(1),
        word(0),
    )
}

/// The eight lanes of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(register: __m512i) -> [u64; LANES] {
    let half = |half: __m256i| {
        [
            _mm256_extract_epi64::<0>(half) as u64,
            _mm256_extract_epi64::<1>(half) as u64,
            _mm256_extract_epi64::<2>(half) as u64,
            _mm256_extract_epi64::<3>(half) as u64,
        ]
    };
    let low = half(_mm512_extracti64x4_epi64::<0>(register));
    let high = half(_mm512_extracti64x4_epi64::<1>(register));
    std::array::from_fn(|lane| if lane < 4 { low[lane] } else { high[lane - 4] })
}

/// Turns eight registers, each with eight words of one block, into four pairs of registers, each
/// register with one word of every block.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; LANES]) -> [[__m512i; 2]; 4] {
    let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
    // Words of two blocks alternate: even words in the first call, odd words in the second.
    let even = gather(
        _mm512_unpacklo_epi64(r0, r1),
        _mm512_unpacklo_epi64(r2, r3),
        _mm512_unpacklo_epi64(r4, r5),
        _mm512_unpacklo_epi64(r6, r7),
    );
    let odd = gather(
        _mm512_unpackhi_epi64(r0, r1),
        _mm512_unpackhi_epi64(r2, r3),
        _mm512_unpackhi_epi64(r4, r5),
        _mm512_unpackhi_epi64(r6, r7),
    );
    [
        [even[0], odd[0]],
        [even[1], odd[1]],
        [even[2], odd[2]],
        [even[3], odd[3]],
    ]
}

/// Transposes four registers of four 128-bit lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn gather(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    /// First and third lane of each.
    const OUTER: i32 = 0x88;
    /// Second and fourth lane of each.
    const INNER: i32 = 0xdd;
    let (ab_outer, cd_outer) = (
        _mm512_shuffle_i64x2::<OUTER>(a, b),
        _mm512_shuffle_i64x2::<OUTER>(c, d),
    );
    let (ab_inner, cd_inner) = (
        _mm512_shuffle_i64x2::<INNER>(a, b),
        _mm512_shuffle_i64x2::<INNER>(c, d),
    );
    [
        _mm512_shuffle_i64x2::<OUTER>(ab_outer, cd_outer),
        _mm512_shuffle_i64x2::<OUTER>(ab_inner, cd_inner),
        _mm512_shuffle_i64x2::<INNER>(ab_outer, cd_outer),
        _mm512_shuffle_i64x2::<INNER>(ab_inner, cd_inner),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::record_name;

    #[test]
    fn every_lane_is_hashed_as_the_block_alone() {
        if !available() {
            eprintln!("skipped: this processor has no AVX-512");
            return;
        }
        let blocks: Vec<Block> = (0..LANES)
            .map(|lane| std::array::from_fn(|i| ((i * 31) ^ (i >> 3) ^ (lane * 57)) as u8))
            .collect();
        let references = std::array::from_fn(|lane| &blocks[lane]);
        // SAFETY: `available` said so.
        let names = unsafe { hash_eight(&references) };
        for lane in 0..LANES {
            assert_eq!(names[lane], record_name(&blocks[lane]), "lane {lane}");
        }
    }
}
