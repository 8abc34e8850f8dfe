//! The leaf cache: loading, sharing, making room, ageing.

use super::*;
use crate::seam::BaseOp;

/// The leaf reads in the trace from `from` on, by block.
fn leaf_reads(world: &World, from: usize) -> Vec<u64> {
    let reads = world.disk.trace[from..].iter();
    reads
        .filter(|io| io.0 == BaseOp::Read)
        .map(|io| io.1)
        .collect()
}

/// A world with `count` leaves on disk, all tree pages in memory, and no leaf.
fn warm(config: BlockMapConfig, count: u64) -> World {
    let mut world = World::with_leaves(config, 0..count);
    for n in 0..count {
        world.leaf_pbn(leaf(n));
    }
    world
}

#[test]
fn a_leaf_is_read_once_for_all_who_want_it_and_the_coldest_goes() {
    let mut world = warm(
        BlockMapConfig {
            cache_pages: 4,
            ..config()
        },
        5,
    );
    let statistics = world.statistics();
    assert_eq!((statistics.free_pages, statistics.clean_pages), (4, 0));
    for n in 0..4 {
        world.read(leaf(n)).unwrap();
    }
    world.read(leaf(0)).unwrap();
    let before = world.disk.trace.len();
    let reads: Vec<_> = (0..3)
        .map(|slot| world.start_read(leaf(4) + slot))
        .collect();
    world.disk.run();
    assert_eq!(reads[0].result(), Some(Ok(data(FIRST_DATA + 4))));
    assert_eq!(reads[2].result(), Some(Ok(Mapping::UNMAPPED)));
    let statistics = world.statistics();
    assert_eq!(leaf_reads(&world, before).len(), 1);
    assert_eq!((statistics.free_pages, statistics.clean_pages), (0, 4));
    assert_eq!((statistics.pages_loaded, statistics.fetch_required), (5, 4));
    assert_eq!(
        (statistics.discard_required, statistics.found_in_cache),
        (1, 1)
    );
    assert_eq!((statistics.wait_for_page, statistics.read_count), (2, 8));
    // Leaf 1 was the coldest; leaf 0 had been used again.
    let before = world.disk.trace.len();
    world.read(leaf(0)).unwrap();
    assert_eq!(leaf_reads(&world, before).len(), 0);
    world.read(leaf(1)).unwrap();
    assert_eq!(leaf_reads(&world, before).len(), 1);
}

#[test]
fn a_dirty_leaf_is_written_before_it_goes() {
    let mut world = warm(
        BlockMapConfig {
            cache_pages: 1,
            ..config()
        },
        2,
    );
    world.write(leaf(0) + 3, data(FIRST_DATA + 77), 1).unwrap();
    assert_eq!(world.statistics().dirty_pages, 1);
    assert_eq!(world.volume.locked(), [1]);
    let pbn = world.leaf_pbn(leaf(0));
    assert_eq!(world.read(leaf(1)), Ok(data(FIRST_DATA + 1)));
    assert_eq!(world.on_disk(pbn, 3), data(FIRST_DATA + 77));
    assert!(world.volume.locked().is_empty());
    assert_eq!(world.read(leaf(0) + 3), Ok(data(FIRST_DATA + 77)));
}

#[test]
fn a_clean_leaf_goes_before_a_dirty_one_that_is_a_little_colder() {
    let mut world = warm(
        BlockMapConfig {
            cache_pages: 3,
            ..config()
        },
        4,
    );
    world.write(leaf(0), data(FIRST_DATA + 9), 1).unwrap();
    world.read(leaf(1)).unwrap();
    world.read(leaf(2)).unwrap();
    world.read(leaf(3)).unwrap();
    let statistics = world.statistics();
    assert_eq!((statistics.dirty_pages, statistics.pages_saved), (1, 0));
}

#[test]
fn with_room_for_one_leaf_everyone_is_served_in_order_of_arrival() {
    let mut world = warm(
        BlockMapConfig {
            cache_pages: 1,
            ..config()
        },
        5,
    );
    let order = Rc::new(RefCell::new(Vec::new()));
    for round in 0..2u64 {
        for n in [3, 1, 4, 0, 2] {
            let (map, order) = (Rc::clone(&world.map), Rc::clone(&order));
            world.start(async move {
                let pbn = FIRST_DATA + 10 * round + n;
                write(map, leaf(n) + round, data(pbn), 1).await.unwrap();
                order.borrow_mut().push((n, round));
            });
        }
    }
    world.disk.run();
    // Those who want the same leaf are served together, in the place of the first.
    let expected: Vec<_> = [3, 1, 4, 0, 2]
        .iter()
        .flat_map(|&n| [(n, 0), (n, 1)])
        .collect();
    assert_eq!(*order.borrow(), expected);
    let statistics = world.statistics();
    assert_eq!(statistics.pages_loaded, 5);
    for n in 0..5 {
        assert_eq!(world.read(leaf(n) + 1), Ok(data(FIRST_DATA + 10 + n)));
    }
    assert_eq!(world.statistics().cache_pressure, 0);
}

#[test]
fn when_every_leaf_is_under_way_requests_wait_and_that_is_pressure() {
    let mut world = warm(
        BlockMapConfig {
            cache_pages: 2,
            ..config()
        },
        4,
    );
    world.disk.hold = true;
    let reads: Vec<_> = (0..4).map(|n| world.start_read(leaf(n))).collect();
    world.disk.run();
    let statistics = world.statistics();
    assert_eq!(
        (statistics.incoming_pages, statistics.discard_required),
        (2, 2)
    );
    assert!(statistics.cache_pressure > 0);
    world.disk.hold = false;
    world.disk.run();
    for (n, read) in reads.iter().enumerate() {
        assert_eq!(read.result(), Some(Ok(data(FIRST_DATA + n as u64))));
    }
}

#[test]
fn a_leaf_changed_while_it_is_written_to_make_room_stays_and_another_goes() {
    let mut world = warm(
        BlockMapConfig {
            cache_pages: 2,
            ..config()
        },
        3,
    );
    world.write(leaf(0), data(FIRST_DATA + 10), 1).unwrap();
    world.write(leaf(1), data(FIRST_DATA + 11), 1).unwrap();
    world.disk.hold = true;
    let wanted = world.start_read(leaf(2));
    world.disk.run();
    assert_eq!(world.statistics().outgoing_pages, 1);
    world.write(leaf(0), data(FIRST_DATA + 20), 2).unwrap();
    world.disk.hold = false;
    world.disk.run();
    assert_eq!(wanted.result(), Some(Ok(data(FIRST_DATA + 2))));
    assert_eq!(world.statistics().reclaimed, 1);
    let before = world.disk.trace.len();
    assert_eq!(world.read(leaf(0)), Ok(data(FIRST_DATA + 20)));
    assert!(leaf_reads(&world, before).is_empty());
    assert_eq!(world.volume.locked(), [2]);
    assert_eq!(world.read(leaf(1)), Ok(data(FIRST_DATA + 11)));
}

#[test]
fn a_leaf_can_be_read_and_changed_while_it_is_written() {
    let mut world = warm(config(), 1);
    world.write(0, data(FIRST_DATA + 10), 1).unwrap();
    world.disk.hold = true;
    world.advance(5);
    assert_eq!(world.statistics().outgoing_pages, 1);
    assert_eq!(world.read(0), Ok(data(FIRST_DATA + 10)));
    assert_eq!(world.statistics().read_outgoing, 1);
    assert_eq!(world.write(0, data(FIRST_DATA + 11), 5), Ok(()));
    assert_eq!(world.volume.locked(), [1, 5]);
    let pbn = world.leaf_pbn(0);
    world.disk.hold = false;
    world.disk.run();
    // The copy had been taken before; its lock is gone, the later change keeps its own.
    assert_eq!(world.on_disk(pbn, 0), data(FIRST_DATA + 10));
    assert_eq!(world.volume.locked(), [5]);
    assert_eq!(world.statistics().dirty_pages, 1);
    world.advance(9);
    assert_eq!(world.on_disk(pbn, 0), data(FIRST_DATA + 11));
    assert!(world.volume.locked().is_empty());
}

#[test]
fn a_leaf_that_expires_again_while_it_is_written_is_written_again_after_that() {
    let mut world = warm(config(), 1);
    world.write(0, data(FIRST_DATA + 10), 1).unwrap();
    world.disk.hold = true;
    world.advance(5);
    world.write(0, data(FIRST_DATA + 11), 5).unwrap();
    world.advance(9);
    // Never two writes of one page at a time.
    let held = world.disk.held();
    assert_eq!(held.len(), 1, "{held:?}");
    world.disk.hold = false;
    world.disk.run();
    let pbn = world.leaf_pbn(0);
    assert_eq!(world.on_disk(pbn, 0), data(FIRST_DATA + 11));
    assert!(world.volume.locked().is_empty());
}

/// The steps of the original's ageing test: eras of two journal blocks.
#[test]
fn dirty_leaves_are_written_when_the_journal_has_moved_a_full_era_past_them() {
    let mut world = warm(
        BlockMapConfig {
            maximum_age: 2,
            ..config()
        },
        8,
    );
    let touch = |world: &mut World, leaves: std::ops::Range<u64>, period: u64| {
        for n in leaves {
            world.write(leaf(n), data(FIRST_DATA + n), period).unwrap();
        }
    };
    let dirty = |world: &mut World, period: u64| {
        world.advance(period);
        world.statistics().dirty_pages
    };
    for n in 0..8 {
        world.read(leaf(n)).unwrap();
    }
    touch(&mut world, 0..3, 1);
    assert_eq!(dirty(&mut world, 2), 3);
    touch(&mut world, 0..4, 2);
    assert_eq!(world.statistics().dirty_pages, 4);
    assert_eq!(dirty(&mut world, 3), 1);
    touch(&mut world, 0..4, 3);
    assert_eq!(dirty(&mut world, 4), 3);
    touch(&mut world, 0..2, 4);
    touch(&mut world, 0..2, 4);
    assert_eq!(dirty(&mut world, 5), 0);
    // A change that is too old already is written at once.
    touch(&mut world, 0..1, 3);
    world.disk.run();
    assert_eq!(world.statistics().dirty_pages, 0);
    touch(&mut world, 1..2, 4);
    touch(&mut world, 2..3, 5);
    assert_eq!(world.statistics().dirty_pages, 2);
    assert_eq!(dirty(&mut world, 6), 1);
    assert_eq!(dirty(&mut world, 7), 0);
    assert_eq!(dirty(&mut world, 8), 0);
    touch(&mut world, 0..2, 7);
    touch(&mut world, 2..4, 8);
    assert_eq!(world.statistics().dirty_pages, 4);
    // A change ahead of the tail moves the eras on by itself.
    touch(&mut world, 4..6, 9);
    world.disk.run();
    assert_eq!(world.statistics().dirty_pages, 4);
    assert_eq!(dirty(&mut world, 12), 0);
    assert!(world.volume.locked().is_empty());
}

#[test]
fn a_page_keeps_the_journal_block_of_its_oldest_change_and_no_other() {
    let mut world = warm(
        BlockMapConfig {
            maximum_age: 50,
            journal_tail: SequenceNumber(20),
            ..config()
        },
        2,
    );
    for (sequence, locked) in [(25, 25), (27, 25), (22, 22), (22, 22), (30, 22)] {
        world.write(0, data(FIRST_DATA), sequence).unwrap();
        assert_eq!(world.volume.locked(), [locked]);
    }
    world.write(leaf(1), data(FIRST_DATA), 22).unwrap();
    assert_eq!(world.volume.locks.borrow()[&22], 2);
    assert_eq!(world.drain(true), Ok(()));
    assert!(world.volume.locked().is_empty());
}

#[test]
fn an_entry_that_can_not_be_true_fails_reads_until_it_is_overwritten() {
    let mut world = warm(config(), 1);
    let bad = [
        data(1),
        Mapping {
            pbn: Pbn::ZERO,
            state: MappingState::MAX,
        },
        Mapping {
            pbn: Pbn(FIRST_DATA),
            state: MappingState::UNMAPPED,
        },
    ];
    for mapping in bad {
        world.write(1, mapping, 1).unwrap();
        let error = VdoError::BadMapping {
            pbn: mapping.pbn,
            state: mapping.state.bits(),
        };
        assert_eq!(world.read(1), Err(error));
    }
    assert!(!world.volume.is_read_only());
    for good in [Mapping::ZERO, Mapping::UNMAPPED, data(FIRST_DATA)] {
        world.write(1, good, 1).unwrap();
        assert_eq!(world.read(1), Ok(good));
    }
}
