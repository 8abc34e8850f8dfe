//! What a volume promises, one promise a test, in the simulator.

use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vdo::VdoError;
use vdo::seam::{BaseIo, BaseOp, Nanos, RequestHeader, RequestKind};
use vdo::types::Pbn;
use vdo::volume::{AnswerMode, IndexCommand, IndexWord, Phase, Stretch};
use vdo_tests::sim::audit::{audit, audit_recovered, volume_on};
use vdo_tests::sim::salvage::Salvage;
use vdo_tests::sim::small::*;
use vdo_tests::sim::{SimDisk, World};

const EIO: i32 = 5;
const ENODEV: i32 = 19;
const ENOSPC: i32 = 28;

fn unmap(world: &mut World, offset: u64, length: u64) {
    let ticket = submit(world, RequestKind::Unmap, offset, length, false);
    world.run_until(|| ticket.result().is_some());
    assert_eq!(ticket.result(), Some(0));
}

#[test]
fn a_flush_completes_only_when_all_that_was_acknowledged_is_durable() {
    for zones in [1, 4] {
        let disk = disk(8);
        let mut world = open(&disk, zones);
        disk.remember_durable();
        let lbns: Vec<u64> = (0..4)
            .flat_map(|leaf| (0..20).map(move |n| leaf * 812 + n))
            .collect();
        for round in 0..3 {
            let of = |lbn: u64| data(1 + lbn * 3 + round);
            let writes: Vec<_> = lbns
                .iter()
                .map(|&lbn| submit_write(&mut world, lbn, of(lbn), false))
                .collect();
            world.run_until(|| all_done(&writes));
            let held = |disk: &SimDisk| {
                let salvage = Salvage::new(disk.durable(), disk.size()).unwrap();
                lbns.iter()
                    .filter(|&&lbn| salvage.read(lbn)[..] == of(lbn))
                    .count()
            };
            assert!(held(&disk) < lbns.len(), "acknowledged is not yet durable");
            world.flush().unwrap();
            assert_eq!(held(&disk), lbns.len(), "flushed is durable");
        }
        world.shut_down().0.unwrap();
    }
}

/// As in dm-vdo: the journal's write, behind a flush and durable itself, covers all of it.
#[test]
fn a_write_and_a_flush_cost_one_flush_of_the_base_device_and_one_durable_write() {
    for zones in [1, 3] {
        let disk = disk(4);
        let mut world = open(&disk, zones);
        // The tree to the block is made by the first write.
        let first = submit_write(&mut world, 7, data(1), false);
        world.run_until(|| first.result().is_some());
        world.flush().unwrap();
        for id in 2..12 {
            let before = disk.state().tally;
            let write = submit_write(&mut world, 7, data(id), false);
            world.run_until(|| write.result().is_some());
            world.flush().unwrap();
            let after = disk.state().tally;
            assert_eq!(
                after.flushes - before.flushes,
                1,
                "flushes with {zones} zones"
            );
            assert_eq!(after.writes - before.writes, 2, "the data and the journal");
            world.settle();
        }
    }
}

#[test]
fn a_write_that_asks_for_it_is_durable_when_it_completes() {
    for zones in [1, 3] {
        let disk = disk(8);
        let mut world = open(&disk, zones);
        disk.remember_durable();
        for lbn in 0..30 {
            // Every other one is deduplicated.
            let block = data(1 + lbn / 2);
            let write = submit_write(&mut world, lbn * 500, block.clone(), true);
            world.run_until(|| write.result().is_some());
            assert_eq!(write.result(), Some(0));
            let salvage = Salvage::new(disk.durable(), disk.size()).unwrap();
            assert_eq!(salvage.read(lbn * 500)[..], block);
        }
        world.shut_down().0.unwrap();
    }
}

#[test]
fn a_flush_waits_for_writes_already_acknowledged_and_flushes_end_in_order() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.settle();
    let writes: Vec<_> = (1..6)
        .map(|lbn| submit_write(&mut world, lbn, data(10 + lbn), false))
        .collect();
    world.poll_without_io();
    assert!(all_done(&writes), "they are acknowledged before any I/O");
    let first = submit(&mut world, RequestKind::Flush, 0, 0, false);
    world.poll_without_io();
    let late = submit_write(&mut world, 7, data(99), false);
    let second = submit(&mut world, RequestKind::Flush, 0, 0, false);
    world.poll_without_io();
    assert_eq!(late.result(), Some(0), "a flush does not hold up writes");
    assert_eq!((first.result(), second.result()), (None, None));
    world.run_until(|| second.result().is_some());
    assert_eq!(first.result(), Some(0), "flushes end in order");
    world.shut_down().0.unwrap();
}

#[test]
fn a_read_sees_the_data_of_a_write_in_flight_without_any_io() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.settle();
    let before = disk.state().tally;
    let write = submit_write(&mut world, 5, data(2), false);
    world.poll_without_io();
    assert_eq!(write.result(), Some(0));
    let read = submit(&mut world, RequestKind::Read, 5 * BLOCK + 512, 1024, false);
    world.poll_without_io();
    assert_eq!(read.result(), Some(0));
    assert_eq!(read.data(), data(2)[512..1536]);
    assert_eq!(disk.state().tally, before);
    world.shut_down().0.unwrap();
}

#[test]
fn unmapping_what_no_page_maps_costs_no_io() {
    for zones in [1, 2] {
        let disk = disk(4);
        let mut world = open(&disk, zones);
        world.write(0, &data(1)).unwrap();
        world.settle();
        let before = disk.state().tally;
        unmap(&mut world, 812 * BLOCK, 15_000 * BLOCK);
        world.settle();
        let after = disk.state().tally;
        assert_eq!(
            (after.writes, after.flushes),
            (before.writes, before.flushes)
        );
        // Each tree's root is looked at once.
        assert!(after.reads - before.reads <= 15_000 / 812 + 1);
        unmap(&mut world, 812 * BLOCK, 15_000 * BLOCK);
        world.settle();
        assert_eq!(disk.state().tally, after);
        world.shut_down().0.unwrap();
    }
}

#[test]
fn unmapped_blocks_read_as_zeroes_and_give_back_their_space() {
    let disk = disk(4);
    let mut world = open(&disk, 2);
    let none = world.statistics().total().data_blocks_used;
    let mapped = |world: &mut World| {
        let total = world.statistics().total();
        (total.logical_blocks_used, total.data_blocks_used - none)
    };
    for lbn in 0..64 {
        world.write(lbn * BLOCK, &data(1 + lbn % 32)).unwrap();
    }
    world.settle();
    assert_eq!(mapped(&mut world), (64, 32));
    // The second of two references goes, the block stays.
    unmap(&mut world, 32 * BLOCK, 16 * BLOCK);
    world.settle();
    assert_eq!(mapped(&mut world), (48, 32));
    // A hole among what is unmapped already.
    unmap(&mut world, 30 * BLOCK, 20 * BLOCK);
    world.settle();
    assert_eq!(mapped(&mut world), (44, 32));
    unmap(&mut world, 0, 64 * BLOCK);
    world.settle();
    assert_eq!(mapped(&mut world), (0, 0));
    assert_eq!(
        world.read(0, 64 * BLOCK as usize).unwrap(),
        vec![0; 64 * BLOCK as usize]
    );
    let mut world = reopen(world, &disk, 1);
    assert_eq!(
        world.read(0, 64 * BLOCK as usize).unwrap(),
        vec![0; 64 * BLOCK as usize]
    );
    world.shut_down().0.unwrap();
}

#[test]
fn unaligned_unmaps_zero_exactly_their_bytes() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    let blocks: Vec<u8> = (1..=6).flat_map(data).collect();
    for first_is_zero in [false, true] {
        let mut fresh = blocks.clone();
        if first_is_zero {
            fresh[..4096].fill(0);
        }
        for start in (512..4096).step_by(512) {
            for length in (2048..12288).step_by(2048) {
                world.write(0, &fresh).unwrap();
                unmap(&mut world, start as u64, length as u64);
                let mut wanted = fresh.clone();
                wanted[start..start + length].fill(0);
                assert!(
                    world.read(0, wanted.len()).unwrap() == wanted,
                    "{start} {length}"
                );
            }
        }
    }
    let before = world.read(0, blocks.len()).unwrap();
    let mut world = reopen(world, &disk, 2);
    assert!(world.read(0, blocks.len()).unwrap() == before);
    world.shut_down().0.unwrap();
}

#[test]
fn writes_of_single_sectors_at_once_leave_their_neighbours_alone() {
    let disk = disk(4);
    let mut world = open(&disk, 2);
    let wanted: Vec<u8> = (1..=8).flat_map(data).collect();
    let sector = |number: usize| number * 512..(number + 1) * 512;
    let order = (0..64).step_by(2).chain((1..64).step_by(2));
    let writes: Vec<_> = order
        .map(|number| {
            let header = RequestHeader {
                kind: RequestKind::Write,
                offset: sector(number).start as u64,
                length: 512,
                fua: number % 5 == 0,
            };
            world.submit(header, wanted[sector(number)].to_vec())
        })
        .collect();
    world.run_until(|| all_done(&writes));
    assert!(world.read(0, wanted.len()).unwrap() == wanted);
    let total = world.statistics().total();
    assert_eq!(total.data.partial_writes, 64);
    let mut world = reopen(world, &disk, 1);
    assert!(world.read(0, wanted.len()).unwrap() == wanted);
    world.shut_down().0.unwrap();
}

#[test]
fn the_255th_reference_goes_to_a_second_copy() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    for lbn in 0..300 {
        world.write(lbn * BLOCK, &data(1)).unwrap();
        world.settle();
    }
    let total = world.statistics().total();
    assert_eq!(
        (total.data.new_blocks, total.data.deduplicated_blocks),
        (2, 298)
    );
    assert_eq!(total.hash_lock.dedupe_advice_stale, 1);
    let mut world = reopen(world, &disk, 2);
    for lbn in 0..300 {
        assert_eq!(world.read(lbn * BLOCK, 4096).unwrap(), data(1));
    }
    world.shut_down().0.unwrap();
}

#[test]
fn writes_of_one_block_at_once_roll_over_within_their_lock() {
    for zones in [1, 2] {
        let disk = disk(4);
        let mut options = options(zones);
        options.requests = 700;
        let mut world = open_with(&disk, options);
        world.write(0, &data(9)).unwrap();
        let writes: Vec<_> = (0..600)
            .map(|lbn| submit_write(&mut world, lbn, data(1), false))
            .collect();
        world.run_until(|| all_done(&writes));
        world.settle();
        let total = world.statistics().total();
        assert_eq!(
            total.data.new_blocks,
            1 + 3,
            "600 references take three blocks"
        );
        assert!(
            total.hash_lock_paths.forked >= 1,
            "{:?}",
            total.hash_lock_paths
        );
        let mut world = reopen(world, &disk, zones);
        assert_eq!(world.read(599 * BLOCK, 4096).unwrap(), data(1));
        world.shut_down().0.unwrap();
    }
}

#[test]
fn two_writes_of_the_same_data_at_once_share_one_block() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    let writes = [0, 1].map(|lbn| submit_write(&mut world, lbn, data(1), false));
    world.run_until(|| all_done(&writes));
    world.settle();
    let total = world.statistics().total();
    assert_eq!(
        (total.data.new_blocks, total.data.deduplicated_blocks),
        (1, 1)
    );
    assert_eq!(total.hash_lock.concurrent_data_matches, 1);
    world.shut_down().0.unwrap();
}

/// Another block that has the same name as `block`. MurmurHash3 lets differences cancel out: one in the first word puts its first
/// half out by the highest bit alone, one in the second word keeps that from the other half, one in the third takes it back.
fn colliding(block: &[u8]) -> Vec<u8> {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    // Five steps of Newton's double the bits that are right, of which an odd number has three to begin with.
    let inverse = |odd: u64| {
        (0..5).fold(odd, |inverse: u64, _| {
            inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)))
        })
    };
    let flip = |word: u64, (first, turn, second): (u64, u32, u64), bit: u32| {
        let mixed = word
            .wrapping_mul(first)
            .rotate_left(turn)
            .wrapping_mul(second)
            ^ 1 << bit;
        let before = mixed.wrapping_mul(inverse(second)).rotate_right(turn);
        before.wrapping_mul(inverse(first))
    };
    let flips = [((C1, 31, C2), 36), ((C2, 33, C1), 32), ((C1, 31, C2), 63)];
    let mut other = block.to_vec();
    for (word, (mixing, bit)) in other.chunks_mut(8).zip(flips) {
        let flipped = flip(u64::from_le_bytes(word.try_into().unwrap()), mixing, bit);
        word.copy_from_slice(&flipped.to_le_bytes());
    }
    other
}

#[test]
fn different_blocks_of_one_name_are_never_shared_neither_in_flight_nor_later() {
    let (one, other) = (data(1), colliding(&data(1)));
    assert_ne!(one, other);
    for zones in [1, 2] {
        let disk = disk(4);
        let mut world = open(&disk, zones);
        world.write(0, &data(9)).unwrap();
        world.settle();
        let writes = [(1, &one), (2, &other)]
            .map(|(lbn, data)| submit_write(&mut world, lbn, data.clone(), false));
        world.run_until(|| all_done(&writes));
        world.settle();
        let total = world.statistics().total();
        assert_eq!(total.hash_lock.concurrent_hash_collisions, 1);
        // The index knows one of the two, and takes the other for it.
        world.write(3 * BLOCK, &one).unwrap();
        world.settle();
        world.write(4 * BLOCK, &other).unwrap();
        world.settle();
        let total = world.statistics().total();
        assert!(total.hash_lock.dedupe_advice_stale > 0);
        let mut world = reopen(world, &disk, zones);
        for (lbn, data) in [(1, &one), (2, &other), (3, &one), (4, &other)] {
            assert_eq!(&world.read(lbn * BLOCK, 4096).unwrap(), data, "{lbn}");
        }
        world.shut_down().0.unwrap();
    }
}

#[test]
fn a_full_volume_refuses_new_data_keeps_the_old_and_still_deduplicates() {
    for zones in [1, 2] {
        let disk = disk(2);
        let mut world = open(&disk, zones);
        let slabs = volume_on(&disk.blocks(), disk.size()).unwrap().layout.slabs;
        let data_blocks = slabs.data_blocks();
        let mut written = 0;
        let full = loop {
            match world.write(written * BLOCK, &data(1 + written)) {
                Ok(()) => written += 1,
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, ENOSPC);
        // The blocks written are mapped by two leaf pages, in two trees, each page with three above it that are not static.
        assert_eq!((written, data_blocks), (982, 982 + 2 * 4));
        assert_eq!(world.statistics().total().data_blocks_used, written);
        world.settle();
        // The old data stays where a write failed.
        assert_eq!(world.write(0, &data(1_000_000)), Err(ENOSPC));
        assert_eq!(world.read(0, 4096).unwrap(), data(1));
        // What is there already needs no space: the leaf page of block 10 exists.
        world.write(10 * BLOCK, &data(2)).unwrap();
        assert_eq!(world.read(10 * BLOCK, 4096).unwrap(), data(2));
        // That gave one block back.
        world.settle();
        world.write(0, &data(1_000_000)).unwrap();
        world.settle();
        unmap(&mut world, 0, written * BLOCK);
        world.settle();
        for lbn in 0..written {
            world.write(lbn * BLOCK, &data(5_000 + lbn)).unwrap();
        }
        let mut world = reopen(world, &disk, 1);
        for lbn in 0..written {
            assert_eq!(world.read(lbn * BLOCK, 4096).unwrap(), data(5_000 + lbn));
        }
        world.shut_down().0.unwrap();
    }
}

#[test]
fn requests_beyond_the_slots_wait_and_all_are_served() {
    let disk = disk(4);
    let mut options = options(2);
    options.requests = 4;
    let mut world = open_with(&disk, options);
    let writes: Vec<_> = (0..200)
        .map(|n| submit_write(&mut world, (n % 50) * 100, data(1 + n), false))
        .collect();
    world.run_until(|| all_done(&writes));
    assert!(writes.iter().all(|write| write.result() == Some(0)));
    let statistics = world.statistics();
    assert!(
        statistics.figures.max_vios <= 4,
        "{}",
        statistics.figures.max_vios
    );
    for n in 150..200 {
        assert_eq!(
            world.read((n % 50) * 100 * BLOCK, 4096).unwrap(),
            data(1 + n)
        );
    }
    world.shut_down().0.unwrap();
}

/// Four slots under forty reads that cannot end without the disk: each time the disk has answered, the next four have their turn.
#[test]
fn requests_beyond_the_slots_are_served_in_the_order_they_came() {
    const SLOTS: usize = 4;
    let disk = disk(4);
    let mut options = options(1);
    options.requests = SLOTS as u32;
    let mut world = open_with(&disk, options);
    for n in 0..40 {
        world.write(n * BLOCK, &data(1 + n)).unwrap();
    }
    world.settle();
    // Neither in the order of their blocks nor in its opposite.
    let reads: Vec<_> = (0..40)
        .map(|n| {
            let offset = n * 7 % 40 * BLOCK;
            submit(&mut world, RequestKind::Read, offset, BLOCK, false)
        })
        .collect();
    for turn in 0..=reads.len() / SLOTS {
        world.poll_without_io();
        let ended: Vec<_> = reads.iter().map(|read| read.result().is_some()).collect();
        let expected: Vec<_> = (0..reads.len()).map(|n| n < turn * SLOTS).collect();
        assert_eq!(ended, expected, "turn {turn}");
        while disk.under_way() > 0 {
            disk.complete(disk.under_way() - 1);
        }
    }
    world.shut_down().0.unwrap();
}

#[test]
fn a_shutdown_serves_what_came_before_it_and_refuses_what_comes_after() {
    for zones in [1, 2] {
        let disk = disk(4);
        let mut world = open(&disk, zones);
        world.write(0, &data(1)).unwrap();
        let before: Vec<_> = (0..3000)
            .map(|n| match n % 3 {
                0 => submit_write(&mut world, n % 2000, data(1 + n % 7), false),
                _ => submit(
                    &mut world,
                    RequestKind::Read,
                    (n % 2000) * BLOCK,
                    BLOCK,
                    false,
                ),
            })
            .collect();
        let volume = Arc::clone(&world.volume);
        let after = std::cell::RefCell::new(None);
        let shut = world.wait_for(|done| volume.shut_down(done));
        shut.unwrap();
        *after.borrow_mut() = Some(submit_write(&mut world, 1, data(5), false));
        assert!(before.iter().all(|ticket| ticket.result() == Some(0)));
        let after = after.into_inner().unwrap();
        assert_eq!(after.result(), Some(ENODEV));
        let flush = submit(&mut world, RequestKind::Flush, 0, 0, false);
        assert_eq!(flush.result(), Some(ENODEV));
        audit(&disk.blocks(), disk.size()).unwrap();
    }
}

/// A close that waits for a slow index is a step of the index; the shutdown must not end before it.
#[test]
fn a_shutdown_waits_for_an_index_command_under_way() {
    let disk = disk(4);
    let mut world = open(&disk, 2);
    // The tree to the block is made by the first write.
    world.write(0, &data(9)).unwrap();
    world.settle();
    // The write gives up on the index after five seconds; the index has an answer to give for twenty.
    world
        .volume
        .set_index_answer_mode(AnswerMode::Delayed(Nanos(20_000_000_000)));
    world.settle();
    world.write(1, &data(1)).unwrap();
    world.flush().unwrap();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let ends = Arc::clone(&ends);
        move || ends.lock().unwrap().push(what)
    };
    let closed = note("closed");
    world.volume.index(
        IndexCommand::Close,
        Box::new(move |result| {
            result.unwrap();
            closed();
        }),
    );
    world.poll_without_io();
    assert!(ends.lock().unwrap().is_empty(), "the close waits");
    let down = note("down");
    world.volume.shut_down(Box::new(move |result| {
        result.unwrap();
        down();
    }));
    world.run_until(|| ends.lock().unwrap().len() == 2);
    assert_eq!(*ends.lock().unwrap(), ["closed", "down"]);
}

#[test]
fn a_shutdown_while_the_volume_starts_comes_after_the_start_and_a_second_is_refused() {
    let disk = disk(4);
    let world = open(&disk, 2);
    assert!(world.shut_down().0.is_ok());
    let mut world =
        World::assemble(&disk, request(), options(2), ChaCha8Rng::seed_from_u64(9)).unwrap();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let ends = Arc::clone(&ends);
        move |result: Result<(), VdoError>| ends.lock().unwrap().push((what, result))
    };
    world.volume.start(Box::new(note("start")));
    world.volume.start(Box::new(note("again")));
    world.volume.shut_down(Box::new(note("stop")));
    world.volume.shut_down(Box::new(note("stop again")));
    world.run_until(|| ends.lock().unwrap().len() == 4);
    let ends = ends.lock().unwrap().clone();
    let of = |what| ends.iter().position(|(name, _)| *name == what).unwrap();
    assert!(of("start") < of("stop"), "{ends:?}");
    assert_eq!(
        (&ends[of("start")].1, &ends[of("stop")].1),
        (&Ok(()), &Ok(()))
    );
    assert!(ends[of("again")].1.is_err() && ends[of("stop again")].1.is_err());
    assert_eq!(world.volume.phase(), Phase::Down, "and not online");
}

#[test]
fn an_index_that_is_offline_is_not_asked() {
    let disk = disk(4);
    let mut world = open(&disk, 2);
    world.write(0, &data(1)).unwrap();
    world.settle();
    let asked = |world: &mut World| {
        let index = world.statistics().total().index;
        let posts = index.posts_found + index.posts_not_found;
        posts + index.queries_found + index.queries_not_found
    };
    let before = asked(&mut world);
    assert!(before > 0);
    assert_eq!(world.index(IndexCommand::Offline), Ok(IndexWord::Offline));
    world.write(BLOCK, &data(1)).unwrap();
    world.settle();
    assert_eq!(asked(&mut world), before);
    assert_eq!(world.statistics().total().data.deduplicated_blocks, 0);
    assert_eq!(world.index(IndexCommand::Online), Ok(IndexWord::Online));
    world.write(2 * BLOCK, &data(1)).unwrap();
    world.settle();
    assert_eq!(asked(&mut world), before + 1);
    assert_eq!(world.statistics().total().data.deduplicated_blocks, 1);
    world.shut_down().0.unwrap();
}

#[test]
fn an_index_that_is_silent_is_given_up_on_and_its_late_answers_free_the_contexts() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.settle();
    world.volume.set_dedupe_timeouts(Some(1000), Some(2));
    world.volume.set_index_answer_mode(AnswerMode::Never);
    let writes: Vec<_> = (1..9)
        .map(|lbn| submit_write(&mut world, lbn, data(lbn), false))
        .collect();
    let flush = submit(&mut world, RequestKind::Flush, 0, 0, false);
    world.poll_without_io();
    assert!(
        all_done(&writes),
        "a silent index does not hold up the acknowledgement"
    );
    world.settle();
    assert_eq!(flush.result(), None, "the writes wait for the index");
    world.run_until(|| flush.result().is_some());
    let total = world.statistics().total();
    assert_eq!(total.dedupe_advice_timeouts, 8);
    assert_eq!(total.data.deduplicated_blocks, 0);
    let contexts = world.dump().zones[0].contexts;
    assert_eq!((contexts.pending, contexts.timed_out), (0, 8));
    world.volume.set_index_answer_mode(AnswerMode::Prompt);
    world.settle();
    let contexts = world.dump().zones[0].contexts;
    assert_eq!((contexts.timed_out, contexts.timed_out_complete), (0, 8));
    // All contexts are of use again: as many questions at once as there are contexts.
    let writes: Vec<_> = (0..64)
        .map(|n| submit_write(&mut world, 100 + n, data(100 + n), false))
        .collect();
    world.run_until(|| all_done(&writes));
    world.settle();
    let total = world.statistics().total();
    assert_eq!(total.hash_lock_paths.context_busy, 0);
    assert_eq!(total.dedupe_advice_timeouts, 8);
    world.shut_down().0.unwrap();
}

/// Makes the data of one logical block fail to be read, or everything fail to be written.
fn break_data(disk: &SimDisk, op: BaseOp) {
    let layout = volume_on(&disk.blocks(), disk.size()).unwrap().layout;
    let slabs = layout.slabs;
    disk.state().fault = Some(Box::new(move |io: &BaseIo, pbn, _| {
        io.op == op && slabs.is_data_block(Pbn(pbn))
    }));
}

#[test]
fn a_read_error_fails_the_read_and_nothing_else() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.settle();
    break_data(&disk, BaseOp::Read);
    assert_eq!(world.read(0, 4096), Err(EIO));
    // A part of the block cannot be changed without the rest.
    assert_eq!(world.write(512, &[1; 512]), Err(EIO));
    assert!(!world.volume.is_read_only());
    disk.state().fault = None;
    assert_eq!(world.read(0, 4096).unwrap(), data(1));
    world.shut_down().0.unwrap();
}

#[test]
fn data_that_cannot_be_compared_is_written_anew() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.settle();
    break_data(&disk, BaseOp::Read);
    world.write(BLOCK, &data(1)).unwrap();
    world.settle();
    disk.state().fault = None;
    let total = world.statistics().total();
    assert_eq!(
        (total.data.new_blocks, total.data.deduplicated_blocks),
        (2, 0)
    );
    assert_eq!(total.hash_lock.dedupe_advice_stale, 1);
    assert!(!world.volume.is_read_only());
    let mut world = reopen(world, &disk, 1);
    assert_eq!(world.read(BLOCK, 4096).unwrap(), data(1));
    world.shut_down().0.unwrap();
}

#[test]
fn a_write_error_after_the_acknowledgement_turns_the_volume_read_only() {
    let disk = disk(4);
    let mut world = open(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.flush().unwrap();
    break_data(&disk, BaseOp::Write);
    world.write(BLOCK, &data(2)).unwrap();
    world.settle();
    assert!(world.volume.is_read_only());
    assert!(
        world
            .volume
            .read_only_reason()
            .is_some_and(|why| why.contains("write"))
    );
    // Reads go on, writes of whole blocks or parts do not, nor do flushes.
    assert_eq!(world.read(0, 4096).unwrap(), data(1));
    assert_eq!(world.write(0, &data(3)), Err(EIO));
    assert_eq!(world.write(512, &[3; 512]), Err(EIO));
    assert_eq!(world.flush(), Err(EIO));
    disk.state().fault = None;
    assert!(world.shut_down().0.is_err());
    let before = disk.blocks();
    for _ in 0..2 {
        let mut again = open(&disk, 1);
        assert!(again.volume.is_read_only());
        assert_eq!(again.read(0, 4096).unwrap(), data(1));
        assert_eq!(again.write(512, &[3; 512]), Err(EIO));
        assert_eq!(again.shut_down().0, Ok(()));
        assert!(disk.blocks() == before, "being read changes nothing");
    }
}

#[test]
fn a_write_that_finds_no_room_while_slabs_are_scrubbed_waits_for_one() {
    let disk = disk(6);
    let mut world = open(&disk, 1);
    let mut written = 0;
    while world.write(written * BLOCK, &data(written)) != Err(ENOSPC) {
        written += 1;
    }
    world.flush().unwrap();
    world.settle();
    drop(world);

    // After a crash, a few blocks of the last slab are given up: too few to be seen in the summary, so it is still scrubbed last.
    let mut world = open(&disk, 1);
    world.run_until_scrubbed();
    let salvage = Salvage::new(disk.blocks(), disk.size()).unwrap();
    let slabs = world.volume.layout().slabs;
    let in_last = |lbn: &u64| {
        let slab = slabs.slab_of(salvage.mapping(*lbn).pbn);
        slab.is_some_and(|slab| slab.get() == 5)
    };
    let given_up: Vec<_> = (0..written).filter(in_last).take(3).collect();
    assert_eq!(given_up.len(), 3);
    for lbn in &given_up {
        let ticket = submit(&mut world, RequestKind::Unmap, lbn * BLOCK, BLOCK, true);
        world.run_until(|| ticket.result().is_some());
    }
    world.flush().unwrap();
    world.settle();
    drop(world);

    // It takes requests before the slab is scrubbed, or just after, as things happen.
    let crashed = disk.blocks();
    let opened = (0..100).map(|seed| {
        let disk = SimDisk::holding(crashed.clone(), disk.size());
        let world = open_in_order(&disk, options(1), seed);
        (world, disk)
    });
    let (mut world, disk) = opened
        .into_iter()
        .find(|(world, _)| world.volume.is_recovering())
        .expect("it is scrubbed while requests are taken");
    assert_eq!(world.volume.usage().mode.name(), "recovering");
    for (id, lbn) in given_up.iter().enumerate() {
        let new = data(1_000_000 + id as u64);
        assert_eq!(world.write(lbn * BLOCK, &new), Ok(()), "number {id}");
        assert_eq!(world.read(lbn * BLOCK, BLOCK as usize).unwrap(), new);
    }
    assert!(!world.volume.is_recovering());
    assert_eq!(
        world.write(given_up[0] * BLOCK, &data(5_000_000)),
        Err(ENOSPC)
    );
    world.shut_down().0.unwrap();
    audit_recovered(&disk.blocks(), disk.size()).unwrap();
}

#[test]
fn times_of_stages_are_kept_when_asked_for_and_of_all_zone_threads_together() {
    for zones in [1, 4] {
        let disk = disk(4);
        let mut world = open(&disk, zones);
        let times = |world: &mut World| {
            let volume = Arc::clone(&world.volume);
            world.wait_for(|done| volume.stage_times(done))
        };
        assert_eq!(times(&mut world), None);
        world.write(1, &data(1)).unwrap();
        world.settle();
        world.volume.keep_stage_times(true);
        assert_eq!(
            times(&mut world),
            Some(Vec::new()),
            "what was before is not known"
        );
        for round in 0..2 {
            let writes: Vec<_> = (0..40)
                .map(|n| submit_write(&mut world, n * 400 + round, data(n + 2), true))
                .collect();
            world.run_until(|| all_done(&writes));
            world.settle();
        }
        let kept = times(&mut world).expect("they are kept");
        let of = |stretch| kept.iter().find(|time| time.stretch == stretch);
        let counts = [
            (Stretch::Line, 80),
            (Stretch::HashZone, 80),
            (Stretch::Index, 80),
            (Stretch::DataWrite, 40),
            (Stretch::DataVerify, 40),
        ];
        for (stretch, count) in counts {
            assert_eq!(
                of(stretch).map(|time| time.count),
                Some(count),
                "{stretch:?}: {kept:?}"
            );
        }
        // Pages of the block map are journaled by tasks, not by requests.
        for stretch in [Stretch::Journal, Stretch::SlabJournal] {
            assert_eq!(
                of(stretch).map(|time| time.count),
                Some(80),
                "{stretch:?}: {kept:?}"
            );
        }
        for stretch in [Stretch::DataWrite, Stretch::DataVerify, Stretch::Journal] {
            let time = of(stretch).expect("counted");
            assert!(time.mean.0 > 0 && time.p50 <= time.p99, "{time:?}");
        }
        world.volume.keep_stage_times(false);
        assert_eq!(times(&mut world), None);
        world.shut_down().0.unwrap();
    }
}

/// A change of a block is durable, and the block that held the old data is free and may be given to others, a moment before the block
/// map knows. If the volume turns read-only in that moment, the block map never will: what it says is not to be believed.
#[test]
fn a_block_whose_old_place_is_given_up_is_not_read_there_when_the_volume_turns_read_only() {
    let mut between = 0;
    for seed in 0..3 {
        for steps in 0.. {
            let disk = disk(4);
            let mut world = open_in_order(&disk, options(3), seed);
            let old = data(1);
            // Of several leaves, and so of several zone threads.
            let lbns = [0, 812, 1624];
            lbns.iter()
                .for_each(|lbn| world.write(lbn * BLOCK, &old).unwrap());
            world.flush().unwrap();
            world.settle();
            assert_eq!(world.volume.usage().data_blocks_used, 1);
            for lbn in lbns {
                submit(&mut world, RequestKind::Unmap, lbn * BLOCK, BLOCK, false);
            }
            let moved = (0..steps).take_while(|_| world.step()).count();
            world.volume.enter_read_only("the test asks for it");
            world.settle();
            if world.volume.usage().data_blocks_used == 0 {
                for lbn in lbns {
                    match world.read(lbn * BLOCK, BLOCK as usize) {
                        Ok(now) => assert!(now != old, "block {lbn}, {steps} steps, seed {seed}"),
                        Err(errno) => {
                            assert_eq!(errno, EIO);
                            between += 1;
                        }
                    }
                }
            }
            if moved < steps {
                break;
            }
        }
    }
    assert!(between > 0, "no unmap was met in that moment");
}
