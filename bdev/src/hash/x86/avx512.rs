//! Eight blocks in 512-bit registers, or four in 256-bit ones, with the multiplication of AVX-512.

use std::arch::x86_64::*;

use super::super::murmur3::{ADD1, ADD2, C1, C2};
use super::super::{Block, RECORD_NAME_SEED};
use super::names;
use crate::types::{BLOCK_SIZE, RecordName};

/// The record names of eight blocks.
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn hash_eight(blocks: &[&Block; 8]) -> [RecordName; 8] {
    use eight::*;
    let mut h1 = same(u64::from(RECORD_NAME_SEED));
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
            round!(h1, h2, k1, k2);
        }
    }
    names(zerocopy::transmute!(h1), zerocopy::transmute!(h2))
}

/// The record names of four blocks.
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn hash_four(blocks: &[&Block; 4]) -> [RecordName; 4] {
    use four::*;
    let mut h1 = same(u64::from(RECORD_NAME_SEED));
    let mut h2 = h1;
    for piece in 0..BLOCK_SIZE / 32 {
        let words = super::avx2::gather(blocks, piece);
        for [k1, k2] in words {
            round!(h1, h2, k1, k2);
        }
    }
    names(zerocopy::transmute!(h1), zerocopy::transmute!(h2))
}

/// Operations on eight lanes.
mod eight {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn same(word: u64) -> __m512i {
        _mm512_set1_epi64(word as i64)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn xor(a: __m512i, b: __m512i) -> __m512i {
        _mm512_xor_si512(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn add(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi64(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn times_four(a: __m512i) -> __m512i {
        _mm512_slli_epi64::<2>(a)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn rotate<const LEFT: i32, const RIGHT: i32>(a: __m512i) -> __m512i {
        _mm512_rol_epi64::<LEFT>(a)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn multiply(a: __m512i, by: u64) -> __m512i {
        _mm512_mullo_epi64(a, same(by))
    }

    /// Eight words: 64-byte piece number `piece` of a block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(block: &Block, piece: usize) -> __m512i {
        zerocopy::transmute!(block.as_chunks::<64>().0[piece])
    }

    /// Turns eight registers, each with eight words of one block, into four pairs of registers, each
    /// register with one word of every block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn transpose(rows: [__m512i; 8]) -> [[__m512i; 2]; 4] {
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
}

/// Operations on four lanes; the rest of them are AVX2's.
mod four {
    use super::*;

    pub(super) use super::super::avx2::{add, same, times_four, xor};

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    pub(super) fn rotate<const LEFT: i32, const RIGHT: i32>(a: __m256i) -> __m256i {
        _mm256_rol_epi64::<LEFT>(a)
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl")]
    pub(super) fn multiply(a: __m256i, by: u64) -> __m256i {
        _mm256_mullo_epi64(a, same(by))
    }
}
