//! Random use of a tiny ring, held against a plain model of what must be on disk at every moment.
//!
//! Entry number *n* must get place *n* modulo 217 of block 1 + *n* / 217. The model counts what holds
//! each block and watches each I/O as it is handed to the disk:
//!
//! - a block is written only when nothing holds the one it overwrites;
//! - its entries were all appended before a flush that has been completed;
//! - the heads in its header pass no block that was still held when the last completed flush began;
//! - power may fail at any moment, leaving any sectors of the writes under way: reading the journal as
//!   a recovery does then finds every committed entry of every block that is still needed, in order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::format::recovery_journal::block_number;
use crate::types::BLOCK_SIZE;

#[derive(Clone, Debug)]
enum Op {
    /// Append so many entries.
    Submit(u16),
    /// Complete the I/O of this index among those that wait.
    Complete(u8),
    /// Complete all I/O there is.
    Settle,
    /// So many committed requests, chosen by the seed, go on: some take holds, all release.
    Proceed(u16, u64),
    /// So many holds, chosen by the seed, are given up.
    GiveUp(u16, u64),
    /// Power fails, with sectors of the writes under way chosen by the seed. (It did not, really.)
    PowerFailure(u64),
    /// Suspend and resume.
    Suspend,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1..600u16).prop_map(Op::Submit),
        6 => any::<u8>().prop_map(Op::Complete),
        3 => Just(Op::Settle),
        4 => (1..700u16, any::<u64>()).prop_map(|(count, seed)| Op::Proceed(count, seed)),
        3 => (1..20u16, any::<u64>()).prop_map(|(count, seed)| Op::GiveUp(count, seed)),
        4 => any::<u64>().prop_map(Op::PowerFailure),
        1 => Just(Op::Suspend),
    ];
    prop::collection::vec(op, 40..250)
}

/// Numbers below `bound`, one after another.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        ((self.0 >> 33) % bound as u64) as usize
    }
}

/// What holds a block.
#[derive(Default)]
struct Held {
    released: u64,
    logical: usize,
    physical: usize,
}

impl Held {
    fn by(&mut self, holder: JournalHolder) -> &mut usize {
        match holder {
            JournalHolder::Logical(_) => &mut self.logical,
            JournalHolder::Physical(_) => &mut self.physical,
        }
    }
}

/// The first blocks that block map and slab journals need.
#[derive(Clone, Copy, Debug)]
struct Needed {
    block_map: u64,
    slab_journal: u64,
}

/// A flush under way: what there was when it began.
struct Flush {
    submitted: u64,
    needed: Needed,
}

struct Model {
    rig: Rig,
    /// Blocks anybody might need, by number; the lesser ones are free for good.
    held: BTreeMap<u64, Held>,
    /// The part of `volume.done` that has been looked at.
    reported: usize,
    waiting: Vec<JournalPoint>,
    holds: Vec<(u64, JournalHolder)>,
    /// Flushes in the order they were begun; as the disk holds them.
    flushes: Vec<Flush>,
    /// As of the completed flush that began last.
    flushed: Flush,
    taken: usize,
    /// The greatest block ever written.
    newest: u64,
}

impl Model {
    fn new(blocks: u64) -> Model {
        let needed = Needed {
            block_map: 1,
            slab_journal: 1,
        };
        Model {
            rig: Rig::new(blocks),
            held: BTreeMap::new(),
            reported: 0,
            waiting: Vec::new(),
            holds: Vec::new(),
            flushes: Vec::new(),
            flushed: Flush {
                submitted: 0,
                needed,
            },
            taken: 0,
            newest: 0,
        }
    }

    fn first_needed(&self) -> Needed {
        let first = |needs: fn(&Held) -> bool| {
            let end = self.held.keys().next_back().map_or(1, |last| last + 1);
            let mut needing = self.held.iter().filter(|(_, held)| needs(held));
            needing.next().map_or(end, |(sequence, _)| *sequence)
        };
        Needed {
            block_map: first(|held| held.released < PER_BLOCK || held.logical > 0),
            slab_journal: first(|held| held.released < PER_BLOCK || held.physical > 0),
        }
    }

    /// Runs tasks, and looks at what they reported and handed to the disk.
    fn step(&mut self) {
        self.rig.disk.step();
        let done = self.rig.volume.done.borrow();
        for (number, result) in &done[self.reported..] {
            let place = point(1 + number / PER_BLOCK, number % PER_BLOCK);
            assert_eq!(*result, Ok(place), "entry {number}");
            assert_eq!(*number, self.reported as u64, "in the order of appending");
            self.reported += 1;
            self.waiting.push(place);
        }
        drop(done);
        let new = self.rig.disk.trace.len() - self.taken;
        self.taken += new;
        let held = self.rig.disk.held().len();
        for index in held - new..held {
            let io = self.rig.disk.held()[index];
            match io.op {
                BaseOp::Flush => {
                    let needed = self.first_needed();
                    let submitted = self.rig.next;
                    self.flushes.push(Flush { submitted, needed });
                }
                BaseOp::Write => {
                    assert!(io.fua);
                    self.check_write(index);
                }
                other => panic!("the journal never does {other:?}"),
            }
        }
    }

    fn check_write(&mut self, index: usize) {
        let bytes = self.rig.disk.held_block(index);
        let (header, entries) = decode(bytes.first_chunk().unwrap()).unwrap();
        let sequence = header.sequence.get();
        self.newest = self.newest.max(sequence);
        let first = (sequence - 1) * PER_BLOCK;
        let end = first + entries.len() as u64;
        assert!(entries.into_iter().eq(first..end));
        assert!(end <= self.flushed.submitted, "the data was not flushed");
        let needed = self.flushed.needed;
        assert!(header.block_map_head.get() <= needed.block_map);
        assert!(header.slab_journal_head.get() <= needed.slab_journal);
        let overwritten = sequence.saturating_sub(self.rig.blocks);
        assert!(overwritten < needed.block_map.min(needed.slab_journal));
    }

    fn complete(&mut self, index: usize) {
        let held = self.rig.disk.held();
        if held[index].op == BaseOp::Flush {
            let earlier = held[..index].iter().filter(|io| io.op == BaseOp::Flush);
            let flush = self.flushes.remove(earlier.count());
            // What an earlier flush promised stays true.
            if flush.submitted >= self.flushed.submitted {
                self.flushed = flush;
            }
        }
        self.rig.disk.complete_held(index);
        self.step();
    }

    fn settle(&mut self) {
        self.step();
        while !self.rig.disk.held().is_empty() {
            self.complete(0);
        }
    }

    fn proceed(&mut self, count: u16, seed: u64) {
        let mut dice = Dice(seed);
        for _ in 0..count {
            if self.waiting.is_empty() {
                return;
            }
            let place = self.waiting.swap_remove(dice.below(self.waiting.len()));
            let sequence = place.sequence.get();
            for holder in [LOGICAL, PHYSICAL] {
                if dice.below(40) == 0 {
                    self.rig.journal.acquire(place.sequence, holder);
                    self.holds.push((sequence, holder));
                    *self.held.entry(sequence).or_default().by(holder) += 1;
                }
            }
            self.rig.journal.release_entry(place);
            self.held.entry(sequence).or_default().released += 1;
        }
    }

    fn give_up(&mut self, count: u16, seed: u64) {
        let mut dice = Dice(seed);
        for _ in 0..count {
            if self.holds.is_empty() {
                return;
            }
            let (sequence, holder) = self.holds.swap_remove(dice.below(self.holds.len()));
            self.rig.journal.release(SequenceNumber(sequence), holder);
            *self.held.entry(sequence).or_default().by(holder) -= 1;
        }
    }

    /// Lets every request and every hold that there is now go.
    fn let_go(&mut self) {
        self.proceed(u16::MAX, 1);
        self.give_up(u16::MAX, 1);
        self.settle();
    }

    fn submit(&mut self, count: u16) {
        let outstanding = self.rig.next - self.reported as u64;
        let count = u64::from(count).min(2048 - outstanding);
        let first = self.rig.next;
        self.rig.submit(count);
        for number in first..first + count {
            self.held.entry(1 + number / PER_BLOCK).or_default();
        }
    }

    /// Reads the journal as a recovery does, after losing some sectors of the writes under way.
    fn fail_power(&self, seed: u64) {
        let mut dice = Dice(seed);
        let mut disk: BTreeMap<u64, Vec<u8>> = self.rig.disk.blocks.clone();
        for (index, io) in self.rig.disk.held().iter().enumerate() {
            if io.op == BaseOp::Write {
                let new = self.rig.disk.held_block(index);
                let block = disk.entry(io.pbn.get()).or_insert(vec![0; BLOCK_SIZE]);
                for (sector, new) in block.chunks_mut(512).zip(new.chunks(512)) {
                    if dice.below(2) == 0 {
                        sector.copy_from_slice(new);
                    }
                }
            }
        }
        let committed = self.reported as u64;
        let blocks = self.rig.blocks;
        let read = |sequence: u64| {
            let place = START + block_number(SequenceNumber(sequence), blocks);
            let found = disk.get(&place)?.first_chunk()?;
            let header = RecoveryBlockHeader::decode(found).ok()?;
            (header.sequence.get() == sequence).then(|| decode(found).unwrap())
        };
        let all = || (1..=self.newest).filter_map(read);
        let head_of = |header: &RecoveryBlockHeader| {
            (header.block_map_head.get(), header.slab_journal_head.get())
        };
        let block_map = all().map(|(header, _)| head_of(&header).0).max();
        let slab_journal = all().map(|(header, _)| head_of(&header).1).max();
        let (Some(block_map), Some(slab_journal)) = (block_map, slab_journal) else {
            assert_eq!(committed, 0, "nothing is on disk");
            return;
        };
        let needed = self.first_needed();
        assert!(block_map <= needed.block_map && slab_journal <= needed.slab_journal);

        let head = block_map.min(slab_journal);
        let mut next = (head - 1) * PER_BLOCK;
        for sequence in head.. {
            let Some((header, entries)) = read(sequence) else {
                break;
            };
            for number in &entries {
                assert_eq!(*number, next);
                next += 1;
            }
            if header.entry_count < ENTRIES_PER_BLOCK || entries.len() as u64 != PER_BLOCK {
                break;
            }
        }
        assert!(next >= committed, "{next} found, {committed} committed");
        assert!(next <= self.rig.next);
    }

    fn suspend(&mut self) {
        let drained = Rc::new(Cell::new(false));
        let (journal, flag) = (Rc::clone(&self.rig.journal), Rc::clone(&drained));
        self.rig.disk.scheduler.spawn(async move {
            assert_eq!(journal.drain(false).await, Ok(()));
            flag.set(true);
        });
        self.settle();
        while !drained.get() {
            assert!(!self.waiting.is_empty() || !self.holds.is_empty(), "stuck");
            self.let_go();
        }
        assert_eq!(self.reported as u64, self.rig.next);
        assert_eq!(self.rig.journal.resume(), Ok(()));
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Submit(count) => self.submit(count),
            Op::Complete(index) => {
                self.step();
                let waiting = self.rig.disk.held().len();
                if waiting > 0 {
                    self.complete(usize::from(index) % waiting);
                }
            }
            Op::Settle => self.settle(),
            Op::Proceed(count, seed) => self.proceed(count, seed),
            Op::GiveUp(count, seed) => self.give_up(count, seed),
            Op::PowerFailure(seed) => {
                self.step();
                self.fail_power(seed);
            }
            Op::Suspend => self.suspend(),
        }
        assert_eq!(*self.rig.volume.read_only.borrow(), None);
    }

    /// Ends the volume's life in order, and says how many blocks there were.
    fn end(mut self) -> u64 {
        self.settle();
        while (self.reported as u64) < self.rig.next || !self.waiting.is_empty() {
            assert!(!self.waiting.is_empty() || !self.holds.is_empty(), "stuck");
            self.let_go();
        }
        let journal = Rc::clone(&self.rig.journal);
        let drain = async move { journal.drain(true).await };
        assert_eq!(self.rig.disk.block_on(drain), Ok(()));
        self.fail_power(0);
        self.give_up(u16::MAX, 1);
        let journal = &self.rig.journal;
        let tail = journal.state_for_super_block().journal_start;
        assert_eq!(tail.get(), self.newest + 1);
        assert_eq!(journal.resume(), Ok(()), "nothing is held");
        self.newest
    }
}

fn live(blocks: u64, ops: &[Op]) -> u64 {
    let mut model = Model::new(blocks);
    for op in ops {
        model.apply(op);
    }
    model.end()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_committed_entry_stays_readable_as_long_as_it_is_needed(
        blocks in prop_oneof![Just(4u64), Just(8), Just(16)],
        ops in ops(),
    ) {
        live(blocks, &ops);
    }
}

#[test]
fn a_long_life_goes_around_the_ring_many_times() {
    let mut dice = Dice(7);
    let mut ops = Vec::new();
    for _ in 0..600 {
        ops.push(Op::Submit(1 + dice.below(700) as u16));
        for _ in 0..dice.below(6) {
            ops.push(Op::Complete(dice.below(256) as u8));
            ops.push(Op::PowerFailure(dice.below(1 << 30) as u64));
        }
        ops.push(Op::Proceed(700, dice.below(1 << 30) as u64));
        ops.push(Op::GiveUp(20, dice.below(1 << 30) as u64));
    }
    let newest = live(8, &ops);
    assert!(newest > 8 * 50, "only {newest} blocks");
}
