//! Four blocks in 256-bit registers, with what AVX2 has.

use std::arch::x86_64::*;

use super::super::murmur3::{ADD1, ADD2, C1, C2};
use super::super::{Block, RECORD_NAME_SEED};
use super::names;
use crate::types::{BLOCK_SIZE, RecordName};

/// The record names of four blocks.
#[target_feature(enable = "avx2")]
pub(super) fn hash_four(blocks: &[&Block; 4]) -> [RecordName; 4] {
    let mut h1 = same(u64::from(RECORD_NAME_SEED));
    let mut h2 = h1;
    for piece in 0..BLOCK_SIZE / 32 {
        for [k1, k2] in gather(blocks, piece) {
            round!(h1, h2, k1, k2);
        }
    }
    names(zerocopy::transmute!(h1), zerocopy::transmute!(h2))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn same(word: u64) -> __m256i {
    _mm256_set1_epi64x(word as i64)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn xor(a: __m256i, b: __m256i) -> __m256i {
    _mm256_xor_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn times_four(a: __m256i) -> __m256i {
    _mm256_slli_epi64::<2>(a)
}

#[inline]
#[target_feature(enable = "avx2")]
fn rotate<const LEFT: i32, const RIGHT: i32>(a: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi64::<LEFT>(a), _mm256_srli_epi64::<RIGHT>(a))
}

/// The low 64 bits of each product, from the products of the 32-bit halves.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply(a: __m256i, by: u64) -> __m256i {
    let (by_low, by_high) = (same(by), same(by >> 32));
    let a_high = _mm256_srli_epi64::<32>(a);
    let crossed = add(
        _mm256_mul_epu32(a_high, by_low),
        _mm256_mul_epu32(a, by_high),
    );
    add(
        _mm256_mul_epu32(a, by_low),
        _mm256_slli_epi64::<32>(crossed),
    )
}

/// The four words of 32-byte piece number `piece` of every block: two pairs of registers, each
/// register with one word of every block.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn gather(blocks: &[&Block; 4], piece: usize) -> [[__m256i; 2]; 2] {
    let rows = [
        load(blocks[0], piece),
        load(blocks[1], piece),
        load(blocks[2], piece),
        load(blocks[3], piece),
    ];
    let (even01, odd01) = (
        _mm256_unpacklo_epi64(rows[0], rows[1]),
        _mm256_unpackhi_epi64(rows[0], rows[1]),
    );
    let (even23, odd23) = (
        _mm256_unpacklo_epi64(rows[2], rows[3]),
        _mm256_unpackhi_epi64(rows[2], rows[3]),
    );
    /// The low halves of both.
    const LOW: i32 = 0x20;
    /// The high halves of both.
    const HIGH: i32 = 0x31;
    [
        [
            _mm256_permute2x128_si256::<LOW>(even01, even23),
            _mm256_permute2x128_si256::<LOW>(odd01, odd23),
        ],
        [
            _mm256_permute2x128_si256::<HIGH>(even01, even23),
            _mm256_permute2x128_si256::<HIGH>(odd01, odd23),
        ],
    ]
}

/// Four words: 32-byte piece number `piece` of a block.
#[inline]
#[target_feature(enable = "avx2")]
fn load(block: &Block, piece: usize) -> __m256i {
    zerocopy::transmute!(block.as_chunks::<32>().0[piece])
}
