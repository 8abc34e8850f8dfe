//! The index page map: which lists are on which index page of each chapter, so that one page is read and not all of them.
//!
//! For each place in the ring it has, for each index page but the last, the last list on that page. All of it is in memory; a
//! save has it as it is:
//!
//! ```text
//!   "ALBIPM02"   last chapter noted   last list, last list, ...
//!       8                8               2 each, chapter after chapter     bytes
//! ```

use super::geometry::IndexGeometry;
use crate::format::error::DecodeError;

/// What stands at its front.
const MAGIC: [u8; 8] = *b"ALBIPM02";

/// Bytes before the numbers.
pub const HEADER: usize = 16;

/// Bytes of the whole map in a save.
pub fn saved_bytes(geometry: &IndexGeometry) -> u64 {
    HEADER as u64 + 2 * u64::from(geometry.chapters) * u64::from(geometry.index_pages - 1)
}

/// Which lists are on which index page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexPageMap {
    /// The chapter noted last.
    pub last_update: u64,
    /// Numbers for each chapter.
    each: usize,
    last_list_of_chapter: u16,
    lists: Vec<u16>,
}

impl IndexPageMap {
    /// A map in which nothing was noted.
    pub fn new(geometry: &IndexGeometry) -> IndexPageMap {
        let each = geometry.index_pages as usize - 1;
        IndexPageMap {
            last_update: 0,
            each,
            last_list_of_chapter: (geometry.chapter_lists() - 1) as u16,
            lists: vec![0; each * geometry.chapters as usize],
        }
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        2 * self.lists.len() as u64
    }

    /// Notes the last list on an index page of the chapter in `place` of the ring.
    pub fn note(&mut self, chapter: u64, place: u32, page: u32, last_list: u32) {
        self.last_update = chapter;
        if (page as usize) < self.each {
            self.lists[place as usize * self.each + page as usize] = last_list as u16;
        }
    }

    /// The index page of the chapter in `place` that has `list`.
    #[inline]
    pub fn page_of(&self, place: u32, list: u32) -> u32 {
        let first = place as usize * self.each;
        let pages = &self.lists[first..first + self.each];
        let page = pages.iter().position(|last| list <= u32::from(*last));
        page.unwrap_or(self.each) as u32
    }

    /// The first and the last list that an index page must have. The first is one more than the last if the page has none.
    pub fn bounds(&self, place: u32, page: u32) -> (u32, u32) {
        let (first, page) = (place as usize * self.each, page as usize);
        let last_of = |page: usize| self.lists[first + page];
        let lowest = if page == 0 {
            0
        } else {
            u32::from(last_of(page - 1)) + 1
        };
        let highest = if page < self.each {
            last_of(page)
        } else {
            self.last_list_of_chapter
        };
        (lowest, highest.into())
    }

    /// Writes bytes of the saved map, from byte `from` on; what is past its end is zero.
    pub fn encode(&self, from: usize, out: &mut [u8]) {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..].copy_from_slice(&self.last_update.to_le_bytes());
        for (at, byte) in (from..).zip(out) {
            *byte = match at.checked_sub(HEADER) {
                None => header[at],
                Some(at) => {
                    let list = self.lists.get(at / 2).copied().unwrap_or(0);
                    list.to_le_bytes()[at % 2]
                }
            };
        }
    }

    /// Reads a saved map.
    ///
    /// # Errors
    /// Too few bytes, or something else at their front.
    pub fn decode(geometry: &IndexGeometry, bytes: &[u8]) -> Result<IndexPageMap, DecodeError> {
        const WHAT: &str = "the saved index page map";
        let needed = saved_bytes(geometry) as usize;
        let found = bytes.len();
        let Some(bytes) = bytes.get(..needed) else {
            return Err(DecodeError::TooShort {
                what: WHAT,
                needed,
                found,
            });
        };
        super::regions::check_magic(WHAT, bytes, &MAGIC)?;
        let mut map = IndexPageMap::new(geometry);
        map.last_update = crate::format::codec::le64(bytes, 8);
        let (numbers, _) = bytes[HEADER..].as_chunks::<2>();
        for (list, number) in map.lists.iter_mut().zip(numbers) {
            *list = u16::from_le_bytes(*number);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometry() -> IndexGeometry {
        let geometry = IndexGeometry::new(4096, 64, 4, 0, false);
        assert!(geometry.index_pages > 3, "{}", geometry.index_pages);
        geometry
    }

    #[test]
    fn the_page_of_a_list_is_the_first_that_reaches_it() {
        let geometry = geometry();
        let mut map = IndexPageMap::new(&geometry);
        let last = geometry.index_pages - 1;
        for page in 0..last {
            map.note(6, 2, page, 10 * page + 9);
        }
        map.note(6, 2, last, geometry.chapter_lists() - 1);
        assert_eq!(map.last_update, 6);
        assert_eq!(
            (map.page_of(2, 0), map.page_of(2, 9), map.page_of(2, 10)),
            (0, 0, 1)
        );
        assert_eq!(map.page_of(2, 10 * last), last);
        assert_eq!(map.bounds(2, 0), (0, 9));
        assert_eq!(map.bounds(2, 1), (10, 19));
        assert_eq!(
            map.bounds(2, last),
            (10 * last, geometry.chapter_lists() - 1)
        );
    }

    proptest! {
        #[test]
        fn a_map_survives_a_save_in_pieces(
            notes in prop::collection::vec((0_u32..4, 0_u32..9, any::<u16>()), 0..40), piece in 1_usize..200,
        ) {
            let geometry = geometry();
            let mut map = IndexPageMap::new(&geometry);
            for (place, page, list) in notes {
                map.note(u64::from(place) + 8, place, page % geometry.index_pages, list.into());
            }
            let mut bytes = vec![0xff; saved_bytes(&geometry) as usize + 11];
            for (number, part) in bytes.chunks_mut(piece).enumerate() {
                map.encode(number * piece, part);
            }
            prop_assert_eq!(IndexPageMap::decode(&geometry, &bytes), Ok(map));
        }

        #[test]
        fn any_bytes_are_a_map_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = IndexPageMap::decode(&geometry(), &bytes);
        }
    }
}
