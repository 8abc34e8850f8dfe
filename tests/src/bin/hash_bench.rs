//! What naming a block and asking the index cost, alone: nanoseconds by batch size, and requests per
//! second while the index fills and when it is full.
//!
//! Every figure is the best of several runs, and a copy of 4 KiB is measured beside them, so that
//! a slow or busy machine shows. `hash_bench [MEGABYTES]` sets the memory of the index (default 64).

use std::hint::black_box;
use std::time::Instant;

use vdo::hash::{
    Block, blocks_equal, hash_blocks, hash_lanes, is_zero_block, murmur3_x64_128, preferred_batch,
    record_name,
};
use vdo::index::{
    DedupeIndex, IndexEvent, IndexOp, IndexRegion, IndexRequest, IndexVerb, MemoryIndex,
    ShardConfig,
};
use vdo::seam::Nanos;
use vdo::types::{BLOCK_SIZE, Mapping, MappingState, Pbn, RecordName, ZoneIndex};

/// Requests handed to the index before each poll.
const BATCH: u64 = 16;

fn main() {
    let megabytes = match std::env::args().nth(1).map(|text| text.parse::<u64>()) {
        None => 64,
        Some(Ok(megabytes @ 1..=65536)) => megabytes,
        Some(_) => {
            eprintln!("usage: hash_bench [MEGABYTES], 1 to 65536");
            std::process::exit(2);
        }
    };
    hashing();
    index(megabytes << 20);
}

/// The best time of one call of `what`, in nanoseconds.
fn nanoseconds(mut what: impl FnMut()) -> f64 {
    const CALLS: u32 = 300;
    const RUNS: u32 = 25;
    (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                what();
            }
            start.elapsed().as_nanos() as f64 / f64::from(CALLS)
        })
        .fold(f64::INFINITY, f64::min)
}

fn hashing() {
    let blocks: Vec<Block> = (0..32u32)
        .map(|number| {
            let bytes = murmur3_x64_128(&number.to_le_bytes(), 1);
            std::array::from_fn(|i| bytes[i % 16] ^ (i / 16) as u8)
        })
        .collect();
    let blocks: Vec<&Block> = blocks.iter().collect();
    let mut copy = Box::new([0; BLOCK_SIZE]);
    println!("4 KiB blocks in cache                ns per block");
    let time = nanoseconds(|| copy.copy_from_slice(black_box(blocks[0])));
    println!("  copy                                   {time:8.0}");
    let zero = [0; BLOCK_SIZE];
    let time = nanoseconds(|| {
        black_box(is_zero_block(black_box(&zero)));
    });
    println!("  look for all zero, zero                {time:8.0}");
    let time = nanoseconds(|| {
        black_box(is_zero_block(black_box(blocks[0])));
    });
    println!("  look for all zero, not zero            {time:8.0}");
    copy.copy_from_slice(blocks[0]);
    let time = nanoseconds(|| {
        black_box(blocks_equal(black_box(&copy[..]), black_box(blocks[0])));
    });
    println!("  compare, equal                         {time:8.0}");
    let time = nanoseconds(|| {
        black_box(record_name(black_box(blocks[0])));
    });
    println!("  name, one block alone                  {time:8.0}");
    let time = nanoseconds(|| {
        black_box(hash_lanes(black_box([blocks[0], blocks[1]])));
    });
    println!(
        "  name, two interleaved                  {:8.0}",
        time / 2.0
    );
    let time = nanoseconds(|| {
        let four = [blocks[0], blocks[1], blocks[2], blocks[3]];
        black_box(hash_lanes(black_box(four)));
    });
    println!(
        "  name, four interleaved                 {:8.0}",
        time / 4.0
    );
    for batch in [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32] {
        let mut names = vec![RecordName::default(); batch];
        let time = nanoseconds(|| hash_blocks(black_box(&blocks[..batch]), black_box(&mut names)));
        let mark = if batch == preferred_batch() {
            "preferred here"
        } else {
            ""
        };
        println!(
            "  name, batch of {batch:2}                      {:8.0}  {mark}",
            time / batch as f64
        );
    }
}

fn name(number: u64) -> RecordName {
    RecordName(murmur3_x64_128(&number.to_le_bytes(), 0))
}

/// Nanoseconds this thread has been running on a processor, where the system tells; else time as such.
fn thread_nanoseconds(start: Instant) -> f64 {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| start.elapsed().as_nanos() as f64)
}

/// Hands requests for the contents numbered `numbers` to the index and takes their answers; returns
/// how many knew something, and the nanoseconds of each.
fn run(index: &mut MemoryIndex, op: IndexOp, numbers: impl Iterator<Item = u64>) -> (u64, f64) {
    let names: Vec<(u64, RecordName)> = numbers.map(|number| (number, name(number))).collect();
    let mut found = 0;
    let epoch = Instant::now();
    let start = thread_nanoseconds(epoch);
    for batch in names.chunks(BATCH as usize) {
        for (number, name) in batch {
            index.submit(IndexRequest {
                op,
                name: *name,
                new: Mapping {
                    pbn: Pbn(*number),
                    state: MappingState::UNCOMPRESSED,
                },
                token: 0,
            });
        }
        index.poll(Nanos(0), &mut |event| {
            if let IndexEvent::Answer(answer) = event {
                found += u64::from(matches!(answer.advice, Ok(Some(_))));
            }
        });
    }
    let time = thread_nanoseconds(epoch) - start;
    (found, time / names.len() as f64)
}

fn index(memory_bytes: u64) {
    let mut index = MemoryIndex::new(&ShardConfig {
        memory_bytes,
        sparse: false,
        region: IndexRegion::default(),
        nonce: 1,
        zone: ZoneIndex(0),
        zones: 1,
        requests: BATCH as usize,
    });
    index.start(IndexVerb::Create);
    let mut created = false;
    index.poll(Nanos(0), &mut |event| {
        created |= event == IndexEvent::Done(IndexVerb::Create, Ok(()));
    });
    if !created {
        eprintln!("no memory for an index of {memory_bytes} bytes");
        std::process::exit(1);
    }
    let capacity = index.capacity();
    println!();
    println!(
        "index in memory, {} MiB, {capacity} records of {:.1} bytes",
        memory_bytes >> 20,
        memory_bytes as f64 / capacity as f64
    );
    println!("                                      requests/s        ns   found");
    let show = |what: &str, (found, time): (u64, f64), count: u64| {
        let share = found as f64 / count as f64 * 100.0;
        println!("  {what:30} {:12.0} {time:9.0} {share:6.1} %", 1e9 / time);
    };
    let (few, half) = (capacity / 64, capacity / 2);
    show(
        "post new, first 64th",
        run(&mut index, IndexOp::Post, 0..few),
        few,
    );
    show(
        "query known of a 64th",
        run(&mut index, IndexOp::Query, 0..few),
        few,
    );
    show(
        "post new, up to half",
        run(&mut index, IndexOp::Post, few..half),
        half - few,
    );
    show(
        "post new, second half",
        run(&mut index, IndexOp::Post, half..capacity),
        half,
    );
    show(
        "post new, full",
        run(&mut index, IndexOp::Post, capacity..capacity * 2),
        capacity,
    );
    // A stride through the numbers that are known, so that neighbours are not asked together.
    let known = |i: u64| capacity + half + (i * 7919) % half;
    show(
        "post known",
        run(&mut index, IndexOp::Post, (0..half).map(known)),
        half,
    );
    show(
        "query known",
        run(&mut index, IndexOp::Query, (0..half).map(known)),
        half,
    );
    let unknown = capacity * 3..capacity * 3 + half;
    show(
        "query unknown",
        run(&mut index, IndexOp::Query, unknown),
        half,
    );
    show(
        "update known",
        run(&mut index, IndexOp::Update, (0..half).map(known)),
        half,
    );
    let statistics = index.statistics();
    let early = index.table().map_or(0, |table| table.discarded_early());
    println!(
        "  {} records in it; {} discarded, {:.2} % of them before their time",
        statistics.entries_indexed,
        statistics.entries_discarded,
        early as f64 / statistics.entries_discarded.max(1) as f64 * 100.0
    );
}
