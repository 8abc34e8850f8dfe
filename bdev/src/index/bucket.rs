//! One bucket of the record table: twelve records in two cache lines, searched all at once.
//!
//! ```text
//! line 0:  12 x 32 bits of the name             | 12 x chapter                      | unused
//! line 1:  12 x bits 0..32 of the mapping       | 12 x bits 32..40 of the mapping   | unused
//! ```
//!
//! A chapter here is the low eight bits of its number. A record is *dead*, its place free, when its
//! chapter is 128 or more behind the open one, which is the top bit of the difference. Places are
//! found as sets of bits, one for each of the twelve.

use wide::{u8x16, u32x4};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Records in a bucket.
pub(super) const WAYS: usize = 12;

/// Chapters whose records are alive: the open one and those before it.
pub(super) const CHAPTERS: u64 = 128;

/// A bit for each way.
const ALL_WAYS: u32 = (1 << WAYS) - 1;

/// A record this far behind is long dead.
const LONG_DEAD: u8 = 192;

/// How many more chapters make a long-dead record look alive.
pub(super) const LONG_DEAD_CHAPTERS: u64 = 256 - LONG_DEAD as u64;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Bucket {
    tag: [u32; WAYS],
    chapter: [u8; 16],
    mapping_low: [u32; WAYS],
    mapping_high: [u8; 16],
}

const _: () = assert!(size_of::<Bucket>() == 128);

/// Whether a record of this chapter lives.
#[inline]
pub(super) fn is_live(chapter: u8, open: u8) -> bool {
    u64::from(open.wrapping_sub(chapter)) < CHAPTERS
}

impl Bucket {
    /// The living record with this tag.
    #[inline]
    pub(super) fn find(&self, tag: u32, open: u8) -> Option<usize> {
        let found = self.tagged(tag) & !self.dead(open);
        (found != 0).then(|| found.trailing_zeros() as usize)
    }

    /// The ways with this tag, dead or alive.
    #[inline]
    fn tagged(&self, tag: u32) -> u32 {
        let tag = u32x4::splat(tag);
        let (fours, _) = self.tag.as_chunks::<4>();
        let equal = |four: usize| u32x4::new(fours[four]).simd_eq(tag).to_bitmask();
        equal(0) | equal(1) << 4 | equal(2) << 8
    }

    /// The ways that are free.
    #[inline]
    pub(super) fn dead(&self, open: u8) -> u32 {
        let behind = u8x16::splat(open) - u8x16::new(self.chapter);
        // The set of top bits.
        behind.to_bitmask() & ALL_WAYS
    }

    /// The way whose chapter is furthest behind, and how far.
    pub(super) fn oldest(&self, open: u8) -> (u8, usize) {
        (0..WAYS)
            .map(|way| (open.wrapping_sub(self.chapter[way]), way))
            .max()
            .expect("there are ways")
    }

    /// Makes a record out of a way, and returns the chapter of the one that was there.
    #[inline]
    pub(super) fn put(&mut self, way: usize, tag: u32, packed: u64, open: u8) -> u8 {
        self.tag[way] = tag;
        self.set_mapping(way, packed);
        self.move_to(way, open)
    }

    /// Moves a record to the open chapter, and returns the one it was in.
    #[inline]
    pub(super) fn move_to(&mut self, way: usize, open: u8) -> u8 {
        std::mem::replace(&mut self.chapter[way], open)
    }

    /// The forty bits of a record's mapping.
    #[inline]
    pub(super) fn mapping(&self, way: usize) -> u64 {
        u64::from(self.mapping_low[way]) | u64::from(self.mapping_high[way]) << 32
    }

    /// Replaces the forty bits of a record's mapping.
    #[inline]
    pub(super) fn set_mapping(&mut self, way: usize, packed: u64) {
        self.mapping_low[way] = packed as u32;
        self.mapping_high[way] = (packed >> 32) as u8;
    }

    /// Moves the living records with this bit in their tags to the same ways of `other`, which holds
    /// nothing of use.
    pub(super) fn split(&mut self, other: &mut Bucket, bit: u32, open: u8) {
        other.tag = self.tag;
        other.mapping_low = self.mapping_low;
        other.mapping_high = self.mapping_high;
        other.chapter = self.chapter;
        let dead = open.wrapping_sub(CHAPTERS as u8);
        for way in 0..WAYS {
            let loser = if self.tag[way] & bit == 0 {
                &mut *other
            } else {
                &mut *self
            };
            loser.chapter[way] = dead;
        }
    }

    /// Makes long-dead records freshly dead, lest they look alive again. Memory that was never used
    /// is not written to until it has to be.
    #[inline]
    pub(super) fn sweep(&mut self, open: u8) {
        let long_dead = |chapter: u8| open.wrapping_sub(chapter) >= LONG_DEAD;
        let any = self
            .chapter
            .iter()
            .fold(false, |any, chapter| any | long_dead(*chapter));
        if any {
            for chapter in &mut self.chapter {
                if long_dead(*chapter) {
                    *chapter = open.wrapping_sub(CHAPTERS as u8);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Bucket {
        Bucket {
            tag: [0; WAYS],
            chapter: [0; 16],
            mapping_low: [0; WAYS],
            mapping_high: [0; 16],
        }
    }

    #[test]
    fn every_way_is_found_by_its_tag_while_it_lives() {
        for way in 0..WAYS {
            let mut bucket = empty();
            assert_eq!(bucket.dead(128), ALL_WAYS);
            assert_eq!(bucket.find(0, 128), None, "zeroed memory is dead records");
            assert_eq!(bucket.put(way, 0x8000_0001, 0xab_1234_5678, 128), 0);
            assert_eq!(bucket.dead(128), ALL_WAYS & !(1 << way));
            for (behind, lives) in [
                (0, true),
                (1, true),
                (127, true),
                (128, false),
                (255, false),
            ] {
                let open = 128u8.wrapping_add(behind);
                let found = bucket.find(0x8000_0001, open);
                assert_eq!(found, lives.then_some(way), "{behind} behind");
                assert_eq!(is_live(128, open), lives);
            }
            assert_eq!(bucket.find(1, 128), None);
            assert_eq!(bucket.mapping(way), 0xab_1234_5678);
        }
    }

    #[test]
    fn a_dead_record_with_the_same_tag_does_not_hide_a_living_one() {
        let mut bucket = empty();
        bucket.put(3, 7, 1, 128);
        bucket.put(9, 7, 2, 10);
        assert_eq!(bucket.find(7, 10), Some(9));
    }

    #[test]
    fn the_oldest_way_is_the_one_furthest_behind() {
        let mut bucket = empty();
        for way in 0..WAYS {
            bucket.put(way, way as u32, 0, 200 + (way as u8 * 5) % 12);
        }
        // 5 x 5 = 1 modulo 12, and way 0 has the lowest number.
        assert_eq!(bucket.oldest(220), (20, 0));
        bucket.move_to(0, 220);
        assert_eq!(bucket.oldest(220), (19, 5));
    }

    #[test]
    fn the_sweep_keeps_the_long_dead_dead_and_the_living_alive() {
        let mut bucket = empty();
        for way in 0..WAYS {
            bucket.put(way, way as u32, 0, way as u8 * 20);
        }
        let alive: Vec<usize> = (0..WAYS)
            .filter(|way| is_live(*way as u8 * 20, 230))
            .collect();
        bucket.sweep(230);
        let bucket = &bucket;
        let found = |open| (0..WAYS).filter(move |way| bucket.find(*way as u32, open).is_some());
        assert!(found(230).eq(alive));
        // Chapter 0 was 230 behind: unswept, it would be alive from 256 on.
        assert_eq!(bucket.find(0, 1), None);
    }
}
