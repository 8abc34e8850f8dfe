//! Random work against a model of the counters, with power failures anywhere.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::oracle::{Image, Journaled, recover, stored_counts, summary_entry};
use super::*;

#[derive(Clone, Debug)]
enum Deed {
    /// Allocate and refer to it this often.
    Write { references: u8 },
    /// Allocate and give back.
    GiveUp,
    /// Allocate a page of the block map.
    BlockMapPage,
    /// Deduplicate against a block that holds data.
    Share { which: prop::sample::Index },
    /// Lock a block, take its last references while locked, add one or not, and release.
    ShareWhileFreed {
        which: prop::sample::Index,
        keep: bool,
    },
    /// Take a reference back.
    Decrement { which: prop::sample::Index },
    /// Many decrements and increments of one block, to fill the journal.
    Churn {
        which: prop::sample::Index,
        times: u16,
    },
    /// The recovery journal wants its blocks up to so many back.
    CommitOldest { behind: u64 },
    /// The disk gets on with it.
    Disk { steps: u8 },
    /// Everything is written, or only what is under way, and work goes on.
    Pause { save: bool },
    /// The power fails; what would recovery find?
    PowerFailure { seed: u64 },
}

fn step() -> impl Strategy<Value = Deed> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        10 => (1u8..5).prop_map(|references| Deed::Write { references }),
        2 => Just(Deed::GiveUp),
        2 => Just(Deed::BlockMapPage),
        6 => which().prop_map(|which| Deed::Share { which }),
        2 => (which(), any::<bool>())
            .prop_map(|(which, keep)| Deed::ShareWhileFreed { which, keep }),
        8 => which().prop_map(|which| Deed::Decrement { which }),
        4 => (which(), 1u16..1500).prop_map(|(which, times)| Deed::Churn { which, times }),
        3 => (0u64..40).prop_map(|behind| Deed::CommitOldest { behind }),
        8 => (1u8..40).prop_map(|steps| Deed::Disk { steps }),
        1 => any::<bool>().prop_map(|save| Deed::Pause { save }),
        3 => any::<u64>().prop_map(|seed| Deed::PowerFailure { seed }),
    ]
}

struct Model {
    fixture: Fixture,
    /// Data blocks with references; pages of the block map have 254.
    counts: BTreeMap<Pbn, u8>,
    history: HashMap<SlabNumber, Vec<Journaled>>,
    /// Changes that may still wait: result and recovery-journal entry.
    asked: Vec<(usize, JournalPoint)>,
}

impl Model {
    fn new(slabs: SlabGeometry, shuffle: u64) -> Model {
        let mut fixture = Fixture::with_writers(slabs, 3);
        fixture.disk.shuffle = shuffle;
        Model {
            fixture,
            counts: BTreeMap::new(),
            history: HashMap::new(),
            asked: Vec::new(),
        }
    }

    fn data_block(&self, which: &prop::sample::Index) -> Option<Pbn> {
        let data: Vec<_> = self
            .counts
            .iter()
            .filter(|(_, count)| **count < 250)
            .map(|(pbn, _)| *pbn)
            .collect();
        (!data.is_empty()).then(|| data[which.index(data.len())])
    }

    fn ask(&mut self, pbn: Pbn, operation: ReferenceOperation) {
        let (point, index) = self.fixture.ask(pbn, operation);
        let change = ReferenceChange {
            pbn,
            operation,
            point,
        };
        let slab = self.fixture.geometry.slabs.slab_of(pbn).unwrap();
        self.history
            .entry(slab)
            .or_default()
            .push(Journaled { change });
        self.asked.push((index, point));
        let count = self.counts.entry(pbn).or_insert(0);
        match operation {
            ReferenceOperation::DataIncrement => *count += 1,
            ReferenceOperation::DataDecrement => *count -= 1,
            ReferenceOperation::BlockMapIncrement => *count = 254,
        }
        if *count == 0 {
            self.counts.remove(&pbn);
        }
    }

    /// Waits for changes still under way, because what follows depends on them.
    fn settle(&mut self) {
        if self
            .asked
            .iter()
            .any(|(index, _)| self.fixture.result(*index).is_none())
        {
            self.fixture.disk.run();
        }
        for (index, point) in self.asked.drain(..) {
            assert_eq!(
                self.fixture.result(index),
                Some(Ok(())),
                "the change of {point:?}"
            );
        }
    }

    fn allocate(&mut self, kind: WriteKind) -> Option<Pbn> {
        match self.fixture.zone.allocate(kind) {
            Ok(pbn) => {
                assert!(
                    !self.counts.contains_key(&pbn),
                    "{pbn} is in use and was allocated"
                );
                Some(pbn)
            }
            Err(error) => {
                assert_eq!(error, VdoError::NoSpace);
                self.settle();
                let used = self.counts.len() as u64;
                assert_eq!(
                    used,
                    self.fixture.zone.data_blocks(),
                    "no space means none at all"
                );
                None
            }
        }
    }

    fn take(&mut self, step: Deed) {
        match step {
            Deed::Write { references } => {
                let Some(pbn) = self.allocate(WriteKind::Data) else {
                    return;
                };
                let budget = self.fixture.zone.downgrade_write(pbn, 1).unwrap();
                self.ask(pbn, ReferenceOperation::DataIncrement);
                for _ in 1..references {
                    assert!(budget.claim());
                    self.ask(pbn, ReferenceOperation::DataIncrement);
                }
                self.settle();
                self.fixture.zone.release(pbn);
            }
            Deed::GiveUp => {
                if let Some(pbn) = self.allocate(WriteKind::Data) {
                    self.fixture.zone.release(pbn);
                }
            }
            Deed::BlockMapPage => {
                let Some(pbn) = self.allocate(WriteKind::BlockMap) else {
                    return;
                };
                self.ask(pbn, ReferenceOperation::BlockMapIncrement);
                self.settle();
                self.fixture.zone.release(pbn);
            }
            Deed::Share { which } => {
                let Some(pbn) = self.data_block(&which) else {
                    return;
                };
                self.settle();
                let DuplicateLock::Locked(budget) = self.fixture.zone.lock_duplicate(pbn).unwrap()
                else {
                    panic!("a data block with few references can be locked")
                };
                assert_eq!(budget.left(), 254 - u32::from(self.counts[&pbn]));
                assert!(budget.claim());
                self.ask(pbn, ReferenceOperation::DataIncrement);
                self.settle();
                self.fixture.zone.release(pbn);
            }
            Deed::ShareWhileFreed { which, keep } => {
                let Some(pbn) = self.data_block(&which) else {
                    return;
                };
                self.settle();
                let lock = self.fixture.zone.lock_duplicate(pbn).unwrap();
                assert!(matches!(lock, DuplicateLock::Locked(_)));
                for _ in 0..self.counts[&pbn] {
                    self.ask(pbn, ReferenceOperation::DataDecrement);
                }
                if keep {
                    self.ask(pbn, ReferenceOperation::DataIncrement);
                }
                self.settle();
                assert_eq!(self.fixture.count(pbn), if keep { 1 } else { 255 });
                self.fixture.zone.release(pbn);
            }
            Deed::Decrement { which } => {
                if let Some(pbn) = self.data_block(&which) {
                    self.ask(pbn, ReferenceOperation::DataDecrement);
                }
            }
            Deed::Churn { which, times } => {
                let Some(pbn) = self.data_block(&which) else {
                    return;
                };
                for _ in 0..times {
                    self.ask(pbn, ReferenceOperation::DataIncrement);
                    self.ask(pbn, ReferenceOperation::DataDecrement);
                }
            }
            Deed::CommitOldest { behind } => {
                let newest = self.fixture.next.sequence.get();
                self.fixture
                    .zone
                    .commit_oldest(SequenceNumber(newest.saturating_sub(behind)));
            }
            Deed::Disk { steps } => {
                for _ in 0..steps {
                    self.fixture.disk.advance();
                }
            }
            Deed::Pause { save } => {
                self.settle();
                assert_eq!(self.fixture.drain(save), Ok(()));
                if save {
                    self.check_saved();
                }
                self.fixture.zone.resume().unwrap();
            }
            Deed::PowerFailure { seed } => {
                self.check_recovery(&self.fixture.disk.blocks, true);
                let mut state = seed | 1;
                let torn = self.fixture.disk.after_power_failure(|| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    state >> 63 == 1
                });
                self.check_recovery(&torn, false);
            }
        }
        assert_eq!(*self.fixture.services.why.borrow(), None);
    }

    fn expected(&self, slab: SlabNumber) -> Vec<u8> {
        let slabs = self.fixture.geometry.slabs;
        let count = |offset| {
            self.counts
                .get(&slabs.pbn(slab, offset))
                .copied()
                .unwrap_or(0)
        };
        (0..slabs.config.data_blocks as u32).map(count).collect()
    }

    /// Whatever is on disk now and the recovery journal give the counters. If the disk loses nothing,
    /// the recovery journal still has all that is needed.
    fn check_recovery(&self, image: &Image, complete: bool) {
        let none = Vec::new();
        let waiting = self
            .asked
            .iter()
            .filter(|(index, _)| self.fixture.result(*index).is_none());
        let waiting = waiting.map(|(_, point)| point.sequence).min();
        let held = self.fixture.services.held.borrow().keys().next().copied();
        let kept = held.into_iter().chain(waiting).min();
        for slab in (0..self.fixture.geometry.slabs.slab_count).map(SlabNumber) {
            let history = self.history.get(&slab).unwrap_or(&none);
            let recovered = recover(image, &self.fixture.geometry, slab, history);
            assert_eq!(recovered.counts, self.expected(slab), "slab {slab}");
            if let Some(needed) = recovered.oldest_needed.filter(|_| complete) {
                assert!(
                    kept.is_some_and(|kept| kept <= needed.sequence),
                    "slab {slab} needs {needed:?}, and the oldest lock is on {kept:?}"
                );
            }
        }
    }

    /// After a save the disk alone says everything, and no lock is left.
    fn check_saved(&self) {
        let image = &self.fixture.disk.blocks;
        for slab in (0..self.fixture.geometry.slabs.slab_count).map(SlabNumber) {
            let entry = summary_entry(image, ZoneIndex(0), slab);
            assert!(!entry.is_dirty, "slab {slab} is clean");
            let stored = stored_counts(image, &self.fixture.geometry.slabs, slab);
            let stored: Vec<u8> = stored.into_iter().map(|(count, _)| count).collect();
            if entry.load_counts {
                assert_eq!(stored, self.expected(slab), "slab {slab}");
            } else {
                assert!(
                    self.expected(slab).iter().all(|&count| count == 0),
                    "slab {slab}"
                );
            }
        }
        assert_eq!(
            self.fixture.locks_held(),
            0,
            "every lock on the recovery journal was released"
        );
        let services = &self.fixture.services;
        assert_eq!(services.acquired.get(), services.released.get());
        assert_eq!(self.fixture.zone.locked_blocks(), 0);
        assert_eq!(
            self.fixture.zone.allocated_blocks(),
            self.counts.len() as u64
        );
    }

    /// A clean shutdown, and every zone count the volume can be opened with.
    fn finish(mut self) {
        self.settle();
        assert_eq!(self.fixture.drain(true), Ok(()));
        self.check_saved();
        let slabs = self.fixture.geometry.slabs;
        let mut blocks = self.fixture.disk.blocks.clone();
        let mut last_zones = 1;
        for zones in [1, 2, 1] {
            for zone in 0..zones {
                let mut disk = TestDisk::new();
                disk.blocks = blocks;
                let combine = (zone == 0).then_some(last_zones);
                let mut opened = Fixture::on(disk, slabs, (ZoneIndex(zone), zones), combine, 4);
                let own = (u32::from(zone)..slabs.slab_count).step_by(usize::from(zones));
                let mut allocated = 0;
                for slab in own.map(SlabNumber) {
                    let count = |offset| opened.count(slabs.pbn(slab, offset));
                    let counts: Vec<u8> = (0..slabs.config.data_blocks as u32).map(count).collect();
                    assert_eq!(
                        counts,
                        self.expected(slab),
                        "slab {slab} opened by {zones} zones"
                    );
                    allocated += counts.iter().filter(|&&count| count > 0).count() as u64;
                }
                assert_eq!(opened.zone.allocated_blocks(), allocated);
                assert_eq!(opened.drain(true), Ok(()));
                blocks = opened.disk.blocks;
            }
            last_zones = zones;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn counters_survive_anything_in_tiny_slabs(
        steps in prop::collection::vec(step(), 1..120),
        shuffle: u64,
        journal in 4u64..10,
    ) {
        let mut model = Model::new(geometry(3, 6, journal), shuffle);
        for step in steps {
            model.take(step);
        }
        model.finish();
    }

    #[test]
    fn counters_survive_anything_in_slabs_of_several_reference_blocks(
        steps in prop::collection::vec(step(), 1..60),
        shuffle: u64,
        journal in 4u64..24,
    ) {
        let mut model = Model::new(geometry(2, 14, journal), shuffle);
        for step in steps {
            model.take(step);
        }
        model.finish();
    }
}
