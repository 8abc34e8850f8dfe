//! Chapters that are known by samples only, and are looked in for other names all the same.
//!
//! The volume index of a sparse index knows of its older chapters one name in 32, the *samples*. But data comes again in the order
//! it came: whoever asks for a sample of an old chapter will soon ask for its neighbours. So the index of that chapter is read as a whole
//! ([`ChapterPages`]), and from then on a name that the volume index does not know is looked for there, too.
//!
//! There are as many chapters here as dm-vdo keeps. The one that was of no use for longest makes room for a new one. One that did not have
//! a name for many in a row is passed over until a sample of it comes again.
//!
//! Each zone has its own, but what one zone has read all others are given: it never changes, so they share it. (In dm-vdo all zones share the
//! order, too, and wait for each other whenever it changes. As all of this is advice, they need not agree.)

use std::sync::Arc;

use super::device::IndexDevice;
use super::page_cache::PageOf;
use super::ring::Ring;
use crate::format::index::chapter_page::{ChapterPage, PageFront};
use crate::format::index::config::CACHE_CHAPTERS;
use crate::format::index::delta_list::DeltaError;
use crate::index::IndexError;
use crate::types::RecordName;

/// Names in a row that a chapter does not have, of all zones together, before it is passed over.
const PATIENCE: u32 = 20_000;

/// The index of one chapter.
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

    /// The page of the chapter on which the record of `name` is, if it is in the chapter.
    fn find(&self, name: &RecordName) -> Result<Option<PageOf>, DeltaError> {
        let geometry = &self.ring.geometry;
        let list = geometry.chapter_list_key(name).list;
        let behind = self
            .fronts
            .partition_point(|front| front.first_list <= list);
        // Of pages without lists, the last that begins there has it.
        let number = behind.checked_sub(1).ok_or(DeltaError::Corrupt)?;
        let size = geometry.page_bytes as usize;
        let bytes = &self.bytes[number * size..][..size];
        let page = ChapterPage::again(bytes, self.fronts[number], geometry);
        Ok(page.find(name)?.map(|page| PageOf {
            chapter: self.chapter,
            page: geometry.index_pages + page,
        }))
    }
}

/// A chapter that is looked in.
#[derive(Debug)]
struct Member {
    pages: Arc<ChapterPages>,
    /// Names in a row that it did not have.
    missed: u32,
    /// When it was of use last.
    used: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct SparseCache {
    /// The newest chapter first.
    members: Vec<Member>,
    /// Chapters that are wanted, and whether somebody is reading them.
    wanted: Vec<(u64, bool)>,
    patience: u32,
    /// Counts what is of use.
    uses: u64,
}

impl SparseCache {
    /// That of one of `zones` zones, with nothing in it.
    pub fn new(zones: u8) -> SparseCache {
        SparseCache {
            members: Vec::with_capacity(CACHE_CHAPTERS as usize),
            wanted: Vec::with_capacity(CACHE_CHAPTERS as usize),
            patience: PATIENCE / u32::from(zones.max(1)),
            uses: 0,
        }
    }

    /// Bytes of memory taken by the part of one of `zones` zones in what they share.
    pub fn memory_bytes(&self) -> u64 {
        let share = |member: &Member| {
            let shared_by = Arc::strong_count(&member.pages);
            (member.pages.bytes.capacity() / shared_by.max(1)) as u64
        };
        self.members.iter().map(share).sum()
    }

    /// A sample of a chapter was asked for. Says whether somebody has to read the chapter.
    pub fn want(&mut self, chapter: u64) -> bool {
        if self.member(chapter).is_some() {
            self.looked_at(chapter, true);
            return false;
        }
        if self.wanted.iter().any(|(other, _)| *other == chapter) {
            return false;
        }
        self.wanted.push((chapter, false));
        true
    }

    fn member(&mut self, chapter: u64) -> Option<&mut Member> {
        let found = |member: &&mut Member| member.pages.chapter == chapter;
        self.members.iter_mut().find(found)
    }

    /// Whether chapters are being read that may have names nobody else has.
    pub fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The next chapter to be read.
    pub fn next_wanted(&mut self) -> Option<u64> {
        let (chapter, is_read) = self.wanted.iter_mut().find(|(_, is_read)| !is_read)?;
        *is_read = true;
        Some(*chapter)
    }

    /// A chapter that was wanted is not to be had.
    pub fn give_up(&mut self, chapter: u64) {
        self.wanted.retain(|(other, _)| *other != chapter);
    }

    /// Takes in a chapter that was read, here or by another zone.
    pub fn take_in(&mut self, pages: Arc<ChapterPages>) {
        let chapter = pages.chapter;
        self.give_up(chapter);
        if self.member(chapter).is_some() {
            return;
        }
        if self.members.len() == CACHE_CHAPTERS as usize {
            let places = 0..self.members.len();
            let idle = places.min_by_key(|place| self.members[*place].used);
            idle.map(|place| self.members.remove(place));
        }
        self.uses += 1;
        let newer = |member: &Member| member.pages.chapter > chapter;
        let place = self.members.partition_point(newer);
        let member = Member {
            pages,
            missed: 0,
            used: self.uses,
        };
        self.members.insert(place, member);
    }

    /// Chapters before `oldest` are no more.
    pub fn forget_before(&mut self, oldest: u64) {
        self.members.retain(|member| member.pages.chapter >= oldest);
    }

    /// The chapters that are looked in, the newest first.
    pub fn chapters(&self) -> impl Iterator<Item = u64> + '_ {
        let used = |member: &&Member| member.missed < self.patience;
        self.members
            .iter()
            .filter(used)
            .map(|member| member.pages.chapter)
    }

    /// The next page on which a name may be, of a chapter older than `before`; counts what the chapters passed did not have.
    ///
    /// # Errors
    /// [`IndexError::Damaged`].
    pub fn next_page(
        &mut self,
        name: &RecordName,
        before: u64,
    ) -> Result<Option<PageOf>, IndexError> {
        let patience = self.patience;
        let older =
            |member: &&mut Member| member.pages.chapter < before && member.missed < patience;
        for member in self.members.iter_mut().filter(older) {
            let page = member.pages.find(name).map_err(|_| IndexError::Damaged)?;
            if page.is_some() {
                return Ok(page);
            }
            member.missed += 1;
        }
        Ok(None)
    }

    /// The page of a chapter that was looked at had the name, or did not.
    pub fn looked_at(&mut self, chapter: u64, had_it: bool) {
        self.uses += u64::from(had_it);
        let uses = self.uses;
        let Some(member) = self.member(chapter) else {
            return;
        };
        if had_it {
            (member.missed, member.used) = (0, uses);
        } else {
            member.missed += 1;
        }
    }
}
