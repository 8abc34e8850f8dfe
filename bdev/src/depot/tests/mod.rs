//! What the depot promises, proven on a disk in memory.
//!
//! [`Fixture`] is a zone on a [`TestDisk`] with a recorder for the recovery journal's locks, and hands
//! out points of a recovery journal that never ends. [`oracle`] reads the disk as recovery would.

mod allocation;
mod counts;
mod discards;
mod drain;
mod journal;
mod model;
mod oracle;
mod sharing;
mod unread;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::buffer::{DmaMemory, HeapMemory};
use crate::error::VdoError;
use crate::format::slab::{SlabConfig, SlabGeometry};
use crate::format::slab_summary::SUMMARY_BLOCKS;
use crate::runtime::services::{JournalHolder, ZoneServices};
use crate::runtime::test_disk::TestDisk;
use crate::stats::ZoneStatistics;
use crate::types::{JournalPoint, Pbn, SequenceNumber, SlabNumber, ZoneIndex};

const SUMMARY: Pbn = Pbn(10);
const NONCE: u64 = 0x5eed_cafe;
/// Recovery-journal entries to a block in these tests.
const ENTRIES: u16 = 16;

/// Records what a zone asks of the volume.
#[derive(Default)]
struct Recorder {
    /// Locks held on recovery-journal blocks.
    held: RefCell<BTreeMap<SequenceNumber, u32>>,
    acquired: Cell<u64>,
    released: Cell<u64>,
    why: RefCell<Option<VdoError>>,
    /// Whether freed blocks are to be discarded.
    discards: Cell<bool>,
    /// Discards under way.
    discarding: Cell<u32>,
}

impl ZoneServices for Recorder {
    fn acquire_journal_lock(&self, sequence: SequenceNumber, _: JournalHolder) {
        *self.held.borrow_mut().entry(sequence).or_default() += 1;
        self.acquired.set(self.acquired.get() + 1);
    }

    fn release_journal_lock(&self, sequence: SequenceNumber, _: JournalHolder) {
        let mut held = self.held.borrow_mut();
        let count = held
            .get_mut(&sequence)
            .expect("only what is held is released");
        *count -= 1;
        if *count == 0 {
            held.remove(&sequence);
        }
        self.released.set(self.released.get() + 1);
    }

    fn enter_read_only(&self, why: &VdoError) {
        self.why.borrow_mut().get_or_insert_with(|| why.clone());
    }

    fn is_read_only(&self) -> bool {
        self.why.borrow().is_some()
    }

    fn slabs_to_scrub(&self, _: u32) {}

    fn slab_scrubbed(&self) {}

    fn discards_freed(&self) -> bool {
        self.discards.get()
    }

    fn discard_began(&self) {
        self.discarding.set(self.discarding.get() + 1);
    }

    fn discard_ended(&self, result: &Result<(), VdoError>) {
        self.discarding.set(self.discarding.get() - 1);
        self.discards.set(self.discards.get() && result.is_ok());
    }
}

/// The outcomes of changes, in the order they were asked for.
type Results = Rc<RefCell<Vec<Option<Result<(), VdoError>>>>>;

struct Fixture {
    disk: TestDisk,
    services: Rc<Recorder>,
    zone: Rc<PhysicalZone>,
    geometry: DepotGeometry,
    next: JournalPoint,
    results: Results,
}

fn memory() -> Arc<dyn DmaMemory> {
    Arc::new(HeapMemory)
}

/// `slabs` slabs of 2^`shift` blocks, `journal` of them for the slab journal.
fn geometry(slabs: u32, shift: u32, journal: u64) -> SlabGeometry {
    let first = Pbn(SUMMARY.get() + SUMMARY_BLOCKS);
    SlabGeometry::new(first, slabs, SlabConfig::new(1 << shift, journal).unwrap())
}

impl Fixture {
    /// A new volume's only zone, at work.
    fn new(slabs: SlabGeometry) -> Fixture {
        Fixture::with_writers(slabs, 8)
    }

    fn with_writers(slabs: SlabGeometry, writers: usize) -> Fixture {
        Fixture::on(TestDisk::new(), slabs, (ZoneIndex(0), 1), Some(0), writers)
    }

    /// A zone on a disk, all of whose slabs are scrubbed or read. The summaries of `combine` zones are combined (none: of a
    /// new volume).
    fn on(
        disk: TestDisk,
        slabs: SlabGeometry,
        place: (ZoneIndex, u8),
        combine: Option<u8>,
        writers: usize,
    ) -> Fixture {
        let mut fixture = Fixture::loaded(disk, slabs, place, combine, writers);
        fixture.scrub();
        fixture
    }

    /// The same, at work, with no more slabs scrubbed or read than it needs.
    fn loaded(
        mut disk: TestDisk,
        slabs: SlabGeometry,
        (zone, zones): (ZoneIndex, u8),
        combine: Option<u8>,
        writers: usize,
    ) -> Fixture {
        if combine == Some(0) {
            // What a device held before it was formatted.
            for slab in (0..slabs.slab_count).map(SlabNumber) {
                let end = slabs.journal_blocks(slab).end();
                for pbn in slabs.reference_blocks(slab).start.get()..end.get() {
                    disk.blocks.insert(pbn, vec![0xee; 4096]);
                }
            }
        }
        if let Some(last_zones) = combine {
            let base = Rc::clone(&disk.base);
            let last = match last_zones {
                0 => LastRun::None,
                _ => LastRun::Settled,
            };
            let combined = async move {
                combine_summaries(&slabs, SUMMARY, last_zones, last, &base, &memory()).await
            };
            disk.block_on(combined).unwrap();
        }
        let geometry = DepotGeometry {
            slabs,
            summary: SUMMARY,
            nonce: NONCE,
            zone,
            zones,
            rebuilt: false,
        };
        let services = Rc::new(Recorder::default());
        let limits = DepotLimits {
            locks: 4096,
            changes: 4096,
            writers,
            read_first: 0,
            ..DepotLimits::default()
        };
        let (scheduler, base) = (Rc::clone(&disk.scheduler), Rc::clone(&disk.base));
        let asked: Rc<dyn ZoneServices> = services.clone();
        let zone =
            PhysicalZone::new(geometry, limits, &scheduler, &base, asked, &memory()).unwrap();
        let loading = Rc::clone(&zone);
        disk.block_on(async move { loading.load().await.unwrap() });
        let next = JournalPoint {
            sequence: SequenceNumber(1),
            entry: 0,
        };
        Fixture {
            disk,
            services,
            zone,
            geometry,
            next,
            results: Results::default(),
        }
    }

    /// A clean shutdown, and the volume opened again.
    fn reopen(self) -> Fixture {
        let mut fixture = self.reopen_unread();
        fixture.scrub();
        fixture
    }

    /// The same, with no more slabs read than it needs.
    fn reopen_unread(mut self) -> Fixture {
        assert_eq!(self.drain(true), Ok(()));
        let Fixture {
            disk,
            geometry,
            next,
            ..
        } = self;
        // A new scheduler, so that the old zone's tasks are gone.
        let mut fresh = TestDisk::new();
        fresh.blocks = disk.blocks;
        let mut again = Fixture::loaded(fresh, geometry.slabs, (geometry.zone, 1), Some(1), 8);
        again.next = next;
        again
    }

    fn scrub(&mut self) {
        let zone = Rc::clone(&self.zone);
        self.disk.block_on(async move { zone.scrub().await });
    }

    fn drain(&mut self, save: bool) -> Result<(), VdoError> {
        let zone = Rc::clone(&self.zone);
        self.disk.block_on(async move { zone.drain(save).await })
    }

    /// The next entry of the recovery journal.
    fn point(&mut self) -> JournalPoint {
        let point = self.next;
        self.next.entry += 1;
        if self.next.entry == ENTRIES {
            self.next = JournalPoint {
                sequence: SequenceNumber(point.sequence.get() + 1),
                entry: 0,
            };
        }
        point
    }

    /// Asks for a change with the next entry of the recovery journal, and lets nothing else happen.
    /// Returns the entry and where the result will be.
    fn ask(&mut self, pbn: Pbn, operation: ReferenceOperation) -> (JournalPoint, usize) {
        let point = self.point();
        let index = self.results.borrow().len();
        self.results.borrow_mut().push(None);
        let (zone, results) = (Rc::clone(&self.zone), Rc::clone(&self.results));
        let change = ReferenceChange {
            pbn,
            operation,
            point,
        };
        match self.zone.adjust(change).now() {
            Ok(result) => self.results.borrow_mut()[index] = Some(result),
            Err(pending) => {
                // The change has its place already; a task takes the result.
                let ticket = pending.into_ticket();
                self.disk.scheduler.spawn(async move {
                    let result = zone.take_up(ticket).await;
                    results.borrow_mut()[index] = Some(result);
                });
            }
        }
        (point, index)
    }

    fn result(&self, index: usize) -> Option<Result<(), VdoError>> {
        self.results.borrow()[index].clone()
    }

    /// Asks for a change and runs the disk until it is made.
    fn change(&mut self, pbn: Pbn, operation: ReferenceOperation) -> Result<(), VdoError> {
        let (_, index) = self.ask(pbn, operation);
        if self.result(index).is_none() {
            self.disk.run();
        }
        self.result(index)
            .expect("the change is made once nothing more happens")
    }

    fn increment(&mut self, pbn: Pbn) {
        assert_eq!(self.change(pbn, ReferenceOperation::DataIncrement), Ok(()));
    }

    fn decrement(&mut self, pbn: Pbn) {
        assert_eq!(self.change(pbn, ReferenceOperation::DataDecrement), Ok(()));
    }

    /// Allocates a block and gives it its first reference.
    fn write(&mut self) -> Pbn {
        let pbn = self.zone.allocate(WriteKind::Data).unwrap();
        self.increment(pbn);
        self.zone.release(pbn);
        pbn
    }

    fn count(&self, pbn: Pbn) -> u8 {
        self.zone.reference_count(pbn).unwrap()
    }

    fn statistics(&self) -> ZoneStatistics {
        let mut statistics = ZoneStatistics::default();
        self.zone.statistics(&mut statistics);
        statistics
    }

    /// The block at a place of a slab.
    fn pbn(&self, slab: u32, offset: u32) -> Pbn {
        self.geometry.slabs.pbn(SlabNumber(slab), offset)
    }

    fn locks_held(&self) -> u32 {
        self.services.held.borrow().values().sum()
    }
}
