//! What a zone of the block map knows and decides, apart from any waiting and any I/O.
//!
//! Everything here is a step that happens at once: a request comes, a page has arrived, a copy has been
//! written, the journal has moved on. What must be done outside (read this page, write that one, take a
//! lock on a journal block) is put on a list; `page_io` and `zone` do it.
//!
//! Room in the cache: a request that wants a slot when none is free makes the coldest leaf go. A clean
//! one goes at once. A dirty one has to be written first; as many are written at a time as leaves are
//! wanted. A clean leaf that is almost as cold is preferred to a dirty one. Whatever ends (a read, a write)
//! looks whether there is room now, so that nobody who wants a slot is forgotten.

mod sparse;
mod transfers;
mod trees;

use std::collections::VecDeque;
use std::rc::Rc;

use super::cache::Cache;
use super::config::BlockMapConfig;
use super::eras::Eras;
use super::forest::Forest;
use super::pages::{Contents, Dirt, LeafHint, PageId, Pages, Way};
use super::waiters::{PageOp, WaitQueue, WaiterId, Waiters};
use crate::error::VdoError;
use crate::format::block_map_page;
use crate::format::tree::TreePage;
use crate::runtime::services::BlockMapSlot;
use crate::runtime::task::{Scheduler, WaitList};
use crate::stats::BlockMapStatistics;
use crate::types::{Mapping, Pbn, SequenceNumber};

pub use sparse::NextLeaf;
use transfers::Writes;
pub(super) use transfers::{PageCopy, PageRead};
pub(super) use trees::{Descent, Growing};

/// How many cold leaves are looked at for a clean one before a dirty one is written.
const CLEAN_SEARCH: usize = 16;

/// How many cold leaves are looked at when all so far are being read or written.
const VICTIM_SEARCH: usize = 256;

/// Tells whether a block may hold data: whether it lies in a slab's data region.
pub type DataBlockTest = Box<dyn Fn(Pbn) -> bool>;

/// What to tell the recovery journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JournalCall {
    Acquire(SequenceNumber),
    Release(SequenceNumber),
}

/// How far a request got.
pub(super) enum Progress {
    /// It is done.
    Done(Result<Mapping, VdoError>),
    /// Someone will do it.
    Waits(WaiterId),
}

/// What the zone is open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MapPhase {
    /// Requests.
    Open,
    /// Nothing but what is under way.
    Draining,
    /// Nothing.
    Drained,
}

/// The state of one zone's part of the block map.
pub(super) struct MapState {
    nonce: u64,
    is_data_block: DataBlockTest,
    pub(super) phase: MapPhase,
    pub(super) read_only: bool,
    pages: Pages,
    cache: Cache,
    forest: Forest,
    eras: Eras,
    waiters: Waiters,
    reads: VecDeque<PageId>,
    /// Leaves that were made and not looked at yet. Whoever has one made looks at it next.
    made: Vec<Pbn>,
    writes: Writes,
    /// Pages that a reader or a writer is busy with.
    in_flight: usize,
    /// Searches for a leaf whose way was not in memory.
    searches: usize,
    /// Leaf slots being written to make room.
    discards: usize,
    read_work: Rc<WaitList>,
    write_work: Rc<WaitList>,
    journal_calls: Vec<JournalCall>,
    pub(super) statistics: BlockMapStatistics,
}

impl MapState {
    /// The volume's nonce, which every page carries.
    pub(super) fn nonce(&self) -> u64 {
        self.nonce
    }

    pub(super) fn new(
        config: &BlockMapConfig,
        is_data_block: DataBlockTest,
        scheduler: &Rc<Scheduler>,
        read_work: &Rc<WaitList>,
        write_work: &Rc<WaitList>,
    ) -> Result<MapState, VdoError> {
        let slots = config.cache_pages as usize;
        Ok(MapState {
            nonce: config.nonce,
            is_data_block,
            phase: MapPhase::Open,
            read_only: false,
            pages: Pages::new(slots)?,
            cache: Cache::new(slots, config.requests),
            forest: Forest::new(config.geometry, config.zone, config.zones)?,
            eras: Eras::new(config.maximum_age, config.journal_tail, slots),
            waiters: Waiters::new(scheduler, config.requests),
            reads: VecDeque::with_capacity(slots),
            made: Vec::new(),
            writes: Writes::new(slots),
            in_flight: 0,
            searches: 0,
            discards: 0,
            read_work: Rc::clone(read_work),
            write_work: Rc::clone(write_work),
            journal_calls: Vec::with_capacity(64),
            statistics: BlockMapStatistics::default(),
        })
    }

    /// The entry in `slot` of a leaf will be read, and perhaps changed: the way there, if all pages above the leaf are in memory. If the
    /// leaf is, too, it counts as used now.
    #[inline]
    pub(super) fn foresee(&mut self, leaf: TreePage, slot: u16) -> Option<Way> {
        let pbn = self.locate_now(leaf)?;
        let leaf = match self.cache.find(pbn) {
            Some(id) => {
                self.cache.touch(id);
                self.pages.hint(id, slot)
            }
            None => LeafHint::default(),
        };
        let entry = BlockMapSlot { pbn, slot };
        Some(Way { entry, leaf })
    }

    /// What an entry says, if its leaf is in memory and that can be true.
    #[inline]
    pub(super) fn get_now(&mut self, way: Way) -> Option<Mapping> {
        let id = self.use_now(way)?;
        let mapping = self.pages.entries(id).get(way.entry.slot);
        if !self.is_valid_mapping(mapping) {
            return None;
        }
        self.statistics.read_count += 1;
        self.count_found(id);
        Some(mapping)
    }

    /// Sets an entry, if its leaf is in memory and may be changed.
    #[inline]
    pub(super) fn put_now(&mut self, way: Way, to: Mapping, at: SequenceNumber) -> bool {
        let Some(id) = self.use_now(way) else {
            return false;
        };
        if self.read_only {
            return false;
        }
        self.statistics.write_count += 1;
        self.count_found(id);
        self.set_entry(id, way.entry.slot, to, at);
        true
    }

    /// The leaf on the way, if it is in memory. If it is not where it was, it counts as used now.
    #[inline]
    fn use_now(&mut self, way: Way) -> Option<PageId> {
        let pbn = way.entry.pbn;
        let hinted = self.pages.hinted(way.leaf, pbn);
        if let Some(id) = hinted.filter(|id| self.is_there(*id)) {
            return Some(id);
        }
        let id = self.find_now(pbn)?;
        self.cache.touch(id);
        Some(id)
    }

    #[inline]
    fn find_now(&self, pbn: Pbn) -> Option<PageId> {
        let id = self.cache.find(pbn)?;
        self.is_there(id).then_some(id)
    }

    #[inline]
    fn is_there(&self, id: PageId) -> bool {
        self.pages.get(id).contents == Contents::Valid && self.phase == MapPhase::Open
    }

    /// Counts that a leaf was there.
    #[inline]
    fn count_found(&mut self, id: PageId) {
        self.statistics.found_in_cache += 1;
        if self.pages.get(id).writing {
            self.statistics.read_outgoing += 1;
        }
    }

    /// A request to do something with the leaf at `pbn`.
    pub(super) fn request(&mut self, pbn: Pbn, op: PageOp) -> Progress {
        if self.phase != MapPhase::Open {
            return Progress::Done(Err(VdoError::ShuttingDown));
        }
        if matches!(op, PageOp::Put(..)) {
            if self.read_only {
                return Progress::Done(Err(VdoError::ReadOnly));
            }
            self.statistics.write_count += 1;
        } else {
            self.statistics.read_count += 1;
        }
        if let Some(id) = self.cache.find(pbn) {
            let page = self.pages.get(id);
            if page.contents == Contents::Valid {
                self.count_found(id);
                self.cache.touch(id);
                return Progress::Done(self.perform(id, op));
            }
            self.statistics.wait_for_page += 1;
            return Progress::Waits(self.wait_for_page(id, op));
        }
        if let Some(id) = self.cache.take_free() {
            self.statistics.fetch_required += 1;
            self.fetch(id, pbn, WaitQueue::EMPTY);
            return Progress::Waits(self.wait_for_page(id, op));
        }
        self.statistics.discard_required += 1;
        let queue = self.cache.wants().queue(pbn);
        let waiter = self.waiters.enqueue(queue, op);
        self.make_room();
        Progress::Waits(waiter)
    }

    fn wait_for_page(&mut self, id: PageId, op: PageOp) -> WaiterId {
        let waiters = &mut self.waiters;
        self.pages
            .update(id, |page| waiters.enqueue(&mut page.waiting, op))
    }

    /// Does what a request wants with a page that is there.
    fn perform(&mut self, id: PageId, op: PageOp) -> Result<Mapping, VdoError> {
        match op {
            PageOp::Await => Ok(Mapping::UNMAPPED),
            PageOp::Get(slot) => Ok(self.pages.entries(id).get(slot)),
            PageOp::Put(..) if self.read_only => Err(VdoError::ReadOnly),
            PageOp::Put(slot, mapping, sequence) => {
                self.set_entry(id, slot, mapping, sequence);
                Ok(mapping)
            }
        }
    }

    /// Sets an entry and makes the page keep the journal block of its oldest unwritten change.
    #[inline]
    fn set_entry(&mut self, id: PageId, slot: u16, mapping: Mapping, sequence: SequenceNumber) {
        self.pages.entries_mut(id).set(slot, mapping);
        let old = self.pages.get(id).lock;
        if old.is_none_or(|old| sequence < old) {
            self.hold_journal(id, old, sequence);
        }
    }

    fn hold_journal(&mut self, id: PageId, old: Option<SequenceNumber>, sequence: SequenceNumber) {
        self.journal_calls.push(JournalCall::Acquire(sequence));
        if let Some(old) = old {
            self.journal_calls.push(JournalCall::Release(old));
        }
        let ages = self.pages.update(id, |page| {
            page.lock = Some(sequence);
            let ages = matches!(page.dirt, Dirt::Clean | Dirt::Aging);
            if ages {
                page.dirt = Dirt::Aging;
            }
            ages
        });
        if ages {
            self.eras.place(id, sequence);
            self.queue_expired();
        }
    }

    /// Whether a leaf may say this of a logical block.
    #[inline]
    pub(super) fn is_valid_mapping(&self, mapping: Mapping) -> bool {
        block_map_page::is_valid(mapping)
            && (mapping.pbn == Pbn::ZERO || (self.is_data_block)(mapping.pbn))
    }

    /// Begins to read the leaf at `pbn` into a slot that was free, for all who wait.
    fn fetch(&mut self, id: PageId, pbn: Pbn, waiting: WaitQueue) {
        self.cache.insert(id, pbn);
        self.pages.update(id, |page| {
            page.pbn = pbn;
            page.waiting = waiting;
        });
        self.statistics.pages_loaded += 1;
        self.read(id);
    }

    fn read(&mut self, id: PageId) {
        self.pages
            .update(id, |page| page.contents = Contents::Incoming);
        self.reads.push_back(id);
        self.read_work.wake_one();
    }

    /// Finds slots for those who want one, as far as there are any.
    fn make_room(&mut self) {
        if self.cache.wants().len() == 0 {
            self.statistics.cache_pressure = 0;
            return;
        }
        while self.cache.wants().len() > self.discards {
            match self.victim() {
                Some(id) if self.pages.get(id).is_idle_and_clean() => self.replace(id),
                Some(id) => {
                    self.discards += 1;
                    self.eras.remove(id);
                    self.pages.update(id, |page| page.discarding = true);
                    self.queue_write(id);
                }
                None if self.read_only && !self.pages.any_leaf_in_flight() => {
                    // Nothing will be written any more, so no slot will ever be free.
                    let Some((_, mut waiting)) = self.cache.wants().take() else {
                        return;
                    };
                    self.waiters.fail(&mut waiting, &VdoError::ReadOnly);
                }
                None => {
                    self.statistics.cache_pressure += 1;
                    return;
                }
            }
        }
    }

    /// The leaf that should go: idle, and clean if the search meets a clean one.
    fn victim(&self) -> Option<PageId> {
        let mut dirty = None;
        // Read-only, only a clean leaf can go, however hot it is.
        let search = if self.read_only {
            usize::MAX
        } else {
            VICTIM_SEARCH
        };
        for (seen, id) in self.cache.coldest_first().take(search).enumerate() {
            let page = self.pages.get(id);
            if page.is_idle_and_clean() {
                return Some(id);
            }
            if page.dirt == Dirt::Aging && !page.writing && !self.read_only && dirty.is_none() {
                dirty = Some(id);
            }
            if dirty.is_some() && seen >= CLEAN_SEARCH {
                break;
            }
        }
        dirty
    }

    /// Makes a clean leaf go, for the one that was wanted first.
    fn replace(&mut self, id: PageId) {
        self.cache.remove(id);
        self.pages.clear(id);
        match self.cache.wants().take() {
            Some((pbn, waiting)) => self.fetch(id, pbn, waiting),
            None => self.cache.give_free(id),
        }
    }

    /// A search for a leaf that has to wait begins.
    pub(super) fn begin_search(&mut self) {
        self.searches += 1;
    }

    /// Such a search is over.
    pub(super) fn end_search(&mut self) {
        self.searches -= 1;
    }

    /// What a waiter waited for, once it is there.
    pub(super) fn take(&mut self, waiter: WaiterId) -> Option<Result<Mapping, VdoError>> {
        self.waiters.take(waiter)
    }

    /// Whether nothing is under way: no I/O, nobody who waits.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight == 0
            && self.searches == 0
            && self.reads.is_empty()
            && self.writes.is_empty()
            && self.waiters.in_use() == 0
    }

    /// Whether there is something to tell the journal, or those who wait for the zone to come to rest.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        !self.journal_calls.is_empty() || self.phase == MapPhase::Draining
    }

    /// What to tell the journal, to be given back empty for the sake of its memory.
    #[inline]
    pub(super) fn journal_calls(&mut self) -> &mut Vec<JournalCall> {
        &mut self.journal_calls
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_held(&self) -> usize {
        let queues = self.reads.capacity() * size_of::<PageId>() + self.writes.memory_held();
        let tables = self.cache.memory_held() + self.eras.memory_held();
        self.pages.memory_held() + tables + queues + self.waiters.memory_held()
    }

    /// The counters, and the gauges as they stand.
    pub(super) fn statistics(&self) -> BlockMapStatistics {
        let mut statistics = self.statistics;
        self.pages.count(&mut statistics);
        statistics
    }
}
