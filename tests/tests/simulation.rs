//! Random requests against volumes in the simulator, a few hundred seeds of them. `make sim` runs more.

use std::process::Command;

use vdo::dedupe::Row;
use vdo::types::Pbn;
use vdo_tests::dm_vdo::{Image, lacking, text};
use vdo_tests::sim::batch::{lose_power_of_seeds, run_seeds};
use vdo_tests::sim::losses::trace_losses;
use vdo_tests::sim::profile::Limits;
use vdo_tests::sim::run::{run_seed_and, trace_seed};
use vdo_tests::sim::smaller::Case;
use vdo_tests::sim::trace::Trace;

/// Seeds in the everyday test run.
const SEEDS: u64 = 300;

/// Rows of the hash-lock table that no request can take in the engine as it is, and why.
const UNREACHABLE: [(Row, &str); 8] = [
    (Row::UnlockedAnchored, ANCHORED),
    (Row::RelockedClaimed, ANCHORED),
    (Row::RelockedUnclaimed, ANCHORED),
    (Row::FailedQuerying, "an index that fails gives no advice"),
    (Row::FailedUpdating, "an index that fails is not told"),
    (
        Row::FailedVerifying,
        "a copy that cannot be read is no copy",
    ),
    (Row::FailedUnlocking, "unlocking cannot fail"),
    (
        Row::UnlockedForWaiters,
        "a hash zone unlocks a block within one step, in which nobody arrives",
    ),
];

const ANCHORED: &str = "a block once unlocked is always compared again";

/// Rows that need several rare things at once. The exploration of the machine proves them
/// (`bdev/tests/hash_lock_model`); a run of this size need not meet them.
const RARE: [(Row, &str); 4] = [
    (
        Row::EqualUnclaimed,
        "another lock on the same block claims its last increment meanwhile",
    ),
    (
        Row::RefusedAfterWriting,
        "the copy just written runs out, or goes, while it is unlocked",
    ),
    (
        Row::UnverifiedAfterWriting,
        "the copy just written is overwritten while it is unlocked",
    ),
    (
        Row::FailedLocking,
        "the volume turns read-only while a lock is asked for",
    ),
];

#[test]
fn a_volume_does_what_the_model_says_whatever_is_done_to_it() {
    let batch = run_seeds(0, SEEDS, (2, Limits::default()), |_, _| {});
    for (seed, why) in &batch.failed {
        println!("{}\n", Case::of(*seed, None).tell(why));
    }
    let seeds: Vec<_> = batch.failed.iter().map(|(seed, _)| seed).collect();
    assert!(seeds.is_empty(), "seeds that fail: {seeds:?}");

    let tally = &batch.outcome.tally;
    assert!(tally.no_space > 0, "no volume was ever full");
    assert!(tally.failed > 0, "no request ever failed");
    assert!(tally.grown > 0, "no volume ever grew");
    assert!(batch.read_only > 0, "no volume ever turned read-only");
    let listed = |list: &[(Row, &str)], row| list.iter().any(|(listed, _)| *listed == row);
    for (row, count) in batch.outcome.transitions.iter() {
        if listed(&UNREACHABLE, row) {
            assert_eq!(
                count, 0,
                "{row:?} was taken, though it is listed as unreachable"
            );
        } else if !listed(&RARE, row) {
            assert!(count > 0, "no hash lock ever took {row:?}: {}", row.why());
        }
    }
}

/// Volumes that lose power in the everyday test run, and how often each.
const LOSING: (u64, u64) = (200, 10);

#[test]
fn a_volume_that_loses_power_at_any_moment_comes_back_with_all_that_was_flushed() {
    let (seeds, losses) = LOSING;
    let (survival, failed) =
        lose_power_of_seeds(0, seeds, losses, (2, Limits::default()), |_, _| {});
    for (seed, why) in &failed {
        println!("{}\n", Case::of(*seed, Some(losses)).tell(why));
    }
    let seeds_failed: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    assert!(seeds_failed.is_empty(), "seeds that fail: {seeds_failed:?}");
    println!("{survival:?}");
    assert_eq!(survival.losses, seeds * losses);
    assert!(survival.while_opening > seeds, "{survival:?}");
    assert!(survival.recoveries > 3 * seeds, "{survival:?}");
    assert!(survival.scrubbing > seeds, "{survival:?}");
    assert!(survival.rebuilds > seeds / 10, "{survival:?}");
}

/// Two writes whose names are in chapters on disk took the pages from each other for which both had waited, for ever.
#[test]
fn writes_that_need_more_pages_of_the_index_than_there_is_room_for_all_get_on() {
    let batch = run_seeds(20_229, 1, (1, Limits::default()), |_, _| {});
    assert!(batch.failed.is_empty(), "{:?}", batch.failed);
}

/// Runs each seed twice. What one seed does must not depend on where memory lies, on the order of a hash map, or on
/// the clock; and seeds that all did the same would prove little.
fn each_seed_repeats_its_own_trace(trace: impl Fn(u64) -> Result<Trace, String>) {
    let traces: Vec<Trace> = (0..12)
        .map(|seed| {
            let [first, second] = [(); 2].map(|()| trace(seed).expect("the seed is a good one"));
            let parts = first.first_difference(&second);
            assert_eq!(parts, None, "seed {seed} does not repeat itself");
            assert!(first.events() > 500, "{} events", first.events());
            first
        })
        .collect();
    for (seed, one) in traces.iter().enumerate() {
        for other in &traces[..seed] {
            assert!(one.first_difference(other).is_some(), "seed {seed}");
        }
    }
}

#[test]
fn one_seed_gives_one_trace_and_another_seed_another() {
    each_seed_repeats_its_own_trace(trace_seed);
}

#[test]
fn one_seed_that_loses_power_gives_one_trace_and_another_seed_another() {
    each_seed_repeats_its_own_trace(|seed| trace_losses(seed, 5));
}

#[test]
fn the_audit_of_dm_vdo_agrees_with_what_simulated_volumes_leave() {
    let test = "the_audit_of_dm_vdo_agrees_with_what_simulated_volumes_leave";
    if lacking(test, &["vdoaudit"], false) {
        return;
    }
    let audited = std::cell::Cell::new(0);
    for seed in 1000..1010 {
        let result = run_seed_and(seed, |disk| {
            let image = Image::new(disk.size() * 4096);
            for (pbn, block) in disk.blocks() {
                image.write(Pbn(pbn), &block);
            }
            let audit = Command::new("vdoaudit")
                .arg("--verbose")
                .arg(image.path())
                .output();
            let audit = audit.expect("vdoaudit runs");
            assert!(audit.status.success(), "vdoaudit: {}", text(&audit));
            audited.set(audited.get() + 1);
        });
        if let Err(why) = result {
            panic!("seed {seed} fails: {why}");
        }
    }
    assert!(
        audited.get() >= 8,
        "only {} volumes were audited",
        audited.get()
    );
}
