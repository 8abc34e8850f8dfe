//! The block map against a plain model, under power failures.
//!
//! Here the journal is real enough to recover from: it keeps every entry, and forgets a block only when
//! nobody holds it any more and the device has been flushed since. At any moment the power fails. The
//! disk then holds any mixture, sector by sector, of what was written and not flushed. With the entries
//! that are left replayed onto it, it must say of every logical block what the last entry for it said.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::format::block_map_page::{BlockMapPageMut, PageValidity};
use crate::runtime::base::IoClass;
use crate::seam::BaseOp;

/// Journal blocks there are.
const JOURNAL_BLOCKS: u64 = 12;

/// The recovery journal and the mode of the volume.
struct Journal {
    volume: Volume,
    entries_per_block: u64,
    entries: RefCell<Vec<(u64, BlockMapSlot, Mapping)>>,
    /// Blocks held by requests whose entries are in them.
    holds: RefCell<BTreeMap<u64, u32>>,
    /// Blocks before this are forgotten.
    head: Cell<u64>,
    room: WaitList,
    map: RefCell<Option<Rc<BlockMapZone>>>,
    next_page: Cell<u64>,
}

impl Journal {
    fn tail(&self) -> u64 {
        1 + self.entries.borrow().len() as u64 / self.entries_per_block
    }

    fn needed_from(&self) -> u64 {
        let locked = self.volume.locked().into_iter().min();
        let held = self.holds.borrow().keys().next().copied();
        [locked, held, Some(self.tail())]
            .into_iter()
            .flatten()
            .min()
            .unwrap()
    }

    async fn append(&self, slot: BlockMapSlot, mapping: Mapping) -> u64 {
        let has_room = || self.tail() - self.head.get() < JOURNAL_BLOCKS;
        self.room.wait_until(has_room).await;
        let sequence = self.tail();
        *self.holds.borrow_mut().entry(sequence).or_default() += 1;
        self.entries.borrow_mut().push((sequence, slot, mapping));
        if self.tail() > sequence {
            let map = self.map.borrow().clone().unwrap();
            map.advance_era(SequenceNumber(self.tail()));
        }
        sequence
    }

    fn release(&self, sequence: u64) {
        let mut holds = self.holds.borrow_mut();
        let count = holds.get_mut(&sequence).unwrap();
        *count -= 1;
        if *count == 0 {
            holds.remove(&sequence);
        }
    }

    /// Forgets what nobody needs, after a flush.
    async fn reap(self: Rc<Self>, base: Rc<crate::runtime::base::BaseDevice>) {
        let head = self.needed_from();
        base.flush(IoClass::Journal).await.unwrap();
        self.head.set(self.head.get().max(head));
        self.room.wake_all();
    }

    /// Puts what is left of the journal onto the disk, as recovery does.
    fn replay(&self, blocks: &mut BTreeMap<u64, Vec<u8>>) {
        for (sequence, slot, mapping) in self.entries.borrow().iter() {
            if *sequence < self.head.get() {
                continue;
            }
            let block = blocks
                .entry(slot.pbn.get())
                .or_insert_with(|| vec![0; 4096]);
            let block = block.first_chunk_mut().unwrap();
            match BlockMapPage::new(block).validity(NONCE, slot.pbn) {
                PageValidity::Valid => {}
                PageValidity::Unwritten => {
                    BlockMapPageMut::format(block, NONCE, slot.pbn, true);
                }
                other => panic!("the page at {} is {other:?}", slot.pbn),
            }
            BlockMapPageMut::new(block).set(slot.slot, *mapping);
        }
    }
}

impl ZoneServices for Journal {
    fn acquire_journal_lock(&self, sequence: SequenceNumber, holder: JournalHolder) {
        let held = self.holds.borrow().contains_key(&sequence.get());
        assert!(held, "a block is locked only while someone holds it");
        self.volume.acquire_journal_lock(sequence, holder);
    }

    fn release_journal_lock(&self, sequence: SequenceNumber, holder: JournalHolder) {
        self.volume.release_journal_lock(sequence, holder);
    }

    fn enter_read_only(&self, why: &VdoError) {
        panic!("{why}");
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn slabs_to_scrub(&self, _: u32) {}

    fn slab_scrubbed(&self) {}
}

struct Pages(Rc<Journal>);

impl TreePageSource for Pages {
    fn allocate(&self, parent: BlockMapSlot) -> Rare<Result<(Mapping, JournalPoint), VdoError>> {
        let journal = Rc::clone(&self.0);
        Box::pin(async move {
            let page = data(journal.next_page.get());
            journal.next_page.set(page.pbn.get() + 1);
            let sequence = journal.append(parent, page).await;
            Ok((page, at(sequence)))
        })
    }

    fn finish(&self, _: Mapping, point: JournalPoint) {
        self.0.release(point.sequence.get());
    }
}

/// What is known of a logical block.
#[derive(Clone, Copy, Default)]
struct Known {
    /// What the map says.
    now: Mapping,
    /// What the last journal entry says.
    journaled: Mapping,
    /// Whether a request is under way: there is never more than one.
    busy: bool,
}

struct Model {
    disk: TestDisk,
    journal: Rc<Journal>,
    map: Rc<BlockMapZone>,
    known: Rc<RefCell<HashMap<u64, Known>>>,
}

/// Logical blocks that are used: of both trees, of two pages above the leaves in each, and with entries that
/// lie across a sector's end.
fn lbns() -> impl Iterator<Item = u64> {
    let leaves = [0, 1, 2, 3, 4, 5, 2 * PER_PAGE, 2 * PER_PAGE + 1];
    let slots = [0, 95, 400, 811];
    leaves
        .into_iter()
        .flat_map(move |n| slots.map(|slot| leaf(n) + slot))
}

impl Model {
    fn new(config: BlockMapConfig, entries_per_block: u64) -> Model {
        let mut disk = TestDisk::new();
        for pbn in (FIRST_PAGE..FIRST_PAGE + 30).chain(ROOT_ORIGIN..ROOT_ORIGIN + 2) {
            disk.blocks.insert(pbn, vec![0x6b; 4096]);
        }
        let journal = Rc::new(Journal {
            volume: Volume::default(),
            entries_per_block,
            entries: RefCell::default(),
            holds: RefCell::default(),
            head: Cell::new(1),
            room: WaitList::new(&disk.scheduler),
            map: RefCell::default(),
            next_page: Cell::new(FIRST_PAGE),
        });
        let environment = BlockMapEnvironment {
            scheduler: Rc::clone(&disk.scheduler),
            base: Rc::clone(&disk.base),
            services: Rc::clone(&journal) as Rc<dyn ZoneServices>,
            source: Rc::new(Pages(Rc::clone(&journal))),
            memory: Arc::new(HeapMemory),
            overlay: None,
            is_data_block: Box::new(|pbn| (FIRST_DATA..LAST_DATA).contains(&pbn.get())),
        };
        let map = BlockMapZone::new(&config, environment).unwrap();
        *journal.map.borrow_mut() = Some(Rc::clone(&map));
        let known = lbns().map(|lbn| (lbn, Known::default())).collect();
        Model {
            disk,
            journal,
            map,
            known: Rc::new(RefCell::new(known)),
        }
    }

    fn claim(&self, lbn: u64) -> bool {
        let mut known = self.known.borrow_mut();
        let known = known.get_mut(&lbn).unwrap();
        !std::mem::replace(&mut known.busy, true)
    }

    fn write(&self, lbn: u64, mapping: Mapping) {
        if !self.claim(lbn) {
            return;
        }
        let (map, journal) = (Rc::clone(&self.map), Rc::clone(&self.journal));
        let known = Rc::clone(&self.known);
        self.disk.scheduler.spawn(async move {
            let slot = map.locate(Lbn(lbn), true).await.unwrap().unwrap();
            // A write reads what it replaces.
            let before = map.get(slot).await.unwrap();
            assert_eq!(before, known.borrow()[&lbn].now);
            // The mapping is journaled and known to be so at the same moment.
            let sequence = journal.append(slot, mapping).await;
            known.borrow_mut().get_mut(&lbn).unwrap().journaled = mapping;
            map.put(slot, mapping, at(sequence)).await.unwrap();
            journal.release(sequence);
            let mut known = known.borrow_mut();
            let known = known.get_mut(&lbn).unwrap();
            (known.now, known.busy) = (mapping, false);
        });
    }

    fn read(&self, lbn: u64) {
        if !self.claim(lbn) {
            return;
        }
        let (map, known) = (Rc::clone(&self.map), Rc::clone(&self.known));
        self.disk.scheduler.spawn(async move {
            let mapping = read(map, lbn).await.unwrap();
            let mut known = known.borrow_mut();
            let known = known.get_mut(&lbn).unwrap();
            assert_eq!(mapping, known.now);
            known.busy = false;
        });
    }

    fn reap(&self) {
        let reap = Rc::clone(&self.journal).reap(Rc::clone(&self.disk.base));
        self.disk.scheduler.spawn(reap);
    }

    fn complete_one(&mut self, which: usize) {
        self.disk.step();
        let held = self.disk.held();
        if held.is_empty() {
            return;
        }
        // Never two writes of one block at a time, for they might end in either order.
        let mut writes: Vec<_> = held.iter().filter(|io| io.op == BaseOp::Write).collect();
        let count = writes.len();
        writes.sort_by_key(|io| io.pbn);
        writes.dedup_by_key(|io| io.pbn);
        assert_eq!(writes.len(), count);
        let which = which % held.len();
        self.disk.complete_held(which);
    }

    /// Lets everything under way end.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.disk.run();
            if self.known.borrow().values().all(|known| !known.busy) {
                return;
            }
            // The journal is full: it must be possible to make room.
            self.reap();
        }
        panic!("requests hang");
    }

    fn save(&mut self) {
        self.settle();
        let map = Rc::clone(&self.map);
        let result = self.disk.block_on(async move { map.drain(true).await });
        assert_eq!(result, Ok(()));
        assert!(self.journal.volume.locked().is_empty());
        assert_eq!(self.disk.base.in_flight(), 0);
        self.map.resume();
    }
}

/// What all logical blocks are mapped to by a map opened over `blocks`.
fn mapped(blocks: BTreeMap<u64, Vec<u8>>, config: BlockMapConfig) -> HashMap<u64, Mapping> {
    let mut disk = TestDisk::new();
    disk.blocks = blocks;
    let mut world = World::over(disk, config, FIRST_PAGE);
    lbns().map(|lbn| (lbn, world.read(lbn).unwrap())).collect()
}

#[derive(Clone, Debug)]
enum Act {
    Write(usize, u64),
    Read(usize),
    Complete(usize),
    Reap,
    Save,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0usize..32, 0u64..50).prop_map(|(lbn, pbn)| Act::Write(lbn, pbn)),
        2 => (0usize..32).prop_map(Act::Read),
        10 => any::<usize>().prop_map(Act::Complete),
        1 => Just(Act::Reap),
        1 => Just(Act::Save),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whenever_the_power_fails_disk_and_journal_have_every_mapping(
        acts in prop::collection::vec(act(), 1..400),
        cache_pages in 1u32..6,
        maximum_age in 1u32..5,
        (readers, writers) in (1usize..4, 1usize..5),
        entries_per_block in 1u64..4,
        seed in 1u64..,
    ) {
        let config = BlockMapConfig {
            cache_pages, maximum_age, readers, writers, ..config()
        };
        let lbns: Vec<_> = lbns().collect();
        let mut model = Model::new(config, entries_per_block);
        for act in acts {
            match act {
                // A block that is discarded is unmapped again.
                Act::Write(lbn, 0) => model.write(lbns[lbn], Mapping::UNMAPPED),
                Act::Write(lbn, pbn) => model.write(lbns[lbn], data(FIRST_DATA + pbn)),
                Act::Read(lbn) => model.read(lbns[lbn]),
                Act::Complete(which) => model.complete_one(which),
                Act::Reap => model.reap(),
                Act::Save => model.save(),
            }
        }
        let mut random = seed;
        let mut survives = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random & 1 == 0
        };
        for _ in 0..3 {
            let mut blocks = model.disk.after_torn_power_failure(&mut survives);
            model.journal.replay(&mut blocks);
            for (lbn, mapping) in mapped(blocks, config) {
                prop_assert_eq!(mapping, model.known.borrow()[&lbn].journaled, "block {}", lbn);
            }
        }
        // Had the power not failed, all would have gone on, and a save would need no journal.
        model.save();
        for (lbn, mapping) in mapped(model.disk.blocks.clone(), config) {
            prop_assert_eq!(mapping, model.known.borrow()[&lbn].now, "block {}", lbn);
        }
    }
}
