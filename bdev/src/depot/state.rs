//! What the slabs of a zone share, and the hand that moves it all.
//!
//! All state of a zone is in one [`DepotState`], borrowed for the length of one synchronous step. What a step
//! wants of others (locks on the recovery journal, waking a task, going read-only) is collected as
//! [`Effect`]s and carried out when the borrow has ended, because the others may call back.

use std::collections::VecDeque;
use std::rc::Rc;

use super::allocator::Allocator;
use super::discards::Discards;
use super::locks::PbnLocks;
use super::scrubbing::Scrubber;
use super::slab::{ReferenceChange, Slab};
use super::summary::{Summary, SummaryWaiter};
use super::work::{Job, Need, Work};
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::slab::SlabGeometry;
use crate::format::slab_summary::SlabSummaryEntry;
use crate::runtime::list::{Links, List};
use crate::runtime::services::ZoneServices;
use crate::runtime::table::{Key, Table};
use crate::runtime::task::TaskId;
use crate::stats::{RefCountsStatistics, SlabJournalStatistics, SlabSummaryStatistics};
use crate::types::{Pbn, SequenceNumber, SlabNumber};

/// Something to be done when the state is no longer borrowed.
#[derive(Debug)]
pub(super) enum Effect {
    AcquireJournalLock(SequenceNumber),
    ReleaseJournalLock(SequenceNumber),
    ReadOnly(VdoError),
    Wake(TaskId),
}

/// Where the zone is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DepotPhase {
    /// Not loaded.
    New,
    /// At work.
    Normal,
    /// Waiting for what is under way, and writing out everything if `save`.
    Draining { save: bool },
    /// At rest; everything was written out if `saved`.
    Suspended { saved: bool },
}

/// A change that waits, and its caller.
#[derive(Debug)]
struct Ticket {
    change: ReferenceChange,
    offset: u32,
    task: Option<TaskId>,
    result: Option<Result<(), VdoError>>,
    abandoned: bool,
}

/// The changes that wait for one slab, in order of arrival.
pub(super) type TicketQueue = List;

/// The changes that wait in this zone, and those made whose callers have not taken note.
#[derive(Debug)]
pub(super) struct Tickets {
    tickets: Table<Ticket>,
    links: Links,
}

impl Tickets {
    pub(super) fn with_capacity(capacity: usize) -> Tickets {
        Tickets {
            tickets: Table::with_capacity(capacity),
            links: Links::new(capacity),
        }
    }

    /// Bytes of memory it holds.
    pub(super) fn memory_held(&self) -> usize {
        self.tickets.memory_held() + self.links.memory_held()
    }

    fn get(&mut self, ticket: u32) -> &mut Ticket {
        self.tickets
            .get_mut(Key::new(ticket))
            .expect("a ticket is valid until it is taken")
    }

    /// Makes a ticket for a change and puts it last in its slab's queue.
    pub(super) fn add(
        &mut self,
        queue: &mut TicketQueue,
        change: ReferenceChange,
        offset: u32,
    ) -> u32 {
        let ticket = Ticket {
            change,
            offset,
            task: None,
            result: None,
            abandoned: false,
        };
        let number = self.tickets.insert(ticket).number();
        self.links.cover(number);
        queue.push(&mut self.links, number);
        number
    }

    /// Takes the change that has waited longest off its slab's queue.
    pub(super) fn pop(&mut self, queue: &mut TicketQueue) -> Option<u32> {
        queue.pop(&mut self.links)
    }

    pub(super) fn change(&mut self, ticket: u32) -> (ReferenceChange, u32) {
        let ticket = self.get(ticket);
        (ticket.change, ticket.offset)
    }

    pub(super) fn finish(
        &mut self,
        number: u32,
        result: Result<(), VdoError>,
        effects: &mut VecDeque<Effect>,
    ) {
        let ticket = self.get(number);
        ticket.result = Some(result);
        if ticket.abandoned {
            self.remove(number);
        } else if let Some(task) = ticket.task {
            effects.push_back(Effect::Wake(task));
        }
    }

    /// The result, if there is one, with which the ticket ends; else `task` is woken when there is.
    pub(super) fn poll(&mut self, number: u32, task: TaskId) -> Option<Result<(), VdoError>> {
        let ticket = self.get(number);
        ticket.task = Some(task);
        let result = ticket.result.take()?;
        self.remove(number);
        Some(result)
    }

    /// Nobody waits for the result any more; the change is made all the same.
    pub(super) fn abandon(&mut self, number: u32) {
        let ticket = self.get(number);
        ticket.abandoned = true;
        if ticket.result.is_some() {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u32) {
        self.tickets.remove(Key::new(number));
    }
}

/// Slab journals whose tail block locks a block of the recovery journal, oldest first.
#[derive(Debug, Default)]
pub(super) struct DirtyJournals {
    /// Recovery-journal block and slab, sorted.
    journals: Vec<(SequenceNumber, u32)>,
}

impl DirtyJournals {
    pub(super) fn with_capacity(slabs: usize) -> DirtyJournals {
        DirtyJournals {
            journals: Vec::with_capacity(slabs),
        }
    }

    /// Makes room for so many slabs.
    pub(super) fn extend(&mut self, slabs: usize) {
        let more = slabs.saturating_sub(self.journals.len());
        self.journals.reserve(more);
    }

    pub(super) fn insert(&mut self, lock: SequenceNumber, slab: u32) {
        let at = self.journals.partition_point(|&entry| entry < (lock, slab));
        self.journals.insert(at, (lock, slab));
    }

    pub(super) fn remove(&mut self, lock: SequenceNumber, slab: u32) {
        if let Ok(at) = self.journals.binary_search(&(lock, slab)) {
            self.journals.remove(at);
        }
    }

    /// The slab with the oldest lock, if that is on `lock` or an older block.
    pub(super) fn oldest_up_to(&self, lock: SequenceNumber) -> Option<u32> {
        self.journals
            .first()
            .filter(|(oldest, _)| *oldest <= lock)
            .map(|&(_, slab)| slab)
    }
}

/// What the slabs of a zone share.
pub(super) struct Core {
    services: Rc<dyn ZoneServices>,
    /// An error was met here; the volume is about to be read-only.
    failed: bool,
    pub(super) phase: DepotPhase,
    pub(super) locks: PbnLocks,
    pub(super) allocator: Allocator,
    pub(super) summary: Summary,
    pub(super) work: Work,
    pub(super) scrubber: Scrubber,
    pub(super) discards: Discards,
    pub(super) tickets: Tickets,
    pub(super) dirty_journals: DirtyJournals,
    pub(super) effects: VecDeque<Effect>,
    pub(super) slab_journal: SlabJournalStatistics,
    pub(super) slab_summary: SlabSummaryStatistics,
    pub(super) ref_counts: RefCountsStatistics,
}

impl Core {
    /// For this many slabs, and as many changes as can be under way at once.
    pub(super) fn new(
        services: Rc<dyn ZoneServices>,
        (slabs, changes): (usize, usize),
        locks: PbnLocks,
        allocator: Allocator,
        summary: Summary,
        work: Work,
        (scrubber, discards): (Scrubber, Discards),
    ) -> Core {
        Core {
            services,
            failed: false,
            phase: DepotPhase::New,
            locks,
            allocator,
            summary,
            work,
            scrubber,
            discards,
            tickets: Tickets::with_capacity(changes),
            dirty_journals: DirtyJournals::with_capacity(slabs),
            effects: VecDeque::with_capacity(changes),
            slab_journal: SlabJournalStatistics::default(),
            slab_summary: SlabSummaryStatistics::default(),
            ref_counts: RefCountsStatistics::default(),
        }
    }

    /// Bytes of memory that locks and changes under way hold.
    pub(super) fn memory_held(&self) -> usize {
        let effects = self.effects.capacity() * size_of::<Effect>();
        let discards = self.discards.memory_held();
        self.locks.memory_held() + self.tickets.memory_held() + effects + discards
    }

    /// Whether nothing may be written any more.
    #[inline]
    pub(super) fn is_read_only(&self) -> bool {
        self.failed || self.services.is_read_only()
    }

    /// Whether the zone is at work, neither draining nor at rest.
    #[inline]
    pub(super) fn is_normal(&self) -> bool {
        self.phase == DepotPhase::Normal
    }

    /// Whether freed blocks are to be discarded on the base device.
    pub(super) fn discards_freed(&self) -> bool {
        self.services.discards_freed()
    }

    /// Free blocks are about to be discarded.
    pub(super) fn discard_began(&self) {
        self.services.discard_began();
    }

    /// They have been, or not.
    pub(super) fn discard_ended(&self, result: &Result<(), VdoError>) {
        self.services.discard_ended(result);
    }

    /// A block has lost its last reference.
    pub(super) fn block_freed(&mut self, slab: u32, offset: u32) {
        if self.discards_freed() {
            self.discards.freed(slab, offset);
        }
    }

    /// Turns the volume read-only because of `error`.
    pub(super) fn fail(&mut self, error: VdoError) {
        if !self.failed && error != VdoError::ReadOnly {
            self.failed = true;
            self.effects.push_back(Effect::ReadOnly(error));
        }
    }

    /// Changes an entry of the summary and sees to its being written.
    pub(super) fn update_summary(
        &mut self,
        slab: SlabNumber,
        entry: SlabSummaryEntry,
        waiter: SummaryWaiter,
    ) {
        if let Some(block) = self.summary.update(slab, entry, waiter) {
            self.work.push(Job::Summary { block });
        }
    }
}

/// The slabs of a zone and what they share.
pub(super) struct DepotState {
    pub(super) slabs: Vec<Slab>,
    pub(super) core: Core,
    told: Vec<SummaryWaiter>,
}

impl DepotState {
    pub(super) fn new(slabs: Vec<Slab>, core: Core) -> DepotState {
        DepotState {
            told: Vec::with_capacity(2 * slabs.len()),
            slabs,
            core,
        }
    }

    /// The slab of this zone with a number in the zone, and what it shares with the others.
    #[inline]
    pub(super) fn slab(&mut self, local: u32) -> (&mut Slab, &mut Core) {
        (&mut self.slabs[local as usize], &mut self.core)
    }

    /// The count of a block is about to be changed.
    #[inline]
    pub(super) fn foresee(&self, local: u32, offset: u32) {
        self.slabs[local as usize].counts.foresee(offset);
    }

    /// Takes a free block, with a provisional reference, from the open slab or else from the best one.
    pub(super) fn allocate(&mut self, geometry: &SlabGeometry) -> Option<Pbn> {
        let core = &mut self.core;
        let mut found = None;
        if let Some(open) = core.allocator.open() {
            let slab = &mut self.slabs[open as usize];
            found = slab.counts.find_free().map(|offset| (open, offset));
            if found.is_none() {
                core.allocator
                    .close_open(slab.counts.free(), slab.journal.is_blank());
            }
        }
        if found.is_none() {
            let best = core.allocator.best()?;
            let slab = &mut self.slabs[best as usize];
            let blank = slab.journal.is_blank();
            core.allocator.set_open(best, blank);
            slab.counts.reset_search();
            if blank {
                slab.counts.dirty_all();
            }
            found = slab.counts.find_free().map(|offset| (best, offset));
        }
        let (local, offset) = found?;
        let slab = &mut self.slabs[local as usize];
        slab.counts.make_provisional(offset);
        slab.free_changed(core, false);
        Some(geometry.pbn(slab.number, offset))
    }

    /// A buffer is free again: serves whoever waits for one.
    pub(super) fn return_buffer(&mut self, buffer: Buffer) {
        let Some((need, buffer)) = self.core.work.return_buffer(buffer) else {
            return;
        };
        match need {
            Need::Journal { slab } => {
                let (slab, core) = self.slab(slab);
                slab.pack_tail(core, buffer);
                slab.add_entries(core);
            }
            Need::Reference { slab, block } => {
                let (slab, core) = self.slab(slab);
                slab.pack_reference_block(core, block, buffer);
            }
        }
    }

    /// A block of the summary was written.
    pub(super) fn summary_written(
        &mut self,
        block: u32,
        buffer: Buffer,
        result: Result<(), VdoError>,
    ) {
        let mut told = std::mem::take(&mut self.told);
        if self.core.summary.finish_write(block, buffer, &mut told) {
            self.core.work.push(Job::Summary { block });
        }
        match &result {
            Ok(()) => self.core.slab_summary.blocks_written += 1,
            Err(error) => self.core.fail(error.clone()),
        }
        for waiter in told.drain(..) {
            match waiter {
                SummaryWaiter::Journal(slab) => {
                    let (slab, core) = self.slab(slab);
                    slab.journal_summarized(core, &result);
                }
                SummaryWaiter::Clean(slab) => {
                    let (slab, core) = self.slab(slab);
                    slab.clean_summarized(core);
                }
            }
        }
        self.told = told;
    }

    /// Whether changes wait that may still be made.
    pub(super) fn has_waiters(&mut self) -> bool {
        !self.core.is_read_only() && self.slabs.iter().any(Slab::has_waiters)
    }

    /// Fails every change that waits; the volume is read-only.
    pub(super) fn fail_waiters(&mut self) {
        for slab in &mut self.slabs {
            slab.fail_waiters(&mut self.core);
        }
        self.core.scrubber.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slab_journal_with_the_oldest_lock_is_first_whenever_it_came() {
        let mut journals = DirtyJournals::with_capacity(3);
        for (lock, slab) in [(5, 0), (3, 1), (7, 2), (3, 4)] {
            journals.insert(SequenceNumber(lock), slab);
        }
        assert_eq!(journals.oldest_up_to(SequenceNumber(2)), None);
        let mut order = Vec::new();
        for lock in [3, 3, 5, 7] {
            let oldest = journals.oldest_up_to(SequenceNumber(lock)).unwrap();
            journals.remove(SequenceNumber(lock), oldest);
            order.push(oldest);
        }
        assert_eq!(order, [1, 4, 0, 2]);
        assert_eq!(journals.oldest_up_to(SequenceNumber(u64::MAX)), None);
    }
}
