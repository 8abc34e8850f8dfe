//! A volume that is made larger while it works: one promise a test.

use std::sync::Arc;

use vdo::format::components::VolumeState;
use vdo::format::tree::ENTRIES_PER_PAGE;
use vdo::format::{Growth, GrowthError, MAXIMUM_LOGICAL_BLOCKS, VolumeLayout};
use vdo::seam::{BaseIo, BaseOp};
use vdo::volume::{Kept, VolumeError};
use vdo_tests::sim::audit::{audit, audit_full, audit_recovered, volume_on};
use vdo_tests::sim::small::{BLOCK, all_done, data, disk, open, reopen, submit_write};
use vdo_tests::sim::{SimDisk, World};

fn grow(world: &mut World, growth: Growth) -> Result<Arc<VolumeLayout>, VolumeError> {
    let volume = Arc::clone(&world.volume);
    let keep = Box::new(|_: &_| Ok(Arc::new(()) as Kept));
    world.wait_for(|done| volume.grow(growth, keep, done))
}

fn refusal(world: &mut World, growth: Growth) -> GrowthError {
    match grow(world, growth) {
        Err(VolumeError::Growth(error)) => error,
        other => panic!("{growth:?}: {other:?}"),
    }
}

fn check(world: &mut World, lbns: impl Iterator<Item = u64>) {
    for lbn in lbns {
        let read = world.read(lbn * BLOCK, BLOCK as usize);
        assert!(read == Ok(data(lbn)), "block {lbn}");
    }
}

fn fill(world: &mut World, lbns: impl Iterator<Item = u64>) {
    for lbn in lbns {
        assert_eq!(world.write(lbn * BLOCK, &data(lbn)), Ok(()), "block {lbn}");
    }
}

#[test]
fn what_lies_beyond_the_end_is_refused_before_growing_and_kept_afterwards() {
    for zones in 1..=3 {
        let disk = disk(4);
        let mut world = open(&disk, zones);
        let end = world.volume.layout().logical_blocks;
        fill(&mut world, (0..200).chain(end - 20..end));
        assert_eq!(world.write(end * BLOCK, &data(end)), Err(22));
        assert_eq!(world.read((end - 1) * BLOCK, 2 * BLOCK as usize), Err(22));

        // By one block, by some leaves, by so much that trees get pages above what is there.
        let mut before = end;
        for more in [1, 3 * ENTRIES_PER_PAGE + 7, 200 * 812 * 812] {
            let now = before + more;
            let layout = grow(&mut world, Growth::Logical(now)).unwrap();
            assert_eq!(layout.logical_blocks, now);
            assert_eq!(world.volume.bytes(), now * BLOCK);
            assert_eq!(world.statistics().figures.logical_blocks, now);
            fill(&mut world, (before..now).step_by(more as usize / 20 + 1));
            fill(&mut world, now - 1..now);
            assert_eq!(world.write(now * BLOCK, &data(now)), Err(22));
            before = now;
        }
        let written = |lbn: &u64| {
            let all = [end, end + 1, end + 1 + 3 * ENTRIES_PER_PAGE + 7, before];
            all.windows(2).any(|part| {
                let more = part[1] - part[0];
                (part[0]..part[1]).contains(lbn)
                    && ((lbn - part[0]).is_multiple_of(more / 20 + 1) || *lbn == part[1] - 1)
            })
        };
        let far = (before - 200 * 812 * 812..before).step_by(200 * 812 * 812 / 20 + 1);
        let near = end..end + 1 + 3 * ENTRIES_PER_PAGE + 7;
        let all: Vec<u64> = near
            .chain(far)
            .chain(before - 1..before)
            .filter(written)
            .collect();
        check(
            &mut world,
            (0..200).chain(end - 20..end).chain(all.iter().copied()),
        );
        let mut world = reopen(world, &disk, 3 - zones.min(2));
        assert_eq!(world.volume.layout().logical_blocks, before);
        check(&mut world, (0..200).chain(end - 20..end).chain(all));
        assert!(world.shut_down().0.is_ok());
    }
}

#[test]
fn a_size_that_is_not_larger_or_that_no_volume_has_is_refused_and_nothing_is_written() {
    let disk = disk(3);
    let mut world = open(&disk, 2);
    let now = world.volume.layout().logical_blocks;
    let before = disk.blocks();
    for asked in [1, now - 1, now] {
        let error = refusal(&mut world, Growth::Logical(asked));
        assert_eq!(error, GrowthError::NotLarger { now, asked });
    }
    let asked = MAXIMUM_LOGICAL_BLOCKS + 1;
    let error = refusal(&mut world, Growth::Logical(asked));
    assert_eq!(error, GrowthError::TooManyLogicalBlocks { asked });
    let keep = Box::new(|_: &_| Err(VolumeError::NoMemory { what: "a test" }));
    let volume = Arc::clone(&world.volume);
    let refused = world.wait_for(|done| volume.grow(Growth::Logical(now + 1), keep, done));
    assert!(
        matches!(refused, Err(VolumeError::NoMemory { .. })),
        "{refused:?}"
    );
    assert!(before == disk.blocks());
    assert_eq!(world.volume.layout().logical_blocks, now);
    assert!(world.shut_down().0.is_ok());
}

#[test]
fn requests_are_served_while_it_grows_and_growths_wait_for_each_other_and_for_a_shutdown() {
    let disk = disk(6);
    let mut world = open(&disk, 2);
    let now = world.volume.layout().logical_blocks;
    let writes: Vec<_> = (0..300)
        .map(|lbn| submit_write(&mut world, lbn, data(lbn), false))
        .collect();
    let answers = Arc::new(std::sync::Mutex::new(Vec::new()));
    for more in [10, 5, 20] {
        let told = Arc::clone(&answers);
        let keep = Box::new(|_: &_| Ok(Arc::new(()) as Kept));
        let done = move |grown: Result<Arc<VolumeLayout>, VolumeError>| {
            let now = grown.map(|layout| layout.logical_blocks);
            told.lock()
                .unwrap()
                .push(now.map_err(|error| error.to_string()));
        };
        let growth = Growth::Logical(now + more);
        world.volume.grow(growth, keep, Box::new(done));
    }
    world.run_until(|| all_done(&writes) && answers.lock().unwrap().len() == 3);
    assert!(writes.iter().all(|write| write.result() == Some(0)));
    let said = answers.lock().unwrap().clone();
    assert_eq!((&said[0], &said[2]), (&Ok(now + 10), &Ok(now + 20)));
    assert!(
        said[1]
            .as_ref()
            .is_err_and(|error| error.contains("larger")),
        "{said:?}"
    );

    // The one that came first ends, the shutdown follows, and who comes after it is sent away.
    let asked = [Arc::new(std::sync::Mutex::new(None)), Arc::default()];
    let begin = |world: &World, slot: &Arc<std::sync::Mutex<_>>, blocks| {
        let slot = Arc::clone(slot);
        let keep = Box::new(|_: &_| Ok(Arc::new(()) as Kept));
        let done = move |grown| *slot.lock().unwrap() = Some(grown);
        world
            .volume
            .grow(Growth::Logical(blocks), keep, Box::new(done));
    };
    begin(&world, &asked[0], now + 30);
    world.poll_without_io();
    let volume = Arc::clone(&world.volume);
    let down = Arc::new(std::sync::Mutex::new(None));
    let told = Arc::clone(&down);
    volume.shut_down(Box::new(move |result| *told.lock().unwrap() = Some(result)));
    begin(&world, &asked[1], now + 40);
    let is_told = |slot: &Arc<std::sync::Mutex<Option<_>>>| slot.lock().unwrap().is_some();
    world.run_until(|| down.lock().unwrap().is_some() && asked.iter().all(is_told));
    assert_eq!(*down.lock().unwrap(), Some(Ok(())));
    let [first, second] = asked.map(|slot| slot.lock().unwrap().take().unwrap());
    let second = second.unwrap_err().to_string();
    assert!(second.contains("shutting down"), "{second}");
    assert_eq!(first.unwrap().logical_blocks, now + 30);
    audit(&disk.blocks(), disk.size()).expect("nothing contradicts itself");
    let volume = volume_on(&disk.blocks(), disk.size()).unwrap();
    assert_eq!(volume.layout.logical_blocks, now + 30);
}

/// Has the next `times` writes of the super block, which is at block `at`, fail.
fn fail_super_block(disk: &SimDisk, at: u64, times: u32) {
    let mut left = times;
    disk.state().fault = Some(Box::new(move |io: &BaseIo, pbn, _| {
        let fails = io.op == BaseOp::Write && pbn == at && left > 0;
        left -= u32::from(fails);
        fails
    }));
}

#[test]
fn a_growth_whose_super_block_cannot_be_written_stops_the_volume_which_recovers_with_its_old_size()
{
    let disk = disk(4);
    let mut world = open(&disk, 2);
    let (now, at) = {
        let layout = world.volume.layout();
        (layout.logical_blocks, layout.super_block.get())
    };
    fill(&mut world, 0..100);
    assert_eq!(world.flush(), Ok(()));
    fail_super_block(&disk, at, 1);
    let failed = grow(&mut world, Growth::Logical(now + 1000));
    assert!(matches!(failed, Err(VolumeError::Failed(_))), "{failed:?}");
    assert!(world.volume.is_read_only());
    assert_eq!(world.volume.layout().logical_blocks, now);
    assert_eq!(world.write(0, &data(1)), Err(5));
    let again = grow(&mut world, Growth::Logical(now + 1000));
    assert!(again.unwrap_err().to_string().contains("read-only"));
    check(&mut world, 0..100);
    assert!(world.shut_down().0.is_err());
    // Nobody knows which sizes are on disk, so the super block was left alone, although it could be written again.
    let left = volume_on(&disk.blocks(), disk.size()).unwrap();
    assert_eq!(left.super_block.volume.state, VolumeState::Dirty);
    assert_eq!(left.layout.logical_blocks, now);

    let mut world = open(&disk, 1);
    assert!(!world.volume.is_read_only());
    check(&mut world, 0..100);
    assert!(grow(&mut world, Growth::Logical(now + 1000)).is_ok());
    fill(&mut world, now..now + 1000);
    let mut world = reopen(world, &disk, 2);
    check(&mut world, (0..100).chain(now..now + 1000));
    assert!(world.shut_down().0.is_ok());
}

/// Becomes larger by so many slabs, and what it takes to move the journal.
fn enlarge(disk: &SimDisk, world: &World, slabs: u64) -> Growth {
    let layout = world.volume.layout();
    let moved = layout.recovery_journal.blocks + layout.slab_summary.blocks;
    disk.grow((slabs * layout.slabs.config.slab_blocks).max(moved));
    Growth::Physical(disk.size())
}

#[test]
fn a_full_volume_goes_on_when_its_device_has_grown_and_fills_it_to_the_end() {
    for zones in 1..=3 {
        let disk = disk(3);
        let mut world = open(&disk, zones);
        let mut lbn = 0;
        for slabs in [1, 2, 7] {
            while world.write(lbn * BLOCK, &data(lbn)) == Ok(()) {
                lbn += 1;
            }
            assert_eq!(world.write(lbn * BLOCK, &data(lbn)), Err(28));
            let before = world.statistics().figures;
            let growth = enlarge(&disk, &world, slabs);
            let old = world.volume.layout();
            let layout = grow(&mut world, growth).unwrap();
            assert_eq!(layout.physical_blocks, disk.size());
            let more = u64::from(layout.slabs.slab_count - old.slabs.slab_count);
            assert!(more >= slabs, "{more} slabs");
            let now = world.statistics().figures;
            assert_eq!(now.physical_blocks, disk.size());
            assert!(now.overhead_blocks_used >= before.overhead_blocks_used);
            assert!(now.memory_usage.bytes_used > before.memory_usage.bytes_used);
            // Whoever was told "no space" tries again.
            let first = lbn;
            let room = more * old.slabs.config.data_blocks;
            while world.write(lbn * BLOCK, &data(lbn)) == Ok(()) {
                lbn += 1;
            }
            let took = lbn - first;
            assert!(
                took <= room && took > room - room / 100 - 3,
                "{took} of {room}"
            );
            assert_eq!(world.flush(), Ok(()));
        }
        check(&mut world, 0..lbn);
        world.shut_down().0.expect("it is shut down");
        audit_full(&disk.blocks(), disk.size()).expect("nothing contradicts itself");
        let mut world = open(&disk, 4 - zones);
        check(&mut world, 0..lbn);
        assert!(world.shut_down().0.is_ok());
    }
}

#[test]
fn the_journal_is_moved_bit_for_bit_and_a_crash_after_it_recovers_all_that_was_flushed() {
    for lbns in [100, 5000] {
        let disk = disk(20);
        let mut world = open(&disk, 2);
        fill(&mut world, 0..lbns);
        assert_eq!(world.flush(), Ok(()));
        let old = world.volume.layout();
        let growth = enlarge(&disk, &world, 3);
        let new = grow(&mut world, growth).unwrap();
        let (from, to) = (old.recovery_journal, new.recovery_journal);
        assert_eq!(to.start.get() + to.blocks + 64, disk.size());
        for place in 0..from.blocks {
            let block = |start: u64| disk.block(start + place);
            assert!(
                block(from.start.get()) == block(to.start.get()),
                "block {place}"
            );
        }
        for place in 0..64 {
            let block = |start: u64| disk.block(start + place);
            assert!(block(old.slab_summary.start.get()) == block(new.slab_summary.start.get()));
        }
        fill(&mut world, lbns..lbns + 700);
        assert_eq!(world.flush(), Ok(()));
        // Nothing is shut down: what is on the disk is recovered.
        let crashed = SimDisk::holding(disk.blocks(), disk.size());
        let mut again = open(&crashed, 1);
        assert_eq!(again.volume.layout().physical_blocks, disk.size());
        check(&mut again, 0..lbns + 700);
        again.run_until_scrubbed();
        assert!(again.shut_down().0.is_ok());
        audit_recovered(&crashed.blocks(), crashed.size()).expect("nothing contradicts itself");
        assert!(world.shut_down().0.is_ok());
    }
}

#[test]
fn a_device_that_cannot_be_taken_leaves_the_volume_as_it_was_and_one_whose_super_block_fails_stops_it()
 {
    let disk = disk(4);
    let mut world = open(&disk, 2);
    fill(&mut world, 0..500);
    assert_eq!(world.flush(), Ok(()));
    let old = world.volume.layout();
    let growth = enlarge(&disk, &world, 2);
    // The new place cannot be written: nothing has happened, and the volume goes on.
    let end = old.physical_blocks;
    disk.state().fault = Some(Box::new(move |io: &BaseIo, pbn, _| {
        io.op == BaseOp::Write && pbn >= end
    }));
    let failed = grow(&mut world, growth);
    assert!(matches!(failed, Err(VolumeError::Failed(_))), "{failed:?}");
    assert!(!world.volume.is_read_only());
    disk.state().fault = None;
    assert_eq!(world.volume.layout(), old);
    fill(&mut world, 500..900);
    assert_eq!(world.flush(), Ok(()));

    fail_super_block(&disk, old.super_block.get(), 1);
    let failed = grow(&mut world, growth);
    assert!(matches!(failed, Err(VolumeError::Failed(_))), "{failed:?}");
    assert!(world.volume.is_read_only());
    assert!(world.shut_down().0.is_err());
    let left = volume_on(&disk.blocks(), disk.size()).unwrap();
    assert_eq!(left.super_block.volume.state, VolumeState::Dirty);
    assert_eq!(left.layout, *old);

    let mut world = open(&disk, 1);
    check(&mut world, 0..900);
    world.run_until_scrubbed();
    assert!(grow(&mut world, growth).is_ok());
    let mut world = reopen_recovered(world, &disk);
    check(&mut world, 0..900);
    assert!(world.shut_down().0.is_ok());
}

fn reopen_recovered(world: World, disk: &SimDisk) -> World {
    world.shut_down().0.expect("it is shut down");
    audit_recovered(&disk.blocks(), disk.size()).expect("nothing contradicts itself");
    open(disk, 2)
}

#[test]
fn a_volume_that_recovers_takes_no_larger_device_until_it_has() {
    let disk = disk(12);
    let mut world = open(&disk, 2);
    fill(&mut world, 0..4000);
    assert_eq!(world.flush(), Ok(()));
    let crashed = SimDisk::holding(disk.blocks(), disk.size());
    assert!(world.shut_down().0.is_ok());
    let mut world = open(&crashed, 1);
    let slabs = world.volume.layout().slabs.slab_count;
    assert!(world.volume.is_recovering());
    let growth = enlarge(&crashed, &world, 2);
    let refused = grow(&mut world, growth).unwrap_err();
    assert!(
        matches!(refused, VolumeError::StillRecovering { left, slabs: all } if left > 0 && all == slabs),
        "{refused}"
    );
    // More logical blocks it takes.
    let now = world.volume.layout().logical_blocks;
    assert!(grow(&mut world, Growth::Logical(now + 5)).is_ok());
    world.run_until_scrubbed();
    assert!(grow(&mut world, growth).is_ok());
    check(&mut world, 0..4000);
    assert!(world.shut_down().0.is_ok());
    audit_recovered(&crashed.blocks(), crashed.size()).expect("nothing contradicts itself");
}
