//! The scan of the recovery journal: which blocks of the ring are its own, where it begins and how far it can be used.
//!
//! 1. A [`RingScan`] is made for a [`Ring`], from what the super block says of it.
//! 2. Every block of the ring is given to it once, in any order and in chunks of any size ([`RingScan::take`]). Of each
//!    it keeps 40 bytes at most: its number, how many of its entries can be used, what they change in sum, and the
//!    first that cannot be true.
//! 3. It ends as a [`RecoveryPlan`] ([`RingScan::recovery`]) or a [`RebuildPlan`] ([`RingScan::rebuild`]).
//!
//! A block is *valid* if it has the volume's nonce and recovery count, a form there is, no more entries than that holds,
//! and a number that belongs to its place. There is no checksum, and none is needed: a block is written a sector at a
//! time, and each sector says which writing it is of.
//!
//! The numbers of a journal only grow. The highest valid one is where it was written last; but blocks are written many at
//! a time and some may have been lost, so it is used only up to the first block that is missing, not full, or torn.
//! What is dropped so was never acknowledged as durable.
//!
//! ```text
//!          oldest head       the other head          tail    missing    highest
//!   ring  ... |=================|=======================|       x         |      ...
//!              needed by one     needed by both           dropped
//! ```
//!
//! A rebuild drops nothing: after an error, not a crash, each block that can be read tells something.

use super::entries::{EntryRules, Implausible};
use super::plan::{
    BlockMapRange, Ending, JournalRange, RebuildEnding, RebuildPlan, RecoveryPlan, Refusal,
    SalvageRange, SlabJournalRange, Usage,
};
use crate::error::VdoError;
use crate::format::Block;
use crate::format::SECTORS_PER_BLOCK;
use crate::format::recovery_journal::{
    ENTRIES_PER_BLOCK, ENTRIES_PER_SECTOR, JournalForm, JournalOperation, RecoveryBlockHeader,
    RecoveryJournalBlock, RecoveryJournalEntry, block_number,
};
use crate::runtime::memory;
use crate::types::{JournalPoint, Pbn, SequenceNumber};

/// No journal reaches this number: 48 bits are kept of it in other places.
pub const NUMBER_LIMIT: u64 = 1 << 48;

/// So many blocks, one behind the other, may be on their way to the device at once, here and in dm-vdo; a block before them
/// was durable when the last of them was begun. So there is no greater distance from one that a loss of power took to the
/// last that it left.
const MOST_AT_ONCE: u64 = 11;

/// What tells a journal's own blocks from others.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Blocks of the ring, a power of two.
    pub blocks: u64,
    /// The volume's nonce.
    pub nonce: u64,
    /// The low byte of the recoveries the volume has completed.
    pub recovery_count: u8,
    /// The super block's number: the journal's next when that was written, so a lower bound.
    pub journal_start: SequenceNumber,
    /// The super block.
    pub super_block: Pbn,
    /// What entries are judged by.
    pub rules: EntryRules,
}

impl Ring {
    /// The header of a valid block at a place of the ring, and its form.
    fn header_at(&self, place: u64, block: &Block) -> Option<(JournalForm, RecoveryBlockHeader)> {
        self.any_header_at(place, block)
            .filter(|(_, header)| header.recovery_count == self.recovery_count)
    }

    /// The header of a block at a place of the ring that would be valid, or was, with some recovery count.
    fn any_header_at(
        &self,
        place: u64,
        block: &Block,
    ) -> Option<(JournalForm, RecoveryBlockHeader)> {
        RecoveryBlockHeader::decode_any(block).filter(|(_, header)| {
            header.nonce == self.nonce && block_number(header.sequence, self.blocks) == place
        })
    }

    /// The number of the block at a place of the ring, if it is one of this volume's journal, of whatever recovery.
    pub fn number_at(&self, place: u64, block: &Block) -> Option<SequenceNumber> {
        let (_, header) = self.any_header_at(place, block)?;
        Some(header.sequence)
    }

    /// The first `count` entries of the block with this number, which was found to have so many.
    ///
    /// # Errors
    /// When the block is not what it was.
    pub fn entries<'a>(
        &self,
        sequence: SequenceNumber,
        block: &'a Block,
        count: u16,
    ) -> Result<impl Iterator<Item = RecoveryJournalEntry> + use<'a>, Refusal> {
        let place = block_number(sequence, self.blocks);
        let rules = self.rules;
        let usable = self.header_at(place, block).and_then(|(form, header)| {
            let same = form == JournalForm::Current && header.sequence == sequence;
            same.then(|| usable_entries(&header, block))
        });
        let view = RecoveryJournalBlock::new(block);
        let sound = usable.is_some_and(|usable| usable >= count)
            && (0..count).all(|index| rules.judge(view.entry(index)).is_ok());
        if !sound {
            return Err(Refusal::Changed { sequence, place });
        }
        Ok((0..count).filter_map(move |index| view.entry(index).ok()))
    }

    /// Every entry of a block that can be read and can be true, whatever is wrong with the rest. Nothing if the block is
    /// not the one with this number.
    pub fn salvage<'a>(
        &self,
        sequence: SequenceNumber,
        block: &'a Block,
    ) -> impl Iterator<Item = Result<RecoveryJournalEntry, Implausible>> + use<'a> {
        let place = block_number(sequence, self.blocks);
        let rules = self.rules;
        let header = self
            .header_at(place, block)
            .filter(|(form, header)| *form == JournalForm::Current && header.sequence == sequence)
            .map(|(_, header)| header);
        let view = RecoveryJournalBlock::new(block);
        (1..SECTORS_PER_BLOCK as u16).flat_map(move |sector| {
            // Sectors count as full where the header's count is dealt out to them, even if they are not.
            let before = (sector - 1) * ENTRIES_PER_SECTOR;
            let count = header.map_or(0, |header| {
                let claimed = header.entry_count.saturating_sub(before);
                view.sector_entries(&header, usize::from(sector))
                    .map_or(0, |count| count.min(claimed))
            });
            (0..count).map(move |entry| rules.judge(view.entry(before + entry)))
        })
    }
}

/// How many entries of a block can be used, from its front: as many as the header and all sectors up to there agree on.
fn usable_entries(header: &RecoveryBlockHeader, block: &Block) -> u16 {
    let view = RecoveryJournalBlock::new(block);
    let mut usable = 0;
    for sector in 1..SECTORS_PER_BLOCK {
        let left = header.entry_count - usable;
        let Some(count) = view.sector_entries(header, sector) else {
            break;
        };
        usable += count.min(left);
        if count.min(left) < ENTRIES_PER_SECTOR {
            break;
        }
    }
    usable
}

/// What is kept of a valid block.
#[derive(Clone, Copy, Debug)]
struct Found {
    sequence: u64,
    /// In use when the block was begun.
    logical_blocks: u64,
    block_map_pages: u64,
    /// What the usable entries add to it.
    mapped: i16,
    pages: u16,
    form: JournalForm,
    /// Entries the header counts.
    claimed: u16,
    usable: u16,
    bad: Option<(u16, Implausible)>,
}

const _: () = assert!(size_of::<Option<Found>>() <= 40);

impl Found {
    /// In use after the block's usable entries; `None` if that cannot be.
    fn usage(&self) -> Option<Usage> {
        Some(Usage {
            logical_blocks: self.logical_blocks.checked_add_signed(self.mapped.into())?,
            block_map_pages: self.block_map_pages.checked_add(self.pages.into())?,
        })
    }

    fn is_full(&self) -> bool {
        self.claimed == ENTRIES_PER_BLOCK && self.usable == ENTRIES_PER_BLOCK
    }
}

/// A journal being looked over.
#[derive(Debug)]
pub struct RingScan {
    ring: Ring,
    found: Box<[Option<Found>]>,
    /// The highest number seen, `journal_start` at first.
    highest: u64,
    /// Whether a valid block at or after `journal_start` was seen.
    any: bool,
    /// The highest number of blocks of a later recovery.
    later: u64,
    block_map_head: u64,
    slab_journal_head: u64,
}

impl RingScan {
    /// A scan that has seen nothing.
    ///
    /// # Errors
    /// When there is no memory for what is found in so large a journal.
    pub fn new(ring: Ring) -> Result<RingScan, VdoError> {
        Ok(RingScan {
            ring,
            found: memory::filled(None, ring.blocks as usize, "reading the recovery journal")?
                .into_boxed_slice(),
            highest: ring.journal_start.get(),
            any: false,
            later: 0,
            block_map_head: 0,
            slab_journal_head: 0,
        })
    }

    /// The ring that is scanned.
    pub fn ring(&self) -> Ring {
        self.ring
    }

    /// Looks at blocks of the ring, from place `first` on. Each block is to be given once.
    pub fn take(&mut self, first: u64, blocks: &[Block]) {
        for (place, block) in (first..self.ring.blocks).zip(blocks) {
            let Some((form, header)) = self.ring.any_header_at(place, block) else {
                continue;
            };
            let number = header.sequence.get();
            let recoveries_ahead = header.recovery_count.wrapping_sub(self.ring.recovery_count);
            if recoveries_ahead > 0 {
                if recoveries_ahead.cast_signed() > 0 {
                    self.later = self.later.max(number);
                }
                continue;
            }
            if number >= self.highest {
                self.any = true;
                self.highest = number;
            }
            self.block_map_head = self.block_map_head.max(header.block_map_head.get());
            self.slab_journal_head = self.slab_journal_head.max(header.slab_journal_head.get());
            self.found[place as usize] = Some(self.look_into(form, &header, block));
        }
    }

    fn look_into(&self, form: JournalForm, header: &RecoveryBlockHeader, block: &Block) -> Found {
        let usable = match form {
            JournalForm::Current => usable_entries(header, block),
            JournalForm::Old => 0,
        };
        let mut found = Found {
            sequence: header.sequence.get(),
            logical_blocks: header.logical_blocks_used,
            block_map_pages: header.block_map_data_blocks,
            mapped: 0,
            pages: 0,
            form,
            claimed: header.entry_count,
            usable,
            bad: None,
        };
        let view = RecoveryJournalBlock::new(block);
        for index in 0..usable {
            match self.ring.rules.judge(view.entry(index)) {
                Ok(entry) if entry.operation == JournalOperation::BlockMapRemapping => {
                    found.pages += 1;
                }
                Ok(entry) => {
                    found.mapped += i16::from(entry.mapping.state.is_mapped());
                    found.mapped -= i16::from(entry.unmapping.state.is_mapped());
                }
                Err(why) => {
                    found.bad = Some((index, why));
                    break;
                }
            }
        }
        found
    }

    fn place(&self, number: u64) -> u64 {
        block_number(SequenceNumber(number), self.ring.blocks)
    }

    /// The valid block with exactly this number.
    fn exact(&self, number: u64) -> Option<&Found> {
        self.found[self.place(number) as usize]
            .as_ref()
            .filter(|found| found.sequence == number)
    }

    fn next(&self) -> Result<SequenceNumber, Refusal> {
        let next = self.highest.saturating_add(1);
        if next < NUMBER_LIMIT {
            return Ok(SequenceNumber(next));
        }
        Err(Refusal::Number {
            sequence: SequenceNumber(self.highest),
            place: self.place(self.highest),
        })
    }

    /// What is to be done to recover the volume.
    ///
    /// # Errors
    /// When the journal contradicts itself: the volume cannot be recovered, and nothing must be applied.
    pub fn recovery(self) -> Result<RecoveryPlan, Refusal> {
        let next = self.next()?;
        if self.later >= self.highest {
            // A recovery goes on with higher numbers than all it saw, after it has written the super block.
            return Err(Refusal::OldSuperBlock {
                sequence: SequenceNumber(self.later),
                place: self.place(self.later),
                super_block: self.ring.super_block,
            });
        }
        if !self.any {
            // Nothing was journaled since the super block was written, so that has everything right.
            let usage = None;
            let (nothing, end) = (JournalRange::EMPTY, (self.ring.journal_start.get(), 0));
            return Ok(self.plan(nothing, nothing, end, (next, usage, true)));
        }
        let head = self.block_map_head.min(self.slab_journal_head);
        let walk = self.walk(head)?;
        // A head may be the very block that is missing: then all that the one who wants it needs was in that block. But
        // what lies before a head that is further on was needed, and is not there.
        if self.block_map_head.max(self.slab_journal_head) > walk.visited {
            return Err(Refusal::EndsTooEarly {
                tail: SequenceNumber(walk.visited),
                place: self.place(walk.visited),
                block_map_head: SequenceNumber(self.block_map_head),
                slab_journal_head: SequenceNumber(self.slab_journal_head),
            });
        }
        if self.highest.saturating_sub(walk.visited) >= MOST_AT_ONCE {
            return Err(Refusal::Hole {
                sequence: SequenceNumber(walk.visited),
                place: self.place(walk.visited),
                highest: SequenceNumber(self.highest),
            });
        }
        if self.highest > walk.visited {
            let (visited, place, highest) = (walk.visited, self.place(walk.visited), self.highest);
            log::warn!(
                "block {place} of the recovery journal (number {visited}) is missing or not whole; what follows, to number \
                 {highest}, is left out: a loss of power leaves that, but damage might, too"
            );
        }
        let range = |from: u64| match walk.tail {
            Some((tail, entries)) if from <= tail => {
                JournalRange::new(SequenceNumber(from), SequenceNumber(tail), entries)
            }
            _ => JournalRange::EMPTY,
        };
        let usage = match walk.tail {
            Some((tail, _)) => self.exact(tail).and_then(Found::usage),
            // No entry is left to apply. The block where the journal begins says what was in use before it; if even that is
            // gone, the block before it does, which nobody needs but perhaps nothing has overwritten.
            None => self.exact(head).and_then(Found::usage).or_else(|| {
                let before = self.exact(head.checked_sub(1)?)?;
                let whole = before.is_full() && before.bad.is_none();
                whole.then(|| before.usage()).flatten()
            }),
        };
        let (map, slabs) = (range(self.block_map_head), range(self.slab_journal_head));
        let end = walk.tail.unwrap_or((walk.visited, 0));
        Ok(self.plan(map, slabs, end, (next, usage, false)))
    }

    fn plan(
        &self,
        block_map: JournalRange,
        slab_journals: JournalRange,
        (sequence, entries): (u64, u16),
        (next, usage, as_saved): (SequenceNumber, Option<Usage>, bool),
    ) -> RecoveryPlan {
        RecoveryPlan {
            end: JournalPoint {
                sequence: SequenceNumber(sequence),
                entry: entries,
            },
            block_map: BlockMapRange(block_map),
            slab_journals: SlabJournalRange(slab_journals),
            ending: Ending {
                next,
                usage,
                as_saved,
            },
        }
    }

    /// Goes from `head` on as far as the journal can be used.
    fn walk(&self, head: u64) -> Result<Walk, Refusal> {
        let mut walk = Walk {
            visited: head,
            tail: None,
        };
        for number in head..=self.highest {
            walk.visited = number;
            let Some(found) = self.exact(number) else {
                break;
            };
            let place = self.place(number);
            match found.form {
                JournalForm::Current => {}
                JournalForm::Old if walk.tail.is_some() => {
                    return Err(Refusal::MixedForms { place });
                }
                JournalForm::Old if found.claimed > 0 => return Err(Refusal::OldForm { place }),
                JournalForm::Old => break,
            }
            if let Some((entry, why)) = found.bad {
                let sequence = SequenceNumber(number);
                return Err(Refusal::Entry {
                    sequence,
                    place,
                    entry,
                    why,
                });
            }
            if found.usable > 0 {
                walk.tail = Some((number, found.usable));
            }
            if !found.is_full() {
                break;
            }
        }
        Ok(walk)
    }

    /// What is to be done to rebuild the volume.
    ///
    /// # Errors
    /// When the journal is of the form older programs wrote, or has numbers that cannot be.
    pub fn rebuild(self) -> Result<RebuildPlan, Refusal> {
        let next = self.next()?;
        let ending = RebuildEnding { next };
        if !self.any {
            return Ok(RebuildPlan {
                block_map: None,
                ending,
            });
        }
        if let Some(found) = self.exact(self.highest)
            && found.form == JournalForm::Old
        {
            let place = self.place(self.highest);
            return Err(Refusal::OldForm { place });
        }
        // A ring holds no more than itself, whatever the heads say.
        let oldest = (self.highest + 1).saturating_sub(self.ring.blocks);
        let first = self.block_map_head.max(oldest);
        let block_map = (first <= self.highest).then_some(SalvageRange {
            first: SequenceNumber(first),
            last: SequenceNumber(self.highest),
        });
        Ok(RebuildPlan { block_map, ending })
    }
}

/// How far a journal can be used.
struct Walk {
    /// The last block that was looked at.
    visited: u64,
    /// The last block with a usable entry, and how many it has.
    tail: Option<(u64, u16)>,
}

#[cfg(test)]
mod tests;
