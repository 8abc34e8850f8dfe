//! Which part of the journal is in use: heads, tail, and the space between.
//!
//! ```text
//!        head                    acknowledged      tail
//!   ......|#######################|################|..............   sequence numbers
//!         oldest block that       newest block     the next block
//!         somebody still needs    ever written     to be opened
//! ```
//!
//! There are two heads, because there are two structures to protect: the block map's (the oldest
//! block with a change that no block-map page on disk shows) and the slab journals' (the oldest with
//! a reference count change that no slab journal on disk shows). The journal's head is the lesser. A
//! head moves in two steps: *reaping* finds how far it may go, and only when the base device has been
//! flushed after that, so that what stood behind the locks is durable, has it gone there.
//!
//! Some blocks are never used at once: with `r` blocks set apart and at most `r` blocks in memory, the
//! block that was opened `r` before this one is on disk for good, and its header tells of a head later
//! than the block this one overwrites. So a crash while the block is half written loses nothing.

use super::locks::{LockTable, Side};
use crate::format::recovery_journal::ENTRIES_PER_BLOCK;
use crate::types::SequenceNumber;

/// Requests under way at a time, as dm-vdo counts on them; their entries fit in the reserved blocks.
const REQUESTS: u64 = 2048;

/// Sequence numbers end here: slab journals keep them in 48 bits.
pub(super) const SEQUENCE_LIMIT: u64 = 1 << 48;

/// The oldest block that is still needed, for each structure the journal protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) block_map: SequenceNumber,
    pub(super) slab_journal: SequenceNumber,
}

impl Heads {
    fn at(sequence: SequenceNumber) -> Heads {
        Heads {
            block_map: sequence,
            slab_journal: sequence,
        }
    }

    /// The head of the journal.
    pub(super) fn oldest(self) -> SequenceNumber {
        self.block_map.min(self.slab_journal)
    }
}

/// The part of the journal in use, and the space that is left.
#[derive(Debug)]
pub(super) struct Extent {
    size: u64,
    /// The heads as the rest of the journal, and its blocks' headers, know them.
    heads: Heads,
    /// Where the heads will be once the base device is flushed.
    reap: Heads,
    acknowledged: SequenceNumber,
    tail: SequenceNumber,
    space: u64,
}

/// Blocks of a journal of `size` blocks that are kept out of use, and the most that are in memory.
pub(super) fn reserved_blocks(size: u64) -> u64 {
    (size / 4).min(REQUESTS / u64::from(ENTRIES_PER_BLOCK) + 2)
}

impl Extent {
    /// An empty journal of `size` blocks whose next block is `tail`.
    pub(super) fn new(size: u64, tail: SequenceNumber) -> Extent {
        let mut extent = Extent {
            size,
            heads: Heads::at(tail),
            reap: Heads::at(tail),
            acknowledged: tail,
            tail,
            space: 0,
        };
        extent.restart();
        extent
    }

    /// Makes the journal empty, going on from its tail.
    pub(super) fn restart(&mut self) {
        self.heads = Heads::at(self.tail);
        self.reap = self.heads;
        self.acknowledged = self.tail;
        self.space = self.limit() * u64::from(ENTRIES_PER_BLOCK);
    }

    /// Most blocks that can be in use.
    pub(super) fn limit(&self) -> u64 {
        self.size - reserved_blocks(self.size)
    }

    /// Blocks that are in use.
    pub(super) fn in_use(&self) -> u64 {
        self.tail.get() - self.heads.oldest().get()
    }

    pub(super) fn heads(&self) -> Heads {
        self.heads
    }

    /// The block to be opened next.
    pub(super) fn tail(&self) -> SequenceNumber {
        self.tail
    }

    /// Entries that can be added before a block must be reaped.
    pub(super) fn space(&self) -> u64 {
        self.space
    }

    /// Whether block `sequence` is in use.
    pub(super) fn contains(&self, sequence: SequenceNumber) -> bool {
        sequence >= self.heads.oldest() && sequence < self.tail
    }

    /// Opens the next block and returns its number.
    pub(super) fn open_block(&mut self) -> SequenceNumber {
        let opened = self.tail;
        self.tail = SequenceNumber(opened.get() + 1);
        opened
    }

    /// Takes the space of one entry.
    pub(super) fn take_space(&mut self) {
        self.space -= 1;
    }

    /// A write of block `sequence` has finished.
    pub(super) fn acknowledge(&mut self, sequence: SequenceNumber) {
        self.acknowledged = self.acknowledged.max(sequence);
    }

    /// Moves the reaping heads over every block that nothing holds, short of the newest written one,
    /// and says whether they are ahead of the heads now.
    pub(super) fn start_reaping(&mut self, locks: &LockTable) -> bool {
        let end = self.acknowledged;
        let sides = [
            (&mut self.reap.block_map, Side::BlockMap),
            (&mut self.reap.slab_journal, Side::SlabJournal),
        ];
        for (head, side) in sides {
            while *head < end && !locks.is_locked(*head, side) {
                head.0 += 1;
            }
        }
        self.reap != self.heads
    }

    /// The base device has been flushed: the heads are where reaping put them, and the space of the
    /// blocks before them is free.
    pub(super) fn finish_reaping(&mut self) {
        let before = self.heads.oldest();
        self.heads = self.reap;
        let blocks = self.heads.oldest().get() - before.get();
        self.space += blocks * u64::from(ENTRIES_PER_BLOCK);
    }

    /// Whether so many blocks wait for slab journals that those should be written out.
    pub(super) fn presses_slab_journals(&self) -> bool {
        self.tail.get() - self.heads.slab_journal.get() > self.size * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_what_dm_vdo_reserves() {
        assert_eq!(reserved_blocks(32 * 1024), 11);
        assert_eq!(reserved_blocks(64), 11);
        assert_eq!(reserved_blocks(8), 2);
        assert_eq!(Extent::new(8, SequenceNumber(1)).space(), 6 * 217);
    }

    #[test]
    fn heads_move_one_by_one_and_space_with_the_later() {
        let mut extent = Extent::new(8, SequenceNumber(1));
        let mut locks = LockTable::new(8);
        for _ in 0..3 {
            let block = extent.open_block();
            locks.open(block, ENTRIES_PER_BLOCK).unwrap();
            locks.acquire(block, Side::BlockMap).unwrap();
            locks.release_entries(block, ENTRIES_PER_BLOCK + 1).unwrap();
            for _ in 0..ENTRIES_PER_BLOCK {
                extent.take_space();
            }
            extent.acknowledge(block);
        }
        let full = extent.space();
        assert!(extent.start_reaping(&locks));
        assert_eq!(extent.heads(), Heads::at(SequenceNumber(1)), "not flushed");
        extent.finish_reaping();
        assert_eq!(extent.heads().slab_journal, SequenceNumber(3));
        assert_eq!(extent.heads().block_map, SequenceNumber(1));
        assert_eq!(extent.space(), full, "the block map still needs them");

        assert_eq!(
            locks.release(SequenceNumber(1), Side::BlockMap),
            Ok(true),
            "free"
        );
        assert!(extent.start_reaping(&locks));
        extent.finish_reaping();
        assert_eq!(extent.heads().block_map, SequenceNumber(2));
        assert_eq!(extent.space(), full + u64::from(ENTRIES_PER_BLOCK));
        assert!(!extent.start_reaping(&locks));
    }

    #[test]
    fn the_newest_written_block_is_not_reaped() {
        let mut extent = Extent::new(8, SequenceNumber(1));
        let locks = LockTable::new(8);
        extent.open_block();
        extent.open_block();
        extent.acknowledge(SequenceNumber(2));
        extent.acknowledge(SequenceNumber(1));
        assert!(extent.start_reaping(&locks));
        extent.finish_reaping();
        assert_eq!(extent.heads().oldest(), SequenceNumber(2));
        extent.restart();
        assert_eq!(extent.heads().oldest(), SequenceNumber(3));
    }
}
