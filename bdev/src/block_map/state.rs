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

use std::collections::VecDeque;
use std::rc::Rc;

use super::cache::Cache;
use super::eras::Eras;
use super::forest::Forest;
use super::pages::{Contents, Dirt, PageId, Pages};
use super::waiters::{PageOp, WaitQueue, WaiterId, Waiters};
use super::zone::BlockMapConfig;
use crate::VdoError;
use crate::format::Block;
use crate::format::block_map_page::{self, BlockMapPage, BlockMapPageMut, PageValidity};
use crate::format::tree::TreePage;
use crate::stats::BlockMapStatistics;
use crate::types::{Mapping, MappingState, Pbn, SequenceNumber};
use crate::zone::task::{Scheduler, WaitList};

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

/// The next step on the way down a tree to a leaf.
pub(super) enum Step {
    /// The leaf is at this block.
    Found(Pbn),
    /// There is no leaf.
    Missing,
    /// A page is being read or made; look again when the waiter is woken.
    Wait(WaiterId),
    /// This page must be made, by the caller.
    Grow(Growing),
}

/// A page about to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growing {
    pub(super) page: TreePage,
    pub(super) parent: PageId,
    pub(super) parent_pbn: Pbn,
    pub(super) slot: u16,
}

/// A copy of a page to be written; the copy itself is in the writer's buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) id: PageId,
    pub(super) pbn: Pbn,
    pub(super) is_leaf: bool,
    /// Whether the page has never been written: it must be on disk once before it may say it is valid.
    pub(super) first: bool,
}

/// What the zone is open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests.
    Open,
    /// Nothing but what is under way.
    Draining,
    /// Nothing.
    Drained,
}

/// Pages to write: those that make room, for which requests wait, and those that are only old, by turns.
struct Writes {
    urgent: VecDeque<PageId>,
    old: VecDeque<PageId>,
    urgent_next: bool,
}

impl Writes {
    fn new(capacity: usize) -> Writes {
        Writes {
            urgent: VecDeque::with_capacity(capacity),
            old: VecDeque::with_capacity(capacity),
            urgent_next: true,
        }
    }

    fn push(&mut self, id: PageId, urgent: bool) {
        if urgent {
            self.urgent.push_back(id);
        } else {
            self.old.push_back(id);
        }
    }

    fn pop(&mut self) -> Option<PageId> {
        let (first, second) = if self.urgent_next {
            (&mut self.urgent, &mut self.old)
        } else {
            (&mut self.old, &mut self.urgent)
        };
        let id = first.pop_front().or_else(|| second.pop_front())?;
        self.urgent_next = !self.urgent_next;
        Some(id)
    }

    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.old.is_empty()
    }
}

/// The state of one zone's part of the block map.
pub(super) struct State {
    nonce: u64,
    is_data_block: DataBlockTest,
    pub(super) phase: Phase,
    pub(super) read_only: bool,
    pages: Pages,
    cache: Cache,
    forest: Forest,
    eras: Eras,
    waiters: Waiters,
    reads: VecDeque<PageId>,
    writes: Writes,
    /// Reads taken by a reader, writes taken by a writer, and searches for a leaf that wait.
    in_flight: usize,
    searches: usize,
    /// Leaf slots being written to make room.
    discards: usize,
    read_work: Rc<WaitList>,
    write_work: Rc<WaitList>,
    journal_calls: Vec<JournalCall>,
    pub(super) statistics: BlockMapStatistics,
}

impl State {
    pub(super) fn new(
        config: &BlockMapConfig,
        is_data_block: DataBlockTest,
        scheduler: &Rc<Scheduler>,
        read_work: &Rc<WaitList>,
        write_work: &Rc<WaitList>,
    ) -> State {
        let slots = config.cache_pages as usize;
        State {
            nonce: config.nonce,
            is_data_block,
            phase: Phase::Open,
            read_only: false,
            pages: Pages::new(slots),
            cache: Cache::new(slots, config.requests),
            forest: Forest::new(config.geometry, config.zone, config.zones),
            eras: Eras::new(config.maximum_age, config.journal_tail, slots),
            waiters: Waiters::new(scheduler, config.requests),
            reads: VecDeque::with_capacity(slots),
            writes: Writes::new(slots),
            in_flight: 0,
            searches: 0,
            discards: 0,
            read_work: Rc::clone(read_work),
            write_work: Rc::clone(write_work),
            journal_calls: Vec::with_capacity(64),
            statistics: BlockMapStatistics::default(),
        }
    }

    // ---- leaves ----

    /// The entry in slot `slot` of the leaf at `pbn`, if the leaf is in memory and the entry can be true.
    #[inline]
    pub(super) fn get_now(&mut self, pbn: Pbn, slot: u16) -> Option<Mapping> {
        let id = self.find_now(pbn)?;
        let mapping = self.pages.entries(id).get(slot);
        if !self.is_valid_mapping(mapping) {
            return None;
        }
        self.statistics.read_count += 1;
        self.found(id);
        Some(mapping)
    }

    /// Sets an entry of the leaf at `pbn`, if the leaf is in memory and may be changed.
    #[inline]
    pub(super) fn put_now(&mut self, pbn: Pbn, slot: u16, to: Mapping, at: SequenceNumber) -> bool {
        let Some(id) = self.find_now(pbn) else {
            return false;
        };
        if self.read_only {
            return false;
        }
        self.statistics.write_count += 1;
        self.found(id);
        self.set_entry(id, slot, to, at);
        true
    }

    #[inline]
    fn find_now(&self, pbn: Pbn) -> Option<PageId> {
        let id = self.cache.find(pbn)?;
        let is_there = self.pages.get(id).contents == Contents::Valid && self.phase == Phase::Open;
        is_there.then_some(id)
    }

    /// Counts that a leaf was there, and marks it as used.
    #[inline]
    fn found(&mut self, id: PageId) {
        self.statistics.found_in_cache += 1;
        if self.pages.get(id).writing {
            self.statistics.read_outgoing += 1;
        }
        self.cache.touch(id);
    }

    /// A request to do something with the leaf at `pbn`.
    pub(super) fn request(&mut self, pbn: Pbn, op: PageOp) -> Progress {
        if self.phase != Phase::Open {
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
                self.found(id);
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

    // ---- reading ----

    /// The next page to read and where it is.
    pub(super) fn next_read(&mut self) -> Option<(PageId, Pbn, bool)> {
        let id = self.reads.pop_front()?;
        self.in_flight += 1;
        Some((id, self.pages.get(id).pbn, self.pages.is_leaf(id)))
    }

    /// Whether a block that was read can be taken for the page at `pbn`.
    pub(super) fn check(&self, block: &Block, pbn: Pbn) -> Result<(), VdoError> {
        match BlockMapPage::new(block).validity(self.nonce, pbn) {
            PageValidity::Valid | PageValidity::Unwritten => Ok(()),
            PageValidity::Misplaced { found } => Err(VdoError::Inconsistent(format!(
                "block {pbn} should hold the block-map page of that number, but holds that of block {found}"
            ))),
        }
    }

    /// A page has been read and checked: it serves those who wait.
    pub(super) fn read_done(&mut self, id: PageId, block: &Block) {
        self.in_flight -= 1;
        let pbn = self.pages.get(id).pbn;
        let memory = self.pages.bytes_mut(id);
        match BlockMapPage::new(block).validity(self.nonce, pbn) {
            PageValidity::Valid => *memory = *block,
            _ => _ = BlockMapPageMut::format(memory, self.nonce, pbn, false),
        }
        let mut waiting = self.pages.update(id, |page| {
            page.contents = Contents::Valid;
            std::mem::replace(&mut page.waiting, WaitQueue::EMPTY)
        });
        while let Some((waiter, op)) = self.waiters.dequeue(&mut waiting) {
            let result = self.perform(id, op);
            self.waiters.finish(waiter, result);
        }
        self.make_room();
    }

    /// A page could not be read, or was not what it should be.
    pub(super) fn read_failed(&mut self, id: PageId, error: &VdoError) {
        self.in_flight -= 1;
        let mut waiting = self.pages.get(id).waiting;
        self.waiters.fail(&mut waiting, error);
        if self.pages.is_leaf(id) {
            self.statistics.failed_reads += 1;
            self.replace(id);
        } else {
            self.forest.remove(id);
            self.pages.clear(id);
        }
        self.make_room();
    }

    // ---- writing ----

    /// The journal's tail is now block `tail`.
    pub(super) fn advance(&mut self, tail: SequenceNumber) {
        self.eras.advance(tail);
        self.queue_expired();
    }

    /// Queues every dirty page to be written.
    pub(super) fn expire_all(&mut self) {
        self.eras.expire_all();
        self.queue_expired();
    }

    fn queue_expired(&mut self) {
        while let Some(id) = self.eras.next_expired() {
            self.queue_write(id);
        }
    }

    fn queue_write(&mut self, id: PageId) {
        let (writing, discarding) = self.pages.update(id, |page| {
            page.dirt = Dirt::Queued;
            (page.writing, page.discarding)
        });
        if !writing {
            self.writes.push(id, discarding);
            self.write_work.wake_one();
        }
    }

    /// The next page to write, copied into `buffer`.
    pub(super) fn next_write(&mut self, buffer: &mut Block) -> Option<Copy> {
        loop {
            let id = self.writes.pop()?;
            if self.read_only {
                self.give_up_write(id);
                self.make_room();
                continue;
            }
            buffer.copy_from_slice(self.pages.bytes(id));
            // From now on the page counts as written once: if this copy does not get to disk, nothing will.
            let first = !self.pages.entries_mut(id).set_initialized(true);
            let pbn = self.pages.update(id, |page| {
                page.dirt = Dirt::Clean;
                page.writing = true;
                page.copy_lock = page.lock.take();
                page.pbn
            });
            self.in_flight += 1;
            let is_leaf = self.pages.is_leaf(id);
            if is_leaf {
                self.statistics.pages_saved += 1;
            }
            return Some(Copy {
                id,
                pbn,
                is_leaf,
                first,
            });
        }
    }

    /// A copy is on disk.
    pub(super) fn write_done(&mut self, id: PageId) {
        self.in_flight -= 1;
        let (lock, discard, dirt) = self.pages.update(id, |page| {
            page.writing = false;
            let discard = std::mem::take(&mut page.discarding);
            (page.copy_lock.take(), discard, page.dirt)
        });
        if let Some(lock) = lock {
            self.journal_calls.push(JournalCall::Release(lock));
        }
        if dirt == Dirt::Queued {
            self.queue_write(id);
        }
        if discard {
            self.discards -= 1;
            if dirt != Dirt::Clean {
                self.statistics.reclaimed += 1;
            } else if self.cache.wants().len() > 0 {
                self.replace(id);
            }
        }
        self.make_room();
        if self.cache.wants().len() == 0 {
            self.statistics.cache_pressure = 0;
        }
    }

    /// A copy could not be written; the volume is read-only.
    pub(super) fn write_failed(&mut self, id: PageId) {
        self.in_flight -= 1;
        self.pages.update(id, |page| {
            page.writing = false;
            let oldest = page.copy_lock.take().into_iter().chain(page.lock).min();
            page.lock = oldest;
        });
        self.eras.remove(id);
        self.give_up_write(id);
        self.make_room();
    }

    fn give_up_write(&mut self, id: PageId) {
        if self.pages.is_leaf(id) {
            self.statistics.failed_writes += 1;
        }
        let discard = self.pages.update(id, |page| {
            page.dirt = Dirt::Stuck;
            std::mem::take(&mut page.discarding)
        });
        if discard {
            self.discards -= 1;
        }
    }

    /// The volume is read-only: what can not be had any more is refused.
    pub(super) fn enter_read_only(&mut self) {
        self.read_only = true;
        self.make_room();
    }

    // ---- trees ----

    /// Whether the zone owns the tree of this page.
    #[inline]
    pub(super) fn owns(&self, page: TreePage) -> bool {
        self.forest.owns(page.root)
    }

    /// Where a leaf is, if all pages on the way are in memory.
    #[inline]
    pub(super) fn locate_now(&self, leaf: TreePage) -> Option<Pbn> {
        let (parent, slot) = leaf.parent()?;
        if !self.owns(leaf) || self.phase != Phase::Open {
            return None;
        }
        let id = self.forest.page(parent)?;
        if self.pages.get(id).contents != Contents::Valid {
            return None;
        }
        let child = self.pages.entries(id).get(slot);
        let is_good = child.state == MappingState::UNCOMPRESSED && (self.is_data_block)(child.pbn);
        is_good.then_some(child.pbn)
    }

    /// One step on the way to a leaf: from the lowest page that is in memory, as far as one can see.
    pub(super) fn step(&mut self, leaf: TreePage, grow: bool) -> Result<Step, VdoError> {
        let mut page = leaf;
        loop {
            let Some((parent, slot)) = page.parent() else {
                return Ok(Step::Wait(
                    self.read_tree_page(page, self.forest.root_pbn(page.root)),
                ));
            };
            let Some(id) = self.forest.page(parent) else {
                page = parent;
                continue;
            };
            if self.pages.get(id).contents != Contents::Valid {
                return Ok(Step::Wait(self.wait_for_page(id, PageOp::Await)));
            }
            let child = self.pages.entries(id).get(slot);
            if !child.state.is_mapped() && child.pbn == Pbn::ZERO {
                return Ok(self.missing(page, id, slot, grow));
            }
            if child.state != MappingState::UNCOMPRESSED || !(self.is_data_block)(child.pbn) {
                return Err(VdoError::Inconsistent(format!(
                    "slot {slot} of block-map page {} says that page {} of height {} in tree {} is at block {} \
                     (state {}), which is not a place for one",
                    self.pages.get(id).pbn,
                    page.index,
                    page.height,
                    page.root,
                    child.pbn,
                    child.state.bits(),
                )));
            }
            if page.height == 0 {
                return Ok(Step::Found(child.pbn));
            }
            return Ok(Step::Wait(self.read_tree_page(page, child.pbn)));
        }
    }

    fn read_tree_page(&mut self, page: TreePage, pbn: Pbn) -> WaiterId {
        let id = self.add_tree_page(page, pbn);
        self.read(id);
        self.wait_for_page(id, PageOp::Await)
    }

    fn add_tree_page(&mut self, page: TreePage, pbn: Pbn) -> PageId {
        let id = self.pages.add_tree_page(pbn);
        self.eras.resize(self.pages.len());
        self.forest.insert(page, id);
        id
    }

    fn missing(&mut self, page: TreePage, parent: PageId, slot: u16, grow: bool) -> Step {
        if !grow {
            return Step::Missing;
        }
        if let Some(queue) = self.forest.growth(parent, slot) {
            return Step::Wait(self.waiters.enqueue(queue, PageOp::Await));
        }
        self.forest.start_growth(parent, slot);
        Step::Grow(Growing {
            page,
            parent,
            parent_pbn: self.pages.get(parent).pbn,
            slot,
        })
    }

    /// A page has been made: its parent's entry is set under the journal block that records it, and a page
    /// above the leaves begins its life empty.
    pub(super) fn grown(&mut self, growing: Growing, made: Mapping, sequence: SequenceNumber) {
        self.set_entry(growing.parent, growing.slot, made, sequence);
        if growing.page.height > 0 {
            let id = self.add_tree_page(growing.page, made.pbn);
            let nonce = self.nonce;
            BlockMapPageMut::format(self.pages.bytes_mut(id), nonce, made.pbn, false);
            self.pages
                .update(id, |page| page.contents = Contents::Valid);
        }
        let mut waiting = self.forest.end_growth(growing.parent, growing.slot);
        while let Some((waiter, _)) = self.waiters.dequeue(&mut waiting) {
            self.waiters.finish(waiter, Ok(Mapping::UNMAPPED));
        }
    }

    /// A page could not be made.
    pub(super) fn not_grown(&mut self, growing: Growing, error: &VdoError) {
        let mut waiting = self.forest.end_growth(growing.parent, growing.slot);
        self.waiters.fail(&mut waiting, error);
    }

    // ---- the whole ----

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

    /// What to tell the journal, to be given back empty for the sake of its memory.
    #[inline]
    pub(super) fn journal_calls(&mut self) -> &mut Vec<JournalCall> {
        &mut self.journal_calls
    }

    /// The counters, and the gauges as they stand.
    pub(super) fn statistics(&self) -> BlockMapStatistics {
        let mut statistics = self.statistics;
        self.pages.count(&mut statistics);
        statistics
    }
}
