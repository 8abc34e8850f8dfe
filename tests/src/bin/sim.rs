//! Runs the simulator over many seeds, on every core, and prints those that fail, made smaller, with the command that
//! repeats them.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use vdo_tests::sim::batch::{lose_power_of_seeds, run_seeds};
use vdo_tests::sim::profile::Limits;
use vdo_tests::sim::smaller::Case;

/// Runs the simulator over many seeds.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many losses of power each volume lives through; without it, none lose power, and disks fail instead.
    #[arg(long)]
    losses: Option<u64>,
    /// How many threads; one for each core if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// At most so many requests in each life of a volume.
    #[arg(long)]
    requests: Option<u64>,
    /// At most so many leaf pages of the block map.
    #[arg(long)]
    leaves: Option<u64>,
    /// At most so many blocks of each.
    #[arg(long)]
    blocks: Option<u64>,
    /// At most so many zone threads.
    #[arg(long)]
    zones: Option<u64>,
}

impl Arguments {
    fn limits(&self) -> Limits {
        Limits {
            requests: self.requests,
            leaves: self.leaves,
            blocks: self.blocks,
            zones: self.zones,
        }
    }

    /// Tells of a seed that fails; the first ones are made smaller.
    fn tell(&self, bar: &ProgressBar, told: &AtomicU64, seed: u64, why: &str) {
        let case = Case {
            seed,
            losses: self.losses,
            limits: self.limits(),
        };
        let text = match told.fetch_add(1, Ordering::Relaxed) < MADE_SMALLER {
            true => case.tell(why),
            false => format!(
                "seed {seed} fails: {why}\nrepeat it with: {}",
                case.command()
            ),
        };
        bar.suspend(|| println!("{text}\n"));
    }
}

/// Seeds that are made smaller, of those that fail.
const MADE_SMALLER: u64 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bar = ProgressBar::new(arguments.seeds);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left");
    bar.set_style(style.expect("the template is right"));
    std::panic::set_hook(Box::new(|_| {}));
    let threads = arguments.threads.unwrap_or(cores);
    if let Some(losses) = arguments.losses {
        return lose_power(&arguments, threads, losses, &bar);
    }
    let (limits, told) = ((threads, arguments.limits()), AtomicU64::new(0));
    let batch = run_seeds(arguments.from, arguments.seeds, limits, |seed, failure| {
        if let Some(why) = failure {
            arguments.tell(&bar, &told, seed, why);
        }
        bar.inc(1);
    });
    bar.finish();
    let tally = &batch.outcome.tally;
    println!(
        "requests: {} done, {} without space, {} failed; {} volumes ended read-only; {} growths",
        tally.done, tally.no_space, tally.failed, batch.read_only, tally.grown
    );
    println!("discards of freed blocks: {}", batch.outcome.discards);
    println!("\nsteps of hash locks:");
    for (row, count) in batch.outcome.transitions.iter() {
        println!("{:>24}{count:>12}  {}", row.name(), row.why());
    }
    if batch.failed.is_empty() {
        println!("\n{} seeds, none failed", arguments.seeds);
        return ExitCode::SUCCESS;
    }
    let mut seeds: Vec<_> = batch.failed.iter().map(|(seed, _)| *seed).collect();
    seeds.sort_unstable();
    println!(
        "\n{} of {} seeds failed: {seeds:?}",
        seeds.len(),
        arguments.seeds
    );
    ExitCode::FAILURE
}

fn lose_power(arguments: &Arguments, threads: usize, losses: u64, bar: &ProgressBar) -> ExitCode {
    let (from, seeds) = (arguments.from, arguments.seeds);
    let (limits, told) = ((threads, arguments.limits()), AtomicU64::new(0));
    let (survival, failed) = lose_power_of_seeds(from, seeds, losses, limits, |seed, failure| {
        if let Some(why) = failure {
            arguments.tell(bar, &told, seed, why);
        }
        bar.inc(1);
    });
    bar.finish();
    println!(
        "{} losses of power, {} of them before the volume was back; {} recoveries, {} with requests before all slabs were scrubbed, {} rebuilds, {} audits, {} growths",
        survival.losses,
        survival.while_opening,
        survival.recoveries,
        survival.scrubbing,
        survival.rebuilds,
        survival.audits,
        survival.growths
    );
    if failed.is_empty() {
        println!("{seeds} seeds, none failed");
        return ExitCode::SUCCESS;
    }
    let mut numbers: Vec<_> = failed.iter().map(|(seed, _)| *seed).collect();
    numbers.sort_unstable();
    println!("{} of {seeds} seeds failed: {numbers:?}", numbers.len());
    ExitCode::FAILURE
}
