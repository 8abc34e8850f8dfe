//! How pages get to disk: flush before, twice the first time; draining.

use super::*;
use crate::seam::BaseOp;

/// A world with leaves whose trees are dirty in memory, with nothing on disk.
fn dirty(config: BlockMapConfig, leaves: u64) -> World {
    let mut world = World::new(config);
    for n in 0..leaves {
        world.write(leaf(n), data(FIRST_DATA + n), 1).unwrap();
    }
    world
}

#[test]
fn a_new_page_is_written_as_invalid_flushed_and_only_then_as_valid() {
    let mut world = dirty(config(), 1);
    let map = Rc::clone(&world.map);
    let mut said = BTreeMap::<u64, Vec<bool>>::new();
    let mut flushes = 0;
    let mut flushes_at = BTreeMap::<u64, Vec<u32>>::new();
    let drained = world.start(async move { map.drain(true).await });
    loop {
        world.disk.step();
        let Some(io) = world.disk.held().first().copied() else {
            break;
        };
        match io.op {
            BaseOp::Flush => flushes += 1,
            BaseOp::Write => {
                let block = world.disk.held_block(0);
                let page = BlockMapPage::new(block.first_chunk().unwrap());
                assert_eq!(page.pbn(), io.pbn);
                said.entry(io.pbn.get())
                    .or_default()
                    .push(page.is_initialized());
                flushes_at.entry(io.pbn.get()).or_default().push(flushes);
            }
            _ => panic!("{io:?}"),
        }
        world.disk.complete_held(0);
    }
    assert_eq!(drained.result(), Some(Ok(())));
    // The root, three pages below it, the leaf.
    assert_eq!(said.len(), 5);
    for (pbn, said) in said {
        assert_eq!(said, [false, true], "page {pbn}");
        let flushes = &flushes_at[&pbn];
        assert!(flushes[0] >= 1 && flushes[1] > flushes[0], "{flushes:?}");
    }
}

#[test]
fn a_page_that_was_on_disk_is_written_once() {
    let mut world = World::with_leaves(config(), 0..1);
    world.write(0, data(FIRST_DATA + 5), 1).unwrap();
    let before = world.disk.trace.len();
    world.drain(true).unwrap();
    let ops: Vec<_> = world.disk.trace[before..].iter().map(|io| io.0).collect();
    assert_eq!(ops, [BaseOp::Flush, BaseOp::Write]);
}

#[test]
fn pages_whose_turns_come_together_share_one_flush() {
    let mut world = World::with_leaves(
        BlockMapConfig {
            writers: 8,
            ..config()
        },
        0..6,
    );
    for n in 0..6 {
        world.write(leaf(n), data(FIRST_DATA), 1).unwrap();
    }
    let before = world.disk.trace.len();
    world.advance(5);
    let ops: Vec<_> = world.disk.trace[before..].iter().map(|io| io.0).collect();
    assert_eq!(ops[0], BaseOp::Flush);
    assert_eq!(ops[1..], [BaseOp::Write; 6]);
    assert_eq!(world.statistics().flush_count, 1);
    assert_eq!(world.statistics().pages_saved, 6);
}

#[test]
fn a_page_copied_after_a_flush_began_waits_for_the_next() {
    let mut world = World::with_leaves(config(), 0..2);
    world.write(leaf(0), data(FIRST_DATA + 10), 1).unwrap();
    world.write(leaf(1), data(FIRST_DATA + 11), 2).unwrap();
    world.disk.hold = true;
    world.advance(5);
    assert_eq!(world.disk.held()[0].op, BaseOp::Flush);
    world.advance(6);
    assert_eq!(world.disk.held().len(), 1);
    world.disk.complete_held(0);
    world.disk.run();
    let ops: Vec<_> = world.disk.held().iter().map(|io| io.op).collect();
    assert_eq!(ops, [BaseOp::Write, BaseOp::Flush]);
    world.disk.hold = false;
    world.disk.run();
    assert!(world.volume.locked().is_empty());
}

#[test]
fn a_tree_page_changed_at_any_point_of_its_write_is_written_again() {
    change_while_it_is_written(false);
}

#[test]
fn a_tree_page_that_is_due_again_during_its_write_is_written_again() {
    change_while_it_is_written(true);
}

/// With `due`, the page's turn to be written comes again before its write has ended, else afterwards.
fn change_while_it_is_written(due: bool) {
    // The pages above the leaves get their first images; then the page above leaves 0, 2, 4... changes
    // while it waits for the flush, while it is written, and after.
    let mut world = dirty(config(), 2);
    world.drain(true).unwrap();
    world.map.resume();
    let parent = world.source.made.borrow()[2].1.get();
    world.source.sequence.set(2);
    world.write(leaf(2), data(FIRST_DATA), 2).unwrap();
    world.disk.hold = true;
    world.advance(6);
    assert_eq!(world.disk.held()[0].op, BaseOp::Flush);
    for (n, sequence) in [(4, 6), (6, 7), (8, 8)] {
        world.source.sequence.set(sequence);
        let started = world.start_write(leaf(n), data(FIRST_DATA), sequence);
        world.disk.run();
        if due {
            world.advance(sequence + 4);
        }
        if let Some(at) = world
            .disk
            .held()
            .iter()
            .position(|io| io.op != BaseOp::Read)
        {
            world.disk.complete_held(at);
        }
        world.disk.hold = false;
        world.disk.run();
        world.disk.hold = true;
        assert_eq!(started.result(), Some(Ok(())));
        world.advance(sequence + 4);
    }
    world.disk.hold = false;
    world.disk.run();
    assert!(world.volume.locked().is_empty());
    for n in 0..5 {
        assert!(world.on_disk(parent, n).state.is_mapped(), "slot {n}");
    }
}

#[test]
fn one_writer_is_enough_for_many_dirty_tree_pages() {
    let mut world = dirty(
        BlockMapConfig {
            writers: 1,
            readers: 1,
            ..config()
        },
        6,
    );
    world.disk.hold = true;
    world.advance(5);
    // The only writer is busy; a page that waits its turn changes.
    world.source.sequence.set(5);
    let late = world.start_write(leaf(6), data(FIRST_DATA), 5);
    world.disk.hold = false;
    world.disk.run();
    assert_eq!(late.result(), Some(Ok(())));
    world.advance(9);
    assert!(world.volume.locked().is_empty());
    let mut world = world.reopen();
    for n in 0..7 {
        let pbn = if n == 6 { FIRST_DATA } else { FIRST_DATA + n };
        assert_eq!(world.read(leaf(n)), Ok(data(pbn)));
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes Miri minutes")]
fn hundreds_of_batches_in_a_row_lose_nothing() {
    // More than the 256 flush generations the original can tell apart.
    let mut world = dirty(config(), 1);
    for round in 1..600 {
        world.source.sequence.set(round);
        world
            .write(leaf(2 * round), data(FIRST_DATA + round), round)
            .unwrap();
        world.advance(round + 4);
        assert!(world.volume.locked().is_empty());
    }
    let mut world = world.reopen();
    for round in 1..600 {
        assert_eq!(world.read(leaf(2 * round)), Ok(data(FIRST_DATA + round)));
    }
}

#[test]
fn a_drain_waits_for_every_write_whichever_ends_first() {
    for save in [false, true] {
        for last_first in [false, true] {
            let mut world = dirty(config(), 1);
            world.drain(true).unwrap();
            world.map.resume();
            world.write(leaf(2), data(FIRST_DATA), 1).unwrap();
            world.disk.hold = true;
            world.advance(5);
            world.disk.complete_held(0);
            world.disk.run();
            // A leaf and the page above it are on their way.
            assert_eq!(world.disk.held().len(), 2);
            let drained = world.start_drain(save);
            world.disk.run();
            while !world.disk.held().is_empty() {
                assert_eq!(drained.result(), None);
                let at = if last_first {
                    world.disk.held().len() - 1
                } else {
                    0
                };
                world.disk.complete_held(at);
                world.disk.run();
            }
            assert_eq!(drained.result(), Some(Ok(())));
            assert_eq!(world.disk.base.in_flight(), 0);
            assert!(world.volume.locked().is_empty());
        }
    }
}

#[test]
fn a_drain_without_save_writes_nothing_and_keeps_the_locks() {
    let mut world = World::with_leaves(config(), 0..1);
    world.write(0, data(FIRST_DATA + 5), 1).unwrap();
    let before = world.disk.trace.len();
    assert_eq!(world.drain(false), Ok(()));
    assert_eq!(world.disk.trace.len(), before);
    assert_eq!(world.volume.locked(), [1]);
    assert_eq!(world.read(0), Err(VdoError::ShuttingDown));
    assert_eq!(
        world.write(0, data(FIRST_DATA), 1),
        Err(VdoError::ShuttingDown)
    );
    world.map.resume();
    assert_eq!(world.read(0), Ok(data(FIRST_DATA + 5)));
    assert_eq!(world.drain(true), Ok(()));
    assert!(world.volume.locked().is_empty());
}

#[test]
fn a_drain_lets_requests_under_way_end_and_saves_what_they_change() {
    let mut world = World::with_leaves(config(), 0..1);
    world.leaf_pbn(0);
    world.disk.hold = true;
    let write = world.start_write(0, data(FIRST_DATA + 5), 1);
    world.disk.run();
    let drained = world.start_drain(true);
    world.disk.run();
    assert_eq!(drained.result(), None);
    world.disk.hold = false;
    world.disk.run();
    assert_eq!(write.result(), Some(Ok(())));
    assert_eq!(drained.result(), Some(Ok(())));
    assert!(world.volume.locked().is_empty());
    let mut world = world.reopen();
    assert_eq!(world.read(0), Ok(data(FIRST_DATA + 5)));
}
