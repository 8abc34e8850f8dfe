//! Finding leaves, and making those that are missing.

use super::*;

#[test]
fn what_was_never_written_is_unmapped_and_reading_makes_nothing() {
    let mut world = World::new(config());
    assert_eq!(world.read(0), Ok(Mapping::UNMAPPED));
    assert_eq!(
        world.read(PER_PAGE * PER_PAGE * 6 - 1),
        Ok(Mapping::UNMAPPED)
    );
    assert!(world.source.made.borrow().is_empty());
    assert!(world.volume.locked().is_empty());
}

#[test]
fn a_block_outside_the_volume_or_of_another_zone_is_refused() {
    let mut world = World::new(BlockMapConfig {
        zones: 2,
        ..config()
    });
    assert_eq!(world.read(0), Ok(Mapping::UNMAPPED));
    for lbn in [PER_PAGE, PER_PAGE * PER_PAGE * 6, u64::MAX] {
        assert!(
            matches!(world.read(lbn), Err(VdoError::Invalid(_))),
            "{lbn}"
        );
        let write = world.write(lbn, data(FIRST_DATA), 1);
        assert!(matches!(write, Err(VdoError::Invalid(_))), "{lbn}");
    }
    assert!(!world.volume.is_read_only());
}

#[test]
fn writers_of_one_leaf_make_each_page_on_the_way_once_from_the_top_down() {
    let mut world = World::new(config());
    let writes: Vec<_> = (0..20)
        .map(|n| world.start_write(n, data(FIRST_DATA + n), 1))
        .collect();
    world.disk.run();
    for write in writes {
        assert_eq!(write.result(), Some(Ok(())));
    }
    let made = world.source.made.borrow();
    let parents: Vec<_> = made.iter().map(|(slot, _)| slot.pbn.get()).collect();
    assert_eq!(
        parents,
        [ROOT_ORIGIN, FIRST_PAGE, FIRST_PAGE + 1, FIRST_PAGE + 2]
    );
    assert!(made.iter().all(|(slot, _)| slot.slot == 0));
    assert_eq!(world.source.finished.get(), 4);
    drop(made);
    for n in 0..20 {
        assert_eq!(world.read(n), Ok(data(FIRST_DATA + n)));
    }
}

#[test]
fn different_leaves_of_one_parent_are_made_at_the_same_time() {
    let mut world = World::new(config());
    world.write(leaf(0), data(FIRST_DATA), 1).unwrap();
    world.source.held.set(true);
    let writes = [2, 4, 6].map(|n| world.start_write(leaf(n), data(FIRST_DATA + n), 1));
    world.disk.run();
    assert_eq!(world.source.waiting.len(), 3);
    world.source.held.set(false);
    world.source.waiting.wake_all();
    world.disk.run();
    assert!(writes.iter().all(|write| write.result() == Some(Ok(()))));
}

#[test]
fn a_reader_does_not_wait_for_a_page_that_is_being_made() {
    let mut world = World::new(config());
    world.source.held.set(true);
    let write = world.start_write(0, data(FIRST_DATA), 1);
    world.disk.run();
    assert_eq!(world.read(0), Ok(Mapping::UNMAPPED));
    assert_eq!(write.result(), None);
    assert!(world.start_drain(false).result().is_none());
}

#[test]
fn one_task_reads_a_tree_page_and_all_others_wait_for_it() {
    let mut world = World::with_leaves(config(), 0..2);
    let before = world.disk.trace.len();
    let reads: Vec<_> = (0..2)
        .chain(0..2)
        .map(|n| world.start_read(leaf(n)))
        .collect();
    world.disk.run();
    assert!(reads.iter().all(|read| read.result().unwrap().is_ok()));
    let mut read: Vec<_> = world.disk.trace[before..].iter().map(|io| io.1).collect();
    let count = read.len();
    read.sort_unstable();
    read.dedup();
    // Two trees: a root, three pages below it, and a leaf each.
    assert_eq!((read.len(), count), (10, 10));
}

#[test]
fn without_space_all_who_wait_for_the_page_fail_and_the_volume_lives_on() {
    let mut world = World::new(config());
    *world.source.fails.borrow_mut() = Some(VdoError::NoSpace);
    world.source.held.set(true);
    let writes = [0, 1, leaf(2)].map(|lbn| world.start_write(lbn, data(FIRST_DATA), 1));
    world.disk.run();
    world.source.held.set(false);
    world.source.waiting.wake_all();
    world.disk.run();
    for write in writes {
        assert_eq!(write.result(), Some(Err(VdoError::NoSpace)));
    }
    assert!(!world.volume.is_read_only());
    assert_eq!(world.read(0), Ok(Mapping::UNMAPPED));
    *world.source.fails.borrow_mut() = None;
    assert_eq!(world.write(0, data(FIRST_DATA), 1), Ok(()));
    assert_eq!(world.drain(true), Ok(()));
    assert!(world.volume.locked().is_empty());
}

#[test]
fn a_page_that_can_not_be_made_for_another_reason_turns_the_volume_read_only() {
    let mut world = World::new(config());
    let error = VdoError::Inconsistent("the journal is broken".into());
    *world.source.fails.borrow_mut() = Some(error.clone());
    world.source.held.set(true);
    let writes = [0, 1].map(|lbn| world.start_write(lbn, data(FIRST_DATA), 1));
    world.disk.run();
    world.source.held.set(false);
    world.source.waiting.wake_all();
    world.disk.run();
    for write in writes {
        assert_eq!(write.result(), Some(Err(error.clone())));
    }
    assert_eq!(*world.volume.why.borrow(), Some(error));
    assert_eq!(world.write(0, data(FIRST_DATA), 1), Err(VdoError::ReadOnly));
    assert_eq!(world.drain(true), Err(VdoError::ReadOnly));
}

#[test]
fn trees_can_be_changed_after_each_of_several_restarts() {
    let mut world = World::new(config());
    // Leaves of both trees, and of different pages above the leaves.
    let lbns = [
        1,
        leaf(1),
        leaf(2) + 7,
        leaf(PER_PAGE * 2) + 811,
        leaf(PER_PAGE * 2 + 1),
    ];
    for (round, lbn) in lbns.into_iter().enumerate() {
        let pbn = FIRST_DATA + round as u64;
        assert_eq!(world.write(lbn, data(pbn), 1), Ok(()));
        assert_eq!(world.drain(true), Ok(()));
        assert!(world.volume.locked().is_empty());
        world = world.reopen();
        for (earlier, lbn) in lbns[..=round].iter().enumerate() {
            assert_eq!(world.read(*lbn), Ok(data(FIRST_DATA + earlier as u64)));
        }
    }
    assert_eq!(world.read(0), Ok(Mapping::UNMAPPED));
}

#[test]
fn pages_of_another_volume_are_taken_as_empty() {
    let world = World::with_leaves(config(), 0..6);
    let mut world = world.reopen_as(BlockMapConfig {
        nonce: NONCE + 1,
        ..config()
    });
    for n in 0..6 {
        assert_eq!(world.read(leaf(n)), Ok(Mapping::UNMAPPED));
    }
    assert!(!world.volume.is_read_only());
    // And a leaf whose parent is of this volume, but which is not itself.
    world.write(leaf(0), data(FIRST_DATA), 1).unwrap();
    world.drain(true).unwrap();
    let pbn = world.leaf_pbn_after_drain(leaf(0));
    world.disk.blocks.insert(pbn, vec![0x5a; 4096]);
    let mut world = world.reopen();
    assert_eq!(world.read(leaf(0)), Ok(Mapping::UNMAPPED));
}

impl World {
    fn leaf_pbn_after_drain(&mut self, lbn: u64) -> u64 {
        self.map.resume();
        self.leaf_pbn(lbn)
    }
}

#[test]
fn what_is_in_memory_is_found_read_and_changed_without_suspending() {
    use std::task::{Context, Poll, Waker};
    let mut world = World::with_leaves(config(), 0..1);
    world.read(0).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut now = |future: std::pin::Pin<&mut dyn Future<Output = ()>>| {
        assert_eq!(future.poll(&mut context), Poll::Ready(()));
    };
    let map = Rc::clone(&world.map);
    now(std::pin::pin!(async {
        let slot = map.locate(Lbn(5), true).await.unwrap().unwrap();
        assert_eq!(map.get(slot).await, Ok(Mapping::UNMAPPED));
        map.put(slot, data(FIRST_DATA), at(1)).await.unwrap();
        assert_eq!(map.get(slot).await, Ok(data(FIRST_DATA)));
    }));
}
