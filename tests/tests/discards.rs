//! Discards of freed blocks, in the simulator: what happens while they are under way.

use std::sync::{Arc, Mutex};

use vdo::seam::{BaseOp, Nanos, RequestKind};
use vdo::volume::VolumeOptions;
use vdo_tests::sim::World;
use vdo_tests::sim::small::{BLOCK, data, disk, open_with, options, submit, submit_write};

const ENOSPC: i32 = 28;

/// Discards under way, and blocks that they or later ones are for.
fn waiting(world: &mut World) -> (usize, u64) {
    let counted = world.statistics().total().freed_discards;
    (world.disk.held(), counted.blocks_waiting)
}

#[test]
fn a_write_waits_for_discards_rather_than_find_no_space() {
    for zones in [1, 3] {
        let disk = disk(u64::from(zones));
        let options = VolumeOptions {
            discard_freed: true,
            // All blocks are freed before the first is discarded.
            discard_delay: Nanos(10_000_000_000),
            ..options(zones)
        };
        let mut world = open_with(&disk, options);
        let mut written = 0;
        while world.write(written * BLOCK, &data(written)) != Err(ENOSPC) {
            written += 1;
        }
        let used = world.statistics().total().data_blocks_used;
        disk.state().hold = Some(BaseOp::Discard);
        let all = submit(
            &mut world,
            RequestKind::Unmap,
            0,
            (written + 1) * BLOCK,
            false,
        );
        world.run_until(|| all.result().is_some());
        assert_eq!(world.flush(), Ok(()));
        world.run_until(|| disk.held() >= usize::from(zones));
        world.poll_without_io();
        let (discards, blocks) = waiting(&mut world);
        assert_eq!(blocks, used, "in {discards} discards");

        let write = submit_write(&mut world, 7, data(1_000_000), false);
        for _ in 0..5000 {
            world.step();
        }
        assert_eq!(write.result(), None, "it waits");
        assert_eq!(world.statistics().total().data_blocks_used, 0);
        disk.release_held();
        world.run_until(|| write.result().is_some());
        assert_eq!(write.result(), Some(0));
        assert_eq!(
            world.read(7 * BLOCK, BLOCK as usize),
            Ok(data(1_000_000)),
            "{zones} zones"
        );
        assert!(world.shut_down().0.is_ok());
    }
}

#[test]
fn a_shutdown_waits_for_discards_under_way() {
    let disk = disk(1);
    let options = VolumeOptions {
        discard_freed: true,
        discard_delay: Nanos(0),
        ..options(1)
    };
    let mut world = open_with(&disk, options);
    assert_eq!(world.write(0, &data(1)), Ok(()));
    disk.state().hold = Some(BaseOp::Discard);
    assert_eq!(world.write(0, &data(2)), Ok(()));
    world.run_until(|| disk.held() == 1);
    let ended = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&ended);
    let volume = Arc::clone(&world.volume);
    volume.shut_down(Box::new(move |result| {
        *answer.lock().expect("one thread") = Some(result);
    }));
    for _ in 0..5000 {
        world.step();
    }
    assert_eq!(*ended.lock().expect("one thread"), None);
    disk.release_held();
    world.run_until(|| ended.lock().expect("one thread").is_some());
    assert_eq!(*ended.lock().expect("one thread"), Some(Ok(())));
    world.check_at_rest();
}

#[test]
fn a_block_is_discarded_only_when_the_requests_that_were_under_way_have_ended() {
    for zones in [1, 3] {
        let disk = disk(u64::from(zones));
        let options = VolumeOptions {
            discard_freed: true,
            ..options(zones)
        };
        let mut world = open_with(&disk, options);
        assert_eq!(world.write(0, &data(1)), Ok(()));
        // One of those might be the one that freed it, and not have changed the block map yet.
        disk.state().hold = Some(BaseOp::Write);
        let writes: Vec<_> = (0..8)
            .map(|lbn| submit_write(&mut world, 2000 * lbn + 1, data(lbn + 2), true))
            .collect();
        world.run_until(|| disk.held() > 0);
        disk.state().hold = None;
        assert_eq!(world.write(0, &data(100)), Ok(()));
        let late = Nanos(world.now().0 + 1_000_000_000);
        while world.now() < late {
            world.step();
        }
        assert!(writes.iter().any(|write| write.result().is_none()));
        assert_eq!(disk.state().tally.discards, 0, "{zones} zones");
        disk.release_held();
        world.run_until(|| disk.state().tally.discards > 0);
        let results: Vec<_> = writes.iter().map(|write| write.result()).collect();
        assert_eq!(results, [Some(0); 8], "{}", world.describe());
        assert!(world.shut_down().0.is_ok());
    }
}
