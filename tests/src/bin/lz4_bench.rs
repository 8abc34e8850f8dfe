//! What compressing a block costs, and decompressing it, alone: MB/s of blocks of real files, and what room their fragments take.
//!
//! Every figure is the best of several runs. `lz4_bench [FOLDER]` says whose files (default `/usr/lib`).

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use vdo::format::Block;
use vdo::lz4::{Compressor, decompress};
use vdo::types::BLOCK_SIZE;
use vdo_tests::tools::files_below;

/// Blocks that are tried.
const BLOCKS: usize = 16 * 1024;

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "/usr/lib".into());
    let blocks = gather(Path::new(&folder));
    let mut compressor = Compressor::default();
    let fragments: Vec<Vec<u8>> = blocks
        .iter()
        .filter_map(|block| compressor.compress(block).map(<[u8]>::to_vec))
        .collect();
    let mut block: Box<Block> = Box::new([0; BLOCK_SIZE]);
    let compressing = megabytes_a_second(blocks.len(), || {
        for block in &blocks {
            black_box(compressor.compress(block));
        }
    });
    let decompressing = megabytes_a_second(fragments.len(), || {
        for fragment in &fragments {
            let _ = black_box(decompress(fragment, &mut block));
        }
    });
    let bytes: usize = fragments.iter().map(Vec::len).sum();
    println!(
        "LZ4, {} blocks of files in {folder}: compressing {compressing:.0} MB/s, decompressing {decompressing:.0} MB/s; \
         {} blocks compress, to {:.1} % of their size",
        blocks.len(),
        fragments.len(),
        100.0 * bytes as f64 / (fragments.len() * BLOCK_SIZE).max(1) as f64
    );
}

/// MB/s of blocks, of which `what` does so many.
fn megabytes_a_second(blocks: usize, mut what: impl FnMut()) -> f64 {
    const RUNS: u32 = 5;
    let best = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            what();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (blocks * BLOCK_SIZE) as f64 / 1e6 / best
}

/// Blocks of the files in a folder and below, but those of zeroes, until there are enough.
fn gather(folder: &Path) -> Vec<Block> {
    let mut blocks = Vec::new();
    _ = files_below(folder, &mut |bytes| {
        let whole = bytes.as_chunks::<BLOCK_SIZE>().0;
        blocks.extend(whole.iter().filter(|block| **block != [0; BLOCK_SIZE]));
        match blocks.len() >= BLOCKS {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    blocks.truncate(BLOCKS);
    blocks
}
