//! One zone thread's share of the index, as its hash zone asks it.
//!
//! A request is answered at once if that takes nothing but memory. Otherwise it is a *lookup*: it waits for a page of a chapter, which one of
//! the thread's readers brings ([`IndexShard::next_wanted`], [`IndexShard::page_read`]), and is asked again then; what it needs a
//! second time may be another page. If the share is stalled (its chapter is full, and the one before it is not on disk), requests wait in
//! line until it is ([`IndexShard::chapter_written`]). In a sparse index, names that the volume index does not know wait there as long as a
//! chapter is being read as a whole ([`IndexShard::next_wanted_chapter`], [`IndexShard::chapter_read`]).
//!
//! A share without parts is closed. It gets its parts when the index is made or loaded ([`IndexShard::install`]), answers from
//! [`IndexShard::open`] until [`IndexShard::stop`], and when what was asked has ended it can be saved and given up. After an error it
//! answers nothing any more, and says why, once ([`IndexShard::take_failure`]).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::answers::AnswerQueue;
use super::name_zones::NameZones;
use super::seam::{AnswerMode, IndexAnswer, IndexOp, IndexRequest};
use super::uds::chapter_pages::ChapterPages;
use super::uds::lookup::{Chapters, Look};
use super::uds::open_chapter::OpenChapter;
use super::uds::page_cache::{PageOf, Wanted};
use super::uds::ring::Ring;
use super::uds::zone::{IndexZone, Outcome, Question, Seen};
use crate::error::IndexError;
use crate::format::index::IndexRecord;
use crate::format::index::config::CACHE_CHAPTERS;
use crate::format::index::record_page::RecordData;
use crate::runtime::table::{Key, Table};
use crate::runtime::task::{Scheduler, WaitList};
use crate::seam::Nanos;
use crate::stats::IndexStatistics;
use crate::types::{Mapping, Pbn, RecordName, ZoneIndex};

/// The least pages of chapters that a share keeps in memory.
const LEAST_PAGES: u32 = 4;

/// What an open share is made of.
#[derive(Debug)]
pub struct ShardParts {
    /// Its names, and what is in its open chapter.
    pub zone: IndexZone,
    /// The chapters on disk.
    pub chapters: Chapters,
    /// How names are dealt out, and which share this is.
    pub dealt: (NameZones, ZoneIndex),
}

impl ShardParts {
    /// Parts of share `number` of an index that has nothing in it, of which there are `zones`.
    ///
    /// # Errors
    /// [`IndexError::NoMemory`].
    pub fn new(ring: Ring, number: ZoneIndex, zones: u8) -> Result<ShardParts, IndexError> {
        let geometry = &ring.geometry;
        // As many as dm-vdo keeps, all shares together.
        let pages = CACHE_CHAPTERS * geometry.record_pages / u32::from(zones.max(1));
        Ok(ShardParts {
            zone: IndexZone::new(geometry, number.get(), zones)?,
            chapters: Chapters::new(ring, pages.max(LEAST_PAGES) as usize, zones)?,
            dealt: (NameZones::new(geometry, zones), number),
        })
    }

    fn memory_bytes(&self) -> u64 {
        self.zone.memory_bytes() + self.chapters.memory_bytes()
    }
}

/// What a share is at, for a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardReport {
    /// The open chapter.
    pub open_chapter: u64,
    /// The oldest chapter of which there may be names.
    pub oldest_chapter: u64,
    /// Records of the open chapter that are here.
    pub open_entries: u64,
    /// Whether the chapter before it is on its way to the disk.
    pub is_closing: bool,
    /// Requests that wait for pages of chapters.
    pub lookups: u64,
    /// Requests that wait for a chapter to be on disk.
    pub stalled: u64,
}

/// A share of a chapter that was closed, on its way to who writes it.
pub type ClosedShare = (u64, Arc<OpenChapter>);

/// A request, and what was found on disk for it so far, so that it needs no page twice.
#[derive(Clone, Copy, Debug)]
struct Lookup {
    request: IndexRequest,
    seen: Seen,
}

impl Lookup {
    fn new(request: IndexRequest) -> Lookup {
        let seen = Seen::default();
        Lookup { request, seen }
    }
}

/// What became of a request that was asked.
enum Asked {
    Answer(Result<Option<Mapping>, IndexError>),
    /// It needs this page.
    Read(PageOf),
    /// It must wait for a chapter to be written, or to be read as a whole.
    Stalled,
}

/// See the [module](self).
#[derive(Debug)]
pub struct IndexShard {
    scheduler: Rc<Scheduler>,
    parts: Option<Box<ShardParts>>,
    is_open: bool,
    /// Whether anything was asked since it was opened.
    is_touched: bool,
    answers: AnswerQueue,
    lookups: Table<Lookup>,
    /// Requests that wait for a chapter to be written or to be read, or for a place in the cache.
    line: VecDeque<Lookup>,
    /// Requests whose page has come, in the making.
    served: Vec<u32>,
    closed: Option<ClosedShare>,
    failure: Option<IndexError>,
    is_failure_told: bool,
    /// Readers that have nothing to read.
    readers: Rc<WaitList>,
    counts: IndexStatistics,
}

impl IndexShard {
    /// A closed share, with room for so many requests at once.
    pub fn new(scheduler: &Rc<Scheduler>, requests: usize) -> IndexShard {
        IndexShard {
            scheduler: Rc::clone(scheduler),
            parts: None,
            is_open: false,
            is_touched: false,
            answers: AnswerQueue::new(requests),
            lookups: Table::with_capacity(requests),
            line: VecDeque::with_capacity(requests),
            served: Vec::with_capacity(requests),
            closed: None,
            failure: None,
            is_failure_told: false,
            readers: Rc::new(WaitList::new(scheduler)),
            counts: IndexStatistics::default(),
        }
    }

    /// Gives it parts, which nothing is asked yet.
    pub fn install(&mut self, parts: Box<ShardParts>) {
        self.parts = Some(parts);
    }

    /// Takes its parts, of which nothing may be asked any more.
    pub fn take(&mut self) -> Option<Box<ShardParts>> {
        debug_assert!(!self.is_open, "nobody asks what is taken apart");
        self.parts.take()
    }

    /// Its parts, to be looked at.
    pub fn parts(&self) -> Option<&ShardParts> {
        self.parts.as_deref()
    }

    /// From now on it answers. `newest` is its open chapter, if that is not the one that was loaded.
    pub fn open(&mut self, newest: Option<u64>) {
        let Some(parts) = self.parts.as_deref_mut() else {
            return;
        };
        if let Some(newest) = newest {
            parts.zone.open_chapter(newest);
        }
        self.is_open = true;
        self.is_touched = false;
        self.failure = None;
        self.is_failure_told = false;
        self.counts = IndexStatistics::default();
    }

    /// From now on it takes no requests, and those that wait for anything but a page are given up.
    pub fn stop(&mut self) {
        self.is_open = false;
        self.serve_line();
    }

    /// Whether everything that was asked has ended.
    pub fn is_idle(&self) -> bool {
        let reads = |parts: &ShardParts| parts.chapters.sparse.is_waiting();
        let asked = self.lookups.len() + self.line.len();
        asked == 0 && self.answers.is_empty() && !self.parts().is_some_and(reads)
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        !self.is_open
    }

    /// Whether anything was asked since it was opened.
    pub fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// These names are about to be asked for: a question to follow takes less time.
    pub fn foresee(&self, names: &[RecordName]) {
        if let Some(parts) = self.parts().filter(|_| self.is_open) {
            parts.zone.foresee(names);
        }
    }

    /// Does what is asked and answers at once, if that can be done without waiting; the request's token means nothing then. `None`
    /// if it cannot be: then it is to be submitted.
    #[inline]
    pub fn answer_now(
        &mut self,
        request: &IndexRequest,
    ) -> Option<Result<Option<Mapping>, IndexError>> {
        if !self.answers.is_open() {
            return None;
        }
        match self.begin(&mut Lookup::new(*request)) {
            Asked::Answer(answer) => Some(answer),
            Asked::Read(_) | Asked::Stalled => None,
        }
    }

    /// Takes a request in. Its answer comes out of a later poll, exactly once. Never blocks.
    pub fn submit(&mut self, request: IndexRequest) {
        let mut lookup = Lookup::new(request);
        let asked = self.begin(&mut lookup);
        self.settle(lookup, asked);
    }

    #[inline]
    fn begin(&mut self, lookup: &mut Lookup) -> Asked {
        if self.answers.mode() == AnswerMode::Fail {
            return Asked::Answer(Err(IndexError::Injected));
        }
        if !self.is_open {
            return Asked::Answer(Err(IndexError::NotOpen));
        }
        self.is_touched = true;
        self.ask(lookup, None)
    }

    /// Takes a request as far as it can be taken, now that the page it waited for, if any, has `arrived`.
    #[inline]
    fn ask(&mut self, lookup: &mut Lookup, arrived: Option<PageOf>) -> Asked {
        let Lookup { request, seen } = lookup;
        let Some(parts) = self.parts.as_deref_mut().filter(|_| self.failure.is_none()) else {
            return Asked::Answer(Err(IndexError::NotOpen));
        };
        let zone = &mut parts.zone;
        if zone.is_stalled() {
            return match self.is_open {
                true => Asked::Stalled,
                false => Asked::Answer(Err(IndexError::Abandoned)),
            };
        }
        let question = Question {
            op: request.op,
            record: IndexRecord {
                name: request.name,
                data: RecordData::of(request.new),
            },
        };
        let known = loop {
            let (name, chapters) = (&request.name, &mut parts.chapters);
            let (place, look) = match zone.ask(&question, *seen) {
                Ok(Outcome::Answer(known)) => break known,
                Ok(Outcome::LookIn(chapter)) => {
                    if zone.is_sparse(chapter) && chapters.sparse.want(chapter) {
                        self.readers.wake_one();
                    }
                    (Some(chapter), chapters.look(chapter, name, arrived))
                }
                Ok(Outcome::LookBeyond) => (None, chapters.look_beyond(name, arrived)),
                Err(_) => (None, Err(IndexError::Damaged)),
            };
            match (look, place) {
                (Ok(Look::Known(record)), Some(chapter)) => seen.noted = Some((chapter, record)),
                (Ok(Look::Known(record)), None) => seen.beyond = Some(record),
                (Ok(Look::Read(page)), _) => return Asked::Read(page),
                (Ok(Look::Wait), _) => return Asked::Stalled,
                (Err(error), _) => return Asked::Answer(Err(self.fail(error))),
            }
        };
        if zone.is_full() && !zone.is_closing() {
            self.closed = Some((zone.newest(), zone.close()));
        }
        count(&mut self.counts, request.op, known.is_some());
        Asked::Answer(Ok(known.and_then(|data| data.mapping())))
    }

    #[cold]
    fn fail(&mut self, error: IndexError) -> IndexError {
        self.is_open = false;
        if self.failure.is_none() {
            self.failure = Some(error);
            self.is_failure_told = false;
        }
        error
    }

    /// Does with a submitted request what came of asking.
    fn settle(&mut self, lookup: Lookup, asked: Asked) {
        match asked {
            Asked::Answer(advice) => {
                let answer = IndexAnswer {
                    token: lookup.request.token,
                    advice,
                };
                self.answers.push(answer, self.scheduler.now());
            }
            Asked::Stalled => self.line.push_back(lookup),
            Asked::Read(page) => {
                let Some(parts) = &mut self.parts else { return };
                let key = self.lookups.insert(lookup);
                if parts.chapters.cache.want(page, key.number()) {
                    self.readers.wake_one();
                } else if let Some(lookup) = self.lookups.remove(key) {
                    self.line.push_back(lookup);
                }
            }
        }
    }

    /// Asks once more on behalf of those in line.
    fn serve_line(&mut self) {
        for _ in 0..self.line.len() {
            let Some(mut lookup) = self.line.pop_front() else {
                return;
            };
            let asked = self.ask(&mut lookup, None);
            self.settle(lookup, asked);
        }
    }

    /// The next page that a reader is to read, its first block, and how many it has.
    pub fn next_wanted(&mut self) -> Option<(Wanted, Pbn, usize)> {
        let chapters = &mut self.parts.as_deref_mut()?.chapters;
        let wanted = chapters.cache.next_wanted()?;
        let ring = &chapters.ring;
        let blocks = ring.geometry.page_blocks() as usize;
        Some((wanted, ring.block_of(wanted.page), blocks))
    }

    /// Where readers wait until there may be something to read.
    pub fn readers(&self) -> Rc<WaitList> {
        Rc::clone(&self.readers)
    }

    /// A reader has read a page, or could not.
    pub fn page_read(&mut self, wanted: Wanted, bytes: Result<&[u8], IndexError>) {
        if let Err(error) = bytes {
            self.fail(error);
        }
        let Some(parts) = self.parts.as_deref_mut() else {
            return;
        };
        let mut served = std::mem::take(&mut self.served);
        let cache = &mut parts.chapters.cache;
        cache.fill(wanted, bytes.ok(), |lookup| served.push(lookup));
        for lookup in served.drain(..) {
            if let Some(mut lookup) = self.lookups.remove(Key::new(lookup)) {
                let asked = self.ask(&mut lookup, Some(wanted.page));
                self.settle(lookup, asked);
            }
        }
        self.served = served;
        self.serve_line();
    }

    /// The next chapter whose index a reader is to read as a whole, and the ring it is in.
    pub fn next_wanted_chapter(&mut self) -> Option<(Ring, u64)> {
        let chapters = &mut self.parts.as_deref_mut()?.chapters;
        Some((chapters.ring, chapters.sparse.next_wanted()?))
    }

    /// A reader has read the index of a chapter, or could not.
    pub fn chapter_read(&mut self, chapter: u64, read: Result<Arc<ChapterPages>, IndexError>) {
        let Some(parts) = self.parts.as_deref_mut() else {
            return;
        };
        match read {
            Ok(pages) => return self.chapter_lent(pages),
            // Another has taken its place meanwhile.
            Err(IndexError::Damaged) if chapter < parts.zone.oldest() => {}
            Err(error) => _ = self.fail(error),
        }
        if let Some(parts) = self.parts.as_deref_mut() {
            parts.chapters.sparse.give_up(chapter);
        }
        self.serve_line();
    }

    /// Another zone thread has read the index of a chapter, and this one may look in it, too.
    pub fn chapter_lent(&mut self, pages: Arc<ChapterPages>) {
        let Some(parts) = self.parts.as_deref_mut() else {
            return;
        };
        let chapters = &mut parts.chapters;
        if pages.is_of(&chapters.ring) {
            chapters.sparse.take_in(pages);
            chapters.sparse.forget_before(parts.zone.oldest());
        }
        self.serve_line();
    }

    /// The chapter of all shares is to be closed: does so, unless that was done.
    pub fn close_chapter(&mut self, chapter: u64) {
        let Some(parts) = self.parts.as_deref_mut() else {
            return;
        };
        if parts.zone.newest() == chapter && !parts.zone.is_closing() {
            self.closed = Some((chapter, parts.zone.close()));
        }
    }

    /// The chapter that was closed is on disk, with these lists the last on its index pages.
    pub fn chapter_written(&mut self, chapter: u64, last_lists: &[u32]) {
        let Some(parts) = self.parts.as_deref_mut() else {
            return;
        };
        parts.chapters.note(chapter, last_lists);
        let zone = &mut parts.zone;
        zone.written();
        // The next chapter to be written takes the place of the last of those.
        parts.chapters.sparse.forget_before(zone.oldest());
        // One that is stopped is saved as it is.
        if zone.is_full() && self.is_open {
            self.closed = Some((zone.newest(), zone.close()));
        }
        self.serve_line();
    }

    /// The share of a chapter that was closed since the last call, if there is one.
    #[inline]
    pub fn take_closed(&mut self) -> Option<ClosedShare> {
        self.closed.take()
    }

    /// What went wrong since the last call.
    #[inline]
    pub fn take_failure(&mut self) -> Option<IndexError> {
        let untold = self.failure.filter(|_| !self.is_failure_told);
        self.is_failure_told = true;
        untold
    }

    /// Hands out the answers that may leave now, and says whether there were any.
    pub fn poll(&mut self, now: Nanos, out: &mut dyn FnMut(IndexAnswer)) -> bool {
        let mut any = false;
        while let Some(answer) = self.answers.pop_due(now) {
            out(answer);
            any = true;
        }
        if !self.is_open {
            while let Some(answer) = self.answers.pop_abandoned() {
                out(answer);
                any = true;
            }
        }
        any
    }

    /// When it next needs to be polled although nothing happens: `None` for never, a time that has passed for at once.
    pub fn next_wakeup(&self) -> Option<Nanos> {
        self.answers.next_due()
    }

    /// Counts since it was last opened.
    pub fn statistics(&self) -> IndexStatistics {
        let mut counts = self.counts;
        if let Some(parts) = &self.parts {
            let held = parts.zone.counts();
            counts.entries_indexed = held.records;
            counts.entries_discarded = held.discarded;
            counts.collisions = held.collisions;
            counts.early_flushes = held.early_flushes;
            counts.open_chapter_entries = parts.zone.open_records().len() as u64;
            counts.page_hits = parts.chapters.cache.hits;
            counts.page_reads = parts.chapters.cache.misses;
        }
        counts
    }

    /// What it is at, if it has parts.
    pub fn report(&self) -> Option<ShardReport> {
        let zone = &self.parts()?.zone;
        Some(ShardReport {
            open_chapter: zone.newest(),
            oldest_chapter: zone.oldest(),
            open_entries: zone.open_records().len() as u64,
            is_closing: zone.is_closing(),
            lookups: self.lookups.len() as u64,
            stalled: self.line.len() as u64,
        })
    }

    /// Bytes of memory it holds.
    pub fn memory_held(&self) -> u64 {
        let parts = self.parts.as_deref().map_or(0, ShardParts::memory_bytes);
        let line = self.line.capacity() * size_of::<Lookup>();
        let served = self.served.capacity() * size_of::<u32>();
        let lookups = self.lookups.memory_held() + self.answers.memory_held();
        parts + (line + served + lookups) as u64
    }

    /// From now on (and for answers already held back), answers so.
    pub fn set_answer_mode(&mut self, mode: AnswerMode) {
        self.answers.set_mode(mode);
    }
}

#[inline]
fn count(counts: &mut IndexStatistics, op: IndexOp, found: bool) {
    let count = match (op, found) {
        (IndexOp::Post, true) => &mut counts.posts_found,
        (IndexOp::Post, false) => &mut counts.posts_not_found,
        (IndexOp::Update, true) => &mut counts.updates_found,
        (IndexOp::Update, false) => &mut counts.updates_not_found,
        (IndexOp::Query | IndexOp::Peek, true) => &mut counts.queries_found,
        (IndexOp::Query | IndexOp::Peek, false) => &mut counts.queries_not_found,
    };
    *count += 1;
}
