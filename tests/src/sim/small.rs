//! A small volume, and what is done to it: for tests of what a volume promises, one promise a test.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;
use vdo::format::FormatOptions;
use vdo::seam::{RequestHeader, RequestKind};
use vdo::volume::{FormatPolicy, OpenRequest, RecoveryPolicy, VolumeOptions};

use super::audit::audit;
use super::workload::content;
use super::{SimDisk, Ticket, World};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Blocks of a slab.
const SLAB: u64 = 512;

/// Makes it on a blank disk, or brings it back.
pub fn request() -> OpenRequest {
    let mut format = FormatOptions::miniature(SLAB, 16, 32);
    format.logical_blocks = Some(20_000);
    request_for(format)
}

/// Makes one of that form on a blank disk, or brings it back.
pub fn request_for(format: FormatOptions) -> OpenRequest {
    OpenRequest {
        policy: FormatPolicy::IfBlank,
        format,
        nonce: 7,
        uuid: Uuid::from_u128(9),
        slabs_wanted: 1,
        recovery: RecoveryPolicy::Recover { cache_blocks: 64 },
        available_memory: u64::MAX,
        deduplication: true,
    }
}

/// With so many zone threads.
pub fn options(zones: u8) -> VolumeOptions {
    VolumeOptions {
        zones,
        block_map_cache_blocks: 32,
        requests: 64,
        ..VolumeOptions::default()
    }
}

/// A blank disk with room for so many slabs.
pub fn disk(slabs: u64) -> SimDisk {
    let least = request().format.minimum_device_blocks();
    let least = least.expect("the miniature index can be made");
    SimDisk::new(least + (slabs - 1) * SLAB)
}

/// Opens and starts it.
pub fn open_with(disk: &SimDisk, options: VolumeOptions) -> World {
    open_in_order(disk, options, 3)
}

/// Opens and starts it; everything happens in the order this seed gives.
pub fn open_in_order(disk: &SimDisk, options: VolumeOptions, seed: u64) -> World {
    let random = ChaCha8Rng::seed_from_u64(seed);
    World::open(disk, request(), options, random).expect("it is opened")
}

/// Opens and starts it, with so many zone threads.
pub fn open(disk: &SimDisk, zones: u8) -> World {
    open_with(disk, options(zones))
}

/// Shuts down, audits, and opens again.
pub fn reopen(world: World, disk: &SimDisk, zones: u8) -> World {
    world.shut_down().0.expect("it is shut down");
    audit(&disk.blocks(), disk.size()).expect("nothing contradicts itself");
    open(disk, zones)
}

/// Data that no other number has.
pub fn data(id: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    content(id, &mut block);
    block
}

/// Asks for something without data, or for data.
pub fn submit(
    world: &mut World,
    kind: RequestKind,
    offset: u64,
    length: u64,
    fua: bool,
) -> Arc<Ticket> {
    // What neither reads nor writes has no memory, and may be as long as one likes.
    let memory = match kind {
        RequestKind::Unmap | RequestKind::WriteZeroes | RequestKind::Flush => 0,
        RequestKind::Read | RequestKind::Write => length as usize,
    };
    let header = RequestHeader {
        kind,
        offset,
        length,
        fua,
    };
    world.submit(header, vec![0; memory])
}

/// Writes whole blocks.
pub fn submit_write(world: &mut World, lbn: u64, data: Vec<u8>, fua: bool) -> Arc<Ticket> {
    let header = RequestHeader {
        kind: RequestKind::Write,
        offset: lbn * BLOCK,
        length: data.len() as u64,
        fua,
    };
    world.submit(header, data)
}

/// Whether all have been answered.
pub fn all_done(tickets: &[Arc<Ticket>]) -> bool {
    tickets.iter().all(|ticket| ticket.result().is_some())
}
