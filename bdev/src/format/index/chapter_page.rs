//! A page of a chapter's index: on which of the chapter's record pages a name is.
//!
//! ```text
//!   volume nonce  chapter  first list  lists | places of the lists, 19 bits each | the lists | 7 bytes of ones
//!        8           8         2         2      lists + 1, in bits from the page's start
//! ```
//!
//! The lists of a chapter lie on its index pages in order, each page with as many as fit. The values are numbers of record pages.
//! A page is judged when it is read: its nonce must be the index's, and its table must make sense. Programs of the past wrote the
//! numbers at the front in the other order of bytes where that was the machine's; such pages are read too.

use super::bits;
use super::delta_list::{DeltaError, DeltaList, Entry};
use super::geometry::{CHAPTER_PAGE_HEADER, IndexGeometry, LIST_OFFSET_BITS};
use crate::format::codec::{put16, put64};
use crate::format::error::DecodeError;
use crate::types::RecordName;

const WHAT: &str = "a page of a chapter's index";

/// Bytes of ones at the end of a page, so that reading a field at its end stays on it.
pub const GUARD_BYTES: usize = 7;

/// The bit at which the place of a list is written.
fn table(list: u32) -> u64 {
    CHAPTER_PAGE_HEADER as u64 * 8 + u64::from(list) * u64::from(LIST_OFFSET_BITS)
}

/// What the front of a page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFront {
    /// The virtual chapter.
    pub chapter: u64,
    /// The first list on the page.
    pub first_list: u32,
    /// How many lists are on it.
    pub lists: u32,
}

/// A chapter index page whose table makes sense.
#[derive(Clone, Copy, Debug)]
pub struct ChapterPage<'a> {
    bytes: &'a [u8],
    /// The virtual chapter.
    pub chapter: u64,
    /// The first list on it.
    pub first_list: u32,
    /// How many lists are on it.
    pub lists: u32,
    geometry: IndexGeometry,
}

impl<'a> ChapterPage<'a> {
    /// Judges a page by its table; what is in the lists is not looked at.
    ///
    /// # Errors
    /// The nonce of another index, or a table that cannot be.
    pub fn read(
        bytes: &'a [u8],
        nonce: u64,
        geometry: &IndexGeometry,
    ) -> Result<ChapterPage<'a>, DecodeError> {
        let wrong = DecodeError::in_field_of(WHAT);
        let needed = geometry.page_bytes as usize;
        if bytes.len() != needed {
            let found = bytes.len();
            return Err(DecodeError::TooShort {
                what: WHAT,
                needed,
                found,
            });
        }
        let number = |at: usize, count: usize| bits::get(bytes, at as u64 * 8, count as u32 * 8);
        let found_nonce = bits::load64(bytes, 0);
        let swapped = if found_nonce == nonce {
            false
        } else if found_nonce.swap_bytes() == nonce {
            true
        } else {
            return Err(wrong("nonce", found_nonce, "this index has another"));
        };
        let mut chapter = bits::load64(bytes, 8);
        let mut first_list = number(16, 2) as u16;
        let mut lists = number(18, 2) as u16;
        if swapped {
            chapter = chapter.swap_bytes();
            (first_list, lists) = (first_list.swap_bytes(), lists.swap_bytes());
        }
        let page = ChapterPage {
            bytes,
            chapter,
            first_list: first_list.into(),
            lists: lists.into(),
            geometry: *geometry,
        };
        page.check_table()?;
        Ok(page)
    }

    /// What its front says.
    pub fn front(&self) -> PageFront {
        PageFront {
            chapter: self.chapter,
            first_list: self.first_list,
            lists: self.lists,
        }
    }

    /// A page that was judged before and has not changed since; what its front says is known.
    #[inline]
    pub fn again(bytes: &'a [u8], front: PageFront, geometry: &IndexGeometry) -> ChapterPage<'a> {
        ChapterPage {
            bytes,
            chapter: front.chapter,
            first_list: front.first_list,
            lists: front.lists,
            geometry: *geometry,
        }
    }

    fn check_table(&self) -> Result<(), DecodeError> {
        let wrong = DecodeError::in_field_of(WHAT);
        let room = (self.bytes.len() - CHAPTER_PAGE_HEADER) as u64 * 8;
        let lists = u64::from(self.lists);
        if lists > room / u64::from(LIST_OFFSET_BITS) {
            return Err(wrong("lists", lists, "there is no room for so many"));
        }
        let mut last = self.place(0);
        if last != table(self.lists + 1) {
            return Err(wrong(
                "first list's place",
                last,
                "it is right behind the table",
            ));
        }
        for list in 1..=self.lists {
            let place = self.place(list);
            if place < last {
                return Err(wrong(
                    "place of a list",
                    place,
                    "it is before the one before it",
                ));
            }
            last = place;
        }
        let guard = self.bytes.len() - GUARD_BYTES;
        if last > guard as u64 * 8 {
            return Err(wrong(
                "end of the lists",
                last,
                "it is past the end of the page",
            ));
        }
        if let Some(byte) = self.bytes[guard..].iter().find(|byte| **byte != 0xff) {
            return Err(wrong("last bytes", u64::from(*byte), "they are ones only"));
        }
        Ok(())
    }

    fn place(&self, list: u32) -> u64 {
        bits::get(self.bytes, table(list), LIST_OFFSET_BITS)
    }

    /// One of its lists, counted from the first on the page.
    pub fn list(&self, list: u32) -> DeltaList<'a> {
        let start = self.place(list);
        DeltaList {
            bytes: self.bytes,
            start,
            size: (self.place(list + 1) - start) as u32,
            code: self.geometry.chapter_code,
        }
    }

    /// The last list on the page; one less than the first if there is none.
    pub fn last_list(&self) -> i64 {
        i64::from(self.first_list) + i64::from(self.lists) - 1
    }

    /// The record page on which `name` is, if it is in the chapter. Names that are not in it may be sent to some page too.
    ///
    /// # Errors
    /// A damaged list, or one that is not on this page.
    pub fn find(&self, name: &RecordName) -> Result<Option<u32>, DeltaError> {
        let place = self.geometry.chapter_list_key(name);
        let Some(list) = place
            .list
            .checked_sub(self.first_list)
            .filter(|list| *list < self.lists)
        else {
            return Err(DeltaError::Corrupt);
        };
        let list = self.list(list);
        let (entry, _) = list.find(place.key, name, Entry::START)?;
        let page = entry.is(place.key).then(|| list.value(&entry));
        if page.is_some_and(|page| page >= self.geometry.record_pages) {
            return Err(DeltaError::Corrupt);
        }
        Ok(page)
    }

    /// Reads every entry of every list.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn validate(&self) -> Result<(), DeltaError> {
        for list in 0..self.lists {
            let list = self.list(list);
            for entry in list.entries() {
                if list.value(&entry?) >= self.geometry.record_pages {
                    return Err(DeltaError::Corrupt);
                }
            }
        }
        Ok(())
    }
}

/// Lists of a whole chapter, one behind the other, as they are put on pages.
#[derive(Clone, Copy, Debug)]
pub struct PackedLists<'a> {
    /// The bits of all of them.
    pub bytes: &'a [u8],
    /// Where each begins, in bits; and where the last ends.
    pub places: &'a [u64],
}

impl PackedLists<'_> {
    /// Bits of a list.
    fn size(&self, list: u32) -> u64 {
        self.places[list as usize + 1] - self.places[list as usize]
    }

    /// How many lists there are.
    pub fn count(&self) -> u32 {
        self.places.len() as u32 - 1
    }

    /// How many lists from `first` on fit on a page of `page_bytes`.
    pub fn fitting(&self, first: u32, page_bytes: u32) -> u32 {
        let mut free = (u64::from(page_bytes) - GUARD_BYTES as u64) * 8;
        free = free.saturating_sub(table(1));
        let mut lists = 0;
        while first + lists < self.count() {
            let needed = u64::from(LIST_OFFSET_BITS) + self.size(first + lists);
            if needed > free {
                break;
            }
            free -= needed;
            lists += 1;
        }
        lists
    }

    /// Writes a page with `lists` lists from `first` on, which must fit.
    pub fn write_page(&self, page: &mut [u8], nonce: u64, chapter: u64, first: u32, lists: u32) {
        page.fill(0);
        put64(page, 0, nonce);
        put64(page, 8, chapter);
        put16(page, 16, first as u16);
        put16(page, 18, lists as u16);
        let start = self.places[first as usize];
        let target = table(lists + 1);
        for list in 0..=lists {
            let place = target + self.places[(first + list) as usize] - start;
            bits::set(page, table(list), LIST_OFFSET_BITS, place);
        }
        let size = self.places[(first + lists) as usize] - start;
        bits::copy(self.bytes, start, page, target, size);
        let guard = page.len() - GUARD_BYTES;
        page[guard..].fill(0xff);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometry() -> IndexGeometry {
        IndexGeometry::new(1024, 4, 4, 0, false)
    }

    /// Four lists: one with an entry on record page 3, the others empty.
    fn page() -> Vec<u8> {
        let geometry = geometry();
        let mut bytes = vec![0; 16];
        let code = geometry.chapter_code;
        code.write(&mut bytes, 0, 77, 3, None);
        let end = u64::from(code.entry_bits(77));
        let lists = PackedLists {
            bytes: &bytes,
            places: &[0, 0, end, end, end],
        };
        let mut page = vec![0; 1024];
        assert_eq!(lists.fitting(0, 1024), 4);
        lists.write_page(&mut page, 99, 5, 0, 4);
        page
    }

    fn name(list: u64, key: u64) -> RecordName {
        let mut name = RecordName::default();
        let bits = (list << geometry().chapter_key_bits | key).to_be_bytes();
        name.0[8..14].copy_from_slice(&bits[2..]);
        name
    }

    #[test]
    fn a_page_says_where_a_name_is() {
        let bytes = page();
        let page = ChapterPage::read(&bytes, 99, &geometry()).expect("a page");
        assert_eq!((page.chapter, page.first_list, page.lists), (5, 0, 4));
        assert_eq!(geometry().chapter_lists(), 2);
        assert_eq!(page.find(&name(1, 77)), Ok(Some(3)));
        assert_eq!(page.find(&name(1, 78)), Ok(None));
        assert_eq!(page.find(&name(0, 77)), Ok(None));
        assert_eq!(page.validate(), Ok(()));
    }

    #[test]
    fn a_page_with_its_numbers_the_other_way_round_is_read_too() {
        let mut bytes = page();
        bytes[..8].reverse();
        bytes[8..16].reverse();
        bytes[16..18].reverse();
        bytes[18..20].reverse();
        let page = ChapterPage::read(&bytes, 99, &geometry()).expect("a page");
        assert_eq!((page.chapter, page.lists), (5, 4));
        assert_eq!(page.find(&name(1, 77)), Ok(Some(3)));
    }

    #[test]
    fn a_page_of_another_index_or_with_a_broken_table_is_refused() {
        let good = page();
        let refused = |at: usize, byte: u8, part: &str| {
            let mut bytes = good.clone();
            bytes[at] ^= byte;
            let error = ChapterPage::read(&bytes, 99, &geometry()).expect_err("damaged");
            assert!(error.to_string().contains(part), "{error}");
        };
        refused(0, 1, "nonce");
        refused(18, 1, "first list's place");
        refused(19, 0x80, "so many");
        refused(1023, 1, "ones only");
        refused(25, 0x40, "before the one before it");
        assert!(ChapterPage::read(&good[..1000], 99, &geometry()).is_err());
    }

    proptest! {
        #[test]
        fn any_page_is_read_or_refused(
            patches in prop::collection::vec((0_usize..1024, any::<u8>()), 0..20), list in 0_u64..4, key in 0_u64..1 << 16,
        ) {
            let mut bytes = page();
            for (at, byte) in patches {
                bytes[at] = byte;
            }
            if let Ok(page) = ChapterPage::read(&bytes, 99, &geometry()) {
                let valid = page.validate().is_ok();
                let found = page.find(&name(list, key));
                prop_assert!(found.is_ok() || !valid || u64::from(page.first_list + page.lists) <= list || u64::from(page.first_list) > list);
            }
        }
    }
}
