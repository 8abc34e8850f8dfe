//! A small volume in the simulator: what it is told, it remembers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;
use vdo::format::FormatOptions;
use vdo::volume::{FormatPolicy, OpenRequest, VolumeOptions};
use vdo_tests::sim::{SimDisk, World};

fn request() -> OpenRequest {
    OpenRequest {
        policy: FormatPolicy::IfBlank,
        format: FormatOptions::miniature(1024, 32, 64),
        nonce: 7,
        uuid: Uuid::from_u128(9),
        slabs_wanted: 1,
    }
}

fn options(zones: u8) -> VolumeOptions {
    VolumeOptions {
        zones,
        block_map_cache_blocks: 64,
        requests: 64,
        index_memory_bytes: Some(64 << 20),
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
