//! Looking in chapters on disk for a name, by way of the pages that are in memory.
//!
//! A chapter's index says on which of its record pages a name would be, and the page map on which index page that is said. So a name
//! needs two pages. Those that are not in memory are named, to be read; then the name is looked for again. Whoever waited for a
//! record page is done with the index page, which need not be there any more: so all get on, however few pages there is room for.

use super::page_cache::{PageCache, PageOf};
use super::ring::Ring;
use super::sparse_cache::SparseCache;
use crate::format::index::chapter_page::ChapterPage;
use crate::format::index::page_map::IndexPageMap;
use crate::format::index::record_page::{self, RecordData};
use crate::index::IndexError;
use crate::types::RecordName;

/// What came of looking for a name in a chapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What the chapter has of it.
    Known(Option<RecordData>),
    /// This page is to be read first.
    Read(PageOf),
    /// A chapter is being read that is to be looked in first.
    Wait,
}

/// The chapters on disk, as one who looks for names sees them.
#[derive(Debug)]
pub struct Chapters {
    /// Where they are.
    pub ring: Ring,
    /// Which lists are on which index page.
    pub page_map: IndexPageMap,
    /// Pages in memory.
    pub cache: PageCache,
    /// Chapters that are looked in for names the volume index does not know.
    pub sparse: SparseCache,
}

impl Chapters {
    /// The chapters of a ring, as one of `zones` zones sees them, of whose pages so many are kept in memory.
    ///
    /// # Errors
    /// [`IndexError::NoMemory`].
    pub fn new(ring: Ring, cache_pages: usize, zones: u8) -> Result<Chapters, IndexError> {
        Ok(Chapters {
            ring,
            page_map: IndexPageMap::new(&ring.geometry),
            cache: PageCache::new(cache_pages, ring.geometry.page_bytes)?,
            sparse: SparseCache::new(zones),
        })
    }

    /// Bytes of memory taken.
    pub fn memory_bytes(&self) -> u64 {
        self.cache.memory_bytes() + self.page_map.memory_bytes() + self.sparse.memory_bytes()
    }

    /// Notes where the lists of a chapter are: the last on each of its index pages.
    pub fn note(&mut self, chapter: u64, last_lists: &[u32]) {
        let place = self.ring.geometry.place(chapter);
        for (page, last_list) in (0..).zip(last_lists) {
            self.page_map.note(chapter, place, page, *last_list);
        }
    }

    /// Looks for `name` in `chapter`, on behalf of somebody who waited for the page that has `arrived`, if any.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] if its index page is not the one the page map speaks of.
    pub fn look(
        &mut self,
        chapter: u64,
        name: &RecordName,
        arrived: Option<PageOf>,
    ) -> Result<Look, IndexError> {
        let geometry = &self.ring.geometry;
        let arrived = arrived
            .filter(|page| page.chapter == chapter && page.page >= geometry.index_pages)
            .and_then(|page| self.cache.get(page));
        if let Some(records) = arrived {
            return Ok(Look::Known(record_page::find(records, name)));
        }
        let place = geometry.place(chapter);
        let list = geometry.chapter_list_key(name).list;
        let number = self.page_map.page_of(place, list);
        let index_page = PageOf {
            chapter,
            page: number,
        };
        let Some((bytes, front)) = self.cache.get_judged(index_page) else {
            return Ok(Look::Read(index_page));
        };
        let page = match *front {
            Some(front) => ChapterPage::again(bytes, front, geometry),
            None => {
                let page = self.ring.index_page(bytes)?;
                let (first, last) = self.page_map.bounds(place, number);
                let bounds = (page.first_list.into(), page.last_list());
                if page.chapter != chapter || bounds != (i64::from(first), i64::from(last)) {
                    return Err(IndexError::Damaged);
                }
                *front = Some(page.front());
                page
            }
        };
        let Some(page) = page.find(name).map_err(|_| IndexError::Damaged)? else {
            return Ok(Look::Known(None));
        };
        let record_page = PageOf {
            chapter,
            page: geometry.index_pages + page,
        };
        Ok(match self.cache.get(record_page) {
            Some(records) => Look::Known(record_page::find(records, name)),
            None => Look::Read(record_page),
        })
    }

    /// Looks for a name that the volume index does not know in the chapters that are looked in for such names, the newest first, on
    /// behalf of somebody who waited for the page that has `arrived`, if any.
    ///
    /// # Errors
    /// [`IndexError::Damaged`].
    pub fn look_beyond(
        &mut self,
        name: &RecordName,
        arrived: Option<PageOf>,
    ) -> Result<Look, IndexError> {
        if self.sparse.is_waiting() {
            return Ok(Look::Wait);
        }
        let index_pages = self.ring.geometry.index_pages;
        let is_of_one = |page: &PageOf| {
            page.page >= index_pages && self.sparse.chapters().any(|one| one == page.chapter)
        };
        // Of the chapters before that one nothing needs to be known any more.
        let mut next = arrived.filter(is_of_one);
        let mut before = u64::MAX;
        loop {
            let page = match next.take() {
                Some(page) => page,
                None => match self.sparse.next_page(name, before)? {
                    Some(page) => page,
                    None => return Ok(Look::Known(None)),
                },
            };
            let Some(records) = self.cache.get(page) else {
                return Ok(Look::Read(page));
            };
            let record = record_page::find(records, name);
            self.sparse.looked_at(page.chapter, record.is_some());
            if record.is_some() {
                return Ok(Look::Known(record));
            }
            before = page.chapter;
        }
    }
}
