//! How long a volume takes from being opened to its first read, and until all of its room is known: after a crash with a full
//! recovery journal, and after a shutdown with very many slabs. One zone thread; opening and zone thread share a core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vdo::format::FormatOptions;
use vdo::volume::{OpenRequest, RecoveryPolicy, VolumeOptions};
use vdo_tgt::bdev::{DelayBdev, Latencies, Registry};
use vdo_tgt::reactor::begin_turn;

use super::load::{At, Caller, Data, Work};
use super::volumes::{Bench, assemble, bdev, format_request, open_on, start};

/// Blocks of the journal, and entries of each.
const JOURNAL: u64 = 32768 * 217;

struct Times {
    opened: Duration,
    first_read: Duration,
    all_room: Duration,
}

/// Opens the volume on `bdev`. If it was shut down, `used` says how many of its blocks hold data: slabs that are not read count
/// as full.
fn come_back(
    registry: Registry,
    bdev: &str,
    request: &OpenRequest,
    used: Option<u64>,
) -> (Bench, Times) {
    let cache_blocks = VolumeOptions::default().block_map_cache_blocks;
    let request = OpenRequest {
        recovery: RecoveryPolicy::Recover { cache_blocks },
        ..*request
    };
    let begin = Instant::now();
    let found = open_on(&registry, bdev, request);
    let opened = begin.elapsed();
    let (volume, seeds) = assemble(found, 1);
    let mut threads = start(&volume, seeds, &registry, bdev);
    let mut caller = Caller::new(&volume, 0);
    let read = Work::new("", Data::Read, At::Mapped);
    caller.run(&mut threads[0], read, 1, None);
    let first_read = begin.elapsed();
    let is_whole = || match used {
        Some(used) => volume.usage().data_blocks_used == used,
        None => !volume.is_recovering(),
    };
    while !is_whole() {
        threads[0].poll(begin_turn());
        assert!(!volume.is_read_only(), "{:?}", volume.read_only_reason());
        assert!(
            begin.elapsed() < Duration::from_secs(100),
            "{:?}",
            volume.usage()
        );
    }
    let times = Times {
        opened,
        first_read,
        all_room: begin.elapsed(),
    };
    let bench = Bench {
        volume,
        threads,
        registry,
    };
    (bench, times)
}

fn say(what: &str, times: &Times) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let Times {
        opened,
        first_read,
        all_room,
    } = times;
    println!(
        "{what}: opened after {:.0} ms, first read after {:.0} ms, all room known after {:.0} ms",
        ms(*opened),
        ms(*first_read),
        ms(*all_room)
    );
}

/// Shuts it down, and says how many of its blocks hold data.
fn shut_down(mut bench: Bench) -> (Registry, u64) {
    let down = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&down);
    bench.volume.shut_down(Box::new(move |result| {
        result.expect("it is shut down");
        told.store(true, Ordering::Relaxed);
    }));
    while !down.load(Ordering::Relaxed) {
        bench.threads[0].poll(begin_turn());
    }
    let used = bench.volume.usage().data_blocks_used;
    (bench.registry, used)
}

/// After a crash, when the journal has come round, and nearly every slab was written to.
fn full_journal() {
    let mut bench = Bench::one_zone(false);
    let mut caller = bench.fill();
    let work = Work::new("", Data::Mixed, At::Anywhere);
    caller.run(&mut bench.threads[0], work, JOURNAL + JOURNAL / 10, None);
    let slabs = bench.volume.layout().slabs.slab_count;
    drop(caller);
    // A crash: what is in memory is gone.
    let registry = bench.registry;
    let (_, times) = come_back(registry, "base", &format_request(), None);
    say(&format!("a crash, the journal full, {slabs} slabs"), &times);
}

/// After a shutdown, most slabs having been used.
fn many_slabs() {
    const SLABS: u64 = 8192;
    let request = OpenRequest {
        format: FormatOptions {
            logical_blocks: Some(SLABS * 55),
            ..FormatOptions::miniature(64, 8, 32768)
        },
        ..format_request()
    };
    let blocks = request
        .format
        .minimum_device_blocks()
        .expect("it can be made");
    let registry = bdev(blocks + (SLABS - 1) * 64);
    let found = open_on(&registry, "base", request);
    let (volume, seeds) = assemble(found, 1);
    let slabs = volume.layout().slabs.slab_count;
    let threads = start(&volume, seeds, &registry, "base");
    let mut bench = Bench {
        volume,
        threads,
        registry,
    };
    let mut caller = Caller::new(&bench.volume, 0);
    caller.run(
        &mut bench.threads[0],
        Work::FILL_UNIQUE,
        SLABS * 50,
        Some((0, 1)),
    );
    let work = Work::new("", Data::Duplicate, At::Anywhere);
    caller.run(&mut bench.threads[0], work, SLABS * 10, None);
    drop(caller);
    let (registry, used) = shut_down(bench);
    let (bench, times) = come_back(registry, "base", &request, Some(used));
    say(&format!("a shutdown, {slabs} slabs"), &times);

    let (registry, used) = shut_down(bench);
    let slow = Latencies {
        average_read: 100,
        p99_read: 100,
        average_write: 100,
        p99_write: 100,
    };
    let slow = DelayBdev::new(&registry, "base", "slow".into(), None, slow);
    registry
        .add(slow.expect("memory"))
        .expect("the name is free");
    let (_, times) = come_back(registry, "slow", &request, Some(used));
    say(
        &format!("a shutdown, {slabs} slabs, 100 us for each I/O"),
        &times,
    );
}

/// Prints them.
pub(crate) fn print() {
    full_journal();
    many_slabs();
}
