//! The memory of the record table: pages of buckets, and how their number grows with the records.
//!
//! A page is 4 KiB, 32 buckets ([`super::bucket`]). A name says which page, and two buckets in it, so
//! that a search stays in one page of memory.
//!
//! The table starts with few pages. When those in use are half full, they are split, one after the
//! other as records come in: page *i* of *n* leaves half of its records, each in the same place, to the
//! new page *n + i*. A bit of the stored part of the name says which half, a further bit for each
//! doubling, so that no name is ever needed again. Doubled eight times, the table has all its pages.
//! Thus few records lie close together, in memory that is in the processor's cache already, and a
//! volume with little data takes little of the memory its index may use.
//!
//! The address space for all pages is taken when the table is made, zeroed and not touched.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::bucket::Bucket;
use crate::types::RecordName;

/// Bytes in a page.
pub(super) const PAGE_SIZE: usize = 4096;

/// Buckets in a page.
pub(super) const BUCKETS: usize = 32;

/// 64-bit words in a page.
const WORDS: usize = PAGE_SIZE / 8;

/// How often the number of pages doubles at most.
const DOUBLINGS: u32 = 8;

/// A table begins with at least two to the power of this many pages, if it has so many, lest rounding
/// cost many.
const LEAST_FIRST_BITS: u32 = 5;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Page(pub(super) [Bucket; BUCKETS]);

const _: () = assert!(size_of::<Page>() == PAGE_SIZE);

/// Where the record of a name is, or would be: its page, from the top of the name's second half; its two
/// buckets, from the bottom of that; and the tag it is known by there, from the first half without the
/// byte that chose the hash zone, which says little in a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) page: usize,
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) tag: u32,
}

impl Page {
    /// The bucket and the way of the living record of this place and tag.
    #[inline]
    pub(super) fn find(&self, place: &Place, open: u8) -> Option<(usize, usize)> {
        if let Some(way) = self.0[place.first].find(place.tag, open) {
            return Some((place.first, way));
        }
        let way = self.0[place.second].find(place.tag, open)?;
        Some((place.second, way))
    }

    /// The bucket and the way for a new record: in the emptier of two buckets or, of two full ones,
    /// where the oldest record is.
    #[inline]
    pub(super) fn room(&self, place: &Place, open: u8) -> (usize, usize) {
        let first = self.0[place.first].dead(open);
        let second = self.0[place.second].dead(open);
        if first | second == 0 {
            return self.oldest(place, open);
        }
        if second.count_ones() > first.count_ones() {
            (place.second, second.trailing_zeros() as usize)
        } else {
            (place.first, first.trailing_zeros() as usize)
        }
    }

    #[cold]
    fn oldest(&self, place: &Place, open: u8) -> (usize, usize) {
        let (first_behind, first) = self.0[place.first].oldest(open);
        let (second_behind, second) = self.0[place.second].oldest(open);
        if second_behind > first_behind {
            (place.second, second)
        } else {
            (place.first, first)
        }
    }
}

/// The pages of a table.
pub(super) struct Pages {
    /// The pages, after the words it takes to align them.
    words: Vec<u64>,
    /// The word the pages begin at.
    start: usize,
    /// Pages at first.
    first: usize,
    /// Pages at last: `first`, doubled some times.
    last: usize,
    /// Pages before the doubling under way: `first`, doubled as often as is complete.
    doubled: usize,
    /// How many of those the doubling under way has split.
    split: usize,
    /// The bits of a tag that say which of the doubled pages.
    mask: usize,
}

impl Pages {
    /// How many pages there are at first, and how often they double, if there may be `pages`.
    fn shape(pages: usize) -> (usize, u32) {
        let bits = pages.checked_ilog2().unwrap_or(0);
        let doublings = bits.saturating_sub(LEAST_FIRST_BITS).min(DOUBLINGS);
        (pages >> doublings, doublings)
    }

    /// How many pages there will be at last, if there may be `pages`.
    pub(super) fn last_of(pages: usize) -> usize {
        let (first, doublings) = Self::shape(pages);
        first << doublings
    }

    /// Zeroed pages, at most so many (at least one); `None` if there is no memory.
    pub(super) fn new(pages: usize) -> Option<Pages> {
        let (first, doublings) = Self::shape(pages);
        Self::with_shape(first, doublings)
    }

    /// `first` zeroed pages, which double so often.
    pub(super) fn with_shape(first: usize, doublings: u32) -> Option<Pages> {
        let last = first.checked_shl(doublings)?;
        let words = u64::new_vec_zeroed(last.checked_add(1)?.checked_mul(WORDS)?).ok()?;
        let start = words.as_ptr().align_offset(PAGE_SIZE);
        assert!(
            start < WORDS,
            "there is a page more than needed, to align them"
        );
        Some(Pages {
            words,
            start,
            first,
            last,
            doubled: first,
            split: 0,
            mask: 0,
        })
    }

    /// Pages in use.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.doubled + self.split
    }

    /// Pages there will be at last.
    #[inline]
    pub(super) fn last(&self) -> usize {
        self.last
    }

    /// Where the record of a name is now.
    #[inline]
    pub(super) fn place(&self, name: &RecordName) -> Place {
        let both = u128::from_le_bytes(name.0);
        let (low, high) = (both as u64, (both >> 64) as u64);
        let bucket = high as usize % BUCKETS;
        // From 1 to 31, so that the second bucket is another one.
        let apart = 1 + ((high >> 5) as usize % BUCKETS * (BUCKETS - 1)) / BUCKETS;
        let tag = (low >> 32) as u32;
        let first = ((u128::from(high) * self.first as u128) >> 64) as usize;
        let mut page = first + self.first * (tag as usize & self.mask);
        if page < self.split {
            page = first + self.first * (tag as usize & (self.mask * 2 + 1));
        }
        Place {
            page,
            first: bucket,
            second: bucket ^ apart,
            tag,
        }
    }

    /// A page.
    #[inline]
    pub(super) fn page(&self, page: usize) -> &Page {
        let page = &self.words[self.start..].as_chunks::<WORDS>().0[page];
        zerocopy::transmute_ref!(page)
    }

    /// A page, to change.
    #[inline]
    pub(super) fn page_mut(&mut self, page: usize) -> &mut Page {
        let page = &mut self.words[self.start..].as_chunks_mut::<WORDS>().0[page];
        zerocopy::transmute_mut!(page)
    }

    /// Puts one more page to use, if there is one: splits the next page that has not been.
    pub(super) fn grow(&mut self, open: u8) {
        if self.len() == self.last {
            return;
        }
        let bit = self.mask + 1;
        let (from, to) = (self.split, self.doubled + self.split);
        let pages = self.words[self.start..].as_chunks_mut::<WORDS>().0;
        let (before, after) = pages.split_at_mut(to);
        let from: &mut Page = zerocopy::transmute_mut!(&mut before[from]);
        let to: &mut Page = zerocopy::transmute_mut!(&mut after[0]);
        for (from, to) in from.0.iter_mut().zip(&mut to.0) {
            from.split(to, bit as u32, open);
        }
        self.split += 1;
        if self.split == self.doubled {
            self.doubled *= 2;
            self.split = 0;
            self.mask = self.mask * 2 + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::murmur3_x64_128;
    use crate::index::bucket::WAYS;

    /// Records there is a place for in a page.
    const PLACES: usize = BUCKETS * WAYS;

    fn name(number: u64) -> RecordName {
        RecordName(murmur3_x64_128(&number.to_le_bytes(), 0))
    }

    #[test]
    fn every_record_is_found_at_every_size_on_the_way() {
        const OPEN: u8 = 128;
        let mut pages = Pages::with_shape(3, 4).expect("little memory");
        for number in 0..3 * PLACES as u64 / 2 {
            let place = pages.place(&name(number));
            let page = pages.page_mut(place.page);
            let (bucket, way) = page.room(&place, OPEN);
            page.0[bucket].put(way, place.tag, number, OPEN);
        }
        let mut size = 3;
        while size < pages.last() {
            pages.grow(OPEN);
            size += 1;
            assert_eq!(pages.len(), size);
            let mut used = vec![0; size];
            for number in 0..3 * PLACES as u64 / 2 {
                let place = pages.place(&name(number));
                used[place.page] += 1;
                let page = pages.page(place.page);
                let (bucket, way) = page.find(&place, OPEN).expect("it was put in");
                assert_eq!(page.0[bucket].mapping(way), number, "of {size} pages");
            }
            // There is nothing in the pages but what was put in.
            let living = |page: usize| -> usize {
                let dead = |bucket: &Bucket| bucket.dead(OPEN).count_ones() as usize;
                pages
                    .page(page)
                    .0
                    .iter()
                    .map(|bucket| WAYS - dead(bucket))
                    .sum()
            };
            assert!(
                (0..size).all(|page| living(page) == used[page]),
                "of {size} pages"
            );
        }
        pages.grow(OPEN);
        assert_eq!(pages.len(), 48, "there are no more pages");
    }

    #[test]
    fn names_are_spread_evenly_over_complete_doublings() {
        let mut pages = Pages::with_shape(5, 3).expect("little memory");
        while pages.len() < pages.last() {
            pages.grow(128);
        }
        let mut used = [0u32; 40];
        for number in 0..40_000 {
            used[pages.place(&name(number)).page] += 1;
        }
        assert!(
            used.iter().all(|count| (850..1150).contains(count)),
            "{used:?}"
        );
    }

    #[test]
    fn rounding_the_number_of_pages_costs_little() {
        for pages in 1..10_000 {
            let last = Pages::last_of(pages);
            assert!(
                last <= pages && last + last / 32 + 1 > pages,
                "{last} of {pages}"
            );
        }
        assert_eq!(Pages::last_of(65536), 65536);
    }
}
