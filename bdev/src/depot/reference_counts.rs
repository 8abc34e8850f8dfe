//! The reference counters of one slab: how often each of its data blocks is used.
//!
//! Counters are bytes in one array; 4032 of them make a *reference block*, the unit in which they are
//! read and written. A counter that changes dirties its block. A dirty block holds a lock on the block
//! of the slab journal that has the oldest change it has not written: that journal block can not be
//! reaped before the reference block is on disk.
//!
//! ```text
//!   clean --change--> dirty (queued) --pack--> writing --done--> clean
//!                        ^                        |
//!                        +----- changed again ----+
//! ```
//!
//! The search for a free block goes on where the last one ended, block by block, to the end of the slab;
//! blocks freed behind it are found when the allocator opens the slab again.
//!
//! Nothing here does I/O. The array is zeroed memory that the system backs page by page as it is used, so
//! a slab that was never written costs next to nothing.

use std::collections::VecDeque;

use thiserror::Error;

use crate::error::VdoError;
use crate::format::Block;
use crate::format::recovery_journal::JournalOperation;
use crate::format::reference_block::{self, COUNTS_PER_BLOCK, EMPTY, PROVISIONAL};
use crate::format::slab_journal::SlabJournalEntry;
use crate::runtime::memory;
use crate::runtime::prefetch::prefetch;
use crate::types::{JournalPoint, MAXIMUM_REFERENCE_COUNT, SequenceNumber};

/// What a request does to the count of a physical block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceOperation {
    /// A logical block refers to it now.
    DataIncrement,
    /// A logical block refers to it no more.
    DataDecrement,
    /// It has become a page of the block map.
    BlockMapIncrement,
}

impl ReferenceOperation {
    /// The operation as the slab journal writes it, for the block at `offset` in its slab.
    #[inline]
    pub(super) fn entry(self, offset: u32) -> SlabJournalEntry {
        let operation = match self {
            ReferenceOperation::BlockMapIncrement => JournalOperation::BlockMapRemapping,
            _ => JournalOperation::DataRemapping,
        };
        SlabJournalEntry {
            offset,
            operation,
            increment: self != ReferenceOperation::DataDecrement,
        }
    }

    /// Whether it adds a reference.
    #[inline]
    #[cfg(test)]
    pub fn is_increment(self) -> bool {
        self != ReferenceOperation::DataDecrement
    }
}

/// What a counter says of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceStatus {
    /// Nobody uses it; it may be allocated.
    Free,
    /// Allocated or locked, with no reference yet.
    Provisional,
    /// One reference.
    Single,
    /// Two references or more; or a page of the block map.
    Shared,
}

/// A change that can not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum CountError {
    #[error("it already has {MAXIMUM_REFERENCE_COUNT} references and was to get one more")]
    Overflow,
    #[error("it has no reference and was to lose one")]
    Underflow,
    #[error("it has {0} references and was to become a page of the block map")]
    NotFresh(u8),
}

/// What a change meant for the block's lock and for the slab's free blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// Nothing.
    None,
    /// The reference took the place of a provisional one.
    ProvisionalTaken,
    /// The last reference went, but a lock keeps the block: it is provisional now.
    ProvisionalMade,
    /// A free block is free no more.
    Allocated,
    /// The block is free.
    Freed,
}

#[derive(Clone, Debug, Default)]
struct ReferenceBlock {
    /// Counters that are not zero.
    allocated: u16,
    dirty: bool,
    writing: bool,
    /// The slab-journal block with the oldest change not written; zero if there is none.
    journal_lock: SequenceNumber,
    /// The lock of the write under way, let go when it is done.
    writing_lock: SequenceNumber,
}

/// Whether a change needs a lock on the slab-journal block its entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryLock {
    /// The reference block takes one.
    Taken,
    /// The reference block has one on an older block, which covers this.
    Covered,
}

/// The counters of one slab.
#[derive(Debug)]
pub(super) struct ReferenceCounts {
    counters: Box<[u8]>,
    blocks: Box<[ReferenceBlock]>,
    dirty: VecDeque<u32>,
    free: u32,
    /// Where the next search starts.
    cursor: u32,
    /// The slab-journal entry of the last change.
    point: JournalPoint,
}

impl ReferenceCounts {
    /// Counters of `data_blocks` blocks, all free.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub(super) fn new(data_blocks: u32) -> Result<ReferenceCounts, VdoError> {
        const { assert!(EMPTY == 0, "memory is zeroed") };
        let what = "reference counts";
        let blocks = (data_blocks as usize).div_ceil(COUNTS_PER_BLOCK);
        Ok(ReferenceCounts {
            counters: memory::zeroed(data_blocks as usize, 1, what)?.into_boxed_slice(),
            blocks: memory::filled(ReferenceBlock::default(), blocks, what)?.into_boxed_slice(),
            dirty: VecDeque::with_capacity(blocks),
            free: data_blocks,
            cursor: 0,
            point: JournalPoint::default(),
        })
    }

    /// Bytes of memory it holds: the counters as far as they were ever used, and what is known of them.
    pub(super) fn memory_held(&self) -> usize {
        let used = self.blocks.iter().filter(|block| block.allocated > 0);
        used.count() * COUNTS_PER_BLOCK + self.blocks.len() * size_of::<ReferenceBlock>()
    }

    /// Blocks that may be allocated.
    #[inline]
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// How many reference blocks there are.
    pub(super) fn block_count(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// The counter of the block at `offset` is about to be changed.
    #[inline]
    pub(super) fn foresee(&self, offset: u32) {
        prefetch(&self.counters[offset as usize]);
    }

    /// The bare counter of the block at `offset`.
    #[inline]
    pub(super) fn count(&self, offset: u32) -> u8 {
        self.counters[offset as usize]
    }

    /// What the counter says.
    #[inline]
    pub(super) fn status(&self, offset: u32) -> ReferenceStatus {
        match self.count(offset) {
            EMPTY => ReferenceStatus::Free,
            1 => ReferenceStatus::Single,
            PROVISIONAL => ReferenceStatus::Provisional,
            _ => ReferenceStatus::Shared,
        }
    }

    /// How many references the block can still take.
    pub(super) fn increment_limit(&self, offset: u32) -> u8 {
        match self.count(offset) {
            PROVISIONAL => MAXIMUM_REFERENCE_COUNT - 1,
            count => MAXIMUM_REFERENCE_COUNT - count,
        }
    }

    /// Starts the next search at the front.
    pub(super) fn reset_search(&mut self) {
        self.cursor = 0;
    }

    /// The next free block at or after where the last search ended; `None` when there is none up to the
    /// end of the slab.
    pub(super) fn find_free(&mut self) -> Option<u32> {
        let end = self.counters.len();
        let mut at = self.cursor as usize;
        while at < end {
            let block = at / COUNTS_PER_BLOCK;
            let block_end = ((block + 1) * COUNTS_PER_BLOCK).min(end);
            if usize::from(self.blocks[block].allocated) < block_end - block * COUNTS_PER_BLOCK
                && let Some(found) = find_zero(&self.counters[at..block_end])
            {
                self.cursor = (at + found + 1) as u32;
                return Some((at + found) as u32);
            }
            at = block_end;
        }
        self.cursor = end as u32;
        None
    }

    /// Takes a free block for someone who has no reference to it yet.
    pub(super) fn make_provisional(&mut self, offset: u32) {
        debug_assert_eq!(self.count(offset), EMPTY);
        self.counters[offset as usize] = PROVISIONAL;
        self.allocated(offset);
    }

    /// Gives back a block that was taken and never referred to; false if it is not such a block.
    pub(super) fn release_provisional(&mut self, offset: u32) -> bool {
        if self.count(offset) != PROVISIONAL {
            return false;
        }
        self.counters[offset as usize] = EMPTY;
        self.freed(offset);
        true
    }

    fn allocated(&mut self, offset: u32) {
        self.blocks[reference_block::block_of(offset) as usize].allocated += 1;
        self.free -= 1;
    }

    fn freed(&mut self, offset: u32) {
        self.blocks[reference_block::block_of(offset) as usize].allocated -= 1;
        self.free += 1;
    }

    /// Whether a change can be made in normal operation.
    ///
    /// # Errors
    /// When a reference would be one too many, or one is taken that is not there.
    #[inline]
    pub(super) fn check(
        &self,
        offset: u32,
        operation: ReferenceOperation,
    ) -> Result<(), CountError> {
        let count = self.count(offset);
        match (operation, count) {
            (ReferenceOperation::DataIncrement, MAXIMUM_REFERENCE_COUNT) => {
                Err(CountError::Overflow)
            }
            (ReferenceOperation::DataDecrement, EMPTY | PROVISIONAL) => Err(CountError::Underflow),
            (ReferenceOperation::BlockMapIncrement, count) if count != PROVISIONAL => {
                Err(CountError::NotFresh(count))
            }
            _ => Ok(()),
        }
    }

    /// Makes a change that [`ReferenceCounts::check`] allows, journaled at `point`. `locked` says whether
    /// the block has a lock, and is asked only when the last reference goes.
    #[inline]
    pub(super) fn apply(
        &mut self,
        offset: u32,
        operation: ReferenceOperation,
        point: JournalPoint,
        locked: impl FnOnce() -> bool,
    ) -> (Consequence, EntryLock) {
        let counter = &mut self.counters[offset as usize];
        let before = *counter;
        let consequence = match operation {
            ReferenceOperation::DataDecrement if before > 1 => {
                *counter -= 1;
                Consequence::None
            }
            ReferenceOperation::DataDecrement if locked() => {
                *counter = PROVISIONAL;
                Consequence::ProvisionalMade
            }
            ReferenceOperation::DataDecrement => {
                *counter = EMPTY;
                self.freed(offset);
                Consequence::Freed
            }
            ReferenceOperation::DataIncrement => match before {
                PROVISIONAL => {
                    *counter = 1;
                    Consequence::ProvisionalTaken
                }
                EMPTY => {
                    *counter = 1;
                    self.allocated(offset);
                    Consequence::Allocated
                }
                _ => {
                    *counter += 1;
                    Consequence::None
                }
            },
            ReferenceOperation::BlockMapIncrement => {
                *counter = MAXIMUM_REFERENCE_COUNT;
                Consequence::ProvisionalTaken
            }
        };
        self.point = point;
        let index = reference_block::block_of(offset);
        let block = &mut self.blocks[index as usize];
        if block.dirty && block.journal_lock.get() > 0 {
            return (consequence, EntryLock::Covered);
        }
        block.journal_lock = point.sequence;
        self.mark_dirty(index);
        (consequence, EntryLock::Taken)
    }

    fn mark_dirty(&mut self, index: u32) {
        let block = &mut self.blocks[index as usize];
        if !block.dirty {
            block.dirty = true;
            if !block.writing {
                self.dirty.push_back(index);
            }
        }
    }

    /// Dirties every block: the slab was never written, and from now on it must be.
    pub(super) fn dirty_all(&mut self) {
        for index in 0..self.block_count() {
            self.mark_dirty(index);
        }
    }

    /// Dirties every block on behalf of the first entry the slab journal ever got; each holds a lock on
    /// that journal block. Says how many.
    pub(super) fn dirty_all_for_first_entry(&mut self, sequence: SequenceNumber) -> u32 {
        for block in &mut self.blocks {
            block.journal_lock = sequence;
        }
        self.dirty_all();
        self.block_count()
    }

    /// Dirty blocks that are not being written.
    pub(super) fn dirty_count(&self) -> u32 {
        self.dirty.len() as u32
    }

    /// Takes the block that has been dirty longest, to be written.
    pub(super) fn start_write(&mut self) -> Option<u32> {
        let index = self.dirty.pop_front()?;
        self.blocks[index as usize].writing = true;
        Some(index)
    }

    /// Packs a block taken by [`ReferenceCounts::start_write`] as it is now. Changes from here on dirty it
    /// anew. Provisional references are not worth keeping: on disk they are free blocks.
    pub(super) fn pack(&mut self, index: u32, to: &mut Block) {
        let from = index as usize * COUNTS_PER_BLOCK;
        let counts = &self.counters[from..(from + COUNTS_PER_BLOCK).min(self.counters.len())];
        let mut durable = [EMPTY; COUNTS_PER_BLOCK];
        for (durable, &count) in durable.iter_mut().zip(counts) {
            *durable = if count == PROVISIONAL { EMPTY } else { count };
        }
        reference_block::encode(to, self.point, &durable[..counts.len()]);
        let block = &mut self.blocks[index as usize];
        block.dirty = false;
        block.writing_lock = std::mem::take(&mut block.journal_lock);
    }

    /// A write is done (or given up): says which slab-journal block it no longer needs (zero for none),
    /// and whether the block has become dirty again meanwhile.
    pub(super) fn finish_write(&mut self, index: u32) -> (SequenceNumber, bool) {
        let block = &mut self.blocks[index as usize];
        block.writing = false;
        if block.dirty {
            self.dirty.push_back(index);
        }
        (std::mem::take(&mut block.writing_lock), block.dirty)
    }

    /// Takes over a block as it was on disk. Returns the commit point of each sector: changes journaled up
    /// to there are in its counters.
    pub(super) fn load(&mut self, index: u32, from: &Block) -> [JournalPoint; 8] {
        let start = index as usize * COUNTS_PER_BLOCK;
        let end = (start + COUNTS_PER_BLOCK).min(self.counters.len());
        let counters = &mut self.counters[start..end];
        let points = reference_block::decode(from, counters);
        let mut allocated = 0;
        for counter in counters {
            if *counter == PROVISIONAL {
                *counter = EMPTY;
            }
            allocated += u16::from(*counter != EMPTY);
        }
        let block = &mut self.blocks[index as usize];
        self.free = self.free + u32::from(block.allocated) - u32::from(allocated);
        block.allocated = allocated;
        self.point = points.into_iter().fold(self.point, JournalPoint::max);
        points
    }
}

/// The place of the first zero, looked for eight bytes at a time.
#[inline]
fn find_zero(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest high bit set is that of the first zero byte.
        let zeroes = word.wrapping_sub(LOW) & !word & HIGH;
        if zeroes != 0 {
            return Some(index * 8 + zeroes.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|&byte| byte == 0)?;
    Some(words.len() * 8 + found)
}
