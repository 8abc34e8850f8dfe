//! Whatever a disk holds, nothing that reads it panics or runs on for ever: with bytes by chance, and with what the fuzzer found.

use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vdo_tests::fuzz;

/// Calls `target` with bytes by chance, and with what is in `tests/fuzz/found` for it.
fn throw(name: &str, times: u64, target: fn(&[u8])) {
    for seed in 0..times {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = vec![0; random.random_range(0..600)];
        random.fill(&mut bytes[..]);
        target(&bytes);
    }
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/found");
    for entry in std::fs::read_dir(found).into_iter().flatten() {
        let path = entry.expect("the folder can be read").path();
        let is_for_it = path
            .file_name()
            .is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-")));
        if is_for_it {
            target(&std::fs::read(&path).expect("the file can be read"));
        }
    }
}

#[test]
fn any_ring_comes_to_a_plan_or_a_refusal() {
    throw("ring", 3000, fuzz::ring);
}

#[test]
fn any_slab_journal_is_replayed_or_refused() {
    throw("slab_journal", 2000, fuzz::slab_journal);
}

#[test]
fn any_part_of_an_index_is_read_or_refused() {
    throw("index", 5000, fuzz::index);
}

#[test]
fn any_super_block_is_read_or_refused() {
    throw("super_block", 3000, fuzz::super_block);
}

#[test]
fn any_damage_to_a_small_volume_leaves_it_open_or_refused() {
    throw("image", 150, fuzz::image);
}
