//! I/Os of the base device for each write that is taken in, by what they are for. Counted, so a busy machine changes nothing.

use std::sync::{Arc, Mutex};

use vdo::seam::RequestKind;
use vdo::types::BLOCK_SIZE;
use vdo_tgt::bdev::IoKind;
use vdo_tgt::reactor::begin_turn;

use super::load::{At, CONTENTS, Caller, Data, Work};
use super::volumes::Bench;

/// Writes that are counted.
const COUNTED: u64 = 100_000;

const COLUMNS: [&str; 9] = [
    "data",
    "journal",
    "slab journals",
    "counters",
    "summary",
    "block map",
    "other, index",
    "reads",
    "flushes",
];

/// What was done to the base device so far; writes first, then reads and flushes whatever for.
type Counts = [u64; COLUMNS.len()];

fn counts(bench: &mut Bench) -> Counts {
    let answer = Arc::new(Mutex::new(None));
    let told = Arc::clone(&answer);
    bench.volume.statistics(Box::new(move |statistics| {
        *told.lock().expect("one thread") = Some(statistics.total());
    }));
    let total = loop {
        bench.threads[0].poll(begin_turn());
        if let Some(total) = answer.lock().expect("one thread").take() {
            break total;
        }
    };
    let all = bench.registry.totals("base").expect("it is there");
    let named = [
        total.bios_out.write,
        total.bios_journal.write,
        total.slab_journal.blocks_written,
        total.ref_counts.blocks_written,
        total.slab_summary.blocks_written,
        total.bios_page_cache.write,
    ];
    let [data, journal, slab_journals, counters, summary, block_map] = named;
    let of = |kind| all.of(kind).ops;
    let other = of(IoKind::Write).saturating_sub(named.iter().sum());
    let (reads, flushes) = (of(IoKind::Read), of(IoKind::Flush));
    [
        data,
        journal,
        slab_journals,
        counters,
        summary,
        block_map,
        other,
        reads,
        flushes,
    ]
}

/// A volume that has been written to for some while.
fn volume() -> (Bench, Caller) {
    let mut bench = Bench::one_zone(false);
    let caller = bench.fill();
    (bench, caller)
}

/// Does so many writes, each with a flush behind it, of which `depth` are under way at once.
fn synchronous(bench: &mut Bench, caller: &mut Caller, depth: usize, count: u64) {
    let work = Work::new("", Data::Unique, At::Mapped);
    let mut is_flush = vec![false; caller.places.len()];
    let mut done = 0;
    let write = |caller: &mut Caller| {
        let lbn = caller.next_lbn(work);
        caller.submit(work, lbn);
    };
    (0..depth).for_each(|_| write(caller));
    while done < count {
        bench.threads[0].poll(begin_turn());
        while let Some(place) = caller.ended.pop() {
            let is_flush = &mut is_flush[place as usize];
            if std::mem::replace(is_flush, !*is_flush) {
                done += 1;
                caller.free.push(place);
                write(caller);
            } else {
                caller.send(place, RequestKind::Flush, 0, 0);
            }
        }
    }
    while caller.free.len() < caller.places.len() {
        bench.threads[0].poll(begin_turn());
        caller.reap();
    }
}

fn row(name: &str, run: impl FnOnce(&mut Bench, &mut Caller)) {
    let (mut bench, mut caller) = volume();
    // What duplicates are of, and no part of what is counted.
    let (fill, from) = (Work::FILL_DUPLICATE, Some((0, 1)));
    caller.run(&mut bench.threads[0], fill, CONTENTS, from);
    let before = counts(&mut bench);
    run(&mut bench, &mut caller);
    let after = counts(&mut bench);
    print!("{name:<40}");
    for ((before, after), column) in before.into_iter().zip(after).zip(COLUMNS) {
        let each = (after - before) as f64 / COUNTED as f64;
        print!(" {each:>width$.3}", width = column.len().max(6));
    }
    println!();
}

/// Prints the table.
pub(crate) fn print() {
    println!(
        "I/Os of the base bdev for each write of {BLOCK_SIZE} bytes taken in, one zone thread, {COUNTED} writes"
    );
    print!("{:<40}", "");
    for column in COLUMNS {
        print!(" {column:>6}");
    }
    println!();
    for depth in [1, 8] {
        let name = format!("write and flush, {depth} at once");
        row(&name, |bench, caller| {
            synchronous(bench, caller, depth, COUNTED)
        });
    }
    let works = [
        Work::new("unique overwrites, 64 at once", Data::Unique, At::Mapped),
        Work::new(
            "duplicate overwrites, 64 at once",
            Data::Duplicate,
            At::Mapped,
        ),
        Work::new("half and half, 64 at once", Data::Mixed, At::Anywhere),
    ];
    for work in works {
        row(work.name, |bench, caller| {
            caller.run(&mut bench.threads[0], work, COUNTED, None);
        });
    }
}
