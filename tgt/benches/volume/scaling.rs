//! `make bench-scaling`: how a volume would do with more zone threads than this machine has cores, as far as instructions say.
//!
//! The program runs itself under callgrind with 1 to 16 zone threads, all polled in turn by one thread, so that nothing depends on
//! how many cores there are. Told apart is what zone thread 0 executes, which keeps the journal for all, and what the others do.
//! The busiest thread bounds the rate. Not in it: that data other threads have written costs more to read than one's own.

use std::path::Path;
use std::process::Command;

use vdo::seam::Nanos;
use vdo::volume::ZoneThread;
use vdo_tgt::reactor::begin_turn;

use super::load::{BenchHost, CONTENTS, Caller, DEPTH, RANGE, SPARSE, Work};
use super::volumes::{open, start};

/// Numbers of zone threads in the table.
const ZONES: [u8; 5] = [1, 2, 4, 8, 16];

/// Rows of the table, by the begin of their names.
const ROWS: [&str; 3] = [
    "unique overwrites",
    "duplicate overwrites",
    "random reads of",
];

const FEW: u64 = 8_000;
const MANY: u64 = 40_000;

/// Kept apart for callgrind.
#[inline(never)]
fn poll_zone_thread_0(thread: &mut ZoneThread<BenchHost>, now: Nanos) {
    thread.poll(now);
}

/// Kept apart for callgrind.
#[inline(never)]
fn poll_other_zone_threads(threads: &mut [ZoneThread<BenchHost>], now: Nanos) {
    for thread in threads {
        thread.poll(now);
    }
}

fn poll_all(threads: &mut [ZoneThread<BenchHost>]) {
    let now = begin_turn();
    let (first, others) = threads.split_at_mut(1);
    poll_zone_thread_0(&mut first[0], now);
    poll_other_zone_threads(others, now);
}

/// Does `count` requests, of which the callers have [`DEPTH`] each in flight.
fn run(
    threads: &mut [ZoneThread<BenchHost>],
    callers: &mut [Caller],
    work: Work,
    count: u64,
    fill: Option<(u64, u64)>,
) {
    let (mut submitted, mut ended) = (0, 0);
    while ended < count {
        for caller in &mut *callers {
            while submitted < count && !caller.free.is_empty() {
                let lbn = match fill {
                    Some((first, stride)) => first + submitted * stride,
                    None => caller.next_lbn(work),
                };
                caller.submit(work, lbn);
                submitted += 1;
            }
        }
        poll_all(threads);
        ended += callers.iter_mut().map(Caller::reap).sum::<u64>();
    }
}

/// For callgrind: so many requests of one kind by so many zone threads, and nothing else.
pub(super) fn requests(work: Work, count: u64, zones: u8) {
    let (volume, seeds, registry) = open(zones, false);
    let mut threads = start(&volume, seeds, &registry, "base");
    let numbers = 0..u64::from(zones);
    let mut callers: Vec<_> = numbers.map(|number| Caller::new(&volume, number)).collect();
    for caller in &mut callers {
        caller.spacing = SPARSE;
    }
    let mut run = |work, count, fill| run(&mut threads, &mut callers, work, count, fill);
    run(Work::FILL_DUPLICATE, CONTENTS, Some((RANGE, 1)));
    run(Work::FILL_UNIQUE, CONTENTS, Some((0, SPARSE)));
    run(work, count, None);
}

/// Instructions of one run.
#[derive(Clone, Copy)]
struct Counted {
    all: f64,
    zone_0: f64,
    others: f64,
}

/// What callgrind counted in one run, functions with all that they call.
fn counted(work: usize, count: u64, zones: u8) -> Option<Counted> {
    let out = Path::new("../target/callgrind").join(format!("scaling-{work}-{count}-{zones}.out"));
    let run = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().ok()?)
        .args(["--scaled-requests", &work.to_string()])
        .args([count.to_string(), zones.to_string()])
        .output()
        .ok()?;
    if !run.status.success() {
        return None;
    }
    let listed = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100", "--auto=no"])
        .arg(&out)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.contains(name))?;
        let number = line.split_whitespace().next()?.replace(',', "");
        number.parse::<f64>().ok()
    };
    Some(Counted {
        all: of("PROGRAM TOTALS")?,
        zone_0: of("scaling::poll_zone_thread_0")?,
        others: of("scaling::poll_other_zone_threads").unwrap_or(0.0),
    })
}

/// Instructions for one request.
fn cost(work: usize, zones: u8) -> Option<Counted> {
    let (few, many) = (counted(work, FEW, zones)?, counted(work, MANY, zones)?);
    let each = |part: fn(&Counted) -> f64| (part(&many) - part(&few)) / (MANY - FEW) as f64;
    Some(Counted {
        all: each(|run| run.all),
        zone_0: each(|run| run.zone_0),
        others: each(|run| run.others),
    })
}

/// Instructions of the busiest thread for one request of the volume; each also does its part of the callers' work.
fn busiest(cost: Counted, zones: u8) -> f64 {
    let callers = cost.all - cost.zone_0 - cost.others;
    let other = cost.others / f64::from((zones - 1).max(1));
    cost.zone_0.max(other) + callers / f64::from(zones)
}

/// Prints the table.
pub(super) fn print() {
    let _ = std::fs::create_dir_all("../target/callgrind");
    println!(
        "{DEPTH} requests of 4 KiB in flight for each zone thread; instructions for one request of the volume"
    );
    println!(
        "{:<32} {:>6} {:>8} {:>14} {:>16} {:>14}",
        "", "zones", "in all", "zone thread 0", "each of others", "x one, at most"
    );
    for (place, work) in Work::ALL.iter().enumerate() {
        if !ROWS.iter().any(|row| work.name.starts_with(row)) {
            continue;
        }
        let mut one = None;
        for zones in ZONES {
            let Some(cost) = cost(place, zones) else {
                println!("{:<32} {zones:>6} no valgrind", work.name);
                continue;
            };
            let busiest = busiest(cost, zones);
            let one = *one.get_or_insert(busiest);
            println!(
                "{:<32} {zones:>6} {:>8.0} {:>14.0} {:>16.0} {:>14.1}",
                work.name,
                cost.all,
                cost.zone_0,
                cost.others / f64::from((zones - 1).max(1)),
                one / busiest,
            );
        }
    }
}
