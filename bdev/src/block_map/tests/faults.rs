//! Errors of the base device, damaged pages, and what still works when the volume is read-only.

use proptest::prelude::*;

use super::*;
use crate::seam::BaseOp;

#[test]
fn a_leaf_that_can_not_be_read_fails_all_who_want_it_and_turns_the_volume_read_only() {
    let mut world = World::with_leaves(config(), 0..2);
    let pbn = world.leaf_pbn(leaf(1));
    world.disk.bad_reads.insert(pbn);
    let reads = [0, 1].map(|slot| world.start_read(leaf(1) + slot));
    let write = world.start_write(leaf(1), data(FIRST_DATA), 1);
    world.disk.run();
    let error = VdoError::Io {
        operation: "read",
        pbn: Pbn(pbn),
        errno: 5,
    };
    for read in reads {
        assert_eq!(read.result(), Some(Err(error.clone())));
    }
    assert_eq!(write.result(), Some(Err(error.clone())));
    assert_eq!(*world.volume.why.borrow(), Some(error));
    let statistics = world.statistics();
    assert_eq!((statistics.failed_reads, statistics.free_pages), (1, 8));
    assert_eq!(world.read(leaf(0)), Ok(data(FIRST_DATA)));
    assert_eq!(world.drain(true), Err(VdoError::ReadOnly));
}

#[test]
fn a_leaf_that_is_another_page_turns_the_volume_read_only() {
    let mut world = World::with_leaves(config(), 0..4);
    let (one, other) = (world.leaf_pbn(leaf(1)), world.leaf_pbn(leaf(2)));
    let block = world.disk.blocks[&other].clone();
    world.disk.blocks.insert(one, block);
    assert!(matches!(
        world.read(leaf(1)),
        Err(VdoError::Inconsistent(_))
    ));
    assert!(world.volume.is_read_only());
    assert_eq!(world.read(leaf(2)), Ok(data(FIRST_DATA + 2)));
}

#[test]
fn a_tree_page_that_can_not_be_read_turns_the_volume_read_only() {
    let mut world = World::with_leaves(config(), 0..2);
    world.disk.bad_reads.insert(ROOT_ORIGIN);
    let searches = [0, 5].map(|lbn| world.start_read(lbn));
    let write = world.start_write(1, data(FIRST_DATA), 1);
    world.disk.run();
    for search in searches {
        assert!(matches!(search.result(), Some(Err(VdoError::Io { .. }))));
    }
    assert!(matches!(write.result(), Some(Err(VdoError::Io { .. }))));
    assert!(world.volume.is_read_only());
    // The other tree is as good as ever, and so is this one should the device recover.
    assert_eq!(world.read(leaf(1)), Ok(data(FIRST_DATA + 1)));
    world.disk.bad_reads.clear();
    assert_eq!(world.read(0), Ok(data(FIRST_DATA)));
    assert_eq!(world.drain(true), Err(VdoError::ReadOnly));
}

#[test]
fn a_tree_page_that_is_another_page_turns_the_volume_read_only() {
    let mut world = World::with_leaves(config(), 0..2);
    let block = world.disk.blocks[&(ROOT_ORIGIN + 1)].clone();
    world.disk.blocks.insert(ROOT_ORIGIN, block);
    assert!(matches!(world.read(0), Err(VdoError::Inconsistent(_))));
    assert!(world.volume.is_read_only());
}

#[test]
fn a_tree_entry_that_can_not_be_true_turns_the_volume_read_only() {
    use crate::format::block_map_page::BlockMapPageMut;
    let bad = [
        data(5),
        data(LAST_DATA),
        Mapping {
            pbn: Pbn(FIRST_PAGE),
            state: MappingState::COMPRESSED_BASE,
        },
        Mapping {
            pbn: Pbn(FIRST_PAGE),
            state: MappingState::UNMAPPED,
        },
        Mapping::ZERO,
    ];
    for mapping in bad {
        let mut world = World::with_leaves(config(), 0..2);
        let block = world.disk.blocks.get_mut(&ROOT_ORIGIN).unwrap();
        BlockMapPageMut::new(block.first_chunk_mut().unwrap()).set(0, mapping);
        let read = world.read(0);
        assert!(
            matches!(read, Err(VdoError::Inconsistent(_))),
            "{mapping:?}"
        );
        assert!(world.volume.is_read_only(), "{mapping:?}");
        assert_eq!(world.read(leaf(1)), Ok(data(FIRST_DATA + 1)));
    }
}

#[test]
fn a_failed_write_turns_the_volume_read_only_and_reads_go_on() {
    let mut world = World::with_leaves(
        BlockMapConfig {
            cache_pages: 2,
            ..config()
        },
        0..4,
    );
    world.write(leaf(0), data(FIRST_DATA + 10), 1).unwrap();
    world.write(leaf(1), data(FIRST_DATA + 11), 2).unwrap();
    let pbn = world.leaf_pbn(leaf(0));
    world.disk.bad_writes.insert(pbn);
    world.advance(5);
    assert!(world.volume.is_read_only());
    let statistics = world.statistics();
    assert_eq!((statistics.failed_writes, statistics.dirty_pages), (1, 2));
    // What is in memory can be read, nothing can be changed.
    assert_eq!(world.read(leaf(0)), Ok(data(FIRST_DATA + 10)));
    assert_eq!(
        world.write(leaf(1), data(FIRST_DATA), 5),
        Err(VdoError::ReadOnly)
    );
    assert_eq!(world.read(leaf(1)), Ok(data(FIRST_DATA + 11)));
    // Both slots are dirty for ever, so no other leaf can come in.
    assert_eq!(world.read(leaf(2)), Err(VdoError::ReadOnly));
    let before = world.disk.trace.len();
    assert_eq!(world.drain(true), Err(VdoError::ReadOnly));
    assert_eq!(world.disk.trace.len(), before);
    assert_eq!(world.volume.locked(), [1, 2]);
    world.map.resume();
    assert_eq!(world.read(leaf(0)), Ok(data(FIRST_DATA + 10)));
}

#[test]
fn read_only_with_a_clean_slot_left_other_leaves_can_still_be_read() {
    let mut world = World::with_leaves(
        BlockMapConfig {
            cache_pages: 2,
            ..config()
        },
        0..5,
    );
    world.write(leaf(0), data(FIRST_DATA + 10), 1).unwrap();
    world.volume.read_only.set(true);
    for n in 1..5 {
        assert_eq!(world.read(leaf(n)), Ok(data(FIRST_DATA + n)));
    }
    assert_eq!(
        world.write(leaf(1), data(FIRST_DATA), 1),
        Err(VdoError::ReadOnly)
    );
    assert_eq!(
        world.write(leaf(6), data(FIRST_DATA), 1),
        Err(VdoError::ReadOnly)
    );
    assert!(world.source.made.borrow().is_empty());
    assert_eq!(world.read(leaf(0)), Ok(data(FIRST_DATA + 10)));
}

#[test]
fn who_waits_for_room_when_a_write_fails_is_told() {
    let mut world = World::with_leaves(
        BlockMapConfig {
            cache_pages: 1,
            ..config()
        },
        0..3,
    );
    world.write(leaf(0), data(FIRST_DATA + 10), 1).unwrap();
    world.leaf_pbn(leaf(1));
    world.leaf_pbn(leaf(2));
    let pbn = world.leaf_pbn(leaf(0));
    world.disk.bad_writes.insert(pbn);
    let reads = [leaf(1), leaf(2), leaf(1) + 1].map(|lbn| world.start_read(lbn));
    world.disk.run();
    for read in reads {
        assert_eq!(read.result(), Some(Err(VdoError::ReadOnly)));
    }
    assert_eq!(world.drain(true), Err(VdoError::ReadOnly));
}

#[test]
fn a_failed_flush_keeps_every_page_from_being_written() {
    let mut world = World::with_leaves(config(), 0..4);
    for n in 0..4 {
        world.write(leaf(n), data(FIRST_DATA + 10), 1).unwrap();
    }
    world.disk.bad_flushes = true;
    let before = world.disk.trace.len();
    world.advance(5);
    assert!(world.volume.is_read_only());
    assert_eq!(world.disk.trace.len(), before + 1);
    assert_eq!(world.statistics().failed_writes, 4);
    world.disk.bad_flushes = false;
    assert_eq!(world.drain(true), Err(VdoError::ReadOnly));
    assert_eq!(world.disk.trace.len(), before + 1);
}

#[test]
fn a_volume_that_turns_read_only_elsewhere_writes_no_page_any_more() {
    let mut world = World::with_leaves(config(), 0..2);
    world.write(leaf(0), data(FIRST_DATA + 10), 1).unwrap();
    world.write(leaf(1), data(FIRST_DATA + 10), 2).unwrap();
    world.disk.hold = true;
    world.advance(5);
    // The flush is under way.
    world.volume.read_only.set(true);
    let before = world.disk.trace.len();
    world.disk.hold = false;
    world.disk.run();
    world.advance(6);
    assert_eq!(world.drain(true), Err(VdoError::ReadOnly));
    assert_eq!(world.disk.trace.len(), before);
}

#[test]
fn a_zone_of_nothing_is_refused() {
    let disk = TestDisk::new();
    let broken = [
        BlockMapConfig {
            cache_pages: 0,
            ..config()
        },
        BlockMapConfig {
            readers: 0,
            ..config()
        },
        BlockMapConfig {
            writers: 0,
            ..config()
        },
    ];
    for config in broken {
        let source = Source {
            next: Cell::new(0),
            sequence: Cell::new(0),
            fails: RefCell::default(),
            held: Cell::new(false),
            waiting: WaitList::new(&disk.scheduler),
            made: RefCell::default(),
            finished: Cell::new(0),
        };
        let environment = BlockMapEnvironment {
            scheduler: Rc::clone(&disk.scheduler),
            base: Rc::clone(&disk.base),
            services: Rc::new(Volume::default()),
            source: Rc::new(SourceHandle(Rc::new(source))),
            memory: Arc::new(HeapMemory),
            overlay: None,
            is_data_block: Box::new(|_| true),
        };
        let zone = BlockMapZone::new(&config, environment);
        assert!(matches!(zone.err(), Some(VdoError::Invalid(_))));
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Reads,
    Writes,
    Flushes,
    Elsewhere,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_fails_and_whenever_every_request_ends_and_nothing_more_is_written(
        acts in prop::collection::vec((0u64..8, 0u16..812, 0u8..4, any::<usize>()), 1..150),
        fault in prop_oneof![
            Just(Fault::Reads), Just(Fault::Writes), Just(Fault::Flushes), Just(Fault::Elsewhere),
        ],
        when in 0usize..150,
        cache_pages in 1u32..5,
        (readers, writers) in (1usize..3, 1usize..4),
    ) {
        let config = BlockMapConfig { cache_pages, readers, writers, maximum_age: 2, ..config() };
        let mut world = World::with_leaves(config, 0..4);
        world.disk.hold = true;
        let (mut reads, mut puts) = (Vec::new(), Vec::new());
        let mut writes_before = None;
        let count_writes = |world: &World| {
            world.disk.trace.iter().filter(|io| io.0 == BaseOp::Write).count()
        };
        for (step, (n, slot, what, which)) in acts.into_iter().enumerate() {
            if step == when {
                let mut all = (ROOT_ORIGIN..ROOT_ORIGIN + 2).chain(FIRST_PAGE..FIRST_PAGE + 100);
                match fault {
                    Fault::Reads => world.disk.bad_reads.extend(&mut all),
                    Fault::Writes => world.disk.bad_writes.extend(&mut all),
                    Fault::Flushes => world.disk.bad_flushes = true,
                    Fault::Elsewhere => world.volume.read_only.set(true),
                }
            }
            let (lbn, sequence) = (leaf(n) + u64::from(slot), 1 + step as u64 / 8);
            match what {
                0 => reads.push(world.start_read(lbn)),
                1 => {
                    world.source.sequence.set(sequence);
                    puts.push(world.start_write(lbn, data(FIRST_DATA), sequence));
                }
                2 => world.map.advance_era(SequenceNumber(sequence)),
                _ if !world.disk.held().is_empty() => {
                    let which = which % world.disk.held().len();
                    world.disk.complete_held(which);
                }
                _ => {}
            }
            if world.volume.is_read_only() && writes_before.is_none() {
                writes_before = Some(count_writes(&world));
            }
            world.disk.run();
        }
        world.disk.hold = false;
        world.disk.run();
        prop_assert!(reads.iter().all(|read| read.result().is_some()));
        prop_assert!(puts.iter().all(|put| put.result().is_some()));
        let read_only = world.volume.is_read_only();
        let drained = world.drain(true);
        prop_assert_eq!(drained.is_err(), world.volume.is_read_only());
        prop_assert_eq!(world.disk.base.in_flight(), 0);
        if let (true, Some(before)) = (read_only, writes_before) {
            prop_assert_eq!(count_writes(&world), before);
        }
        if drained.is_ok() {
            prop_assert_eq!(world.volume.locked(), []);
        }
    }
}
