//! Many seeds, on several threads, one seed a thread at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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

/// The command that repeats a seed.
pub fn repeat(seed: u64) -> String {
    format!("make sim SEEDS=1 FROM={seed}")
}

/// Runs `count` seeds beginning with `from` on `threads` threads, and calls `each` after each.
pub fn run_seeds(
    from: u64,
    count: u64,
    threads: usize,
    each: impl Fn(u64, Option<&str>) + Sync,
) -> Batch {
    let next = AtomicU64::new(0);
    let batch: Mutex<Batch> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let seed = from + number;
                    let result = run_seed(seed);
                    each(seed, result.as_ref().err().map(String::as_str));
                    let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(outcome) => {
                            batch.outcome.transitions.add(&outcome.transitions);
                            batch.outcome.tally.add(&outcome.tally);
                            batch.read_only += u64::from(outcome.read_only);
                        }
                        Err(why) => batch.failed.push((seed, why)),
                    }
                }
            });
        }
    });
    batch.into_inner().unwrap_or_else(PoisonError::into_inner)
}
