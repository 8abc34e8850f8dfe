//! Behaviour of a whole zone over a disk in memory.
//!
//! [`World`] is the surroundings: a disk, a journal that only counts its locks, and a source of pages for
//! the trees that hands out one block after the other.

mod cache;
mod crash;
mod faults;
mod trees;
mod writes;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::{BlockMapConfig, BlockMapEnvironment, BlockMapZone};
use crate::buffer::HeapMemory;
use crate::error::VdoError;
use crate::format::block_map_page::BlockMapPage;
use crate::format::tree::TreeGeometry;
use crate::runtime::services::{BlockMapSlot, JournalHolder, Rare, TreePageSource, ZoneServices};
use crate::runtime::task::WaitList;
use crate::runtime::test_disk::TestDisk;
use crate::stats::BlockMapStatistics;
use crate::types::{JournalPoint, Lbn, Mapping, MappingState, Pbn, SequenceNumber, ZoneIndex};

const NONCE: u64 = 0xfeed;
const ROOT_ORIGIN: u64 = 10;
/// Blocks from here on may hold data.
const FIRST_DATA: u64 = 1000;
const LAST_DATA: u64 = 1_000_000;
/// Trees get their pages from here on.
const FIRST_PAGE: u64 = 500_000;
const PER_PAGE: u64 = 812;

/// The journal, as far as the block map knows it, and the volume's mode.
#[derive(Default)]
struct Volume {
    /// How many locks each journal block has.
    locks: RefCell<BTreeMap<u64, u32>>,
    read_only: Cell<bool>,
    why: RefCell<Option<VdoError>>,
}

impl Volume {
    fn locked(&self) -> Vec<u64> {
        self.locks.borrow().keys().copied().collect()
    }
}

impl ZoneServices for Volume {
    fn acquire_journal_lock(&self, sequence: SequenceNumber, holder: JournalHolder) {
        assert_eq!(holder, JournalHolder::Logical(ZoneIndex(0)));
        *self.locks.borrow_mut().entry(sequence.get()).or_default() += 1;
    }

    fn release_journal_lock(&self, sequence: SequenceNumber, holder: JournalHolder) {
        assert_eq!(holder, JournalHolder::Logical(ZoneIndex(0)));
        let mut locks = self.locks.borrow_mut();
        let count = locks.get_mut(&sequence.get());
        let count = count.expect("what is released was acquired");
        *count -= 1;
        if *count == 0 {
            locks.remove(&sequence.get());
        }
    }

    fn enter_read_only(&self, why: &VdoError) {
        self.read_only.set(true);
        self.why.borrow_mut().get_or_insert(why.clone());
    }

    fn is_read_only(&self) -> bool {
        self.read_only.get()
    }

    fn slabs_to_scrub(&self, _: u32) {}

    fn slab_scrubbed(&self) {}
}

/// Makes pages for the trees.
struct Source {
    next: Cell<u64>,
    /// The journal block that pages made now are recorded in.
    sequence: Cell<u64>,
    fails: RefCell<Option<VdoError>>,
    /// While true, pages are promised but not made.
    held: Cell<bool>,
    waiting: WaitList,
    made: RefCell<Vec<(BlockMapSlot, Pbn)>>,
    finished: Cell<usize>,
}

struct SourceHandle(Rc<Source>);

impl TreePageSource for SourceHandle {
    fn allocate(&self, parent: BlockMapSlot) -> Rare<Result<(Mapping, JournalPoint), VdoError>> {
        let source = Rc::clone(&self.0);
        Box::pin(async move {
            source.waiting.wait_until(|| !source.held.get()).await;
            if let Some(error) = source.fails.borrow().clone() {
                return Err(error);
            }
            let pbn = Pbn(source.next.get());
            source.next.set(pbn.get() + 1);
            source.made.borrow_mut().push((parent, pbn));
            Ok((data(pbn.get()), at(source.sequence.get())))
        })
    }

    fn finish(&self, page: Mapping, _: JournalPoint) {
        assert!(self.0.made.borrow().iter().any(|made| made.1 == page.pbn));
        self.0.finished.set(self.0.finished.get() + 1);
    }
}

fn data(pbn: u64) -> Mapping {
    Mapping {
        pbn: Pbn(pbn),
        state: MappingState::UNCOMPRESSED,
    }
}

fn at(sequence: u64) -> JournalPoint {
    JournalPoint {
        sequence: SequenceNumber(sequence),
        entry: 0,
    }
}

/// The first logical block of leaf `n`.
fn leaf(n: u64) -> u64 {
    n * PER_PAGE
}

fn config() -> BlockMapConfig {
    BlockMapConfig {
        geometry: TreeGeometry {
            root_origin: Pbn(ROOT_ORIGIN),
            roots: 2,
            logical_blocks: PER_PAGE * PER_PAGE * 6,
        },
        nonce: NONCE,
        zone: ZoneIndex(0),
        zones: 1,
        cache_pages: 8,
        maximum_age: 4,
        journal_tail: SequenceNumber(1),
        requests: 64,
        readers: 4,
        writers: 4,
    }
}

struct World {
    disk: TestDisk,
    volume: Rc<Volume>,
    source: Rc<Source>,
    map: Rc<BlockMapZone>,
    config: BlockMapConfig,
}

impl World {
    fn new(config: BlockMapConfig) -> World {
        World::over(TestDisk::new(), config, FIRST_PAGE)
    }

    fn over(disk: TestDisk, config: BlockMapConfig, next_page: u64) -> World {
        let volume = Rc::new(Volume::default());
        let source = Rc::new(Source {
            next: Cell::new(next_page),
            sequence: Cell::new(config.journal_tail.get()),
            fails: RefCell::new(None),
            held: Cell::new(false),
            waiting: WaitList::new(&disk.scheduler),
            made: RefCell::default(),
            finished: Cell::new(0),
        });
        let environment = BlockMapEnvironment {
            scheduler: Rc::clone(&disk.scheduler),
            base: Rc::clone(&disk.base),
            services: Rc::clone(&volume) as Rc<dyn ZoneServices>,
            source: Rc::new(SourceHandle(Rc::clone(&source))),
            memory: Arc::new(HeapMemory),
            overlay: None,
            is_data_block: Box::new(|pbn| (FIRST_DATA..LAST_DATA).contains(&pbn.get())),
        };
        let map = BlockMapZone::new(&config, environment).unwrap();
        World {
            disk,
            volume,
            source,
            map,
            config,
        }
    }

    /// The same disk, opened anew: what was only in memory is gone.
    fn reopen(self) -> World {
        let config = self.config;
        self.reopen_as(config)
    }

    fn reopen_as(mut self, config: BlockMapConfig) -> World {
        let mut disk = TestDisk::new();
        disk.blocks = std::mem::take(&mut self.disk.blocks);
        World::over(disk, config, self.source.next.get())
    }

    /// A world whose map has these leaves, all on disk, none in the cache; entry `i` of leaf `n` is unmapped
    /// but for the first, which is block `FIRST_DATA + n`.
    fn with_leaves(config: BlockMapConfig, leaves: std::ops::Range<u64>) -> World {
        let mut world = World::new(config);
        for n in leaves {
            world.write(leaf(n), data(FIRST_DATA + n), 1).unwrap();
        }
        assert_eq!(world.drain(true), Ok(()));
        world.reopen()
    }

    fn write(&mut self, lbn: u64, mapping: Mapping, sequence: u64) -> Result<(), VdoError> {
        self.disk
            .block_on(write(Rc::clone(&self.map), lbn, mapping, sequence))
    }

    fn read(&mut self, lbn: u64) -> Result<Mapping, VdoError> {
        self.disk.block_on(read(Rc::clone(&self.map), lbn))
    }

    fn drain(&mut self, save: bool) -> Result<(), VdoError> {
        let map = Rc::clone(&self.map);
        let result = self.disk.block_on(async move { map.drain(save).await });
        assert_eq!(self.disk.base.in_flight(), 0);
        result
    }

    /// Starts something; the cell gets its result.
    fn start<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Started<T> {
        let result = Rc::new(RefCell::new(None));
        let cell = Rc::clone(&result);
        self.disk.scheduler.spawn(async move {
            let value = future.await;
            *cell.borrow_mut() = Some(value);
        });
        Started(result)
    }

    fn start_read(&self, lbn: u64) -> Started<Result<Mapping, VdoError>> {
        self.start(read(Rc::clone(&self.map), lbn))
    }

    fn start_write(
        &self,
        lbn: u64,
        mapping: Mapping,
        sequence: u64,
    ) -> Started<Result<(), VdoError>> {
        self.start(write(Rc::clone(&self.map), lbn, mapping, sequence))
    }

    fn start_drain(&self, save: bool) -> Started<Result<(), VdoError>> {
        let map = Rc::clone(&self.map);
        self.start(async move { map.drain(save).await })
    }

    fn advance(&mut self, tail: u64) {
        self.map.advance_era(SequenceNumber(tail));
        self.disk.run();
    }

    fn statistics(&self) -> BlockMapStatistics {
        self.map.statistics()
    }

    /// Where a logical block's leaf is.
    fn leaf_pbn(&mut self, lbn: u64) -> u64 {
        let map = Rc::clone(&self.map);
        let found = self
            .disk
            .block_on(async move { map.locate(Lbn(lbn), false).await });
        found.unwrap().unwrap().pbn.get()
    }

    /// An entry as it is on disk.
    fn on_disk(&self, pbn: u64, slot: u16) -> Mapping {
        let block = &self.disk.blocks[&pbn];
        BlockMapPage::new(block.first_chunk().unwrap()).get(slot)
    }
}

struct Started<T>(Rc<RefCell<Option<T>>>);

impl<T: Clone> Started<T> {
    fn result(&self) -> Option<T> {
        self.0.borrow().clone()
    }
}

async fn write(
    map: Rc<BlockMapZone>,
    lbn: u64,
    mapping: Mapping,
    sequence: u64,
) -> Result<(), VdoError> {
    let slot = map.locate(Lbn(lbn), true).await?;
    let slot = slot.expect("a write makes what is missing");
    map.put(slot, mapping, at(sequence)).await
}

async fn read(map: Rc<BlockMapZone>, lbn: u64) -> Result<Mapping, VdoError> {
    match map.locate(Lbn(lbn), false).await? {
        Some(slot) => map.get(slot).await,
        None => Ok(Mapping::UNMAPPED),
    }
}
