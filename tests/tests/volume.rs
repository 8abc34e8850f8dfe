//! A small volume in the simulator: what it is told, it remembers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vdo::VdoError;
use vdo::format::FormatOptions;
use vdo::format::components::VolumeState;
use vdo::seam::{Nanos, RequestHeader, RequestKind};
use vdo::stats::OperatingMode;
use vdo::volume::{AnswerMode, FormatPolicy, OpenRequest, VolumeError, VolumeOptions};
use vdo_tests::sim::audit::volume_on;
use vdo_tests::sim::{SimDisk, World, small};

fn request() -> OpenRequest {
    OpenRequest {
        format: FormatOptions::miniature(1024, 32, 64),
        ..small::request()
    }
}

fn options(zones: u8) -> VolumeOptions {
    VolumeOptions {
        zones,
        block_map_cache_blocks: 64,
        requests: 64,
        ..VolumeOptions::default()
    }
}

fn block(tag: u8) -> Vec<u8> {
    (0..4096u32)
        .map(|i| tag ^ (i >> 3) as u8 ^ (i % 251) as u8)
        .collect()
}

#[test]
fn what_is_written_reads_back_after_a_restart() {
    for zones in [1, 2, 4] {
        let disk = SimDisk::new(8 * 1024);
        let random = ChaCha8Rng::seed_from_u64(1);
        let mut world = World::open(&disk, request(), options(zones), random).unwrap();
        for lbn in 0..100u64 {
            world
                .write(lbn * 4096, &block((lbn % 10) as u8 + 1))
                .unwrap();
        }
        for lbn in 0..100u64 {
            assert_eq!(
                world.read(lbn * 4096, 4096).unwrap(),
                block((lbn % 10) as u8 + 1)
            );
        }
        world.flush().unwrap();
        let total = world.statistics().total();
        assert_eq!(total.data.new_blocks, 10);
        assert_eq!(total.data.deduplicated_blocks, 90);
        let (result, random) = world.shut_down();
        result.unwrap();

        let mut world = World::open(&disk, request(), options(1), random).unwrap();
        for lbn in 0..100u64 {
            assert_eq!(
                world.read(lbn * 4096, 4096).unwrap(),
                block((lbn % 10) as u8 + 1)
            );
        }
        assert_eq!(world.read(5000 * 4096, 4096).unwrap(), vec![0; 4096]);
        world.shut_down().0.unwrap();
    }
}

#[test]
fn the_room_in_use_is_known_without_asking_and_exact_once_all_is_quiet() {
    for zones in [1, 2, 4] {
        let disk = SimDisk::new(8 * 1024);
        let random = ChaCha8Rng::seed_from_u64(2);
        let mut world = World::open(&disk, request(), options(zones), random).unwrap();
        let mut seen = Vec::new();
        let mut check = |world: &mut World| {
            world.flush().unwrap();
            world.settle();
            let usage = world.volume.usage();
            let statistics = world.statistics();
            let (total, figures) = (statistics.total(), statistics.figures);
            assert_eq!(usage.logical_blocks_used, total.logical_blocks_used);
            assert_eq!(usage.data_blocks_used, total.data_blocks_used);
            assert_eq!(usage.overhead_blocks_used, figures.overhead_blocks_used);
            assert_eq!(usage.physical_blocks, figures.physical_blocks);
            assert_eq!(usage.mode, figures.mode);
            seen.push((usage.logical_blocks_used, usage.data_blocks_used));
        };
        check(&mut world);
        for lbn in 0..90u64 {
            let place = lbn * 50;
            world.write(place * 4096, &block((lbn % 9) as u8)).unwrap();
        }
        check(&mut world);
        let length = 50 * 12 * 4096;
        let unmap = RequestHeader {
            kind: RequestKind::Unmap,
            offset: 0,
            length,
            fua: false,
        };
        world.run(unmap, vec![0; length as usize]).unwrap();
        check(&mut world);
        let (result, random) = world.shut_down();
        result.unwrap();
        let mut world = World::open(&disk, request(), options(zones), random).unwrap();
        check(&mut world);
        assert_eq!(seen[..2], [(0, 0), (90, 9)]);
        assert_eq!(seen[2], seen[3], "the same after a restart");
        assert_eq!(seen[2].0, 78);
        world.shut_down().0.unwrap();
    }
}

#[test]
fn a_host_may_turn_a_volume_read_only_and_the_reason_is_kept() {
    for zones in [1, 2] {
        let disk = SimDisk::new(8 * 1024);
        let random = ChaCha8Rng::seed_from_u64(3);
        let mut world = World::open(&disk, request(), options(zones), random).unwrap();
        world.write(0, &block(1)).unwrap();
        world.flush().unwrap();
        world
            .volume
            .enter_read_only("the base device has shrunk to 3 blocks");
        world.volume.enter_read_only("it went away, too");
        world.settle();
        assert_eq!(
            world.volume.read_only_reason(),
            Some("the base device has shrunk to 3 blocks")
        );
        assert_eq!(world.volume.usage().mode, OperatingMode::ReadOnly);
        assert_eq!(world.read(0, 4096).unwrap(), block(1));
        assert_eq!(world.write(0, &block(2)), Err(5));
        assert_eq!(world.flush(), Err(5));
        let kept = volume_on(&disk.blocks(), disk.size()).unwrap();
        assert_eq!(kept.super_block.volume.state, VolumeState::ReadOnly);
        assert_eq!(world.shut_down().0, Err(VdoError::ReadOnly));
    }
}

#[test]
fn a_volume_that_is_down_cannot_be_turned_read_only() {
    let disk = SimDisk::new(8 * 1024);
    let random = ChaCha8Rng::seed_from_u64(4);
    let world = World::open(&disk, request(), options(1), random).unwrap();
    let volume = std::sync::Arc::clone(&world.volume);
    world.shut_down().0.unwrap();
    volume.enter_read_only("too late");
    assert!(!volume.is_read_only());
}

#[test]
fn only_the_hosts_timer_gives_up_on_the_index_never_a_busy_poll() {
    let disk = SimDisk::new(8 * 1024);
    let random = ChaCha8Rng::seed_from_u64(5);
    let mut world = World::open(&disk, request(), options(1), random).unwrap();
    world.volume.set_dedupe_timeouts(Some(1000), Some(2));
    world.volume.set_index_answer_mode(AnswerMode::Never);
    world.settle();
    world.timers = false;
    world.write(0, &block(1)).unwrap();
    for _ in 0..100 {
        world.settle();
        assert!(world.pass_time(), "the deadline stands until it is served");
    }
    assert_eq!(world.statistics().total().dedupe_advice_timeouts, 0);
    world.timers = true;
    world.settle();
    assert_eq!(world.statistics().total().dedupe_advice_timeouts, 1);
    world.volume.set_index_answer_mode(AnswerMode::Prompt);
    world.settle();
    assert_eq!(world.read(0, 4096).unwrap(), block(1));
    world.shut_down().0.unwrap();
}

#[test]
fn a_delayed_answer_comes_by_a_busy_poll() {
    let disk = SimDisk::new(8 * 1024);
    let random = ChaCha8Rng::seed_from_u64(6);
    let mut world = World::open(&disk, request(), options(1), random).unwrap();
    let delay = AnswerMode::Delayed(Nanos(30_000_000));
    world.volume.set_index_answer_mode(delay);
    world.settle();
    world.timers = false;
    world.write(0, &block(1)).unwrap();
    world.write(4096, &block(1)).unwrap();
    while world.statistics().total().data.deduplicated_blocks == 0 {
        world.settle();
        assert!(world.pass_time());
    }
    assert_eq!(world.statistics().total().dedupe_advice_timeouts, 0);
    world.timers = true;
    world.shut_down().0.unwrap();
}

#[test]
fn with_fewer_slabs_than_wanted_nothing_is_formatted_and_nothing_opened() {
    let disk = SimDisk::new(8 * 1024);
    let open = |policy, slabs_wanted| {
        let request = OpenRequest {
            policy,
            slabs_wanted,
            ..request()
        };
        World::open(&disk, request, options(1), ChaCha8Rng::seed_from_u64(7))
    };
    let refused = |policy, wanted| match open(policy, wanted).err() {
        Some(VolumeError::TooFewSlabs { slabs, wanted: 9 }) => slabs,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(FormatPolicy::IfBlank, 9), 7);
    assert_eq!(refused(FormatPolicy::Force, 9), 7);
    assert!(disk.blocks().is_empty(), "it was written");
    let world = open(FormatPolicy::IfBlank, 7).unwrap();
    world.shut_down().0.unwrap();
    let before = disk.blocks();
    assert_eq!(refused(FormatPolicy::Never, 9), 7);
    assert_eq!(refused(FormatPolicy::IfBlank, 9), 7);
    assert!(disk.blocks() == before, "it was written");
}
