//! The ring of chapters on disk: where they are, and how one is written and read.

use super::chapter::{ChapterIndex, collate};
use super::device::IndexDevice;
use super::page_cache::PageOf;
use crate::format::index::chapter_page::ChapterPage;
use crate::format::index::record_page;
use crate::format::index::super_block::IndexLayout;
use crate::format::index::{IndexGeometry, IndexRecord};
use crate::index::IndexError;
use crate::types::Pbn;

/// Where the chapters of an index are, and what tells them from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The sizes of the index.
    pub geometry: IndexGeometry,
    /// Where its parts are.
    pub layout: IndexLayout,
    /// The nonce in its chapters and in its volume index.
    pub nonce: u64,
}

impl Ring {
    /// The first block of a page.
    pub fn block_of(&self, page: PageOf) -> Pbn {
        self.block_at(self.geometry.place(page.chapter), page.page)
    }

    fn block_at(&self, place: u32, page: u32) -> Pbn {
        let number = self.geometry.first_page(place) + u64::from(page);
        Pbn(self.layout.volume.start.get() + number * self.geometry.page_blocks())
    }

    /// An index page of this index, read into memory.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] if it is none.
    pub(super) fn index_page<'a>(&self, bytes: &'a [u8]) -> Result<ChapterPage<'a>, IndexError> {
        ChapterPage::read(bytes, self.nonce, &self.geometry).map_err(|_| IndexError::Damaged)
    }

    /// Writes a chapter with what each zone gathered, over the oldest, and makes it durable. Returns the last list on each of its
    /// index pages.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub async fn write<D: IndexDevice>(
        &self,
        device: &D,
        chapter: u64,
        shares: &[&[IndexRecord]],
    ) -> Result<Vec<u32>, IndexError> {
        let geometry = self.geometry;
        let mut collated = collate(&geometry, shares);
        device.turn().await;
        let mut index = ChapterIndex::new(&geometry, &collated);
        device.turn().await;
        let lists = index.lay_out().map_err(|_| IndexError::Damaged)?;
        let mut page = vec![0; geometry.page_bytes as usize];
        let mut last_lists = Vec::with_capacity(lists.len());
        let block_of = |page| self.block_of(PageOf { chapter, page });
        for (number, lists) in (0..).zip(lists) {
            index.write_page(&mut page, self.nonce, chapter, lists);
            last_lists.push((lists.0 + lists.1).saturating_sub(1));
            device.write(block_of(number), &page).await?;
        }
        let each = geometry.records_per_page() as usize;
        for (number, records) in (geometry.index_pages..).zip(collated.records.chunks_mut(each)) {
            record_page::write(records, &mut page);
            device.write(block_of(number), &page).await?;
        }
        device.flush().await?;
        Ok(last_lists)
    }

    /// The chapter in a place of the ring, if it is whole as far as its index pages tell.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub(super) async fn probe<D: IndexDevice>(
        &self,
        device: &D,
        place: u32,
    ) -> Result<Option<u64>, IndexError> {
        let geometry = &self.geometry;
        let mut bytes = vec![0; geometry.page_bytes as usize];
        let mut found = None;
        let mut next = 0;
        for number in 0..geometry.index_pages {
            device
                .read(self.block_at(place, number), &mut bytes)
                .await?;
            let Ok(page) = self.index_page(&bytes) else {
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
}
