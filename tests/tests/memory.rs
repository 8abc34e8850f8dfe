//! What a volume says of the memory it holds, against what the allocator gave it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vdo::format::FormatOptions;
use vdo::types::BLOCK_SIZE;
use vdo::volume::{OpenRequest, VolumeOptions};
use vdo_tests::sim::{SimDisk, World, small};

/// Counts bytes that are held.
struct Counting;

static HELD: AtomicU64 = AtomicU64::new(0);

/// Zeroed memory is backed by the system as it is used, and so counted by nobody before; blocks for I/O are an exception.
fn counts(layout: Layout, zeroed: bool) -> u64 {
    match zeroed && layout.align() < BLOCK_SIZE {
        true => 0,
        false => layout.size() as u64,
    }
}

// SAFETY: everything is passed on to the system's allocator as it came. What was zeroed is given back in this test
// after the last look.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(counts(layout, false), Ordering::Relaxed);
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(counts(layout, true), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(counts(layout, false), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a volume of `zones` zone threads takes and says, in bytes, when it has started.
fn of(zones: u8) -> (u64, u64) {
    let mut format = FormatOptions::miniature(2048, 32, 32);
    format.logical_blocks = Some(20_000);
    let request = OpenRequest {
        format,
        slabs_wanted: 16,
        ..small::request()
    };
    let least = request.format.minimum_device_blocks().expect("no index");
    let disk = SimDisk::new(least + 15 * 2048);
    // The disk's own memory is taken before.
    let random = || ChaCha8Rng::seed_from_u64(3);
    let options = || VolumeOptions {
        zones,
        ..VolumeOptions::default()
    };
    let first = World::open(&disk, request, options(), random());
    let (shut, _) = first.expect("it is made").shut_down();
    shut.expect("it is shut down");
    let before = HELD.load(Ordering::Relaxed);
    let mut world = World::open(&disk, request, options(), random()).expect("it is opened");
    let taken = HELD.load(Ordering::Relaxed).wrapping_sub(before);
    let said = world.statistics().figures.memory_usage;
    assert_eq!(said.bytes_used, said.peak_bytes_used);
    world.write(0, &[1; BLOCK_SIZE]).expect("it is written");
    let later = world.statistics().figures.memory_usage;
    assert!(later.bytes_used > said.bytes_used, "a page of the map came");
    assert_eq!(later.peak_bytes_used, later.bytes_used);
    let (shut, _) = world.shut_down();
    shut.expect("it is shut down");
    (taken, said.bytes_used)
}

#[test]
fn a_volume_says_how_much_memory_it_holds() {
    for zones in [1, 4, 16] {
        let (taken, said) = of(zones);
        println!("{zones} zones: {taken} bytes taken, {said} told");
        assert!(
            said <= taken && 10 * said >= 9 * taken,
            "{zones} zones: {taken} bytes taken, {said} told"
        );
    }
}
