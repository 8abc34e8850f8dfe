//! What unmaps and writes of zeroes cost, what they come after, and how they end early, in the simulator.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vdo::seam::RequestKind;
use vdo_tests::sim::audit::audit;
use vdo_tests::sim::small::*;
use vdo_tests::sim::{SimDisk, World};

const EIO: i32 = 5;
const ENODEV: i32 = 19;

/// A volume of one pebibyte on a small disk.
fn petabyte(zones: u8) -> (SimDisk, World) {
    let disk = disk(8);
    let mut request = request();
    request.format.logical_blocks = Some(1 << 38);
    let random = ChaCha8Rng::seed_from_u64(3);
    let world = World::open(&disk, request, options(zones), random).unwrap();
    (disk, world)
}

#[test]
fn a_petabyte_that_was_never_written_is_unmapped_at_once() {
    for zones in [1, 4] {
        let (disk, mut world) = petabyte(zones);
        for kind in [RequestKind::Unmap, RequestKind::WriteZeroes] {
            for fua in [false, true] {
                let before = disk.state().tally;
                let began = Instant::now();
                let ticket = submit(&mut world, kind, 0, 1 << 50, fua);
                world.run_until(|| ticket.result().is_some());
                let took = began.elapsed();
                assert_eq!(ticket.result(), Some(0));
                let after = disk.state().tally;
                assert!(after.reads - before.reads <= 60, "each root once");
                assert_eq!(after.writes, before.writes);
                assert!(took < Duration::from_millis(100), "{took:?}");
            }
        }
        world.shut_down().0.unwrap();
    }
}

#[test]
fn unmapping_a_petabyte_costs_what_is_mapped_in_it() {
    for zones in [1, 3] {
        let (_, mut world) = petabyte(zones);
        let lbns = [0, 1, 811, 812, 50_000_000, 4_000_000_000, (1 << 38) - 1];
        for kind in [RequestKind::Unmap, RequestKind::WriteZeroes] {
            for (lbn, id) in lbns.into_iter().zip(1..) {
                world.write(lbn * BLOCK, &data(id)).unwrap();
            }
            world.settle();
            let before = world.statistics().total();
            // All but the first half of the first block and the second half of the last.
            let (offset, length) = (BLOCK / 2, (1 << 50) - BLOCK);
            let ticket = submit(&mut world, kind, offset, length, false);
            world.run_until(|| ticket.result().is_some());
            assert_eq!(ticket.result(), Some(0));
            world.settle();
            let after = world.statistics().total();
            let entries = after.journal.entries.committed - before.journal.entries.committed;
            assert_eq!(
                entries,
                lbns.len() as u64,
                "one for each block that was mapped"
            );
            for (lbn, id) in lbns.into_iter().zip(1..) {
                let (mut wanted, half) = (vec![0; 4096], BLOCK as usize / 2);
                match lbn {
                    0 => wanted[..half].copy_from_slice(&data(id)[..half]),
                    LAST => wanted[half..].copy_from_slice(&data(id)[half..]),
                    _ => {}
                }
                assert!(
                    world.read(lbn * BLOCK, 4096).unwrap() == wanted,
                    "block {lbn}"
                );
            }
        }
        world.shut_down().0.unwrap();
    }
    const LAST: u64 = (1 << 38) - 1;
}

/// The write makes the leaf, and has not even found a place for its page when the unmap comes.
#[test]
fn an_unmap_comes_after_a_write_that_is_still_making_its_leaf() {
    for zones in [1, 2] {
        let (_, mut world) = petabyte(zones);
        world.write(0, &data(9)).unwrap();
        world.settle();
        for lbn in [812 * 5 + 70, 812 * 60 * 812, 1 << 37] {
            let write = submit_write(&mut world, lbn, data(1), false);
            world.poll_without_io();
            assert_eq!(write.result(), None, "its tree is not there yet");
            let whole = submit(
                &mut world,
                RequestKind::Unmap,
                4096,
                (1 << 50) - 4096,
                false,
            );
            world.run_until(|| whole.result().is_some() && write.result().is_some());
            world.settle();
            assert!(
                world.read(lbn * BLOCK, 4096).unwrap() == vec![0; 4096],
                "block {lbn}"
            );
        }
        assert!(world.read(0, 4096).unwrap() == data(9));
        world.shut_down().0.unwrap();
    }
}

/// The write is acknowledged, and the block map does not have it yet.
#[test]
fn an_unmap_comes_after_an_acknowledged_write_that_is_not_mapped_yet() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.settle();
    let write = submit_write(&mut world, 5, data(2), false);
    world.poll_without_io();
    assert_eq!(write.result(), Some(0));
    let all = submit(&mut world, RequestKind::Unmap, BLOCK, 10_000 * BLOCK, false);
    world.run_until(|| all.result().is_some());
    world.settle();
    assert!(world.read(5 * BLOCK, 4096).unwrap() == vec![0; 4096]);
    world.shut_down().0.unwrap();
}

#[test]
fn an_unmap_of_a_read_only_volume_fails_even_where_nothing_is_mapped() {
    let (_, mut world) = petabyte(2);
    world.volume.enter_read_only("a test wants it so");
    world.settle();
    let all = submit(&mut world, RequestKind::Unmap, 0, 1 << 50, false);
    world.run_until(|| all.result().is_some());
    assert_eq!(all.result(), Some(EIO));
}

#[test]
fn a_shutdown_serves_long_requests_for_a_second_and_refuses_the_rest_of_them() {
    for zones in [1, 2] {
        let disk = disk(4);
        let mut world = open(&disk, zones);
        for lbn in 0..1000 {
            world.write(lbn * BLOCK, &data(1 + lbn % 50)).unwrap();
        }
        world.settle();
        // A second passes in some thousand polls.
        world.pace = 2_000_000;
        let kinds = [
            RequestKind::Read,
            RequestKind::WriteZeroes,
            RequestKind::Unmap,
        ];
        let long: Vec<_> = (0..120)
            .map(|n| match kinds[n % 3] {
                RequestKind::Read => submit(&mut world, RequestKind::Read, 0, 4000 * BLOCK, false),
                kind => submit(&mut world, kind, 0, 4000 * BLOCK, n % 2 == 0),
            })
            .collect();
        let short = submit(&mut world, RequestKind::Read, 15_000 * BLOCK, BLOCK, false);
        let volume = Arc::clone(&world.volume);
        world.wait_for(|done| volume.shut_down(done)).unwrap();
        assert!(all_done(&long));
        assert_eq!(short.result(), Some(0), "a short one had its turn");
        let refused = long
            .iter()
            .filter(|one| one.result() == Some(ENODEV))
            .count();
        assert!(refused > 30, "{refused} of 120 were cut short");
        audit(&disk.blocks(), disk.size()).unwrap();
    }
}

#[test]
fn long_requests_give_way_when_a_volume_is_about_to_be_shut_down_and_not_if_it_is_kept() {
    let disk = disk(4);
    let mut world = open(&disk, 2);
    for lbn in 0..1000 {
        world.write(lbn * BLOCK, &data(1 + lbn % 50)).unwrap();
    }
    world.settle();
    world.pace = 2_000_000;
    let long = |world: &mut World| -> Vec<_> {
        let read = |_| submit(world, RequestKind::Read, 0, 4000 * BLOCK, false);
        (0..120).map(read).collect()
    };
    let cut = long(&mut world);
    world.volume.give_way(true);
    world.run_until(|| all_done(&cut));
    assert!(cut.iter().any(|one| one.result() == Some(ENODEV)));
    world.volume.give_way(false);
    world.settle();
    let whole = long(&mut world);
    world.run_until(|| all_done(&whole));
    assert!(whole.iter().all(|one| one.result() == Some(0)));
    world.shut_down().0.unwrap();
}

#[test]
fn a_dump_says_how_far_an_unmap_is() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.write(900 * BLOCK, &data(2)).unwrap();
    let mut world = reopen(world, &disk, 1);
    // The pages have to be read, which takes as long as no I/O happens.
    let all = submit(&mut world, RequestKind::Unmap, BLOCK, 10_000 * BLOCK, false);
    world.poll_without_io();
    let volume = Arc::clone(&world.volume);
    let dump = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&dump);
    volume.dump(Box::new(move |dump| *answer.lock().unwrap() = Some(dump)));
    world.poll_without_io();
    let dump = dump.lock().unwrap().take().unwrap();
    let sweep = dump.zones[0].sweeps[0];
    assert_eq!(sweep.header.length, 10_000 * BLOCK);
    assert_eq!((sweep.bytes, sweep.done), (10_000 * BLOCK, 0));
    assert_eq!(dump.zones[0].waiting, 1);
    world.run_until(|| all.result().is_some());
    assert!(world.dump().zones[0].sweeps.is_empty());
    world.shut_down().0.unwrap();
}
