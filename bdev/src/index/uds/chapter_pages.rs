//! The index of one chapter as a whole, in memory: all its pages, judged once.

use super::device::IndexDevice;
use super::page_cache::PageOf;
use super::ring::Ring;
use crate::format::index::chapter_page::{ChapterPage, PageFront};
use crate::format::index::delta_list::DeltaError;
use crate::index::IndexError;
use crate::types::RecordName;

/// See the [module](self). Its lists follow each other from page to page, and none is missing.
#[derive(Debug)]
pub struct ChapterPages {
    ring: Ring,
    chapter: u64,
    bytes: Vec<u8>,
    fronts: Vec<PageFront>,
}

impl ChapterPages {
    /// Reads it.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::NoMemory`], or [`IndexError::Damaged`]: also if another chapter has taken its place.
    pub async fn read<D: IndexDevice>(
        device: &D,
        ring: Ring,
        chapter: u64,
    ) -> Result<ChapterPages, IndexError> {
        let geometry = &ring.geometry;
        let all = u64::from(geometry.index_pages) * u64::from(geometry.page_bytes);
        let mut bytes = super::zeroed(all)?;
        let first = ring.block_of(PageOf { chapter, page: 0 });
        device.read(first, &mut bytes).await?;
        let mut fronts = Vec::with_capacity(geometry.index_pages as usize);
        let mut lists = 0;
        for page in bytes.chunks(geometry.page_bytes as usize) {
            let front = ring.index_page(page)?.front();
            if front.chapter != chapter || front.first_list != lists {
                return Err(IndexError::Damaged);
            }
            lists += front.lists;
            fronts.push(front);
        }
        if lists != geometry.chapter_lists() {
            return Err(IndexError::Damaged);
        }
        Ok(ChapterPages {
            ring,
            chapter,
            bytes,
            fronts,
        })
    }

    /// Which chapter it is of.
    pub fn chapter(&self) -> u64 {
        self.chapter
    }

    /// Whether it is of a chapter of this index.
    pub fn is_of(&self, ring: &Ring) -> bool {
        self.ring == *ring
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Its pages, in order.
    pub fn pages(&self) -> impl Iterator<Item = ChapterPage<'_>> {
        (0..self.fronts.len()).map(|number| self.page(number))
    }

    fn page(&self, number: usize) -> ChapterPage<'_> {
        let geometry = &self.ring.geometry;
        let size = geometry.page_bytes as usize;
        let bytes = &self.bytes[number * size..][..size];
        ChapterPage::again(bytes, self.fronts[number], geometry)
    }

    /// The page of the chapter on which the record of `name` is, if it is in the chapter.
    ///
    /// # Errors
    /// A damaged list.
    pub fn find(&self, name: &RecordName) -> Result<Option<PageOf>, DeltaError> {
        let geometry = &self.ring.geometry;
        let list = geometry.chapter_list_key(name).list;
        let begins = |front: &PageFront| front.first_list <= list;
        // Of pages without lists, the last that begins there has it.
        let number = self.fronts.partition_point(begins).checked_sub(1);
        let page = self.page(number.ok_or(DeltaError::Corrupt)?).find(name)?;
        Ok(page.map(|page| PageOf {
            chapter: self.chapter,
            page: geometry.index_pages + page,
        }))
    }
}
