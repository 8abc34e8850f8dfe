//! `make bench`: what the engine costs, on memory, without a wire or a client in between.
//!
//! Requests of 4 KiB are submitted to a volume in this process, 64 in flight for each zone thread, over
//! the target's malloc bdev. The same run measures a plain copy to that bdev, so that ratios hold when the
//! machine is slow. Instructions come from hardware counters where the machine has them, else from
//! callgrind: the program runs itself under valgrind twice, with more and with fewer requests, and the
//! difference is what the requests cost (valgrind knows no AVX-512, so hashing costs more there).
//! Allocations are counted by the allocator.

mod coming_back;
mod history;
mod ios;
mod load;
mod memory;
mod plot;
mod scaling;
mod volumes;

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use vdo::buffer::{Buffer, DmaMemory, HeapMemory};
use vdo::types::BLOCK_SIZE;
use vdo::volume::ZoneThread;
use vdo_tgt::bdev::{BdevIo, Registry};
use vdo_tgt::reactor::begin_turn;

use self::load::{At, BenchHost, CONTENTS, Caller, DEPTH, Data, Numbers, RANGE, SPARSE, Work};
use self::volumes::{BASE_BLOCKS, Bench, bdev, channel, open, touch};

/// Counts what is allocated while it is told to.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }

    // The default would write the zeroes, and so take what the system gives page by page as it is used.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Instructions to name one of many blocks: by the AVX2 code, which callgrind counts, and by the AVX-512 code, which it cannot
/// run. Both were counted once, in the compiled code.
const NAMED_BY_AVX2: f64 = 3770.0;
const NAMED_BY_AVX512: f64 = 860.0;

/// Whether what callgrind counts is the AVX2 code.
fn counts_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

struct Figure {
    iops: f64,
    allocations: f64,
}

/// What `works` come to with one zone thread.
fn one_zone(seconds: f64, works: &[Work]) -> Vec<Figure> {
    let mut bench = Bench::one_zone(true);
    let mut caller = bench.fill();
    works
        .iter()
        .map(|&work| {
            if work.data == Data::Read {
                let thread = &mut bench.threads[0];
                caller.run(thread, Work::FILL_UNIQUE, RANGE, Some((0, 1)));
            }
            caller.run(&mut bench.threads[0], work, 20_000 / work.blocks(), None);
            COUNTING.store(true, Ordering::Relaxed);
            ALLOCATIONS.store(0, Ordering::Relaxed);
            let (start, mut done) = (Instant::now(), 0);
            while start.elapsed().as_secs_f64() < seconds {
                caller.run(&mut bench.threads[0], work, 8_000 / work.blocks(), None);
                done += 8_000;
            }
            let time = start.elapsed();
            COUNTING.store(false, Ordering::Relaxed);
            Figure {
                iops: done as f64 / time.as_secs_f64(),
                allocations: ALLOCATIONS.load(Ordering::Relaxed) as f64 / done as f64,
            }
        })
        .collect()
}

fn many_zones(zones: u8, seconds: f64) -> Vec<f64> {
    let (volume, seeds, registry) = open(zones, true);
    let registry = Arc::new(registry);
    let barrier = Arc::new(Barrier::new(usize::from(zones)));
    let phase = Arc::new(AtomicU64::new(0));
    let totals: Arc<Vec<AtomicU64>> =
        Arc::new(Work::ALL.iter().map(|_| AtomicU64::new(0)).collect());
    let started = Arc::new(AtomicBool::new(false));
    let idle = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = seeds
        .into_iter()
        .map(|seed| {
            let (volume, registry, barrier) = (
                Arc::clone(&volume),
                Arc::clone(&registry),
                Arc::clone(&barrier),
            );
            let (totals, started, idle, phase) = (
                Arc::clone(&totals),
                Arc::clone(&started),
                Arc::clone(&idle),
                Arc::clone(&phase),
            );
            std::thread::spawn(move || {
                let number = u64::from(seed.index().get());
                let mut thread = seed.grow(channel(&registry, "base")).expect("memory");
                barrier.wait();
                if number == 0 {
                    let flag = Arc::clone(&started);
                    volume.start(Box::new(move |result| {
                        result.expect("the volume starts");
                        flag.store(true, Ordering::Relaxed);
                    }));
                }
                while !started.load(Ordering::Relaxed) {
                    thread.poll(begin_turn());
                }
                let mut caller = Caller::new(&volume, number);
                // Others need this thread until they are done too.
                let together = |thread: &mut ZoneThread<BenchHost>, step: u64| {
                    idle.fetch_add(1, Ordering::SeqCst);
                    while idle.load(Ordering::SeqCst) < u64::from(zones) * step {
                        thread.poll(begin_turn());
                    }
                };
                let mut step = 1;
                let share = u64::from(zones);
                caller.run(
                    &mut thread,
                    Work::FILL_DUPLICATE,
                    16 * CONTENTS / share,
                    Some((RANGE + number, share)),
                );
                caller.run(
                    &mut thread,
                    Work::FILL_UNIQUE,
                    RANGE / share,
                    Some((number, share)),
                );
                together(&mut thread, step);
                for (place, &work) in Work::ALL.iter().enumerate() {
                    if work.data == Data::Read {
                        caller.run(
                            &mut thread,
                            Work::FILL_UNIQUE,
                            RANGE / share,
                            Some((number, share)),
                        );
                    }
                    step += 1;
                    together(&mut thread, step);
                    let (start, mut done) = (Instant::now(), 0);
                    while start.elapsed().as_secs_f64() < seconds {
                        caller.run(&mut thread, work, 4_000 / work.blocks(), None);
                        done += 4_000;
                    }
                    let rate = done as f64 / start.elapsed().as_secs_f64();
                    totals[place].fetch_add(rate as u64, Ordering::SeqCst);
                    step += 1;
                    together(&mut thread, step);
                }
                phase.fetch_add(1, Ordering::SeqCst);
                while phase.load(Ordering::SeqCst) < u64::from(zones) {
                    thread.poll(begin_turn());
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("a worker ends");
    }
    totals
        .iter()
        .map(|total| total.load(Ordering::SeqCst) as f64)
        .collect()
}

/// What copying blocks to and from the malloc bdev comes to, a second.
struct Plain {
    to: f64,
    from: f64,
}

impl Plain {
    fn measure(seconds: f64) -> Plain {
        let registry = bdev(BASE_BLOCKS);
        touch(&registry);
        Plain {
            to: copies(&registry, seconds, BdevIo::write),
            from: copies(&registry, seconds, BdevIo::read),
        }
    }

    /// What to measure a row by: the copy in the direction of its data.
    fn of(&self, work: Work) -> f64 {
        match work.data {
            Data::Read => self.from,
            _ => self.to,
        }
    }

    fn print(&self) {
        let thousands = |rate: f64| rate / 1000.0;
        println!(
            "{:<32} {:>10.0} k",
            "copy to the malloc bdev",
            thousands(self.to)
        );
        println!("{:<32} {:>10.0} k", "copy from it", thousands(self.from));
    }
}

/// Plain I/Os of blocks anywhere in the range, as many in flight as a volume has.
fn copies(
    registry: &Registry,
    seconds: f64,
    io: impl Fn(u64, u64, NonNull<u8>, u64) -> BdevIo,
) -> f64 {
    let mut channel = channel(registry, "base");
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let buffers: Vec<_> = (0..DEPTH)
        .map(|_| Buffer::new(&memory, 1).expect("memory"))
        .collect();
    let mut numbers = Numbers(88172645463325252);
    let block = BLOCK_SIZE as u64;
    let mut round = |count: u64| {
        let mut done = 0;
        while done < count {
            for (buffer, token) in buffers.iter().zip(0..) {
                let offset = numbers.next() % RANGE * block;
                // SAFETY: the buffers outlive the channel's I/O, which is polled to its end below.
                unsafe { channel.submit_io(io(offset, block, buffer.as_ptr(), token)) };
            }
            while channel.in_flight() > 0 {
                channel.poll_io(&mut |_| done += 1);
            }
            begin_turn();
        }
        done
    };
    round(RANGE);
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        done += round(10_000);
    }
    done as f64 / start.elapsed().as_secs_f64()
}

/// Instructions a request costs, by callgrind; `None` without valgrind.
fn instructions(work: usize) -> Option<f64> {
    const FEW: u64 = 4_000;
    const MANY: u64 = 24_000;
    let keep = std::path::Path::new("../target/callgrind");
    let _ = std::fs::create_dir_all(keep);
    let program = std::env::current_exe().ok()?;
    let run = |count: u64| {
        let out = keep.join(format!("row-{work}-{count}.out"));
        let output = Command::new("valgrind")
            .args([
                "--tool=callgrind",
                &format!("--callgrind-out-file={}", out.display()),
            ])
            .arg(&program)
            .args(["--requests", &work.to_string(), &count.to_string()])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find(|line| line.contains("Collected"))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    Some((run(MANY)? - run(FEW)?) / (MANY - FEW) as f64)
}

/// For callgrind: so many requests of one kind on a small part of the volume, and nothing else.
fn requests(work: Work, count: u64) {
    let mut bench = Bench::one_zone(false);
    let mut caller = Caller::new(&bench.volume, 0);
    let thread = &mut bench.threads[0];
    caller.spacing = SPARSE;
    caller.run(thread, Work::FILL_DUPLICATE, CONTENTS, Some((RANGE, 1)));
    let (blocks, stride) = match work.at {
        At::InOrder => (4 * CONTENTS, 1),
        _ => (CONTENTS, SPARSE),
    };
    caller.run(thread, Work::FILL_UNIQUE, blocks, Some((0, stride)));
    caller.run(thread, work, count / work.blocks(), None);
}

/// Counts the instructions of the rows whose names contain `wanted`, and nothing else.
fn count_instructions(wanted: &str) {
    for (place, work) in Work::ALL.iter().enumerate() {
        if work.name.contains(wanted) {
            match instructions(place) {
                Some(cost) => println!("{:<32} {cost:>10.0}", work.name),
                None => println!("{:<32} no valgrind", work.name),
            }
        }
    }
    println!("what they are spent on: callgrind_annotate target/callgrind/row-N-24000.out");
}

/// I/O per second of the rows whose names contain `wanted`, with one zone thread, and nothing else.
fn measure_rates(wanted: &str) {
    let all = Work::ALL.into_iter();
    let works: Vec<_> = all.filter(|work| work.name.contains(wanted)).collect();
    let seconds = 2.0;
    let plain = Plain::measure(seconds);
    plain.print();
    for (work, figure) in works.iter().zip(one_zone(seconds, &works)) {
        let (rate, share) = (figure.iops / 1000.0, 100.0 * figure.iops / plain.of(*work));
        println!("{:<32} {rate:>10.0} k {share:>4.0} % of copy", work.name);
    }
}

/// Blocks written to the base device for each block taken in, whatever for, by one zone.
fn written(work: Work) -> f64 {
    let mut bench = Bench::one_zone(false);
    let mut caller = Caller::new(&bench.volume, 0);
    caller.spacing = SPARSE;
    caller.run(
        &mut bench.threads[0],
        Work::FILL_UNIQUE,
        CONTENTS,
        Some((0, SPARSE)),
    );
    let before = bench.blocks_out();
    let taken_in = 20 * CONTENTS;
    caller.run(&mut bench.threads[0], work, taken_in, None);
    (bench.blocks_out() - before) as f64 / taken_in as f64
}

fn report_written() {
    let [plain, compressed] = [Work::HALVES, Work::HALVES_COMPRESSED].map(written);
    println!(
        "half compressible data: {plain:.2} blocks are written to the base bdev for each taken in, {compressed:.2} with \
         compression ({:.0} %)",
        100.0 * compressed / plain
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |place: usize| {
        let given = arguments.get(place).and_then(|one| one.parse().ok());
        given.unwrap_or(0_u64)
    };
    if let Some(at) = arguments.iter().position(|one| one == "--requests") {
        return requests(Work::ALL[number(at + 1) as usize], number(at + 2));
    }
    if let Some(at) = arguments.iter().position(|one| one == "--scaled-requests") {
        let (work, zones) = (Work::ALL[number(at + 1) as usize], number(at + 3) as u8);
        return scaling::requests(work, number(at + 2), zones);
    }
    if arguments.iter().any(|one| one == "--scaling") {
        return scaling::print();
    }
    if arguments.iter().any(|one| one == "--written") {
        return report_written();
    }
    if arguments.iter().any(|one| one == "--ios") {
        return ios::print();
    }
    if arguments.iter().any(|one| one == "--coming-back") {
        return coming_back::print();
    }
    if let Some(at) = arguments.iter().position(|one| one == "--memory") {
        let zones = arguments.get(at + 1).and_then(|one| one.parse().ok());
        return memory::measure(zones.unwrap_or(1));
    }
    if let Some(at) = arguments.iter().position(|one| one == "--instructions") {
        return count_instructions(arguments.get(at + 1).map_or("", String::as_str));
    }
    if let Some(at) = arguments.iter().position(|one| one == "--rates") {
        return measure_rates(arguments.get(at + 1).map_or("", String::as_str));
    }
    let seconds = 2.0;
    let plain = Plain::measure(seconds);
    let one = one_zone(seconds, &Work::ALL);
    let two = many_zones(2, seconds);
    let thousands = |value: f64| format!("{:.0} k", value / 1000.0);
    println!("{DEPTH} requests of 4 KiB in flight for each zone thread, on a malloc bdev");
    println!();
    println!(
        "{:<32} {:>12} {:>8} {:>13} {:>11} {:>12} {:>10} {:>6}",
        "",
        "one zone",
        "of copy",
        "instructions",
        "as AVX-512",
        "allocations",
        "two zones",
        "x one"
    );
    plain.print();
    let mut entries = Vec::new();
    for (place, work) in Work::ALL.iter().enumerate() {
        let name = work.name;
        let Figure { iops, allocations } = one[place];
        let instructions = instructions(place);
        entries.push(history::Entry {
            name,
            iops,
            instructions,
        });
        let cost = match instructions {
            Some(cost) => format!("{cost:.0}"),
            None => "no valgrind".to_owned(),
        };
        let with_avx512 = instructions
            .zip(work.named())
            .filter(|_| counts_avx2())
            .map(|(cost, named)| {
                format!("({:.0})", cost + named * (NAMED_BY_AVX512 - NAMED_BY_AVX2))
            });
        println!(
            "{name:<32} {:>12} {:>7.0}% {cost:>13} {:>11} {allocations:>12.4} {:>10} {:>6.2}",
            thousands(iops),
            iops * 100.0 / plain.of(*work),
            with_avx512.unwrap_or_default(),
            thousands(two[place]),
            two[place] / iops,
        );
    }
    println!("(in brackets: computed, not counted)");
    report_written();
    for zones in [1, 16] {
        if let Some(memory) = memory::of(zones) {
            println!(
                "memory, {zones} zone thread(s): {:.0} MiB resident of {:.0} reserved; the volume says {:.0}",
                memory.resident, memory.reserved, memory.told
            );
        }
    }
    println!();
    ios::print();
    println!();
    coming_back::print();
    let kept = history::append(plain.to, &entries);
    match kept.and_then(|path| Ok((plot::draw(&path)?, path))) {
        Ok((picture, path)) => println!(
            "a line was added to {}, and {} drawn",
            path.display(),
            picture.display()
        ),
        Err(error) => eprintln!("the history could not be kept: {error}"),
    }
}
