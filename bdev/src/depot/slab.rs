//! One slab at work: its journal and its counters, and the order in which they reach the disk.
//!
//! A change of a count goes this way, all at once if nothing is in its way:
//!
//! 1. an entry in the slab journal's tail block, which locks the recovery-journal block it comes from;
//! 2. the counter in memory, which dirties its reference block;
//! 3. a full tail block is written; then the slab summary says so; then the recovery journal is let go;
//! 4. dirty reference blocks are written when the journal fills: a few at a time from the *flushing
//!    threshold* on, all of them at the *blocking threshold*, where changes wait;
//! 5. journal blocks whose changes are all in reference blocks on disk are reaped after a flush.
//!
//! Changes that can not be made at once wait in order of arrival, so that a slab journal has its entries
//! in the order of the recovery journal. Everything here returns at once; what takes time is a
//! [`Job`], and comes back through `*_written`.

use super::reference_counts::{Consequence, EntryLock, ReferenceCounts, ReferenceOperation};
use super::slab_journal::{NotLocked, SlabJournal};
use super::state::{Core, DepotPhase, Effect, TicketQueue};
use super::summary::SummaryWaiter;
use super::work::{Job, Need};
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::slab::SlabGeometry;
use crate::format::slab_summary::SlabSummaryEntry;
use crate::types::{JournalPoint, Pbn, SequenceNumber, SlabNumber};

/// A change of a physical block's reference count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferenceChange {
    /// The physical block.
    pub pbn: Pbn,
    /// What happens to its count.
    pub operation: ReferenceOperation,
    /// The recovery-journal entry that made the change durable. The caller's hold on that journal block
    /// must last until the change is made.
    pub point: JournalPoint,
}

/// Whether a slab has its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlabRecovery {
    /// Its counters in memory are right.
    Recovered,
    /// Its counters on disk are, and are still to be read: they know of this entry of its journal as the last.
    Unread { last_entry: JournalPoint },
    /// They are on disk, and lack what its journal says: changes are journaled, not counted.
    Unrecovered,
    /// They are being brought up to date: changes wait.
    Scrubbing,
}

/// One slab of this zone.
#[derive(Debug)]
pub(super) struct Slab {
    /// Its number within the zone.
    pub(super) local: u32,
    /// Its number in the depot.
    pub(super) number: SlabNumber,
    pub(super) journal: SlabJournal,
    pub(super) counts: ReferenceCounts,
    pub(super) recovery: SlabRecovery,
    /// Changes that wait, in order of arrival.
    waiters: TicketQueue,
    /// Writes of reference blocks, and of the summary saying that the slab is clean.
    active: u32,
    /// The recovery-journal block locked by the tail block; zero if it has no entry.
    recovery_lock: SequenceNumber,
}

impl Slab {
    pub(super) fn new(
        local: u32,
        number: SlabNumber,
        slabs: &SlabGeometry,
        nonce: u64,
        writers: usize,
    ) -> Result<Slab, VdoError> {
        Ok(Slab {
            local,
            number,
            journal: SlabJournal::new(&slabs.config, nonce, writers),
            counts: ReferenceCounts::new(slabs.config.data_blocks as u32)?,
            recovery: SlabRecovery::Recovered,
            waiters: TicketQueue::default(),
            active: 0,
            recovery_lock: SequenceNumber(0),
        })
    }

    /// Whether changes wait.
    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    fn fail(&self, core: &mut Core, what: std::fmt::Arguments<'_>) -> VdoError {
        let error = VdoError::Inconsistent(format!("slab {}: {what}", self.number));
        core.fail(error.clone());
        error
    }

    /// Makes a change now if nothing is in its way; else it must wait and its caller calls
    /// [`Slab::wait`].
    #[inline]
    pub(super) fn adjust(
        &mut self,
        core: &mut Core,
        change: &ReferenceChange,
        offset: u32,
    ) -> Option<Result<(), VdoError>> {
        if self.has_waiters() {
            return None;
        }
        self.try_adjust(core, change, offset)
    }

    /// Puts a change behind those that wait, and gives a ticket for its result.
    pub(super) fn wait(&mut self, core: &mut Core, change: ReferenceChange, offset: u32) -> u32 {
        core.tickets.add(&mut self.waiters, change, offset)
    }

    /// Fails every change that waits; the volume is read-only.
    pub(super) fn fail_waiters(&mut self, core: &mut Core) {
        while let Some(ticket) = core.tickets.pop(&mut self.waiters) {
            core.tickets
                .finish(ticket, Err(VdoError::ReadOnly), &mut core.effects);
        }
    }

    /// Makes the changes that wait, as far as there is room.
    pub(super) fn add_entries(&mut self, core: &mut Core) {
        while let Some(ticket) = self.waiters.first() {
            let (change, offset) = core.tickets.change(ticket);
            let Some(result) = self.try_adjust(core, &change, offset) else {
                return;
            };
            core.tickets.pop(&mut self.waiters);
            core.tickets.finish(ticket, result, &mut core.effects);
        }
    }

    fn try_adjust(
        &mut self,
        core: &mut Core,
        change: &ReferenceChange,
        offset: u32,
    ) -> Option<Result<(), VdoError>> {
        if self.recovery == SlabRecovery::Scrubbing {
            return None;
        }
        let entry = change.operation.entry(offset);
        if !self.journal.has_partial_write()
            && !self.journal.waiting_to_commit
            && !self.journal.has_room_for(&entry)
        {
            // Only an entry about the block map can find no room in a block that is not full.
            self.commit_tail(core);
        }
        if self.journal.has_partial_write() {
            return None;
        }
        if self.journal.waiting_to_commit {
            core.slab_journal.tail_busy_count += 1;
            return None;
        }
        if self.journal.length() >= self.journal.blocking_threshold {
            core.slab_journal.blocked_count += 1;
            self.make_room(core);
            return None;
        }
        if self.journal.entries() == 0 && self.journal.next_block_is_locked() {
            core.slab_journal.disk_full_count += 1;
            self.make_room(core);
            return None;
        }
        if self.journal.entries() == 0 && self.journal.next_block_is_looked_for() {
            core.slab_journal.disk_full_count += 1;
            self.reap(core);
            return None;
        }
        if self.is_recovered()
            && let Err(error) = self.counts.check(offset, change.operation)
        {
            let pbn = change.pbn;
            return Some(Err(
                self.fail(core, format_args!("physical block {pbn}: {error}"))
            ));
        }
        if !self.journal.accepts(&entry, change.point) {
            let JournalPoint { sequence, entry } = change.point;
            let last = self.journal.recovery_point();
            return Some(Err(self.fail(
                core,
                format_args!(
                    "the recovery-journal entry {sequence}.{entry} arrives after one that follows it \
                     ({}.{})",
                    last.sequence,
                    last.entry / 2
                ),
            )));
        }
        if self.journal.entries() == 0 {
            self.start_block(core, change.point.sequence);
        }
        let at = self.journal.append(&entry, change.point);
        if !self.is_recovered() {
            // Counted when the slab is scrubbed; until then no block of its journal is given up.
            self.recovery = SlabRecovery::Unrecovered;
            if self.journal.tail_is_full() {
                self.commit_tail(core);
            }
            return Some(Ok(()));
        }
        let locked = || core.locks.is_locked(change.pbn);
        let (consequence, lock) = self.counts.apply(offset, change.operation, at, locked);
        match consequence {
            Consequence::None => {}
            Consequence::ProvisionalTaken if core.discards.is_under_way(self.local, offset) => {
                let pbn = change.pbn;
                let what = format_args!(
                    "physical block {pbn} is being discarded and was to get a reference"
                );
                return Some(Err(self.fail(core, what)));
            }
            Consequence::ProvisionalTaken => core.locks.set_provisional(change.pbn, false),
            Consequence::ProvisionalMade => core.locks.set_provisional(change.pbn, true),
            Consequence::Allocated => self.free_changed(core, false),
            Consequence::Freed => {
                self.free_changed(core, true);
                core.block_freed(self.local, offset);
            }
        }
        if lock == EntryLock::Taken {
            self.journal.add_locks(at.sequence, 1);
        }
        if self.journal.tail_is_full() {
            self.commit_tail(core);
        }
        Some(Ok(()))
    }

    /// Whether its counters are as they were shut down, and nobody asks for a change of them.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.recovery, SlabRecovery::Unread { .. }) && !self.has_waiters()
    }

    /// Whether its counters in memory are right.
    #[inline]
    pub(super) fn is_recovered(&self) -> bool {
        self.recovery == SlabRecovery::Recovered
    }

    /// The journal is full, or nearly so: sees to it that its blocks are no longer needed.
    fn make_room(&mut self, core: &mut Core) {
        match self.is_recovered() {
            true => self.write_dirty(core),
            false => core.scrubber.hurry(self.local),
        }
    }

    /// Tells the allocator that a block was taken or became free.
    pub(super) fn free_changed(&self, core: &mut Core, was_freed: bool) {
        let blank = self.journal.is_blank();
        core.allocator
            .changed(self.local, was_freed, self.counts.free(), blank);
    }

    fn start_block(&mut self, core: &mut Core, recovery: SequenceNumber) {
        self.journal.start_block(recovery);
        if self.journal.tail().get() == 1 && self.is_recovered() {
            // The first entry ever. From now on the counters on disk count, so all must be written
            // before the journal may forget its first block.
            let blocks = self.counts.dirty_all_for_first_entry(SequenceNumber(1));
            self.journal.add_locks(SequenceNumber(1), blocks);
        }
        core.effects.push_back(Effect::AcquireJournalLock(recovery));
        self.recovery_lock = recovery;
        core.dirty_journals.insert(recovery, self.local);
        self.write_some_dirty(core);
    }

    /// Above the flushing threshold, every new journal block writes reference blocks: the more the closer
    /// the deadline is.
    fn write_some_dirty(&mut self, core: &mut Core) {
        let length = self.journal.length();
        let dirty = u64::from(self.counts.dirty_count());
        if length < self.journal.flushing_threshold || dirty == 0 {
            return;
        }
        core.slab_journal.flush_count += 1;
        let until_deadline = self.journal.flushing_deadline.saturating_sub(length);
        for _ in 0..(dirty / (until_deadline + 1)).max(1) {
            self.write_one_dirty(core);
        }
    }

    /// Writes every dirty reference block.
    pub(super) fn write_dirty(&mut self, core: &mut Core) {
        while self.write_one_dirty(core) {}
    }

    fn write_one_dirty(&mut self, core: &mut Core) -> bool {
        if core.is_read_only() {
            return false;
        }
        let Some(block) = self.counts.start_write() else {
            return false;
        };
        self.active += 1;
        let need = Need::Reference {
            slab: self.local,
            block,
        };
        if let Some(buffer) = core.work.take_buffer(need) {
            self.pack_reference_block(core, block, buffer);
        }
        true
    }

    /// Packs a reference block into a buffer and sends it off.
    pub(super) fn pack_reference_block(&mut self, core: &mut Core, block: u32, mut buffer: Buffer) {
        self.counts.pack(block, buffer.first_block_mut());
        core.work.push(Job::ReferenceBlock {
            slab: self.local,
            block,
            buffer,
        });
    }

    /// Writes the tail block, full or not, if it has entries.
    pub(super) fn commit_tail(&mut self, core: &mut Core) {
        if self.journal.entries() == 0 || self.journal.waiting_to_commit || core.is_read_only() {
            return;
        }
        core.dirty_journals.remove(self.recovery_lock, self.local);
        self.recovery_lock = SequenceNumber(0);
        self.journal.waiting_to_commit = true;
        if let Some(buffer) = core.work.take_buffer(Need::Journal { slab: self.local }) {
            self.pack_tail(core, buffer);
        }
    }

    /// Packs the tail block into a buffer and sends it off; the next block begins.
    pub(super) fn pack_tail(&mut self, core: &mut Core, mut buffer: Buffer) {
        let sequence = self.journal.commit_tail(buffer.first_block_mut());
        core.work.push(Job::JournalBlock {
            slab: self.local,
            sequence,
            buffer,
        });
    }

    fn drop_lock(&mut self, core: &mut Core, sequence: SequenceNumber) {
        match self.journal.drop_lock(sequence) {
            Ok(false) => {}
            Ok(true) => self.reap(core),
            Err(NotLocked) => {
                self.fail(
                    core,
                    format_args!(
                        "block {sequence} of the slab journal was to lose a lock and has none"
                    ),
                );
            }
        }
    }

    fn reap(&mut self, core: &mut Core) {
        if self.journal.is_reaping() || !core.is_normal() || core.is_read_only() {
            return;
        }
        if !self.is_recovered() {
            return;
        }
        if self.journal.start_reap() {
            core.work.push(Job::Reap { slab: self.local });
        }
    }

    /// The device was flushed so that journal blocks can be overwritten.
    pub(super) fn reaped(&mut self, core: &mut Core, result: Result<(), VdoError>) {
        if let Err(error) = result {
            core.fail(error);
        }
        self.journal.finish_reap();
        self.add_entries(core);
        self.reap(core);
    }

    /// A block of the journal was written.
    pub(super) fn journal_written(
        &mut self,
        core: &mut Core,
        sequence: SequenceNumber,
        result: Result<(), VdoError>,
    ) {
        if let Err(error) = result {
            return core.fail(error);
        }
        core.slab_journal.blocks_written += 1;
        self.journal.finish_commit(sequence);
        self.summarize_journal(core);
    }

    fn summarize_journal(&mut self, core: &mut Core) {
        if core.is_read_only() || !self.journal.wants_summary() {
            return;
        }
        let (tail_block_offset, load_counts) = self.journal.start_summary();
        let entry = SlabSummaryEntry {
            tail_block_offset,
            fullness_hint: match self.is_recovered() {
                true => core.summary.hint(self.counts.free()),
                false => core.summary.entry(self.number).fullness_hint,
            },
            load_counts,
            is_dirty: true,
        };
        core.update_summary(self.number, entry, SummaryWaiter::Journal(self.local));
    }

    /// The summary knows of the journal blocks it was told of.
    pub(super) fn journal_summarized(&mut self, core: &mut Core, result: &Result<(), VdoError>) {
        let partial_is_done = self.journal.finish_partial_write();
        let mut blocks = self.journal.finish_summary();
        if result.is_err() {
            return;
        }
        if partial_is_done || self.journal.wants_later_head() {
            self.add_entries(core);
        }
        while let Some((sequence, recovery)) = self.journal.next_summarized(&mut blocks) {
            core.effects.push_back(Effect::ReleaseJournalLock(recovery));
            self.drop_lock(core, sequence);
        }
        self.reap(core);
        self.summarize_journal(core);
        if self.recovery == SlabRecovery::Scrubbing {
            core.scrubber.wake();
        }
    }

    /// A reference block was written.
    pub(super) fn reference_written(
        &mut self,
        core: &mut Core,
        block: u32,
        result: Result<(), VdoError>,
    ) {
        self.active -= 1;
        let (journal_lock, is_dirty) = self.counts.finish_write(block);
        if let Err(error) = result {
            return core.fail(error);
        }
        core.ref_counts.blocks_written += 1;
        self.drop_lock(core, journal_lock);
        if core.is_read_only() {
            return;
        }
        if is_dirty {
            // Whoever writes out everything, to save it or to make room, wants this block too.
            if core.phase == (DepotPhase::Draining { save: true }) || self.has_waiters() {
                self.write_dirty(core);
            }
            return;
        }
        if self.active == 0 && self.counts.dirty_count() == 0 {
            self.mark_clean(core);
        }
    }

    /// Says in the summary that all counters are on disk.
    pub(super) fn mark_clean(&mut self, core: &mut Core) {
        self.active += 1;
        let entry = SlabSummaryEntry {
            tail_block_offset: core.summary.entry(self.number).tail_block_offset,
            fullness_hint: core.summary.hint(self.counts.free()),
            load_counts: true,
            is_dirty: false,
        };
        core.update_summary(self.number, entry, SummaryWaiter::Clean(self.local));
    }

    /// The summary says that the slab is clean, or was to.
    pub(super) fn clean_summarized(&mut self, core: &mut Core) {
        self.active -= 1;
        if self.recovery == SlabRecovery::Scrubbing {
            core.scrubber.wake();
        }
    }

    /// Whether no write of counters, or of the summary saying that they are clean, is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.active == 0
    }

    /// Whether all counters are on disk and nothing is under way, but the summary does not say so.
    pub(super) fn is_clean_unbeknown(&self, core: &Core) -> bool {
        self.active == 0
            && self.is_recovered()
            && self.counts.dirty_count() == 0
            && core.summary.entry(self.number).is_dirty
    }
}
