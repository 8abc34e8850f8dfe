//! Bringing the reference counters of a slab up to date from its journal.
//!
//! 1. [`Scrub::begin`] for a slab whose journal ends at some block; its counters are zero so far.
//! 2. If they were ever written, every reference block is given ([`Scrub::take_counters`]).
//! 3. Every block of the journal from head to tail is given in order ([`Scrub::take_journal_block`]).
//! 4. The reference blocks that changed are written ([`Scrub::changed`], [`Scrub::pack`]), and when they are durable the
//!    summary is told ([`ScrubResult::summary`]).
//!
//! A reference block may have been torn when it was written last, so each of its *sectors* says up to which entry it is
//! right, and gets just the entries after that. That is also why it does no harm to begin anew after a crash: a
//! block written in the meantime has the entries, and says so.

use super::plan::Refusal;
use super::slab_replay::JournalEnd;
use crate::format::Block;
use crate::format::SECTORS_PER_BLOCK;
use crate::format::recovery_journal::JournalOperation;
use crate::format::reference_block::{
    self, COUNTS_PER_BLOCK, EMPTY, PROVISIONAL, block_of, sector_of,
};
use crate::format::slab::SlabConfig;
use crate::format::slab_journal::{SlabJournalEntry, SlabJournalHeader};
use crate::format::slab_summary::{SlabSummaryEntry, fullness_hint};
use crate::types::{JournalPoint, MAXIMUM_REFERENCE_COUNT, SequenceNumber, SlabNumber};

/// The counters of one slab while they are brought up to date. The memory, a byte for each block of data, is used again
/// for the next slab.
#[derive(Debug)]
pub struct Scrub {
    config: SlabConfig,
    nonce: u64,
    rebuilt: bool,
    slab: SlabNumber,
    counters: Vec<u8>,
    /// Up to which entry of the journal the counters of each sector are right.
    points: Vec<[JournalPoint; SECTORS_PER_BLOCK]>,
    dirty: Vec<bool>,
    /// The next block of the journal.
    next: u64,
    tail: u64,
    /// The last entry of the journal.
    last: JournalPoint,
    /// Reference blocks with sectors of different age.
    torn: u32,
    /// Whether blocks of the journal were given up.
    reaped: bool,
    applied: u64,
}

impl Scrub {
    /// Memory for slabs cut like `config`, of the volume with this nonce, which was `rebuilt` once or never.
    pub fn new(config: &SlabConfig, nonce: u64, rebuilt: bool) -> Scrub {
        let blocks = config.reference_count_blocks as usize;
        Scrub {
            config: *config,
            nonce,
            rebuilt,
            slab: SlabNumber(0),
            counters: vec![EMPTY; blocks * COUNTS_PER_BLOCK],
            points: vec![[JournalPoint::default(); SECTORS_PER_BLOCK]; blocks],
            dirty: vec![false; blocks],
            next: 0,
            tail: 0,
            last: JournalPoint::default(),
            torn: 0,
            reaped: false,
            applied: 0,
        }
    }

    /// Begins with a slab. If its counters were never written, they are zero, and all are to be written.
    ///
    /// # Errors
    /// When the summary says that they never were, and blocks of the journal were given up: that happens only when they are.
    pub fn begin(
        &mut self,
        slab: SlabNumber,
        entry: SlabSummaryEntry,
        end: JournalEnd,
    ) -> Result<(), Refusal> {
        self.slab = slab;
        self.reaped = end.head.get() > 1;
        if self.reaped && !entry.load_counts {
            let head = end.head;
            return Err(self.refuse(format!(
                "the slab summary says its counters were never written, but its journal is needed from number {head} on only"
            )));
        }
        self.counters.fill(EMPTY);
        self.points.fill(Default::default());
        self.dirty.fill(!entry.load_counts);
        self.next = end.head.get();
        self.tail = end.tail.get();
        self.last = JournalPoint::default();
        self.torn = 0;
        self.applied = 0;
        Ok(())
    }

    fn refuse(&self, what: String) -> Refusal {
        Refusal::Slab {
            slab: self.slab,
            what,
        }
    }

    /// Takes reference blocks as they are on disk, from number `first` on.
    ///
    /// # Errors
    /// When a block of the journal was given up, which happens only when all of them were written for some entry, and one was
    /// not. If the volume was never rebuilt, that is.
    pub fn take_counters(&mut self, first: usize, blocks: &[Block]) -> Result<(), Refusal> {
        let counters = self.counters.chunks_exact_mut(COUNTS_PER_BLOCK);
        let all = counters.zip(&mut self.points).enumerate().skip(first);
        for ((index, (counters, points)), block) in all.zip(blocks) {
            *points = reference_block::decode(block, counters);
            let blank = points.contains(&JournalPoint::default());
            // From now on it is of this journal.
            self.dirty[index] |= blank;
            if blank && self.reaped && !self.rebuilt {
                let what = format!("block {index} of its counters was never written, or is lost");
                let slab = self.slab;
                return Err(Refusal::Slab { slab, what });
            }
            self.torn += u32::from(points.iter().any(|point| *point != points[0]));
            // Nobody who was allocating a block then is doing so now.
            for counter in counters.iter_mut().filter(|count| **count == PROVISIONAL) {
                *counter = EMPTY;
            }
        }
        Ok(())
    }

    /// The number of the journal block that is to be given next; `None` when all have been.
    pub fn wants(&self) -> Option<SequenceNumber> {
        (self.next < self.tail).then_some(SequenceNumber(self.next))
    }

    /// Takes the block [`Scrub::wants`] names.
    ///
    /// # Errors
    /// When it is not that block, or holds a change that cannot be.
    pub fn take_journal_block(&mut self, block: &Block) -> Result<(), Refusal> {
        let sequence = SequenceNumber(self.next);
        let place = self.next % self.config.slab_journal_blocks;
        let nonce = self.nonce;
        let header = SlabJournalHeader::decode(block)
            .ok()
            .filter(|header| header.nonce == nonce && header.sequence == sequence);
        let Some(header) = header else {
            let what =
                format!("block {place} of its journal should be number {sequence}, and is not");
            return Err(self.refuse(what));
        };
        for (entry, number) in header.entries(block).zip(0_u16..) {
            let point = JournalPoint {
                sequence,
                entry: number,
            };
            self.last = point;
            self.apply(&entry, point).map_err(|why| {
                let offset = entry.offset;
                self.refuse(format!(
                    "entry {number} of block {place} of its journal (number {sequence}), about block {offset} of the \
                     slab: {why}"
                ))
            })?;
        }
        self.next += 1;
        Ok(())
    }

    fn apply(&mut self, entry: &SlabJournalEntry, point: JournalPoint) -> Result<(), String> {
        if u64::from(entry.offset) >= self.config.data_blocks {
            let data_blocks = self.config.data_blocks;
            return Err(format!("only {data_blocks} hold data"));
        }
        let index = block_of(entry.offset) as usize;
        if point <= self.points[index][sector_of(entry.offset)] {
            return Ok(());
        }
        let counter = &mut self.counters[entry.offset as usize];
        *counter = match (entry.operation, entry.increment, *counter) {
            (JournalOperation::BlockMapRemapping, true, EMPTY) => MAXIMUM_REFERENCE_COUNT,
            (JournalOperation::BlockMapRemapping, true, count) => {
                return Err(format!(
                    "it becomes a page of the block map, but has {count} references"
                ));
            }
            (JournalOperation::DataRemapping, true, MAXIMUM_REFERENCE_COUNT) => {
                return Err(format!(
                    "it gains a reference, but has all {MAXIMUM_REFERENCE_COUNT}"
                ));
            }
            (JournalOperation::DataRemapping, true, count) => count + 1,
            (_, false, EMPTY) => return Err("it loses a reference, but has none".into()),
            (_, false, count) => count - 1,
        };
        self.dirty[index] = true;
        self.applied += 1;
        Ok(())
    }

    /// Looks at what came of it, when the whole journal has been given.
    ///
    /// # Errors
    /// When counters on disk know more than the journal.
    pub fn finish(&self) -> Result<ScrubResult, Refusal> {
        let newest = self.points.iter().flatten().max().copied();
        let newest = newest.unwrap_or_default();
        if newest > self.last && self.last != JournalPoint::default() {
            let (JournalPoint { sequence, entry }, end) = (newest, self.last);
            return Err(self.refuse(format!(
                "counters on disk have entry {entry} of block {sequence} of its journal, which ends with entry {} of \
                 block {}",
                end.entry, end.sequence
            )));
        }
        let data = &self.counters[..self.config.data_blocks as usize];
        let used = data.len() - data.iter().filter(|count| **count == EMPTY).count();
        Ok(ScrubResult {
            free: data.len() as u64 - used as u64,
            applied: self.applied,
            torn: self.torn,
        })
    }

    /// The numbers of the reference blocks that are to be written, in order.
    pub fn changed(&self) -> impl Iterator<Item = usize> + use<'_> {
        let dirty = self.dirty.iter().enumerate();
        dirty.filter(|(_, dirty)| **dirty).map(|(index, _)| index)
    }

    /// Packs a reference block, right up to the journal's end.
    pub fn pack(&self, index: usize, to: &mut Block) {
        let first = index * COUNTS_PER_BLOCK;
        let counters = &self.counters[first..first + COUNTS_PER_BLOCK];
        let newest = self.points[index].iter().max().copied().unwrap_or_default();
        reference_block::encode(to, self.last.max(newest), counters);
    }

    /// The counter of a block of the slab.
    #[cfg(test)]
    pub fn count(&self, offset: u32) -> u8 {
        self.counters[offset as usize]
    }
}

/// What came of scrubbing a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubResult {
    /// Blocks that hold nothing.
    pub free: u64,
    /// Entries the counters on disk lacked.
    pub applied: u64,
    /// Reference blocks that had been torn.
    pub torn: u32,
}

impl ScrubResult {
    /// What the summary is to say when the counters are durable, given what it says now.
    pub fn summary(&self, before: SlabSummaryEntry, slab_shift: u32) -> SlabSummaryEntry {
        SlabSummaryEntry {
            fullness_hint: fullness_hint(self.free, slab_shift),
            load_counts: true,
            is_dirty: false,
            ..before
        }
    }
}

#[cfg(test)]
mod tests;
