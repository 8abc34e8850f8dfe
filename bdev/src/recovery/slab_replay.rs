//! Putting changes of reference counts from the recovery journal into the journal of a slab.
//!
//! A slab's journal on disk is right up to the block the slab summary knows last. What followed, in memory or in blocks
//! nobody had told the summary of, is in the recovery journal still, in the same order. Each block of a slab journal
//! says from where in the recovery journal its last entry came, its *recovery point*; whatever comes after it there
//! has to be added again. Blocks written again get the numbers they had, and the same entries at the same places, for the
//! rules of when a block is full are the same as when they were first made. Counters on disk may know of an entry by its place
//! already, so that matters.
//!
//! 1. [`SlabReplay::load`]: where the journal ends, from the summary and the last block on disk.
//! 2. [`SlabReplay::offer`] takes each change, in the order of the recovery journal; when it says so, a block is to be
//!    written first ([`SlabReplay::commit`]).
//! 3. At the end the last block is written, full or not, and the summary is told ([`SlabReplay::summary`]).

use super::plan::Refusal;
use crate::format::Block;
use crate::format::slab::SlabConfig;
use crate::format::slab_journal::{SlabJournalEntry, SlabJournalHeader, expand_point};
use crate::format::slab_summary::{SlabSummaryEntry, tail_offset};
use crate::types::{BLOCK_SIZE, JournalPoint, SequenceNumber, SlabNumber};

/// What became of a change that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The journal has it.
    Known,
    /// It was added.
    Added,
    /// It was added and has filled its block: that is to be written now.
    Filled,
    /// It finds no room in the block that is being filled: that is to be written, and the change offered again.
    NoRoom,
}

/// Where a slab's journal on disk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalEnd {
    /// The oldest block that is needed.
    pub head: SequenceNumber,
    /// The next block.
    pub tail: SequenceNumber,
    /// Where in the recovery journal the last entry came from.
    pub recovery_point: JournalPoint,
}

impl JournalEnd {
    /// The end of a journal that was never written.
    pub const BLANK: JournalEnd = JournalEnd {
        head: SequenceNumber(1),
        tail: SequenceNumber(1),
        recovery_point: JournalPoint {
            sequence: SequenceNumber(0),
            entry: 0,
        },
    };

    /// Blocks in use.
    pub fn length(&self) -> u64 {
        self.tail.get() - self.head.get()
    }
}

/// Which block of its journal is the last one the summary knows of, by its place in the journal; `None` if the slab was
/// never used.
///
/// # Errors
/// When the summary names a block the journal does not have.
pub fn last_block(
    slab: SlabNumber,
    entry: SlabSummaryEntry,
    config: &SlabConfig,
) -> Result<Option<u64>, Refusal> {
    let (offset, blocks) = (
        u64::from(entry.tail_block_offset),
        config.slab_journal_blocks,
    );
    if offset >= blocks {
        let what = format!(
            "the slab summary says its journal ends at block {offset}, and it has {blocks}"
        );
        return Err(Refusal::Slab { slab, what });
    }
    let used = offset > 0 || entry.load_counts || entry.is_dirty;
    Ok(used.then_some((offset + blocks - 1) % blocks))
}

/// Where the journal of a slab ends: `block` is what [`last_block`] named.
///
/// # Errors
/// When the slab has entries that its counters may lack, and the block is none of its journal.
pub fn journal_end(
    slab: SlabNumber,
    entry: SlabSummaryEntry,
    config: &SlabConfig,
    nonce: u64,
    block: &Block,
) -> Result<JournalEnd, Refusal> {
    let blocks = config.slab_journal_blocks;
    let place = (u64::from(entry.tail_block_offset) + blocks - 1) % blocks;
    let header = SlabJournalHeader::decode(block).ok().filter(|header| {
        let number = header.sequence.get();
        header.nonce == nonce && number % blocks == place && number < super::ring::NUMBER_LIMIT
    });
    let Some(header) = header else {
        // Counters that were rebuilt have no journal yet.
        if !entry.is_dirty && entry.tail_block_offset == 0 {
            return Ok(JournalEnd::BLANK);
        }
        let what = format!(
            "block {place} of its journal, the last the slab summary knows of, is no block of it"
        );
        return Err(Refusal::Slab { slab, what });
    };
    let tail = header.sequence.get() + 1;
    let head = match entry.is_dirty {
        // The counters on disk have every change in them.
        false => tail,
        true => header.head.get(),
    };
    if head == 0 || head > tail || tail - head > blocks {
        let what = format!("block {place} of its journal says it is needed from number {head} on");
        return Err(Refusal::Slab { slab, what });
    }
    Ok(JournalEnd {
        head: SequenceNumber(head),
        tail: SequenceNumber(tail),
        recovery_point: header.recovery_point,
    })
}

/// Whether a slab can be as new, as the summary says: `block` is that in place 1 of its journal. The first block that is
/// ever written goes there. After a crash it may be there and the summary not know yet; then its entries are in the
/// recovery journal still, whose blocks are kept for slab journals from number `kept_from` on.
///
/// # Errors
/// When the slab was used, and the summary is an old one.
pub fn require_unused(
    slab: SlabNumber,
    config: &SlabConfig,
    nonce: u64,
    block: &Block,
    kept_from: SequenceNumber,
) -> Result<(), Refusal> {
    let header = SlabJournalHeader::decode(block).ok().filter(|header| {
        header.nonce == nonce && header.sequence.get() % config.slab_journal_blocks == 1
    });
    match header {
        Some(header) if header.sequence.get() > 1 || header.recovery_point.sequence < kept_from => {
            let number = header.sequence;
            let what = format!(
                "the slab summary says it was never used, but block 1 of its journal is written (number {number})"
            );
            Err(Refusal::Slab { slab, what })
        }
        _ => Ok(()),
    }
}

/// Whether what the summary says of a slab that was never used is what it says of one.
///
/// # Errors
/// When it is not: the summary is damaged.
pub fn require_unused_hint(
    slab: SlabNumber,
    entry: SlabSummaryEntry,
    config: &SlabConfig,
    slab_shift: u32,
) -> Result<(), Refusal> {
    if !entry.is_unused() || entry == SlabSummaryEntry::unused(config.data_blocks, slab_shift) {
        return Ok(());
    }
    let what = "the slab summary says it was never used, and yet that it is not all free".into();
    Err(Refusal::Slab { slab, what })
}

/// One slab's journal, being brought up to date.
#[derive(Debug)]
pub struct SlabReplay {
    blocks: u64,
    head: u64,
    header: SlabJournalHeader,
    block: Box<Block>,
    /// Changes that were added.
    added: u64,
}

impl SlabReplay {
    /// The journal of a slab, to go on after `end`.
    pub fn load(config: &SlabConfig, nonce: u64, end: JournalEnd) -> SlabReplay {
        SlabReplay {
            blocks: config.slab_journal_blocks,
            head: end.head.get(),
            header: SlabJournalHeader {
                head: end.head,
                sequence: end.tail,
                recovery_point: end.recovery_point,
                nonce,
                has_block_map_increments: false,
                entry_count: 0,
            },
            block: Box::new([0; BLOCK_SIZE]),
            added: 0,
        }
    }

    /// How many changes were added so far.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Takes a change that came from the entry at `recovery` of the recovery journal.
    pub fn offer(&mut self, entry: &SlabJournalEntry, recovery: JournalPoint) -> Offered {
        let point = expand_point(recovery, entry.increment);
        if point <= self.header.recovery_point {
            return Offered::Known;
        }
        if !self.header.has_room_for(entry.operation) {
            return Offered::NoRoom;
        }
        let tail = self.header.sequence.get();
        if tail - self.head >= self.blocks {
            // The oldest block must have been reaped before the crash: changes wait long before a journal is full.
            self.head += 1;
        }
        self.header.append(&mut self.block, entry);
        self.header.recovery_point = point;
        self.added += 1;
        match self.header.is_full() {
            true => Offered::Filled,
            false => Offered::Added,
        }
    }

    /// Whether the block being filled has entries that are not written.
    pub fn has_entries(&self) -> bool {
        self.header.entry_count > 0
    }

    /// Packs the block being filled as it is to be written, and begins the next. Returns its place in the journal.
    pub fn commit(&mut self, to: &mut Block) -> u64 {
        self.header.head = SequenceNumber(self.head);
        self.header.encode(&mut self.block);
        to.copy_from_slice(&self.block[..]);
        let place = self.header.sequence.get() % self.blocks;
        self.header.sequence.0 += 1;
        self.header.entry_count = 0;
        self.header.has_block_map_increments = false;
        place
    }

    /// What the summary is to say of the slab when all blocks are durable, given what it says now.
    pub fn summary(&self, before: SlabSummaryEntry) -> SlabSummaryEntry {
        SlabSummaryEntry {
            tail_block_offset: tail_offset(self.header.sequence, self.blocks),
            load_counts: before.load_counts || self.head > 1,
            is_dirty: true,
            ..before
        }
    }
}

#[cfg(test)]
mod tests;
