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

use super::chapter_pages::ChapterPages;
use super::page_cache::PageOf;
use crate::format::index::config::CACHE_CHAPTERS;
use crate::index::IndexError;
use crate::types::RecordName;

/// Names in a row that a chapter does not have, of all zones together, before it is passed over.
const PATIENCE: u32 = 20_000;

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
            (member.pages.memory_held() / shared_by.max(1)) as u64
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
        let found = |member: &&mut Member| member.pages.chapter() == chapter;
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
        let chapter = pages.chapter();
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
        let newer = |member: &Member| member.pages.chapter() > chapter;
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
        self.members
            .retain(|member| member.pages.chapter() >= oldest);
    }

    /// The chapters that are looked in, the newest first.
    pub fn chapters(&self) -> impl Iterator<Item = u64> + '_ {
        let used = |member: &&Member| member.missed < self.patience;
        self.members
            .iter()
            .filter(used)
            .map(|member| member.pages.chapter())
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
            |member: &&mut Member| member.pages.chapter() < before && member.missed < patience;
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
