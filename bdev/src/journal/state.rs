//! The journal's state, and what changes it without any I/O.
//!
//! Nothing here calls out: a hook or a wake-up that a change calls for is what the change returns, and
//! the journal does it once the state is not borrowed any more.

use super::extent::{Extent, SEQUENCE_LIMIT};
use super::locks::LockTable;
use super::tail::{Pending, Tail};
use super::{JournalConfig, RecoveryJournal};
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::recovery_journal::{
    ENTRIES_PER_BLOCK, JournalOperation, RecoveryBlockHeader, RecoveryJournalEntry, check_byte,
};
use crate::runtime::queue::Queue;
use crate::runtime::services::JournalHolder;
use crate::stats::JournalStatistics;
use crate::types::{JournalPoint, SequenceNumber};

/// Whether the journal takes entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Entries are taken.
    Normal,
    /// No more are taken, and those there are end.
    Draining,
    /// At rest, to go on in the same block.
    Suspended,
    /// At rest, to go on in the next block.
    Saved,
}

/// All of a journal that changes, except that it has failed.
pub(super) struct JournalState {
    pub(super) mode: Mode,
    /// Entries without a place.
    pub(super) unassigned: Queue<Pending>,
    /// Entries not yet reported, with a place or without.
    pub(super) outstanding: usize,
    pub(super) tail: Tail,
    pub(super) extent: Extent,
    pub(super) locks: LockTable,
    /// Writes of blocks under way, those that wait for the flush included.
    pub(super) writes: usize,
    /// No further write begins for now.
    pub(super) held: bool,
    /// A flush is under way, after which the heads move.
    pub(super) reaping: bool,
    /// Whether the lack of space that some entry waits on has been counted.
    full_counted: bool,
    /// Logical blocks mapped.
    pub(super) logical_blocks_used: u64,
    /// Physical blocks that hold pages of the block map.
    pub(super) block_map_data_blocks: u64,
    pub(super) statistics: JournalStatistics,
}

/// What came of trying to give the oldest waiting entry a place.
pub(super) enum Assigned {
    /// It has one.
    Entry,
    /// A block was opened for it; the next block will be this.
    Opened(SequenceNumber),
    /// There is no such entry, or no place for it.
    Nothing,
    /// A place that ought to be free is not.
    Broken(VdoError),
}

impl JournalState {
    /// An empty journal, its blocks in memory over `buffers`.
    pub(super) fn new(config: &JournalConfig, buffers: Vec<Buffer>) -> JournalState {
        JournalState {
            mode: Mode::Normal,
            unassigned: Queue::with_capacity(config.requests),
            outstanding: 0,
            tail: Tail::new(buffers),
            extent: Extent::new(config.blocks, config.state.journal_start),
            locks: LockTable::new(config.blocks),
            writes: 0,
            held: false,
            reaping: false,
            full_counted: false,
            logical_blocks_used: config.state.logical_blocks_used,
            block_map_data_blocks: config.state.block_map_data_blocks,
            statistics: JournalStatistics::default(),
        }
    }

    /// Bytes of memory it holds, buffers aside.
    pub(super) fn memory_held(&self) -> usize {
        self.tail.memory_held() + self.unassigned.memory_held()
    }

    /// Puts an entry at the end of the queue.
    pub(super) fn enqueue(&mut self, tag: u64, entry: RecoveryJournalEntry) {
        self.unassigned.push(Pending { tag, entry });
        self.outstanding += 1;
    }

    /// Gives an entry a place, if no other waits for one and there is one in the newest block; says whether it has one.
    #[inline]
    pub(super) fn assign_at_once(&mut self, pending: Pending) -> bool {
        if !self.unassigned.is_empty() || self.extent.space() == 0 {
            return false;
        }
        let assigned = self.assign_to_active(pending);
        self.outstanding += usize::from(assigned);
        assigned
    }

    /// Gives an entry the next place in the newest block, if that has one.
    #[inline]
    fn assign_to_active(&mut self, pending: Pending) -> bool {
        let Some(block) = self.tail.active() else {
            return false;
        };
        if !block.is_waiting() {
            self.statistics.blocks.started += 1;
        }
        block.assign(pending);
        self.extent.take_space();
        self.statistics.entries.started += 1;
        self.count_usage(&pending.entry);
        true
    }

    fn check_in_use(&self, sequence: SequenceNumber) -> Result<(), VdoError> {
        if self.extent.contains(sequence) {
            return Ok(());
        }
        Err(VdoError::Inconsistent(format!(
            "recovery journal block {sequence} is not in use: the head is {}, the tail {}",
            self.extent.heads().oldest(),
            self.extent.tail()
        )))
    }

    pub(super) fn acquire(
        &mut self,
        sequence: SequenceNumber,
        holder: JournalHolder,
    ) -> Result<(), VdoError> {
        self.check_in_use(sequence)?;
        self.locks.acquire(sequence, holder.into())
    }

    pub(super) fn release(
        &mut self,
        sequence: SequenceNumber,
        holder: JournalHolder,
    ) -> Result<bool, VdoError> {
        self.check_in_use(sequence)?;
        self.locks.release(sequence, holder.into())
    }

    pub(super) fn release_entries(
        &mut self,
        sequence: SequenceNumber,
        number: u16,
    ) -> Result<bool, VdoError> {
        self.check_in_use(sequence)?;
        self.locks.release_entries(sequence, number)
    }

    /// Gives the oldest waiting entry a place, or opens a block for it.
    pub(super) fn assign_next(&mut self, journal: &RecoveryJournal) -> Assigned {
        if self.unassigned.is_empty() {
            return Assigned::Nothing;
        }
        if self.extent.space() == 0 {
            if !self.full_counted {
                self.full_counted = true;
                self.statistics.disk_full += 1;
            }
            return Assigned::Nothing;
        }
        self.full_counted = false;
        let Some(&pending) = self.unassigned.first() else {
            return Assigned::Nothing;
        };
        if !self.assign_to_active(pending) {
            return self.open_block(journal);
        }
        self.unassigned.pop();
        Assigned::Entry
    }

    fn count_usage(&mut self, entry: &RecoveryJournalEntry) {
        match entry.operation {
            JournalOperation::BlockMapRemapping => self.block_map_data_blocks += 1,
            JournalOperation::DataRemapping => {
                let used = self.logical_blocks_used + u64::from(entry.mapping.state.is_mapped());
                let freed = u64::from(entry.unmapping.state.is_mapped());
                self.logical_blocks_used = used.saturating_sub(freed);
            }
        }
    }

    fn open_block(&mut self, journal: &RecoveryJournal) -> Assigned {
        if !self.tail.has_free() {
            return Assigned::Nothing;
        }
        let sequence = self.extent.tail();
        if sequence.get() + 1 >= SEQUENCE_LIMIT {
            return Assigned::Broken(VdoError::Inconsistent(
                "the recovery journal is out of sequence numbers (2^48); copy the data to a new volume"
                    .into(),
            ));
        }
        if let Err(error) = self.locks.open(sequence, ENTRIES_PER_BLOCK) {
            return Assigned::Broken(error);
        }
        self.extent.open_block();
        let heads = self.extent.heads();
        self.tail.open(&RecoveryBlockHeader {
            block_map_head: heads.block_map,
            slab_journal_head: heads.slab_journal,
            sequence,
            nonce: journal.nonce,
            entry_count: 0,
            logical_blocks_used: self.logical_blocks_used,
            block_map_data_blocks: self.block_map_data_blocks,
            check_byte: check_byte(sequence, journal.blocks),
            recovery_count: journal.recovery_count,
        });
        Assigned::Opened(self.extent.tail())
    }

    /// Ends the wait of the oldest entries that are committed and in one block: puts them into `entries`, and says
    /// where the first of them is.
    pub(super) fn take_committed(&mut self, entries: &mut Vec<Pending>) -> Option<JournalPoint> {
        entries.clear();
        let first = self.tail.take_committed(entries)?;
        self.outstanding -= entries.len();
        Some(first)
    }

    /// Ends the wait of the oldest entry, which fails, unless the device still has its block.
    pub(super) fn fail_next(&mut self) -> Option<Pending> {
        let failed = match self.tail.take_unreported() {
            Some(pending) => pending,
            None if self.writes == 0 => self.unassigned.pop()?,
            None => return None,
        };
        self.outstanding -= 1;
        Some(failed)
    }

    /// Frees the blocks in memory that are done with (with `even_partial`, all that rest), and says
    /// whether a block of the ring is held no more because of that.
    pub(super) fn free_blocks(&mut self, even_partial: bool) -> Result<bool, VdoError> {
        let mut unlocked = false;
        while let Some((sequence, unused)) = self.tail.free_oldest(even_partial) {
            unlocked |= self.release_entries(sequence, unused + 1)?;
        }
        Ok(unlocked)
    }

    /// Packs the blocks of a round of writes, unless one is under way or none may begin; says whether there are any.
    pub(super) fn pack_round(&mut self) -> bool {
        if self.writes > 0 || self.held {
            return false;
        }
        let heads = self.extent.heads();
        self.tail.choose_writes(|block| {
            block.pack(heads);
            self.writes += 1;
            self.statistics.blocks.written += 1;
            self.statistics.entries.written += u64::from(block.in_write);
        });
        self.writes > 0
    }

    /// Whether the reaper may start: a journal at rest does no I/O, and one that drains only what its
    /// entries need to come to an end.
    pub(super) fn may_reap(&self) -> bool {
        let allowed = match self.mode {
            Mode::Normal => true,
            Mode::Draining => !self.unassigned.is_empty(),
            Mode::Suspended | Mode::Saved => false,
        };
        allowed && !self.reaping
    }
}
