//! The chapters on disk: written whole, looked up by page, with the pages that were looked at last kept in memory.

use hashbrown::HashMap;

use super::chapter::{ChapterIndex, Collated, collate};
use super::device::IndexDevice;
use crate::format::index::chapter_page::ChapterPage;
use crate::format::index::page_map::IndexPageMap;
use crate::format::index::record_page::{self, RecordData};
use crate::format::index::super_block::IndexLayout;
use crate::format::index::{IndexGeometry, IndexRecord};
use crate::index::IndexError;
use crate::types::{Pbn, RecordName};

/// A page in memory.
struct CachedPage {
    bytes: Vec<u8>,
    used: u64,
}

/// The chapters of an index.
pub struct ChapterStore<D> {
    pub(super) device: D,
    pub(super) geometry: IndexGeometry,
    pub(super) layout: IndexLayout,
    pub(super) nonce: u64,
    /// Which lists are on which index page.
    pub page_map: IndexPageMap,
    cache: HashMap<u64, CachedPage>,
    cache_pages: usize,
    clock: u64,
    /// Pages read from the device.
    pub reads: u64,
}

impl<D: IndexDevice> ChapterStore<D> {
    /// The chapters of the index with this volume nonce; `cache_pages` of their pages are kept in memory.
    pub fn new(
        device: D,
        geometry: &IndexGeometry,
        layout: IndexLayout,
        nonce: u64,
        cache_pages: usize,
    ) -> ChapterStore<D> {
        ChapterStore {
            device,
            geometry: *geometry,
            layout,
            nonce,
            page_map: IndexPageMap::new(geometry),
            cache: HashMap::with_capacity(cache_pages),
            cache_pages: cache_pages.max(1),
            clock: 0,
            reads: 0,
        }
    }

    /// The first block of a page of the volume.
    fn block_of(&self, page: u64) -> Pbn {
        Pbn(self.layout.volume.start.get() + page * self.geometry.page_blocks())
    }

    fn page_number(&self, place: u32, page: u32) -> u64 {
        self.geometry.first_page(place) + u64::from(page)
    }

    /// A page of the chapter in a place of the ring.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub async fn page(&mut self, place: u32, page: u32) -> Result<&[u8], IndexError> {
        let number = self.page_number(place, page);
        self.clock += 1;
        if !self.cache.contains_key(&number) {
            let mut bytes = match self.oldest_cached() {
                Some(oldest) => self.cache.remove(&oldest).map(|page| page.bytes),
                None => None,
            }
            .unwrap_or_else(|| vec![0; self.geometry.page_bytes as usize]);
            self.reads += 1;
            self.device.read(self.block_of(number), &mut bytes).await?;
            self.cache.insert(number, CachedPage { bytes, used: 0 });
        }
        let Some(page) = self.cache.get_mut(&number) else {
            unreachable!("it was put there just now")
        };
        page.used = self.clock;
        Ok(&page.bytes)
    }

    /// The page to be replaced, if there is room for no other.
    fn oldest_cached(&self) -> Option<u64> {
        if self.cache.len() < self.cache_pages {
            return None;
        }
        let oldest = self.cache.iter().min_by_key(|(_, page)| page.used);
        oldest.map(|(number, _)| *number)
    }

    /// What `chapter` has of `name`.
    ///
    /// # Errors
    /// [`IndexError::Io`], or [`IndexError::Damaged`] if its index page is not the one the page map speaks of.
    pub async fn find(
        &mut self,
        chapter: u64,
        name: &RecordName,
    ) -> Result<Option<RecordData>, IndexError> {
        let (geometry, nonce) = (self.geometry, self.nonce);
        let place = geometry.place(chapter);
        let list = geometry.chapter_list_key(name).list;
        let number = self.page_map.page_of(place, list);
        let (first, last) = self.page_map.bounds(place, number);
        let bytes = self.page(place, number).await?;
        let page = ChapterPage::read(bytes, nonce, &geometry).map_err(|_| IndexError::Damaged)?;
        let bounds = (page.first_list.into(), page.last_list());
        if page.chapter != chapter || bounds != (i64::from(first), i64::from(last)) {
            return Err(IndexError::Damaged);
        }
        let Some(page) = page.find(name).map_err(|_| IndexError::Damaged)? else {
            return Ok(None);
        };
        let records = self.page(place, geometry.index_pages + page).await?;
        Ok(record_page::find(records, name))
    }

    /// Writes a chapter with what each zone gathered, over the oldest, and makes it durable.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub async fn write(
        &mut self,
        chapter: u64,
        zones: &[&[IndexRecord]],
    ) -> Result<(), IndexError> {
        let geometry = self.geometry;
        let place = geometry.place(chapter);
        let Collated { records, is_known } = collate(&geometry, zones);
        let mut collated = Collated { records, is_known };
        let mut index = ChapterIndex::new(&geometry, &collated);
        let lists = index.lay_out().map_err(|_| IndexError::Damaged)?;
        self.forget(place);
        let mut page = vec![0; geometry.page_bytes as usize];
        for (number, lists) in (0..).zip(lists) {
            index.write_page(&mut page, self.nonce, chapter, lists);
            let last_list = (lists.0 + lists.1).saturating_sub(1);
            self.page_map.note(chapter, place, number, last_list);
            self.device
                .write(self.block_of(self.page_number(place, number)), &page)
                .await?;
        }
        let each = geometry.records_per_page() as usize;
        for (number, records) in (geometry.index_pages..).zip(collated.records.chunks_mut(each)) {
            record_page::write(records, &mut page);
            self.device
                .write(self.block_of(self.page_number(place, number)), &page)
                .await?;
        }
        self.device.flush().await
    }

    /// Forgets the pages of the chapter in a place of the ring.
    fn forget(&mut self, place: u32) {
        let first = self.geometry.first_page(place);
        let pages = first..first + u64::from(self.geometry.pages_per_chapter());
        self.cache.retain(|number, _| !pages.contains(number));
    }

    /// The chapter in a place of the ring, if it is whole as far as its index pages tell.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub async fn probe(&mut self, place: u32) -> Result<Option<u64>, IndexError> {
        let (geometry, nonce) = (self.geometry, self.nonce);
        let mut found = None;
        let mut next = 0;
        for number in 0..geometry.index_pages {
            let bytes = self.page(place, number).await?;
            let Ok(page) = ChapterPage::read(bytes, nonce, &geometry) else {
                return Ok(None);
            };
            let chapter = *found.get_or_insert(page.chapter);
            let fits =
                page.chapter == chapter && page.first_list == next && page.validate().is_ok();
            if !fits || page.chapter == u64::MAX || geometry.place(chapter) != place {
                return Ok(None);
            }
            next += page.lists;
        }
        Ok(found.filter(|_| next == geometry.chapter_lists()))
    }

    /// Notes in the page map where the lists of a whole chapter are.
    ///
    /// # Errors
    /// [`IndexError::Io`], or [`IndexError::Damaged`].
    pub async fn note_pages(&mut self, chapter: u64) -> Result<(), IndexError> {
        let (geometry, nonce) = (self.geometry, self.nonce);
        let place = geometry.place(chapter);
        for number in 0..geometry.index_pages {
            let bytes = self.page(place, number).await?;
            let page =
                ChapterPage::read(bytes, nonce, &geometry).map_err(|_| IndexError::Damaged)?;
            let last_list = u32::try_from(page.last_list()).unwrap_or(0);
            self.page_map.note(chapter, place, number, last_list);
        }
        Ok(())
    }
}
