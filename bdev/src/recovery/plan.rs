//! What a scan of the recovery journal comes to: a plan, or a refusal.
//!
//! The two consumers of a journal each have a range of their own, for each began at another time to be up to date:
//! a page of the block map may have been written long before the slab journal heard of the same change, and the other way
//! round. So each range is a type of its own, which only its consumer takes; and the plan's last part, [`Ending`], which
//! ends the use of the journal, is to be had only for the proofs that both have been used up.

use thiserror::Error;

use super::entries::Implausible;
use crate::error::VdoError;
use crate::format::components::{RecoveryJournalState, VolumeState};
use crate::format::recovery_journal::{ENTRIES_PER_BLOCK, block_number};
use crate::format::super_block::SuperBlock;
use crate::types::{JournalPoint, Pbn, SequenceNumber};

/// What is to be done with the journal of a volume that was in use.
#[derive(Debug, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// The entries the block map may lack.
    pub block_map: BlockMapRange,
    /// The entries slab journals may lack.
    pub slab_journals: SlabJournalRange,
    /// Where the journal ends: the entry after the last that can be used. Nothing on disk can know of a later one.
    pub end: JournalPoint,
    /// What is left to do when both are done.
    pub ending: Ending,
}

/// What is to be done with the journal of a volume that is to be rebuilt.
#[derive(Debug, PartialEq, Eq)]
pub struct RebuildPlan {
    /// The blocks of which everything readable goes into the block map; `None` if the journal holds nothing.
    pub block_map: Option<SalvageRange>,
    /// What is left to do when the references are counted.
    pub ending: RebuildEnding,
}

/// A stretch of the journal: whole blocks, and the front of a last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalRange {
    /// The first block.
    first: u64,
    /// The block after the last.
    end: u64,
    /// How many entries of the last block are used.
    entries_of_last: u16,
}

impl JournalRange {
    pub(super) const EMPTY: JournalRange = JournalRange {
        first: 0,
        end: 0,
        entries_of_last: 0,
    };

    pub(super) fn new(first: SequenceNumber, last: SequenceNumber, entries_of_last: u16) -> Self {
        JournalRange {
            first: first.get(),
            end: last.get() + 1,
            entries_of_last,
        }
    }

    /// How many blocks it spans.
    pub fn blocks(&self) -> u64 {
        self.end - self.first
    }

    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        match self.end.checked_sub(self.first) {
            Some(blocks) if blocks > 0 => {
                (blocks - 1) * u64::from(ENTRIES_PER_BLOCK) + u64::from(self.entries_of_last)
            }
            _ => 0,
        }
    }

    /// How many entries of block `sequence` belong to it.
    pub fn entries_of(&self, sequence: SequenceNumber) -> u16 {
        match sequence.get() {
            number if number < self.first || number >= self.end => 0,
            number if number + 1 == self.end => self.entries_of_last,
            _ => ENTRIES_PER_BLOCK,
        }
    }

    /// Its blocks in order, in runs that lie in one piece on a ring of `blocks` blocks and are no longer than `most`.
    pub fn runs(&self, blocks: u64, most: u64) -> impl Iterator<Item = Run> + use<> {
        runs(self.first..self.end, blocks, most)
    }
}

/// Blocks of the journal that lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The number of the first.
    pub first: SequenceNumber,
    /// Where on the ring it is.
    pub place: u64,
    /// How many.
    pub blocks: u64,
}

fn runs(
    numbers: std::ops::Range<u64>,
    blocks: u64,
    most: u64,
) -> impl Iterator<Item = Run> + use<> {
    let mut next = numbers.start;
    std::iter::from_fn(move || {
        let left = numbers.end.checked_sub(next).filter(|&left| left > 0)?;
        let first = SequenceNumber(next);
        let place = block_number(first, blocks);
        let run = left.min(blocks - place).min(most.max(1));
        next += run;
        Some(Run {
            first,
            place,
            blocks: run,
        })
    })
}

/// The entries the block map may lack.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockMapRange(pub(super) JournalRange);

/// The entries slab journals may lack.
#[derive(Debug, PartialEq, Eq)]
pub struct SlabJournalRange(pub(super) JournalRange);

/// Blocks of which everything readable is used, whatever is missing in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SalvageRange {
    pub(super) first: SequenceNumber,
    pub(super) last: SequenceNumber,
}

/// The block map has all entries it lacked, durably.
#[derive(Debug)]
#[must_use = "the journal's use ends only with this"]
pub struct BlockMapReplayed(());

/// The slab journals have all entries they lacked, durably, and so has the slab summary heard of them.
#[derive(Debug)]
#[must_use = "the journal's use ends only with this"]
pub struct SlabJournalsReplayed(());

impl BlockMapRange {
    /// The range, to read.
    pub fn range(&self) -> JournalRange {
        self.0
    }

    /// Says that everything in the range is in the block map and durable.
    pub fn replayed(self) -> BlockMapReplayed {
        BlockMapReplayed(())
    }
}

impl SlabJournalRange {
    /// The range, to read.
    pub fn range(&self) -> JournalRange {
        self.0
    }

    /// The oldest block that slab journals need, of a journal that ends with `end`.
    pub fn kept_from(&self, end: JournalPoint) -> SequenceNumber {
        match self.0.blocks() {
            0 => end.sequence,
            _ => SequenceNumber(self.0.first),
        }
    }

    /// Says that everything in the range is in slab journals, which are durable, as is the summary that knows of them.
    pub fn replayed(self) -> SlabJournalsReplayed {
        SlabJournalsReplayed(())
    }
}

impl SalvageRange {
    /// Its blocks in order; see [`JournalRange::runs`].
    pub fn runs(&self, blocks: u64, most: u64) -> impl Iterator<Item = Run> + use<> {
        runs(self.first.get()..self.last.get() + 1, blocks, most)
    }

    /// At most how many entries there are.
    pub fn entries_at_most(&self) -> u64 {
        (self.last.get() + 1 - self.first.get()) * u64::from(ENTRIES_PER_BLOCK)
    }
}

/// How much of the volume is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Logical blocks that are mapped, zeroes among them.
    pub logical_blocks: u64,
    /// Blocks that hold pages of the block map, roots not counted.
    pub block_map_pages: u64,
}

/// What ends a recovery.
#[derive(Debug, PartialEq, Eq)]
pub struct Ending {
    /// The number of the next block of the journal: after the highest that was seen, used or not, so that what was left
    /// out is never met again under the same number.
    pub next: SequenceNumber,
    /// How much is in use, if the journal says so.
    pub(super) usage: Option<Usage>,
    /// Whether the super block has right how much is in use.
    pub(super) as_saved: bool,
}

impl Ending {
    /// How much is in use, if the journal says so.
    #[cfg(test)]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether nobody knows how much is in use, so that the block map is to be counted when it is up to date.
    pub fn wants_count(&self) -> bool {
        self.usage.is_none() && !self.as_saved
    }

    /// The super block that ends the recovery: writing it makes every block of the journal invalid. `counted` is what the
    /// block map says of its use, if [`Ending::wants_count`].
    pub fn apply(
        self,
        super_block: &mut SuperBlock,
        _: BlockMapReplayed,
        _: SlabJournalsReplayed,
        counted: Option<Usage>,
    ) {
        super_block.volume.state = VolumeState::Dirty;
        super_block.volume.complete_recoveries += 1;
        start_journal(super_block, self.next, self.usage.or(counted));
    }
}

/// What ends a rebuild.
#[derive(Debug, PartialEq, Eq)]
pub struct RebuildEnding {
    /// As [`Ending::next`].
    pub next: SequenceNumber,
}

impl RebuildEnding {
    /// The super block that ends a rebuild, of a volume that uses what was counted.
    pub fn apply(self, super_block: &mut SuperBlock, counted: Usage) {
        let volume = &mut super_block.volume;
        if volume.state == VolumeState::ForceRebuild {
            volume.complete_recoveries += 1;
            volume.read_only_recoveries += 1;
        }
        volume.state = VolumeState::Dirty;
        start_journal(super_block, self.next, Some(counted));
    }
}

fn start_journal(super_block: &mut SuperBlock, next: SequenceNumber, usage: Option<Usage>) {
    let journal = &mut super_block.recovery_journal;
    let usage = usage.unwrap_or(Usage {
        logical_blocks: journal.logical_blocks_used,
        block_map_pages: journal.block_map_data_blocks,
    });
    *journal = RecoveryJournalState {
        journal_start: next,
        logical_blocks_used: usage.logical_blocks,
        block_map_data_blocks: usage.block_map_pages,
    };
}

/// Why a volume cannot be recovered from what its disk holds. Nothing has been applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The journal is of the form older programs wrote.
    #[error(
        "block {place} of the recovery journal has the form older programs wrote; \
         recover the volume with such a program and shut it down"
    )]
    OldForm {
        /// Which block of the ring.
        place: u64,
    },
    /// It is of both forms.
    #[error("block {place} of the recovery journal has another form than the blocks before it")]
    MixedForms {
        /// Which block of the ring.
        place: u64,
    },
    /// It ends before what is still needed of it begins.
    #[error(
        "the recovery journal ends with number {tail} (block {place}), but is needed from number {block_map_head} on \
         for the block map and from {slab_journal_head} on for the slab journals"
    )]
    EndsTooEarly {
        /// The last block.
        tail: SequenceNumber,
        /// Where on the ring it is.
        place: u64,
        /// The first block the block map needs.
        block_map_head: SequenceNumber,
        /// The first block slab journals need.
        slab_journal_head: SequenceNumber,
    },
    /// An entry cannot be true.
    #[error("entry {entry} of block {place} of the recovery journal (number {sequence}): {why}")]
    Entry {
        /// The block.
        sequence: SequenceNumber,
        /// Where on the ring it is.
        place: u64,
        /// Which entry of it.
        entry: u16,
        /// Why not.
        why: Implausible,
    },
    /// A number that no journal reaches.
    #[error(
        "block {place} of the recovery journal has number {sequence}, which no journal reaches"
    )]
    Number {
        /// The number.
        sequence: SequenceNumber,
        /// Where on the ring it is.
        place: u64,
    },
    /// A block read again is not what it was.
    #[error("block {place} of the recovery journal (number {sequence}) changed while it was read")]
    Changed {
        /// The block.
        sequence: SequenceNumber,
        /// Where on the ring it is.
        place: u64,
    },
    /// A block is a page of the block map, but another one than it should be.
    #[error(
        "block {pbn} should hold the block-map page of that number, but holds that of block {found}"
    )]
    MisplacedPage {
        /// The block.
        pbn: Pbn,
        /// What it holds.
        found: Pbn,
    },
    /// A block is the page of the block map it should be, but its header is not whole.
    #[error("the header of block {pbn}, a page of the block map, is damaged")]
    DamagedPage {
        /// The block.
        pbn: Pbn,
    },
    /// Pages of the block map are gone, or too many.
    #[error(
        "the roots (block {roots} and those after it) and interior pages of the block map name {found} pages, and the \
         super block (block {super_block}) counts {counted}: one of them is damaged, or an old one"
    )]
    PageCount {
        /// The first root.
        roots: Pbn,
        /// Pages that were named.
        found: u64,
        /// The super block.
        super_block: Pbn,
        /// What it says.
        counted: u64,
    },
    /// An entry of a root or interior page cannot be true.
    #[error(
        "slot {slot} of block {page}, a page of the block map, says that there is a page at block {pbn}, {why}"
    )]
    PageEntry {
        /// The page with the entry.
        page: Pbn,
        /// Which entry.
        slot: u16,
        /// What it says.
        pbn: Pbn,
        /// Why not.
        why: &'static str,
    },
    /// A block is missing that the device had written before it took later ones.
    #[error(
        "block {place} of the recovery journal (number {sequence}) is missing or not whole, and the journal goes on to \
         number {highest}: a loss of power does not leave that"
    )]
    Hole {
        /// The block that is missing.
        sequence: SequenceNumber,
        /// Where on the ring it is.
        place: u64,
        /// The last block.
        highest: SequenceNumber,
    },
    /// The journal was written after the super block says the last time was.
    #[error(
        "block {place} of the recovery journal (number {sequence}) is of a later time than the super block (block \
         {super_block}), which is an old one, and not to be believed"
    )]
    OldSuperBlock {
        /// The journal's block.
        sequence: SequenceNumber,
        /// Where on the ring it is.
        place: u64,
        /// The super block.
        super_block: Pbn,
    },
    /// Something of a slab.
    #[error("slab {slab}: {what}")]
    Slab {
        /// Which.
        slab: crate::types::SlabNumber,
        /// What, with the block.
        what: String,
    },
}

impl From<Refusal> for VdoError {
    fn from(refusal: Refusal) -> VdoError {
        VdoError::Inconsistent(refusal.to_string())
    }
}

impl Refusal {
    /// Whether the metadata is damaged, so that only a rebuild can help. Otherwise the volume is as it was, and another
    /// program or another try may.
    pub fn is_damage(&self) -> bool {
        !matches!(
            self,
            Refusal::OldForm { .. } | Refusal::Changed { .. } | Refusal::OldSuperBlock { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_in_runs_that_wrap_around_the_ring() {
        let range = JournalRange::new(SequenceNumber(14), SequenceNumber(17), 5);
        assert_eq!(range.entries(), 3 * 217 + 5);
        let of = |number| range.entries_of(SequenceNumber(number));
        assert_eq!(
            (of(13), of(14), of(16), of(17), of(18)),
            (0, 217, 217, 5, 0)
        );
        let run = |first, place, blocks| Run {
            first: SequenceNumber(first),
            place,
            blocks,
        };
        let runs: Vec<_> = range.runs(8, 100).collect();
        assert_eq!(runs, [run(14, 6, 2), run(16, 0, 2)]);
        let runs: Vec<_> = range.runs(8, 1).collect();
        assert_eq!(runs.len(), 4);
        assert_eq!(JournalRange::EMPTY.entries(), 0);
        assert_eq!(JournalRange::EMPTY.runs(8, 1).count(), 0);
    }
}
