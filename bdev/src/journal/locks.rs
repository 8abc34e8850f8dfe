//! What keeps each on-disk block of the journal from being reused.
//!
//! A block is held for three reasons, counted apart:
//!
//! - *entries*: from its opening, once for each entry it can hold and once for the block itself. The
//!   block's own hold and those of places never used end when the block has been written for the last
//!   time; an entry's hold ends when its request has updated the block map in memory.
//! - *logical*: dirty block-map pages whose oldest change is in the block.
//! - *physical*: slab-journal tail blocks, not yet written, whose first entry is of the block.
//!
//! The block map's head may pass a block when its entries and logical counts are zero, the slab
//! journals' head when entries and physical are. A request takes the logical and physical holds it
//! causes before it gives up its entry's, so a count never comes back from zero.
//!
//! dm-vdo keeps a counter per zone and block, because each zone's thread counts for itself. Here the
//! journal's thread does all the counting, so one number per reason is enough.

use crate::error::VdoError;
use crate::format::recovery_journal::block_number;
use crate::runtime::services::JournalHolder;
use crate::types::SequenceNumber;

/// One of the two structures that the journal protects, and whose head a block can hold back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The block map, held by logical zones.
    BlockMap,
    /// The slab journals, held by physical zones.
    SlabJournal,
}

impl From<JournalHolder> for Side {
    fn from(holder: JournalHolder) -> Side {
        match holder {
            JournalHolder::Logical(_) => Side::BlockMap,
            JournalHolder::Physical(_) => Side::SlabJournal,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    entries: u16,
    logical: u32,
    physical: u32,
}

impl Counts {
    fn side(&mut self, side: Side) -> &mut u32 {
        match side {
            Side::BlockMap => &mut self.logical,
            Side::SlabJournal => &mut self.physical,
        }
    }
}

/// The counts of every on-disk block, by the block's place in the journal.
#[derive(Debug)]
pub(super) struct LockTable {
    counts: Vec<Counts>,
}

impl LockTable {
    /// A table for a journal of `size` blocks (a power of two), none of them held.
    pub(super) fn new(size: u64) -> LockTable {
        LockTable {
            counts: vec![Counts::default(); size as usize],
        }
    }

    fn index(&self, sequence: SequenceNumber) -> usize {
        block_number(sequence, self.counts.len() as u64) as usize
    }

    /// Begins to hold block `sequence`, for the block itself and for each of its `entries`.
    ///
    /// # Errors
    /// When something still holds the block that is to be overwritten.
    pub(super) fn open(&mut self, sequence: SequenceNumber, entries: u16) -> Result<(), VdoError> {
        let index = self.index(sequence);
        let counts = &mut self.counts[index];
        if *counts != Counts::default() {
            return Err(VdoError::Inconsistent(format!(
                "recovery journal block {sequence} would overwrite one still in use ({counts:?})"
            )));
        }
        counts.entries = entries + 1;
        Ok(())
    }

    /// One more hold on block `sequence` for `side`.
    ///
    /// # Errors
    /// When nothing held the block before, so that it may have been reused already.
    pub(super) fn acquire(&mut self, sequence: SequenceNumber, side: Side) -> Result<(), VdoError> {
        let index = self.index(sequence);
        let counts = &mut self.counts[index];
        if counts.entries == 0 && *counts.side(side) == 0 {
            return Err(VdoError::Inconsistent(format!(
                "a {side:?} lock was asked for on recovery journal block {sequence}, which nothing held"
            )));
        }
        *counts.side(side) += 1;
        Ok(())
    }

    /// One hold less on block `sequence` for `side`; says whether that side is free of it now.
    ///
    /// # Errors
    /// When that side did not hold it.
    pub(super) fn release(
        &mut self,
        sequence: SequenceNumber,
        side: Side,
    ) -> Result<bool, VdoError> {
        let index = self.index(sequence);
        let counts = &mut self.counts[index];
        let count = counts.side(side);
        let Some(less) = count.checked_sub(1) else {
            return Err(VdoError::Inconsistent(format!(
                "a {side:?} lock on recovery journal block {sequence} was released and not held"
            )));
        };
        *count = less;
        Ok(less == 0 && counts.entries == 0)
    }

    /// Ends `number` entry holds on block `sequence`; says whether those were the last.
    ///
    /// # Errors
    /// When there were fewer.
    pub(super) fn release_entries(
        &mut self,
        sequence: SequenceNumber,
        number: u16,
    ) -> Result<bool, VdoError> {
        let index = self.index(sequence);
        let counts = &mut self.counts[index];
        let Some(less) = counts.entries.checked_sub(number) else {
            return Err(VdoError::Inconsistent(format!(
                "{number} entries of recovery journal block {sequence} were released, {} were held",
                counts.entries
            )));
        };
        counts.entries = less;
        Ok(less == 0)
    }

    /// Whether block `sequence` must stay for `side`.
    pub(super) fn is_locked(&self, sequence: SequenceNumber, side: Side) -> bool {
        let mut counts = self.counts[self.index(sequence)];
        counts.entries > 0 || *counts.side(side) > 0
    }

    /// Whether `side` itself holds block `sequence`, whatever its entries do.
    pub(super) fn is_held_by(&self, sequence: SequenceNumber, side: Side) -> bool {
        let mut counts = self.counts[self.index(sequence)];
        *counts.side(side) > 0
    }

    /// Whether nothing is held at all.
    pub(super) fn is_idle(&self) -> bool {
        self.counts
            .iter()
            .all(|counts| *counts == Counts::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ZoneIndex;

    const BLOCK: SequenceNumber = SequenceNumber(1);

    #[test]
    fn both_sides_stay_locked_while_entries_are_held() {
        let mut locks = LockTable::new(4);
        locks.open(BLOCK, 2).unwrap();
        for _ in 0..2 {
            assert_eq!(locks.release_entries(BLOCK, 1), Ok(false));
            assert!(locks.is_locked(BLOCK, Side::BlockMap));
            assert!(locks.is_locked(BLOCK, Side::SlabJournal));
        }
        assert_eq!(locks.release_entries(BLOCK, 1), Ok(true));
        assert!(!locks.is_locked(BLOCK, Side::BlockMap));
        assert!(!locks.is_locked(BLOCK, Side::SlabJournal));
        assert!(locks.is_idle());
    }

    #[test]
    fn each_side_is_freed_by_its_own_last_holder() {
        let mut locks = LockTable::new(4);
        locks.open(BLOCK, 1).unwrap();
        let logical = |zone| Side::from(JournalHolder::Logical(ZoneIndex(zone)));
        let physical = |zone| Side::from(JournalHolder::Physical(ZoneIndex(zone)));
        for zone in 0..2 {
            locks.acquire(BLOCK, logical(zone)).unwrap();
            locks.acquire(BLOCK, physical(zone)).unwrap();
        }
        assert_eq!(locks.release(BLOCK, logical(0)), Ok(false));
        assert_eq!(locks.release(BLOCK, physical(0)), Ok(false));
        assert_eq!(locks.release_entries(BLOCK, 2), Ok(true));
        assert_eq!(locks.release(BLOCK, logical(1)), Ok(true));
        assert!(!locks.is_locked(BLOCK, Side::BlockMap));
        assert!(locks.is_locked(BLOCK, Side::SlabJournal));
        assert_eq!(locks.release(BLOCK, physical(1)), Ok(true));
        assert!(!locks.is_locked(BLOCK, Side::SlabJournal));
    }

    #[test]
    fn the_last_holder_of_a_side_does_not_free_it_of_entries() {
        let mut locks = LockTable::new(4);
        locks.open(BLOCK, 1).unwrap();
        for side in [Side::BlockMap, Side::SlabJournal] {
            locks.acquire(BLOCK, side).unwrap();
            assert_eq!(locks.release(BLOCK, side), Ok(false));
            assert!(locks.is_locked(BLOCK, side));
        }
        assert_eq!(locks.release_entries(BLOCK, 2), Ok(true));
        assert!(locks.is_idle());
    }

    #[test]
    fn wrong_counting_is_found() {
        let mut locks = LockTable::new(4);
        assert!(locks.acquire(BLOCK, Side::BlockMap).is_err());
        assert!(locks.release(BLOCK, Side::SlabJournal).is_err());
        assert!(locks.release_entries(BLOCK, 1).is_err());
        locks.open(BLOCK, 1).unwrap();
        assert!(
            locks.open(SequenceNumber(5), 1).is_err(),
            "block 5 lies where block 1 does"
        );
        assert!(locks.release_entries(BLOCK, 3).is_err());
    }
}
