//! What compression promises, one promise a test, in the simulator.

use std::sync::Arc;

use vdo::format::compressed_block::MAXIMUM_FRAGMENTS;
use vdo::packer::QUIET;
use vdo::seam::{BaseOp, RequestKind};
use vdo::stats::PackerStatistics;
use vdo::types::{Mapping, Pbn};
use vdo::volume::VolumeOptions;
use vdo_tests::sim::audit::volume_on;
use vdo_tests::sim::salvage::Salvage;
use vdo_tests::sim::small::*;
use vdo_tests::sim::workload::content;
use vdo_tests::sim::{SimDisk, Ticket, World};

const EIO: i32 = 5;

/// With so many zone threads, and compression.
fn compressing(zones: u8) -> VolumeOptions {
    VolumeOptions {
        compression: true,
        ..options(zones)
    }
}

fn open_compressing(disk: &SimDisk, zones: u8) -> World {
    open_with(disk, compressing(zones))
}

/// Data that no other number has, of which so many bytes in a hundred compress to nearly nothing.
fn squeezable(id: u64, percent: usize) -> Vec<u8> {
    let mut block = vec![id as u8; BLOCK as usize];
    content(id, &mut block[..BLOCK as usize * (100 - percent) / 100]);
    block
}

fn write(world: &mut World, lbn: u64, data: Vec<u8>) -> Arc<Ticket> {
    submit_write(world, lbn, data, false)
}

fn packer(world: &mut World) -> PackerStatistics {
    world.statistics().total().packer
}

fn lying(world: &mut World) -> u64 {
    packer(world).compressed_fragments_in_packer
}

/// Fragments and blocks written.
fn written(world: &mut World) -> (u64, u64) {
    let packer = packer(world);
    let blocks = packer.compressed_blocks_written;
    (packer.compressed_fragments_written, blocks)
}

/// Where a logical block is, as the volume on disk says, which was shut down.
fn mapping(disk: &SimDisk, lbn: u64) -> Mapping {
    let salvage = Salvage::new(disk.blocks(), disk.size()).expect("a volume");
    salvage.mapping(lbn)
}

/// Has writes packed and written that have been submitted.
fn finish(world: &mut World, writes: &[Arc<Ticket>]) {
    world.run_until(|| all_done(writes));
    world.poll_without_io();
    world.flush().expect("a flush");
    world.settle();
}

/// What [`write_halves`] writes: two of them fit in a block.
fn half(lbn: u64) -> Vec<u8> {
    squeezable(1 + lbn, 55)
}

/// Writes blocks that compress by half and flushes them.
fn write_halves(world: &mut World, blocks: std::ops::Range<u64>) {
    let writes: Vec<_> = blocks.map(|lbn| write(world, lbn, half(lbn))).collect();
    finish(world, &writes);
}

#[test]
fn what_compresses_shares_blocks_and_reads_back_whole() {
    for zones in [1, 3] {
        let disk = disk(4);
        let mut options = compressing(zones);
        options.requests = 400;
        let mut world = open_with(&disk, options);
        let data = |lbn: u64| squeezable(lbn + 1, (lbn % 100) as usize);
        let writes: Vec<_> = (0..200)
            .map(|lbn| write(&mut world, lbn, data(lbn)))
            .collect();
        finish(&mut world, &writes);
        let total = world.statistics().total();
        assert_eq!(total.data.new_blocks + total.data.compressed_blocks, 200);
        let (fragments, blocks) = written(&mut world);
        assert_eq!(fragments, total.data.compressed_blocks);
        // A hundred would hold all bytes, were there no blocks.
        let used = total.data.new_blocks + blocks;
        assert!(
            used < 130,
            "{used} blocks, {fragments} fragments in {blocks}"
        );

        let check = |world: &mut World| {
            for lbn in 0..200 {
                assert!(world.read(lbn * BLOCK, 4096).unwrap() == data(lbn), "{lbn}");
                let part = world.read(lbn * BLOCK + 700, 512).unwrap();
                assert!(part == data(lbn)[700..1212], "{lbn}");
            }
        };
        check(&mut world);
        let mut world = reopen(world, &disk, 1);
        check(&mut world);
        world.shut_down().0.unwrap();
    }
}

#[test]
fn a_write_lies_in_the_packer_only_until_nothing_has_come_for_a_moment() {
    let disk = disk(4);
    let mut world = open_compressing(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.settle();
    let one = write(&mut world, 5, squeezable(5, 50));
    world.poll_without_io();
    assert_eq!(one.result(), Some(0), "its caller waits for no company");
    assert_eq!(lying(&mut world), 1);
    let read = submit(&mut world, RequestKind::Read, 5 * BLOCK, BLOCK, false);
    world.poll_without_io();
    assert_eq!(read.data(), squeezable(5, 50), "read from memory");
    assert_eq!(lying(&mut world), 1, "a reader does not take it out");
    // The time has come, and one poll is enough.
    let before = world.now();
    assert!(world.pass_time());
    assert!(world.now().0 - before.0 <= QUIET.0);
    world.poll_without_io();
    assert_eq!(lying(&mut world), 0);
    assert!(!world.pass_time() || world.now().0 - before.0 > QUIET.0);
    world.settle();
    assert_eq!(written(&mut world), (0, 0), "it had no company");
    world.shut_down().0.unwrap();
}

#[test]
fn whoever_waits_takes_writes_out_of_the_packer_at_once() {
    for zones in [1, 3] {
        let disk = disk(4);
        let mut world = open_compressing(&disk, zones);
        world.write(0, &data(1)).unwrap();
        world.settle();
        // No deadline ever comes.
        world.timers = false;
        let two = |world: &mut World, id: u64| {
            for lbn in [5, 6] {
                write(world, lbn, squeezable(id + lbn, 50));
            }
            world.settle();
        };
        two(&mut world, 100);
        let before = lying(&mut world);
        assert!(before > 0);
        world.flush().unwrap();
        assert_eq!(lying(&mut world), 0, "a flush empties all packers");

        two(&mut world, 200);
        assert!(lying(&mut world) > 0);
        for lbn in [5, 6] {
            let fua = submit_write(&mut world, lbn, squeezable(300 + lbn, 50), true);
            world.run_until(|| fua.result().is_some());
        }
        assert_eq!(
            lying(&mut world),
            0,
            "who overwrites, and who wants it durable"
        );
        assert_eq!(world.read(5 * BLOCK, 4096).unwrap(), squeezable(305, 50));

        two(&mut world, 400);
        let known = squeezable(405, 50);
        write(&mut world, 7, known.clone());
        world.settle();
        let deduplicated = world.statistics().total().data.deduplicated_blocks;
        assert_eq!(deduplicated, 1, "who brings the same data");
        assert_eq!(world.read(7 * BLOCK, 4096).unwrap(), known);

        two(&mut world, 500);
        assert!(lying(&mut world) > 0);
        world.volume.set_compression(false);
        world.poll_without_io();
        assert_eq!(lying(&mut world), 0, "who switches it off");
        two(&mut world, 600);
        assert_eq!(lying(&mut world), 0);

        world.volume.set_compression(true);
        two(&mut world, 700);
        let mut world = reopen(world, &disk, 1);
        assert_eq!(world.read(6 * BLOCK, 4096).unwrap(), squeezable(706, 50));
        world.shut_down().0.unwrap();
    }
}

/// There are 64 records for requests, fewer than bins could hold fragments.
#[test]
fn requests_that_find_no_record_take_those_that_have_one_out_of_the_packer() {
    for zones in [1, 4] {
        let disk = disk(4);
        let mut world = open_compressing(&disk, zones);
        world.timers = false;
        let blocks = 600;
        let all: Vec<u8> = (0..blocks)
            .flat_map(|lbn| squeezable(lbn + 1, 95))
            .collect();
        let large = submit_write(&mut world, 0, all.clone(), false);
        world.run_until(|| large.result().is_some());
        world.flush().unwrap();
        assert_eq!(world.read(0, all.len()).unwrap(), all);
        let (fragments, blocks) = written(&mut world);
        let most = if zones == 1 { 10 } else { 2 };
        assert!(fragments > most * blocks, "{fragments} in {blocks}");
        world.shut_down().0.unwrap();
    }
}

#[test]
fn packing_goes_on_while_the_device_writes_nothing() {
    let disk = disk(4);
    let mut options = compressing(1);
    options.requests = 500;
    let mut world = open_with(&disk, options);
    // The page of the block map is there, and so is the index.
    world.write(0, &data(1)).unwrap();
    world.settle();
    let writes: Vec<_> = (1..401)
        .map(|lbn| write(&mut world, lbn, half(lbn)))
        .collect();
    world.poll_without_io();
    assert!(all_done(&writes), "they wait for nothing");
    finish(&mut world, &writes);
    assert_eq!(written(&mut world), (400, 200));
    world.shut_down().0.unwrap();
}

#[test]
fn a_duplicate_of_a_fragment_shares_it() {
    for zones in [1, 2] {
        let disk = disk(4);
        let mut world = open_compressing(&disk, zones);
        write_halves(&mut world, 0..20);
        let before = world.statistics().total();
        for lbn in 0..20 {
            world.write((100 + lbn) * BLOCK, &half(lbn)).unwrap();
            world.settle();
        }
        let after = world.statistics().total();
        assert_eq!(after.data_blocks_used, before.data_blocks_used);
        assert_eq!(after.data.deduplicated_blocks, 20);
        assert_eq!(after.hash_lock.dedupe_advice_valid, 20);
        world.shut_down().0.unwrap();
        for lbn in 0..20 {
            assert_eq!(mapping(&disk, lbn), mapping(&disk, 100 + lbn));
        }
    }
}

#[test]
fn references_to_all_fragments_of_a_block_are_254_at_most() {
    let disk = disk(4);
    let mut world = open_compressing(&disk, 1);
    // Fourteen in one block.
    let writes: Vec<_> = (0..MAXIMUM_FRAGMENTS as u64)
        .map(|lbn| write(&mut world, lbn, squeezable(lbn + 1, 98)))
        .collect();
    finish(&mut world, &writes);
    assert_eq!(written(&mut world), (14, 1));
    for lbn in 20..600 {
        world
            .write(lbn * BLOCK, &squeezable(1 + lbn % 2, 98))
            .unwrap();
        world.settle();
    }
    world.flush().unwrap();
    let total = world.statistics().total();
    assert_eq!(total.data_blocks_used, 1 + 2, "580 more, of two kinds");
    assert!(total.hash_lock.dedupe_advice_stale > 0);
    let mut world = reopen(world, &disk, 2);
    for lbn in 20..600 {
        let wanted = squeezable(1 + lbn % 2, 98);
        assert_eq!(world.read(lbn * BLOCK, 4096).unwrap(), wanted);
    }
    world.shut_down().0.unwrap();
}

#[test]
fn a_compressed_block_is_free_when_its_last_fragment_is_discarded() {
    let disk = disk(4);
    let mut world = open_compressing(&disk, 1);
    let used = |world: &mut World| world.statistics().total().data_blocks_used;
    write_halves(&mut world, 0..2);
    assert_eq!((used(&mut world), written(&mut world)), (1, (2, 1)));
    for (lbn, left) in [(0, 1), (1, 0)] {
        let unmap = submit(&mut world, RequestKind::Unmap, lbn * BLOCK, BLOCK, false);
        world.run_until(|| unmap.result().is_some());
        world.settle();
        assert_eq!(used(&mut world), left);
    }
    world.shut_down().0.unwrap();
}

#[test]
fn a_part_of_a_fragment_is_overwritten_and_the_rest_stays() {
    let disk = disk(4);
    let mut world = open_compressing(&disk, 2);
    write_halves(&mut world, 0..10);
    let mut wanted: Vec<u8> = (0..10).flat_map(half).collect();
    for at in (0..10 * 4096 - 1000).step_by(2900) {
        wanted[at..at + 777].fill(0xd5);
        world.write(at as u64, &wanted[at..at + 777]).unwrap();
    }
    world.flush().unwrap();
    assert!(world.read(0, wanted.len()).unwrap() == wanted);
    let unmap = submit(&mut world, RequestKind::Unmap, 5000, 3000, false);
    world.run_until(|| unmap.result().is_some());
    wanted[5000..8000].fill(0);
    let mut world = reopen(world, &disk, 1);
    assert!(world.read(0, wanted.len()).unwrap() == wanted);
    world.shut_down().0.unwrap();
}

#[test]
fn a_fragment_that_makes_no_sense_is_a_read_error_of_its_block_and_nothing_else() {
    let disk = disk(4);
    let mut world = open_compressing(&disk, 1);
    write_halves(&mut world, 0..4);
    let places: Vec<_> = (0..4).map(|lbn| mapping(&disk, lbn)).collect();
    let slot = usize::from(places[0].state.bits()) - 2;
    let mut spoil = |change: &dyn Fn(&mut [u8; 4096])| {
        let sound = disk.block(places[0].pbn.get());
        let mut block = sound;
        change(&mut block);
        disk.overwrite(places[0].pbn.get(), &block);
        assert_eq!(world.read(0, 4096), Err(EIO));
        // The index knows of it, and it is not shared.
        world.write(50 * BLOCK, &half(0)).unwrap();
        assert_eq!(world.write(100, &[1; 50]), Err(EIO), "merged into nothing");
        world.flush().unwrap();
        for lbn in (1..4).filter(|lbn| places[*lbn].pbn != places[0].pbn) {
            let found = world.read(lbn as u64 * BLOCK, 4096).unwrap();
            assert_eq!(found, half(lbn as u64));
        }
        assert!(!world.volume.is_read_only());
        disk.overwrite(places[0].pbn.get(), &sound);
        for lbn in [0, 50] {
            let found = world.read(lbn * BLOCK, 4096).unwrap();
            assert_eq!(found, half(0));
        }
    };
    spoil(&|block| block[0] = 2);
    spoil(&|block| block[8 + 2 * slot..][..2].fill(0xff));
    spoil(&|block| block[8 + 2 * slot..][..2].fill(0));
    spoil(&|block| block[36..].fill(0xff));
    world.write(0, &squeezable(9, 50)).unwrap();
    assert_eq!(world.read(0, 4096).unwrap(), squeezable(9, 50));
    world.shut_down().0.unwrap();
}

#[test]
fn a_compressed_block_that_cannot_be_written_is_written_uncompressed() {
    let disk = disk(4);
    let mut world = open_compressing(&disk, 1);
    world.write(0, &data(1)).unwrap();
    world.settle();
    let slabs = volume_on(&disk.blocks(), disk.size()).unwrap().layout.slabs;
    // Blocks of fragments begin with their version.
    disk.state().fault = Some(Box::new(move |io, pbn, block| {
        io.op == BaseOp::Write
            && slabs.is_data_block(Pbn(pbn))
            && block[..8] == [1, 0, 0, 0, 0, 0, 0, 0]
    }));
    write_halves(&mut world, 10..30);
    disk.state().fault = None;
    let total = world.statistics().total();
    assert!(total.packer.compressed_blocks_written > 0);
    assert_eq!(total.data.compressed_blocks, 0);
    let mut world = reopen(world, &disk, 1);
    for lbn in 10..30 {
        assert_eq!(world.read(lbn * BLOCK, 4096).unwrap(), half(lbn));
    }
    world.shut_down().0.unwrap();
}
