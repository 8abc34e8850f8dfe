//! Many seeds, on several threads, one seed a thread at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::losses::{Survival, lose_power};
use super::profile::Limits;
use super::run::{Outcome, run_seed};

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Batch {
    /// What the good ones told, added up.
    pub outcome: Outcome,
    /// How many of them ended read-only.
    pub read_only: u64,
    /// The bad ones, with what went wrong.
    pub failed: Vec<(u64, String)>,
}

/// Runs `count` seeds beginning with `from` on `threads` threads, and calls `each` after each.
pub fn run_seeds(
    from: u64,
    count: u64,
    (threads, limits): (usize, Limits),
    each: impl Fn(u64, Option<&str>) + Sync,
) -> Batch {
    let run = |seed| run_seed(seed, limits);
    let (outcomes, failed) = run_all(from, count, threads, run, each);
    let mut batch = Batch {
        failed,
        ..Batch::default()
    };
    for outcome in outcomes {
        batch.outcome.transitions.add(&outcome.transitions);
        batch.outcome.tally.add(&outcome.tally);
        batch.outcome.discards += outcome.discards;
        batch.read_only += u64::from(outcome.read_only);
    }
    batch
}

/// Runs `count` seeds that lose power `losses` times each; see [`run_seeds`].
pub fn lose_power_of_seeds(
    from: u64,
    count: u64,
    losses: u64,
    (threads, limits): (usize, Limits),
    each: impl Fn(u64, Option<&str>) + Sync,
) -> (Survival, Vec<(u64, String)>) {
    let lose = |seed| lose_power(seed, losses, limits);
    let (outcomes, failed) = run_all(from, count, threads, lose, each);
    let mut survival = Survival::default();
    outcomes.iter().for_each(|outcome| survival.add(outcome));
    (survival, failed)
}

/// Runs many seeds and gives what the good ones tell, and the bad ones.
fn run_all<T: Send>(
    from: u64,
    count: u64,
    threads: usize,
    run: impl Fn(u64) -> Result<T, String> + Sync,
    each: impl Fn(u64, Option<&str>) + Sync,
) -> (Vec<T>, Vec<(u64, String)>) {
    let next = AtomicU64::new(0);
    let (good, bad) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let seed = from + number;
                    let result = run(seed);
                    each(seed, result.as_ref().err().map(String::as_str));
                    match result {
                        Ok(outcome) => good
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(outcome),
                        Err(why) => bad
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((seed, why)),
                    }
                }
            });
        }
    });
    let good = good.into_inner().unwrap_or_else(PoisonError::into_inner);
    (
        good,
        bad.into_inner().unwrap_or_else(PoisonError::into_inner),
    )
}
