//! What naming a block costs, alone: nanoseconds by batch size.
//!
//! Every figure is the best of several runs, and a copy of 4 KiB is measured beside them, so that
//! a slow or busy machine shows.

use std::hint::black_box;
use std::time::Instant;

use vdo::hash::{
    Block, blocks_equal, hash_blocks, hash_lanes, is_zero_block, murmur3_x64_128, preferred_batch,
    record_name,
};
use vdo::types::{BLOCK_SIZE, RecordName};

fn main() {
    hashing();
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
