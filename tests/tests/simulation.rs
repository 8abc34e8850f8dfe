//! Random requests against volumes in the simulator, a few hundred seeds of them. `make sim` runs more.

use vdo_tests::sim::batch::{repeat, run_seeds};

/// Seeds in the everyday test run.
const SEEDS: u64 = 300;

#[test]
fn a_volume_does_what_the_model_says_whatever_is_done_to_it() {
    let batch = run_seeds(0, SEEDS, 2, |_, _| {});
    for (seed, why) in &batch.failed {
        println!(
            "seed {seed} fails: {why}\nrepeat it with: {}\n",
            repeat(*seed)
        );
    }
    let seeds: Vec<_> = batch.failed.iter().map(|(seed, _)| seed).collect();
    assert!(seeds.is_empty(), "seeds that fail: {seeds:?}");
}
