//! A journal on a disk in memory, for the tests beside this file.
//!
//! Entry number *n*, from zero, is told apart by its slot: page *n*. As in the original's tests, every
//! number is used once, while the ring is used again and again.

mod draining;
mod entries;
mod errors;
mod model;
mod reaping;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::{JournalConfig, JournalHooks, Pending, RecoveryJournal};
use crate::buffer::{DmaMemory, HeapMemory};
use crate::error::VdoError;
use crate::format::Block;
use crate::format::components::RecoveryJournalState;
use crate::format::recovery_journal::{
    BlockMapSlot, ENTRIES_PER_BLOCK, JournalOperation, RecoveryBlockHeader, RecoveryJournalBlock,
    RecoveryJournalEntry,
};
use crate::runtime::services::{JournalHolder, ZoneServices};
use crate::runtime::test_disk::TestDisk;
use crate::seam::BaseOp;
use crate::types::{JournalPoint, Mapping, MappingState, Pbn, SequenceNumber, ZoneIndex};

const START: u64 = 100;
const NONCE: u64 = 0x0dd_ba11;
const RECOVERIES: u64 = 0x1b7;
const PER_BLOCK: u64 = ENTRIES_PER_BLOCK as u64;
const LOGICAL: JournalHolder = JournalHolder::Logical(ZoneIndex(0));
const PHYSICAL: JournalHolder = JournalHolder::Physical(ZoneIndex(0));

/// The rest of the volume, which remembers what it was told.
#[derive(Default)]
struct Volume {
    eras: RefCell<Vec<u64>>,
    asked: RefCell<Vec<u64>>,
    done: RefCell<Vec<(u64, Result<JournalPoint, VdoError>)>>,
    read_only: RefCell<Option<VdoError>>,
    told: Cell<bool>,
    journal: RefCell<Weak<RecoveryJournal>>,
}

impl ZoneServices for Volume {
    fn acquire_journal_lock(&self, _: SequenceNumber, _: JournalHolder) {
        unreachable!("the journal holds no locks")
    }

    fn release_journal_lock(&self, _: SequenceNumber, _: JournalHolder) {
        unreachable!("the journal holds no locks")
    }

    fn enter_read_only(&self, why: &VdoError) {
        self.read_only.borrow_mut().get_or_insert(why.clone());
        if !self.told.replace(true)
            && let Some(journal) = self.journal.borrow().upgrade()
        {
            journal.read_only_entered();
        }
    }

    fn is_read_only(&self) -> bool {
        self.read_only.borrow().is_some()
    }

    fn slabs_to_scrub(&self, _: u32) {}

    fn slab_scrubbed(&self) {}
}

impl JournalHooks for Volume {
    fn advance_era(&self, tail: SequenceNumber) {
        self.eras.borrow_mut().push(tail.get());
    }

    fn request_slab_journal_commits(&self, oldest: SequenceNumber) {
        self.asked.borrow_mut().push(oldest.get());
    }

    fn entries_committed(&self, first: JournalPoint, entries: &[Pending]) {
        for (number, pending) in (first.entry..).zip(entries) {
            let point = JournalPoint {
                entry: number,
                ..first
            };
            self.done.borrow_mut().push((pending.tag, Ok(point)));
        }
    }

    fn entry_failed(&self, tag: u64, error: VdoError) {
        self.done.borrow_mut().push((tag, Err(error)));
    }
}

impl RecoveryJournal {
    /// Gives up the hold of one entry.
    fn release_entry(&self, point: JournalPoint) {
        self.release_entries(point.sequence, 1);
    }
}

fn config(blocks: u64) -> JournalConfig {
    JournalConfig {
        start: Pbn(START),
        blocks,
        nonce: NONCE,
        recovery_count: RECOVERIES,
        state: RecoveryJournalState::NEW,
        requests: 2048,
    }
}

fn point(sequence: u64, entry: u64) -> JournalPoint {
    JournalPoint {
        sequence: SequenceNumber(sequence),
        entry: entry as u16,
    }
}

fn mapped(pbn: u64) -> Mapping {
    Mapping {
        pbn: Pbn(pbn),
        state: MappingState::UNCOMPRESSED,
    }
}

/// Entry number `number`: data that replaces data.
fn entry(number: u64) -> RecoveryJournalEntry {
    RecoveryJournalEntry {
        operation: JournalOperation::DataRemapping,
        slot: BlockMapSlot {
            pbn: Pbn(number),
            slot: (number % 812) as u16,
        },
        mapping: mapped(number + 1),
        unmapping: mapped(number + 2),
    }
}

/// A journal, its disk, and the volume around it.
struct Rig {
    disk: TestDisk,
    volume: Rc<Volume>,
    journal: Rc<RecoveryJournal>,
    blocks: u64,
    next: u64,
}

impl Rig {
    fn new(blocks: u64) -> Rig {
        Rig::with(config(blocks))
    }

    fn with(config: JournalConfig) -> Rig {
        let disk = TestDisk::new();
        let volume = Rc::new(Volume::default());
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let journal = RecoveryJournal::new(
            config,
            &disk.scheduler,
            &disk.base,
            Rc::clone(&volume) as Rc<dyn ZoneServices>,
            Rc::clone(&volume) as Rc<dyn JournalHooks>,
            &memory,
        )
        .unwrap();
        *volume.journal.borrow_mut() = Rc::downgrade(&journal);
        Rig {
            disk,
            volume,
            journal,
            blocks: config.blocks,
            next: 0,
        }
    }

    /// Submits the next `count` entries.
    fn submit(&mut self, count: u64) {
        for _ in 0..count {
            self.journal.submit(self.next, entry(self.next)).unwrap();
            self.next += 1;
        }
    }

    /// Submits entries and lets everything come to rest.
    fn commit(&mut self, count: u64) {
        self.submit(count);
        self.disk.run();
    }

    /// How many entries have been reported, after checking that it was in order and without failure.
    fn committed(&self) -> u64 {
        let done = self.volume.done.borrow();
        for (index, (tag, result)) in done.iter().enumerate() {
            assert_eq!(*tag, index as u64);
            assert!(result.is_ok(), "entry {tag}: {result:?}");
        }
        assert!(done.is_sorted_by_key(|(_, result)| *result.as_ref().unwrap()));
        done.len() as u64
    }

    /// How many entries have failed as they should on a read-only volume.
    fn failed(&self) -> usize {
        let done = self.volume.done.borrow();
        assert!(done.is_sorted_by_key(|(tag, _)| *tag));
        let failed = done.iter().skip_while(|(_, result)| result.is_ok());
        failed
            .inspect(|(_, result)| assert_eq!(*result, Err(VdoError::ReadOnly)))
            .count()
    }

    /// Releases all entries of a block that is full.
    fn release_entries(&self, sequence: u64) {
        for number in 0..PER_BLOCK {
            self.journal.release_entry(point(sequence, number));
        }
    }

    /// The place on disk of a block.
    fn place(&self, sequence: u64) -> u64 {
        START + sequence % self.blocks
    }

    /// The header and the entries' numbers of a block on disk.
    fn read(&self, sequence: u64) -> (RecoveryBlockHeader, Vec<u64>) {
        let bytes = &self.disk.blocks[&self.place(sequence)];
        decode(bytes.first_chunk().unwrap()).expect("a whole block of the journal")
    }

    /// Checks a block on disk: its number, its marks, and that it holds entries `first` and on.
    fn check(&self, sequence: u64, first: u64, count: u64) -> RecoveryBlockHeader {
        let (header, entries) = self.read(sequence);
        assert_eq!(header.sequence, SequenceNumber(sequence));
        assert_eq!(u64::from(header.entry_count), count);
        assert_eq!(
            u64::from(header.check_byte),
            0x80 | ((sequence / self.blocks) & 0x7f)
        );
        assert_eq!(header.recovery_count, 0xb7);
        assert_eq!(header.nonce, NONCE);
        assert!(entries.into_iter().eq(first..first + count));
        header
    }

    /// Steps the tasks, and tells which I/Os wait: `None` for a flush, the block for a write.
    fn waiting(&mut self) -> Vec<Option<u64>> {
        self.disk.step();
        let held = self.disk.held();
        let describe = |io: &crate::seam::BaseIo| match io.op {
            BaseOp::Flush => None,
            BaseOp::Write => {
                assert!(io.fua, "journal blocks are written durably");
                Some(io.pbn.get() - START)
            }
            other => panic!("the journal never does {other:?}"),
        };
        held.iter().map(describe).collect()
    }

    /// Completes the oldest I/O that waits.
    fn complete_first(&mut self) {
        self.disk.complete_held(0);
        self.disk.step();
    }
}

/// The header of a block and the numbers of its entries, as far as they can be trusted; each is
/// checked to be the entry it says it is.
fn decode(bytes: &Block) -> Option<(RecoveryBlockHeader, Vec<u64>)> {
    let block = RecoveryJournalBlock::new(bytes);
    let header = block.header().ok()?;
    let mut numbers = Vec::new();
    for sector in 1..8 {
        let left = header.entry_count - numbers.len() as u16;
        let Some(here) = block.sector_entries(&header, sector) else {
            break;
        };
        for _ in 0..here.min(left) {
            let found = block.entry(numbers.len() as u16).unwrap();
            let number = found.slot.pbn.get();
            assert_eq!(found, entry(number));
            numbers.push(number);
        }
        if here < ENTRIES_PER_BLOCK / 7 {
            break;
        }
    }
    Some((header, numbers))
}
