//! A volume on its way back, and what may come between.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vdo::format::block_map_page::{BlockMapPage, PageValidity};
use vdo::format::components::VolumeState;
use vdo::seam::{BaseIo, BaseOp};
use vdo::types::Pbn;
use vdo::volume::{OpenRequest, RecoveryPolicy, VolumeError};
use vdo_tests::sim::audit::{audit_recovered, volume_on};
use vdo_tests::sim::small::{BLOCK, data, disk, open, open_in_order, options, request};
use vdo_tests::sim::{SimDisk, World};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Ends a volume as a crash does that loses nothing.
fn crash(mut world: World) {
    world.flush().unwrap();
    world.settle();
}

/// Writes new data, block after block, as much as there is room for or so much. Returns how much that was.
fn fill(world: &mut World, most: u64) -> u64 {
    let written = (0..most).find(|id| world.write(id * BLOCK, &data(*id)) == Err(ENOSPC));
    written.unwrap_or(most)
}

/// A volume that was full when it crashed, open while some of its slabs are not scrubbed.
fn full_and_recovering(zones: u8) -> (World, SimDisk, u64) {
    let disk = disk(12);
    let mut world = open(&disk, zones);
    let written = fill(&mut world, u64::MAX);
    crash(world);
    recovering(&disk, zones, written)
}

/// A copy of a disk with a volume that crashed, open while several of its slabs are not scrubbed, in whichever order it takes.
fn recovering(disk: &SimDisk, zones: u8, written: u64) -> (World, SimDisk, u64) {
    let crashed = disk.blocks();
    let opened = (0..100).map(|seed| {
        let disk = SimDisk::holding(crashed.clone(), disk.size());
        (open_in_order(&disk, options(zones), seed), disk)
    });
    let mut several = opened.filter(|(world, _)| world.volume.is_recovering());
    let (world, disk) = several
        .next()
        .expect("slabs are scrubbed while requests are taken");
    (world, disk, written)
}

fn percentage(world: &mut World) -> u64 {
    world.statistics().figures.recovery_percentage
}

fn state_on(disk: &SimDisk) -> VolumeState {
    let volume = volume_on(&disk.blocks(), disk.size()).unwrap();
    volume.super_block.volume.state
}

#[test]
fn while_slabs_are_scrubbed_data_is_written_and_read() {
    for zones in [1, 3] {
        let disk = disk(12);
        let mut world = open(&disk, zones);
        let written = fill(&mut world, 2_000);
        crash(world);
        let (mut world, disk, _) = recovering(&disk, zones, written);
        assert_eq!(world.volume.usage().mode.name(), "recovering");
        assert!(percentage(&mut world) < 100);
        // New data, and data of which some is in slabs that are not scrubbed.
        for id in (0..20)
            .map(|step| 10_000 + step)
            .chain((0..20).map(|step| step * 90))
        {
            let lbn = 5_000 + id % 7_919;
            world.write(lbn * BLOCK, &data(id)).unwrap();
            assert_eq!(world.read(lbn * BLOCK, BLOCK as usize).unwrap(), data(id));
        }
        world.run_until_scrubbed();
        assert_eq!(percentage(&mut world), 100);
        for lbn in 0..written {
            assert_eq!(world.read(lbn * BLOCK, BLOCK as usize).unwrap(), data(lbn));
        }
        world.shut_down().0.unwrap();
        audit_recovered(&disk.blocks(), disk.size()).unwrap();
    }
}

#[test]
fn a_write_without_room_fails_once_all_slabs_are_scrubbed_in_all_zones() {
    let (mut world, disk, written) = full_and_recovering(3);
    assert_eq!(world.write(written * BLOCK, &data(written)), Err(ENOSPC));
    assert!(!world.volume.is_recovering(), "it has waited until then");
    world.shut_down().0.unwrap();
    audit_recovered(&disk.blocks(), disk.size()).unwrap();
}

#[test]
fn a_write_that_waits_for_a_slab_ends_when_slabs_cannot_be_read() {
    let (mut world, disk, written) = full_and_recovering(1);
    let slabs = world.volume.layout().slabs;
    disk.state().fault = Some(Box::new(move |io: &BaseIo, pbn, _| {
        io.op == BaseOp::Read && !slabs.is_data_block(Pbn(pbn))
    }));
    assert_eq!(world.write(written * BLOCK, &data(written)), Err(EIO));
    assert!(world.volume.is_read_only());
    assert!(world.shut_down().0.is_err());
    assert_eq!(state_on(&disk), VolumeState::ReadOnly);
}

#[test]
fn a_recovery_that_meets_a_read_error_is_refused_and_the_next_one_finds_everything() {
    let disk = disk(6);
    let mut world = open(&disk, 1);
    let written = fill(&mut world, 500);
    crash(world);
    let slabs = volume_on(&disk.blocks(), disk.size()).unwrap().layout.slabs;
    for reads_that_succeed in [0, 1, 3] {
        let mut reads = 0;
        disk.state().fault = Some(Box::new(move |io: &BaseIo, pbn, _| {
            // Nothing but pages of the block map is read of slabs' data now.
            let is_page = io.op == BaseOp::Read && slabs.is_data_block(Pbn(pbn));
            reads += u64::from(is_page);
            is_page && reads > reads_that_succeed
        }));
        let random = ChaCha8Rng::seed_from_u64(reads_that_succeed);
        let opened = World::open(&disk, request(), options(1), random);
        assert!(matches!(opened.err(), Some(VolumeError::Failed(_))));
        assert_eq!(state_on(&disk), VolumeState::Dirty);
    }
    disk.state().fault = None;
    let mut world = open(&disk, 1);
    for lbn in 0..written {
        assert_eq!(world.read(lbn * BLOCK, BLOCK as usize).unwrap(), data(lbn));
    }
    world.shut_down().0.unwrap();
    audit_recovered(&disk.blocks(), disk.size()).unwrap();
}

/// A volume that is read-only on disk, and the places of its pages.
fn read_only_volume() -> (SimDisk, Vec<Pbn>) {
    let disk = disk(6);
    let mut world = open(&disk, 1);
    fill(&mut world, 500);
    world.flush().unwrap();
    world.shut_down().0.unwrap();
    let world = open(&disk, 1);
    world.volume.enter_read_only("the test asks for it");
    assert!(world.shut_down().0.is_err());
    assert_eq!(state_on(&disk), VolumeState::ReadOnly);
    let nonce = request().nonce;
    let slabs = volume_on(&disk.blocks(), disk.size()).unwrap().layout.slabs;
    let blocks = disk.blocks();
    let pages = blocks.iter().filter(|(pbn, block)| {
        let validity = BlockMapPage::new(block).validity(nonce, Pbn(**pbn));
        slabs.is_data_block(Pbn(**pbn)) && validity == PageValidity::Valid
    });
    let pages: Vec<_> = pages.map(|(pbn, _)| Pbn(*pbn)).collect();
    assert!(pages.len() >= 4, "{pages:?}");
    (disk, pages)
}

/// Rebuilds the volume. Every block of it then has its data or none.
fn rebuild(disk: &SimDisk) {
    let rebuilding = OpenRequest {
        recovery: RecoveryPolicy::Rebuild { cache_blocks: 64 },
        ..request()
    };
    let random = ChaCha8Rng::seed_from_u64(1);
    let mut world = World::open(disk, rebuilding, options(1), random).unwrap();
    disk.state().fault = None;
    for lbn in 0..500 {
        let read = world.read(lbn * BLOCK, BLOCK as usize).unwrap();
        assert!(read == data(lbn) || read == vec![0; BLOCK as usize]);
    }
    world.write(0, &data(77_777)).unwrap();
    world.shut_down().0.unwrap();
    audit_recovered(&disk.blocks(), disk.size()).unwrap();
}

#[test]
fn a_rebuild_takes_a_page_that_cannot_be_read_as_lost() {
    let (_, pages) = read_only_volume();
    for page in pages {
        let (disk, _) = read_only_volume();
        disk.state().fault = Some(Box::new(move |io: &BaseIo, _, _| {
            io.op == BaseOp::Read && io.pbn == page
        }));
        rebuild(&disk);
    }
}

#[test]
fn a_rebuild_takes_a_page_that_is_another_as_lost() {
    let (_, pages) = read_only_volume();
    for (page, other) in pages.iter().zip(pages.iter().skip(1)) {
        let (disk, _) = read_only_volume();
        disk.overwrite(page.get(), &disk.block(other.get()));
        rebuild(&disk);
    }
}

#[test]
fn a_start_whose_super_block_cannot_be_written_fails_and_leaves_the_volume_as_it_was() {
    let disk = disk(6);
    let mut world = open(&disk, 1);
    fill(&mut world, 100);
    world.shut_down().0.unwrap();
    let super_block = volume_on(&disk.blocks(), disk.size())
        .unwrap()
        .layout
        .super_block;
    disk.state().fault = Some(Box::new(move |io: &BaseIo, pbn, _| {
        io.op == BaseOp::Write && pbn == super_block.get()
    }));
    let random = ChaCha8Rng::seed_from_u64(1);
    assert!(World::open(&disk, request(), options(1), random).is_err());
    assert_eq!(state_on(&disk), VolumeState::Clean);
    disk.state().fault = None;
    let mut world = open(&disk, 1);
    assert_eq!(world.read(7 * BLOCK, BLOCK as usize).unwrap(), data(7));
    world.shut_down().0.unwrap();
}

#[test]
fn a_volume_that_turns_read_only_before_it_is_up_is_so_on_disk_once_it_is() {
    let disk = disk(6);
    let mut world = open(&disk, 1);
    fill(&mut world, 100);
    world.shut_down().0.unwrap();
    let random = ChaCha8Rng::seed_from_u64(1);
    let mut world = World::assemble(&disk, request(), options(1), random).unwrap();
    let volume = Arc::clone(&world.volume);
    volume.enter_read_only("the test asks for it");
    world.wait_for(|done| volume.start(done)).unwrap();
    assert_eq!(world.write(0, &data(1)), Err(EIO));
    assert_eq!(world.read(7 * BLOCK, BLOCK as usize).unwrap(), data(7));
    world.settle();
    assert_eq!(state_on(&disk), VolumeState::ReadOnly);
    assert!(world.shut_down().0.is_err());
    assert_eq!(state_on(&disk), VolumeState::ReadOnly);
}
