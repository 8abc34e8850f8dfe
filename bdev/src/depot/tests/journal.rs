//! When slab-journal blocks are written, reaped, and let the recovery journal go.

use super::oracle::{journal_block, summary_entry};
use super::*;
use crate::format::slab_journal::{ENTRIES_PER_BLOCK, FULL_ENTRIES_PER_BLOCK};
use crate::seam::BaseOp;
use ReferenceOperation::{BlockMapIncrement, DataDecrement, DataIncrement};

/// What an I/O is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Io {
    Flush,
    Summary,
    /// A block of a slab's counters.
    Counts(u32, u64),
    /// A block of a slab's journal, by its place in the ring.
    Journal(u32, u64),
}

impl Fixture {
    pub(super) fn classify(&self, op: BaseOp, pbn: u64) -> Io {
        if op == BaseOp::Flush {
            return Io::Flush;
        }
        if pbn < self.geometry.slabs.first_block.get() {
            return Io::Summary;
        }
        let slab = self.geometry.slabs.slab_of(Pbn(pbn)).unwrap();
        let journal = self.geometry.slabs.journal_blocks(slab);
        let counts = self.geometry.slabs.reference_blocks(slab);
        if journal.contains(Pbn(pbn)) {
            Io::Journal(slab.get(), pbn - journal.start.get())
        } else {
            assert!(
                counts.contains(Pbn(pbn)),
                "data blocks are nobody's business here"
            );
            Io::Counts(slab.get(), pbn - counts.start.get())
        }
    }

    /// The I/Os since this was called last.
    pub(super) fn trace(&mut self) -> Vec<Io> {
        let trace = std::mem::take(&mut self.disk.trace);
        trace
            .into_iter()
            .map(|(op, pbn, _)| self.classify(op, pbn))
            .collect()
    }

    /// Takes I/Os from the engine and holds them.
    pub(super) fn hold(&mut self) {
        self.disk.step();
    }

    /// Completes one held I/O and lets the engine take note.
    pub(super) fn complete(&mut self, io: Io) {
        let held = self.held();
        let index = held.iter().position(|held| *held == io);
        self.disk
            .complete_held(index.unwrap_or_else(|| panic!("{io:?} is not among {held:?}")));
        self.disk.step();
    }

    pub(super) fn held(&self) -> Vec<Io> {
        self.disk
            .held()
            .iter()
            .map(|io| self.classify(io.op, io.pbn.get()))
            .collect()
    }

    /// Makes this many journal entries about a block that has a reference: one more, one less, and
    /// so on.
    pub(super) fn churn(&mut self, pbn: Pbn, entries: u32) -> Vec<usize> {
        let turns = [DataIncrement, DataDecrement].into_iter().cycle();
        turns
            .take(entries as usize)
            .map(|operation| self.ask(pbn, operation).1)
            .collect()
    }

    /// Completes all I/O but that about counters.
    pub(super) fn complete_all_but_counts(&mut self) {
        let other = |io: &Io| !matches!(io, Io::Counts(..));
        while let Some(io) = self.held().into_iter().find(other) {
            self.complete(io);
        }
    }

    fn made(&self, indices: &[usize]) -> usize {
        let made = |index: &&usize| {
            self.result(**index)
                .inspect(|result| assert_eq!(*result, Ok(())))
        };
        indices.iter().filter_map(|index| made(&index)).count()
    }
}

const FULL: u32 = ENTRIES_PER_BLOCK as u32;

#[test]
fn a_block_is_written_when_it_is_full_and_then_the_summary_and_then_the_lock_is_released() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    fixture.trace();
    fixture.churn(pbn, FULL - 2);
    fixture.disk.run();
    assert_eq!(
        fixture.trace(),
        [],
        "a block that is not full stays in memory"
    );
    let first = SequenceNumber(1);
    assert_eq!(
        fixture.services.held.borrow().get(&first),
        Some(&1),
        "from the first entry on"
    );

    fixture.churn(pbn, 1);
    fixture.hold();
    assert_eq!(fixture.held(), [Io::Journal(0, 1)]);
    fixture.complete(Io::Journal(0, 1));
    assert_eq!(fixture.held(), [Io::Flush]);
    fixture.complete(Io::Flush);
    assert_eq!(fixture.held(), [Io::Summary]);
    assert_eq!(
        fixture.locks_held(),
        1,
        "until the summary knows of the block"
    );
    fixture.complete(Io::Summary);
    assert_eq!(fixture.held(), []);
    assert_eq!(fixture.locks_held(), 0);

    let image = &fixture.disk.blocks;
    let (header, entries) =
        journal_block(image, &fixture.geometry.slabs, SlabNumber(0), 1).unwrap();
    assert_eq!((header.sequence, header.head), (first, first));
    assert_eq!(entries.len(), FULL as usize);
    let (_, offset) = fixture.geometry.slabs.locate(pbn).unwrap();
    assert_eq!(entries[0], DataIncrement.entry(offset));
    let entry = summary_entry(image, ZoneIndex(0), SlabNumber(0));
    assert_eq!(
        (entry.tail_block_offset, entry.is_dirty, entry.load_counts),
        (2, true, false)
    );
    assert_eq!(fixture.statistics().slab_journal.blocks_written, 1);
    assert_eq!(fixture.statistics().slab_summary.blocks_written, 1);
}

#[test]
fn the_summary_moves_only_past_blocks_that_are_all_written() {
    let mut fixture = Fixture::new(geometry(1, 6, 16));
    let pbn = fixture.write();
    fixture.churn(pbn, 4 * FULL - 1);
    fixture.hold();
    let tail = |fixture: &Fixture| {
        let entry = summary_entry(&fixture.disk.blocks, ZoneIndex(0), SlabNumber(0));
        entry.tail_block_offset
    };
    fixture.complete(Io::Journal(0, 3));
    fixture.complete(Io::Journal(0, 2));
    assert_eq!(
        fixture.held(),
        [Io::Journal(0, 1), Io::Journal(0, 4)],
        "no summary yet"
    );
    assert_eq!((tail(&fixture), fixture.locks_held()), (0, 4));
    fixture.complete(Io::Journal(0, 1));
    fixture.complete(Io::Flush);
    // While the summary learns of three blocks, the fourth is written; it has its own turn.
    fixture.complete(Io::Journal(0, 4));
    assert_eq!(fixture.held(), [Io::Summary]);
    fixture.complete(Io::Summary);
    assert_eq!((tail(&fixture), fixture.locks_held()), (4, 1));
    fixture.disk.run();
    assert_eq!((tail(&fixture), fixture.locks_held()), (5, 0));
}

#[test]
fn nothing_is_added_after_a_partial_block_before_the_summary_knows_it() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    fixture.zone.commit_oldest(SequenceNumber(1));
    let pbn = fixture.write();
    let lock = fixture.next.sequence;
    fixture.zone.commit_oldest(lock);
    fixture.hold();
    assert_eq!(fixture.held(), [Io::Journal(0, 1)]);
    let later = fixture.churn(pbn, 3);
    for io in [Io::Journal(0, 1), Io::Flush] {
        assert_eq!(
            fixture.made(&later),
            0,
            "nothing is made while {io:?} is under way"
        );
        fixture.complete(io);
    }
    assert_eq!(fixture.made(&later), 0);
    fixture.complete(Io::Summary);
    assert_eq!(fixture.made(&later), 3);
    fixture.zone.commit_oldest(fixture.next.sequence);
    fixture.disk.run();
    let block = |sequence| {
        let slabs = &fixture.geometry.slabs;
        journal_block(&fixture.disk.blocks, slabs, SlabNumber(0), sequence)
            .unwrap()
            .1
            .len()
    };
    assert_eq!((block(1), block(2)), (1, 3));
    assert_eq!(fixture.locks_held(), 0);
}

#[test]
fn nothing_is_added_after_a_partial_block_when_the_summary_learns_of_those_before_it() {
    let mut fixture = Fixture::new(geometry(1, 6, 16));
    let pbn = fixture.write();
    fixture.churn(pbn, FULL - 1);
    fixture.hold();
    fixture.complete(Io::Journal(0, 1));
    fixture.churn(pbn, 1);
    fixture.zone.commit_oldest(fixture.next.sequence);
    fixture.hold();
    let later = fixture.churn(pbn, 3);
    fixture.complete(Io::Flush);
    fixture.complete(Io::Summary);
    assert_eq!(fixture.held(), [Io::Journal(0, 2)]);
    assert_eq!(fixture.made(&later), 0, "block 2 is not even written");
    for io in [Io::Journal(0, 2), Io::Flush, Io::Summary] {
        assert_eq!(fixture.made(&later), 0, "{io:?} is under way");
        fixture.complete(io);
    }
    assert_eq!(fixture.made(&later), 3);
}

#[test]
fn an_entry_about_the_block_map_begins_a_new_block_when_it_does_not_fit() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    fixture.churn(pbn, u32::from(FULL_ENTRIES_PER_BLOCK) - 1);
    let page = fixture.zone.allocate(WriteKind::BlockMap).unwrap();
    assert_eq!(fixture.change(page, BlockMapIncrement), Ok(()));
    fixture.zone.release(page);
    let (header, _) = journal_block(
        &fixture.disk.blocks,
        &fixture.geometry.slabs,
        SlabNumber(0),
        1,
    )
    .unwrap();
    assert_eq!(header.entry_count, FULL_ENTRIES_PER_BLOCK);
    assert!(!header.has_block_map_increments);
    // The new block has the form with room for fewer, and is full accordingly.
    fixture.churn(pbn, u32::from(FULL_ENTRIES_PER_BLOCK) - 1);
    fixture.disk.run();
    let (header, entries) = journal_block(
        &fixture.disk.blocks,
        &fixture.geometry.slabs,
        SlabNumber(0),
        2,
    )
    .unwrap();
    assert_eq!(header.entry_count, FULL_ENTRIES_PER_BLOCK);
    assert!(header.has_block_map_increments);
    let (_, offset) = fixture.geometry.slabs.locate(page).unwrap();
    assert_eq!(entries[0], BlockMapIncrement.entry(offset));
    assert_eq!(entries[1].operation, DataIncrement.entry(0).operation);
}

/// At the blocking threshold changes wait until counters are written and a flush has followed.
#[test]
fn a_full_journal_makes_changes_wait_until_its_head_is_reaped() {
    let mut fixture = Fixture::new(geometry(1, 6, 16));
    let config = fixture.geometry.slabs.config;
    assert_eq!(
        (config.flushing_threshold, config.blocking_threshold),
        (12, 14)
    );
    let pbn = fixture.write();
    fixture.churn(pbn, 12 * FULL - 1);
    fixture.disk.run();
    assert_eq!(fixture.statistics().slab_journal.flush_count, 0);
    assert_eq!(fixture.statistics().ref_counts.blocks_written, 0);

    // The first entry above the flushing threshold writes out counters.
    fixture.churn(pbn, 1);
    assert_eq!(fixture.statistics().slab_journal.flush_count, 1);
    fixture.hold();
    assert_eq!(fixture.held(), [Io::Flush]);
    fixture.complete(Io::Flush);
    assert_eq!(fixture.held(), [Io::Counts(0, 0)]);
    let last = fixture.churn(pbn, 2 * FULL - 1);
    assert_eq!(fixture.made(&last), last.len());
    fixture.hold();
    fixture.complete_all_but_counts();
    assert_eq!(fixture.statistics().slab_journal.blocked_count, 0);
    let waiting = fixture.churn(pbn, 5);
    fixture.hold();
    assert_eq!(fixture.made(&waiting), 0);
    assert!(fixture.statistics().slab_journal.blocked_count > 0);

    // The counters are written, but what was reaped may be overwritten only after a flush.
    fixture.complete(Io::Counts(0, 0));
    assert_eq!(fixture.held(), [Io::Flush]);
    assert_eq!(fixture.made(&waiting), 0);
    fixture.complete(Io::Flush);
    assert_eq!(fixture.made(&waiting), 5);
    assert_eq!(fixture.statistics().slab_journal.disk_full_count, 0);
    fixture.churn(pbn, FULL);
    fixture.hold();
    fixture.complete_all_but_counts();
    let entry = summary_entry(&fixture.disk.blocks, ZoneIndex(0), SlabNumber(0));
    assert!(
        entry.load_counts,
        "the journal alone does not have every change any more"
    );
}

/// The counters of a slab that never had any on disk are all written before the first block is reaped.
#[test]
fn the_first_block_stays_until_every_reference_block_was_written_once() {
    let mut fixture = Fixture::new(geometry(1, 14, 8));
    let pbn = fixture.write();
    let blocks = fixture.geometry.slabs.config.data_blocks.div_ceil(4032);
    assert!(blocks > 3);
    fixture.churn(pbn, 20 * FULL);
    fixture.disk.run();
    let trace = fixture.trace();
    let reused = trace
        .iter()
        .rposition(|io| *io == Io::Journal(0, 1))
        .unwrap();
    for block in 0..blocks {
        let written = trace.iter().position(|io| *io == Io::Counts(0, block));
        assert!(
            written.is_some_and(|written| written < reused),
            "counters {block}"
        );
    }
}

/// Far from the deadline the counters are written one block at a time; until each was written once, what
/// is on disk means nothing, and the summary must not say otherwise.
#[test]
fn counters_are_not_to_be_loaded_before_all_of_them_were_written() {
    let mut fixture = Fixture::new(geometry(1, 14, 64));
    let slabs = fixture.geometry.slabs;
    let counts = slabs.reference_blocks(SlabNumber(0));
    let pbn = fixture.write();
    fixture.churn(pbn, FULL - 1);
    let mut steps = Vec::new();
    loop {
        let image = &fixture.disk.blocks;
        let written = (counts.start.get()..counts.end().get())
            .filter(|pbn| image[pbn].iter().any(|&byte| byte != 0xee))
            .count() as u64;
        steps.push(written);
        if summary_entry(image, ZoneIndex(0), SlabNumber(0)).load_counts {
            assert_eq!(written, counts.blocks);
            break;
        }
        fixture.churn(pbn, FULL);
        fixture.disk.run();
    }
    steps.dedup();
    assert!(steps.len() > 3, "they were written by and by: {steps:?}");
}

#[test]
fn the_recovery_journal_gets_its_oldest_blocks_back_and_no_others() {
    let mut fixture = Fixture::new(geometry(3, 6, 8));
    let count = fixture.geometry.slabs.config.data_blocks as u32;
    // Slab 2 is changed first, then 0, then 1, in different blocks of the recovery journal.
    for _ in 0..3 * count {
        fixture.write();
    }
    fixture.zone.commit_oldest(fixture.next.sequence);
    fixture.disk.run();
    assert_eq!(fixture.locks_held(), 0);
    fixture.trace();
    let mut locks = Vec::new();
    for slab in [2, 0, 1] {
        fixture.next.sequence = SequenceNumber(fixture.next.sequence.get() + 2);
        locks.push(fixture.next.sequence);
        fixture.increment(fixture.pbn(slab, 0));
    }
    let held: Vec<_> = fixture.services.held.borrow().keys().copied().collect();
    assert_eq!(held, locks);
    let journals = |fixture: &mut Fixture| {
        fixture.disk.run();
        let journal = |io| match io {
            Io::Journal(slab, _) => Some(slab),
            _ => None,
        };
        fixture
            .trace()
            .into_iter()
            .filter_map(journal)
            .collect::<Vec<_>>()
    };
    fixture
        .zone
        .commit_oldest(SequenceNumber(locks[0].get() - 1));
    assert_eq!(journals(&mut fixture), []);
    fixture.zone.commit_oldest(locks[1]);
    assert_eq!(journals(&mut fixture), [2, 0]);
    let held: Vec<_> = fixture.services.held.borrow().keys().copied().collect();
    assert_eq!(held, [locks[2]]);
    fixture.zone.commit_oldest(SequenceNumber(u64::MAX));
    assert_eq!(journals(&mut fixture), [1]);
    assert_eq!(fixture.locks_held(), 0);
}

#[test]
fn a_journal_at_the_blocking_threshold_still_gives_the_recovery_journal_its_block_back() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    let blocking = fixture.geometry.slabs.config.blocking_threshold as u32;
    fixture.churn(pbn, blocking * FULL - 1);
    fixture.hold();
    let waiting = fixture.churn(pbn, 2);
    fixture.zone.commit_oldest(fixture.next.sequence);
    fixture.hold();
    assert_eq!(fixture.made(&waiting), 0);
    fixture.disk.run();
    assert_eq!(fixture.made(&waiting), 2);
    fixture.zone.commit_oldest(fixture.next.sequence);
    fixture.disk.run();
    assert_eq!(fixture.locks_held(), 0);
}

/// The summary names the block after which a start looks back for the head that this block says. While one
/// write of the summary takes long, the ring can be reaped and filled beyond that.
#[test]
fn what_a_start_would_look_for_is_not_overwritten_before_the_summary_says_otherwise() {
    let mut fixture = Fixture::new(geometry(1, 14, 16));
    let pbn = fixture.write();
    fixture.churn(pbn, 12 * FULL - 1);
    fixture.disk.run();

    // The summary names block 12, which says that the journal begins with block 1.
    let mut made = fixture.churn(pbn, 4 * FULL);
    let slow = |io: &Io| !matches!(io, Io::Summary);
    let complete_others = |fixture: &mut Fixture| {
        fixture.hold();
        while let Some(io) = fixture.held().into_iter().find(slow) {
            fixture.complete(io);
        }
    };
    complete_others(&mut fixture);
    made.extend(fixture.churn(pbn, FULL));
    complete_others(&mut fixture);
    assert_eq!(fixture.held(), [Io::Summary]);
    assert_eq!(fixture.made(&made), 4 * FULL as usize, "not in block 17");
    assert!(fixture.statistics().slab_journal.disk_full_count > 0);

    // Block 13 was packed before anything was reaped and says the same, but block 16 does not. The device
    // might still lose what it was told last, so it is flushed first.
    fixture.complete(Io::Summary);
    complete_others(&mut fixture);
    assert_eq!(fixture.made(&made), 4 * FULL as usize);
    fixture.complete(Io::Summary);
    assert_eq!(fixture.made(&made), 4 * FULL as usize);
    assert_eq!(fixture.held(), [Io::Flush]);
    fixture.complete(Io::Flush);
    assert_eq!(fixture.made(&made), made.len());
    fixture.disk.run();
    assert_eq!(fixture.drain(true), Ok(()));
    assert_eq!(fixture.locks_held(), 0);
}

#[test]
fn a_tail_block_that_waits_for_memory_is_written_when_there_is_some() {
    let mut fixture = Fixture::with_writers(geometry(2, 6, 8), 1);
    let count = fixture.geometry.slabs.config.data_blocks as u32;
    for _ in 0..2 * count {
        fixture.write();
    }
    fixture.zone.commit_oldest(fixture.next.sequence);
    let busy = fixture.statistics().slab_journal.tail_busy_count;
    let (first, second) = (fixture.pbn(0, 0), fixture.pbn(1, 0));
    fixture.hold();
    assert_eq!(
        fixture.held(),
        [Io::Journal(0, 1)],
        "there is memory for one"
    );
    let waiting = [fixture.churn(second, 2), fixture.churn(first, 2)].concat();
    assert_eq!(fixture.made(&waiting), 0);
    assert!(fixture.statistics().slab_journal.tail_busy_count > busy);
    fixture.disk.run();
    assert_eq!(fixture.made(&waiting), 4);
    assert_eq!(fixture.drain(true), Ok(()));
    assert_eq!(fixture.locks_held(), 0);
}

#[test]
fn changes_that_wait_are_made_in_the_order_they_were_asked_for() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let blocks: Vec<_> = (0..40).map(|_| fixture.write()).collect();
    fixture.zone.commit_oldest(fixture.next.sequence);
    let mut expected = Vec::new();
    for round in 0..100 {
        let pbn = blocks[round * 7 % 40];
        fixture.ask(pbn, DataIncrement);
        expected.push(DataIncrement.entry(fixture.geometry.slabs.locate(pbn).unwrap().1));
        if round == 50 {
            fixture.disk.run();
        }
    }
    fixture.disk.run();
    assert_eq!(fixture.drain(true), Ok(()));
    let (_, entries) = journal_block(
        &fixture.disk.blocks,
        &fixture.geometry.slabs,
        SlabNumber(0),
        2,
    )
    .unwrap();
    assert_eq!(entries, expected);
}

#[test]
fn a_change_nobody_waits_for_is_made_all_the_same() {
    let mut fixture = Fixture::new(geometry(1, 6, 8));
    let pbn = fixture.write();
    fixture.zone.commit_oldest(fixture.next.sequence);
    let point = fixture.point();
    let change = ReferenceChange {
        pbn,
        operation: DataIncrement,
        point,
    };
    drop(fixture.zone.adjust(change).now().unwrap_err());
    assert_eq!(fixture.count(pbn), 1);
    fixture.disk.run();
    assert_eq!(fixture.count(pbn), 2);
}
