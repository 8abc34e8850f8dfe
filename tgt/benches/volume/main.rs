//! `make bench`: what the engine costs, on memory, without a wire or a client in between.
//!
//! Requests of 4 KiB are submitted to a volume in this process, 64 in flight for each zone thread, over
//! the target's malloc bdev. The same run measures a plain copy to that bdev, so that ratios hold when the
//! machine is slow. Instructions come from hardware counters where the machine has them, else from
//! callgrind: the program runs itself under valgrind twice, with more and with fewer requests, and the
//! difference is what the requests cost (valgrind knows no AVX-512, so hashing costs more there).
//! Allocations are counted by the allocator.

mod history;
mod memory;
mod plot;
mod scaling;

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use uuid::Uuid;
use vdo::buffer::{Buffer, DmaMemory, HeapMemory};
use vdo::format::FormatOptions;
use vdo::format::index_region::{IndexConfig, IndexMemory};
use vdo::seam::{Host, HostRequest, RequestHeader, RequestKind, ZoneWaker};
use vdo::types::BLOCK_SIZE;
use vdo::volume::{OpenRequest, Opening, RecoveryPolicy, Volume, VolumeOptions, ZoneThread};
use vdo_tgt::bdev::{BdevIo, Channel, MallocBdev, OpenOptions, Registry};
use vdo_tgt::reactor::{ReactorHandle, begin_turn};

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

/// Requests in flight for each zone thread.
const DEPTH: usize = 64;
/// Blocks of a large request.
const RUN: u64 = 16;
/// Logical blocks that are written and read: 1 GiB.
const RANGE: u64 = 1 << 18;
/// Different contents of duplicate writes.
const CONTENTS: u64 = 8192;
/// Bytes that compressible data compresses to, about: two of them fit in a block.
const FRAGMENT: usize = 1960;
/// While instructions are counted, one block of so many is mapped.
const SPARSE: u64 = RANGE / CONTENTS;
/// Blocks of the base device: 5 GiB, about half of them for the index.
const BASE_BLOCKS: u64 = 5 << 18;

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

struct BenchHost;

impl Host for BenchHost {
    type Channel = Channel;
    type Request = BenchRequest;
    type Waker = Awake;
}

struct Awake;

impl ZoneWaker for Awake {
    fn wake(&self) {}
}

struct Place {
    memory: NonNull<u8>,
    errno: AtomicI32,
    /// Bytes of the request not done yet; a flush has none.
    left: AtomicU64,
    number: u32,
    ended: Arc<ArrayQueue<u32>>,
}

// SAFETY: one request at a time uses the memory, and its pieces do not overlap.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

#[derive(Clone)]
struct BenchRequest(Arc<Place>);

impl HostRequest for BenchRequest {
    fn copy_in(&self, start: usize, block: &mut [u8]) {
        // SAFETY: the place's memory is as long as the longest request.
        unsafe {
            let from = self.0.memory.as_ptr().add(start);
            std::ptr::copy_nonoverlapping(from, block.as_mut_ptr(), block.len());
        }
    }

    fn copy_out(&self, start: usize, data: &[u8]) {
        // SAFETY: as in `copy_in`.
        unsafe {
            let to = self.0.memory.as_ptr().add(start);
            std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
        }
    }

    fn direct(&self, start: usize, _length: usize) -> Option<NonNull<u8>> {
        // SAFETY: as in `copy_in`.
        Some(unsafe { self.0.memory.add(start) })
    }

    fn complete(self, bytes: u64, errno: i32) {
        if errno != 0 {
            self.0.errno.store(errno, Ordering::Relaxed);
        }
        let before = self.0.left.fetch_sub(bytes, Ordering::AcqRel);
        if before == bytes {
            let _ = self.0.ended.push(self.0.number);
        }
    }
}

/// The data of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    /// Written, and never seen before.
    Unique,
    /// So too, and it compresses to just under half a block.
    Halves,
    /// Written, and there already.
    Duplicate,
    /// Written, one or the other.
    Mixed,
    /// Read.
    Read,
}

/// Where requests go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Anywhere: while instructions are counted, blocks of which most were never written.
    Anywhere,
    /// Blocks that were written before.
    Mapped,
    /// One after the other, [`RUN`] blocks each.
    InOrder,
    /// Blocks that were written before, one request at a time, and a flush after each.
    Flushed,
}

/// What is done to the volume: a row of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Work {
    name: &'static str,
    data: Data,
    at: At,
    compressed: bool,
}

impl Work {
    const fn new(name: &'static str, data: Data, at: At) -> Work {
        Work {
            name,
            data,
            at,
            compressed: false,
        }
    }

    /// With compression.
    const fn compressed(mut self) -> Work {
        self.compressed = true;
        self
    }

    const ALL: [Work; 12] = [
        Work::new("unique overwrites", Data::Unique, At::Mapped),
        Work::new("duplicate overwrites", Data::Duplicate, At::Mapped),
        Work::new("random reads of mapped blocks", Data::Read, At::Mapped),
        Work::new("unique, 64 KiB in order", Data::Unique, At::InOrder),
        Work::new("reads, 64 KiB in order", Data::Read, At::InOrder),
        Work::new("unique, a flush after each", Data::Unique, At::Flushed),
        Work::new("unique writes", Data::Unique, At::Anywhere),
        Work::new("duplicate writes", Data::Duplicate, At::Anywhere),
        Work::new("half unique, half duplicate", Data::Mixed, At::Anywhere),
        Work::new("random reads", Data::Read, At::Anywhere),
        Self::HALVES,
        Self::HALVES_COMPRESSED,
    ];

    /// The two that show what compression costs and brings.
    const HALVES: Work = Work::new("half compressible overwrites", Data::Halves, At::Mapped);
    const HALVES_COMPRESSED: Work =
        Work::new("half compressible, compressed", Data::Halves, At::Mapped).compressed();

    const FILL_UNIQUE: Work = Work::new("", Data::Unique, At::Anywhere);
    const FILL_DUPLICATE: Work = Work::new("", Data::Duplicate, At::Anywhere);

    /// Blocks of one request.
    fn blocks(self) -> u64 {
        match self.at {
            At::InOrder => RUN,
            _ => 1,
        }
    }

    /// Blocks that are named for each 4 KiB, many at once.
    fn named(self) -> Option<f64> {
        match (self.data, self.at) {
            (Data::Read, _) => Some(0.0),
            (_, At::Flushed) => None,
            _ => Some(1.0),
        }
    }

    /// Requests in flight.
    fn depth(self) -> usize {
        match self.at {
            At::Flushed => 1,
            At::InOrder => DEPTH / 4,
            _ => DEPTH,
        }
    }
}

/// A cheap source of numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// One caller: its requests in flight and their data.
struct Caller {
    volume: Arc<Volume<BenchHost>>,
    places: Vec<Arc<Place>>,
    buffers: Vec<Buffer>,
    free: Vec<u32>,
    ended: Arc<ArrayQueue<u32>>,
    numbers: Numbers,
    stamp: u64,
    /// Whether the buffers hold data that compresses to half.
    halves: bool,
    /// One block of so many was written before.
    spacing: u64,
    position: u64,
}

impl Caller {
    fn new(volume: &Arc<Volume<BenchHost>>, number: u64) -> Caller {
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let ended = Arc::new(ArrayQueue::new(2 * DEPTH));
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ (number + 1));
        let mut buffers: Vec<_> = (0..DEPTH)
            .map(|_| Buffer::new(&memory, RUN as usize).expect("memory"))
            .collect();
        for buffer in &mut buffers {
            buffer.fill(0x5a);
        }
        let places = buffers.iter().zip(0..).map(|(buffer, number)| {
            Arc::new(Place {
                memory: buffer.as_ptr(),
                errno: AtomicI32::new(0),
                left: AtomicU64::new(0),
                number,
                ended: Arc::clone(&ended),
            })
        });
        Caller {
            volume: Arc::clone(volume),
            places: places.collect(),
            free: (0..DEPTH as u32).collect(),
            buffers,
            ended,
            stamp: numbers.next() << 20,
            halves: false,
            spacing: 1,
            position: number * RANGE / 16,
            numbers,
        }
    }

    /// Fills the buffers with what is the same in all requests: with data that compresses to nearly nothing, or to just
    /// under half. All requests must have ended.
    fn make_ready(&mut self, halves: bool) {
        assert_eq!(self.free.len(), DEPTH, "requests are in flight");
        self.halves = halves;
        for block in self
            .buffers
            .iter_mut()
            .flat_map(|one| one.chunks_mut(BLOCK_SIZE))
        {
            block.fill(0x5a);
            let random = if halves { FRAGMENT } else { 0 };
            for word in block[..random].chunks_mut(8) {
                word.copy_from_slice(&self.numbers.next().to_le_bytes());
            }
        }
    }

    #[inline(always)]
    fn submit(&mut self, work: Work, lbn: u64) {
        let place = self.free.pop().expect("the caller checked");
        let kind = match work.data {
            Data::Read => RequestKind::Read,
            _ => RequestKind::Write,
        };
        if work.data != Data::Read {
            for block in 0..work.blocks() as usize {
                let unique = match work.data {
                    Data::Unique | Data::Halves => true,
                    Data::Mixed => self.numbers.next() & 1 == 0,
                    _ => false,
                };
                let stamp = if unique {
                    self.stamp += 1;
                    self.stamp
                } else {
                    self.numbers.next() % CONTENTS + 1
                };
                self.buffers[place as usize][block * BLOCK_SIZE..][..8]
                    .copy_from_slice(&stamp.to_le_bytes());
            }
        }
        self.send(
            place,
            kind,
            lbn * BLOCK_SIZE as u64,
            work.blocks() * BLOCK_SIZE as u64,
        );
    }

    fn send(&mut self, place: u32, kind: RequestKind, offset: u64, length: u64) {
        let header = RequestHeader {
            kind,
            offset,
            length,
            fua: false,
        };
        let place = &self.places[place as usize];
        place.left.store(length, Ordering::Relaxed);
        self.volume.submit(header, BenchRequest(Arc::clone(place)));
    }

    /// Where the next request goes.
    fn next_lbn(&mut self, work: Work) -> u64 {
        match work.at {
            At::Anywhere => self.numbers.next() % RANGE,
            At::Mapped | At::Flushed => self.numbers.next() % (RANGE / self.spacing) * self.spacing,
            At::InOrder => {
                self.position = (self.position + RUN) % RANGE;
                self.position
            }
        }
    }

    fn reap(&mut self) -> u64 {
        let mut ended = 0;
        while let Some(place) = self.ended.pop() {
            let errno = self.places[place as usize].errno.load(Ordering::Relaxed);
            assert_eq!(errno, 0, "a request failed");
            self.free.push(place);
            ended += 1;
        }
        ended
    }

    /// Does `count` requests at random places (or, to fill the volume, one after the other).
    fn run(
        &mut self,
        thread: &mut ZoneThread<BenchHost>,
        work: Work,
        count: u64,
        fill: Option<(u64, u64)>,
    ) {
        self.volume.set_compression(work.compressed);
        if self.halves != (work.data == Data::Halves) {
            self.make_ready(work.data == Data::Halves);
        }
        let (mut submitted, mut ended) = (0, 0);
        let spare = DEPTH - work.depth();
        while ended < count {
            // Once a poll, as a reactor does.
            let now = begin_turn();
            while submitted < count && self.free.len() > spare {
                let lbn = match fill {
                    Some((first, stride)) => first + submitted * stride,
                    None => self.next_lbn(work),
                };
                self.submit(work, lbn);
                submitted += 1;
            }
            thread.poll(now);
            let now_ended = self.reap();
            ended += now_ended;
            if work.at == At::Flushed && now_ended > 0 {
                self.flush(thread);
            }
        }
    }

    fn flush(&mut self, thread: &mut ZoneThread<BenchHost>) {
        let place = self.free.pop().expect("nothing is in flight");
        self.send(place, RequestKind::Flush, 0, 0);
        while self.reap() == 0 {
            thread.poll(begin_turn());
        }
    }
}

struct Bench {
    volume: Arc<Volume<BenchHost>>,
    threads: Vec<ZoneThread<BenchHost>>,
    // Dropped after the channels of the threads.
    _registry: Registry,
}

// Zone threads are made on the thread that polls them; this hands over what they are made of.
fn open(
    zones: u8,
    touched: bool,
) -> (
    Arc<Volume<BenchHost>>,
    Vec<vdo::volume::ZoneSeed<BenchHost>>,
    Registry,
) {
    let (found, registry) = format(touched);
    let (volume, seeds) = assemble(found, zones);
    (volume, seeds, registry)
}

/// A new volume on a malloc bdev.
fn format(touched: bool) -> (vdo::volume::Found, Registry) {
    let registry = Registry::default();
    let malloc = MallocBdev::new("base".into(), BASE_BLOCKS, BLOCK_SIZE as u32, None);
    registry
        .add(malloc.expect("memory"))
        .expect("the name is free");
    if touched {
        touch(&registry);
    }
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let memory_for_index = IndexMemory::MB_256;
    let request = OpenRequest {
        policy: vdo::volume::FormatPolicy::IfBlank,
        format: FormatOptions {
            slab_blocks: 1 << 15,
            logical_blocks: Some(2 * RANGE),
            index: IndexConfig {
                memory: memory_for_index,
                ..IndexConfig::default()
            },
            ..FormatOptions::default()
        },
        nonce: 1,
        uuid: Uuid::from_u128(1),
        slabs_wanted: 1,
        recovery: RecoveryPolicy::Look,
        available_memory: u64::MAX,
        deduplication: true,
    };
    let mut opening = Opening::new(channel(&registry), BASE_BLOCKS, memory, request);
    let found = loop {
        if let Poll::Ready(found) = opening.poll(begin_turn()) {
            break found.expect("the volume can be made");
        }
    };
    (found, registry)
}

fn assemble(
    found: vdo::volume::Found,
    zones: u8,
) -> (
    Arc<Volume<BenchHost>>,
    Vec<vdo::volume::ZoneSeed<BenchHost>>,
) {
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let options = VolumeOptions {
        zones,
        ..VolumeOptions::default()
    };
    let wakers = (0..zones).map(|_| Awake).collect();
    Volume::assemble(found, options, wakers, &memory).expect("the options make sense")
}

/// Writes zeroes over all of the base device, so that no figure counts the kernel's finding of memory.
fn touch(registry: &Registry) {
    const STRIDE: usize = 256;
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let zeroes = Buffer::new(&memory, STRIDE).expect("memory");
    let mut channel = channel(registry);
    let length = (STRIDE * BLOCK_SIZE) as u64;
    for stride in 0..BASE_BLOCKS / STRIDE as u64 {
        let io = BdevIo::write(stride * length, length, zeroes.as_ptr(), 0);
        // SAFETY: the buffer outlives the I/O, which is polled to its end here.
        unsafe { channel.submit_io(io) };
        while channel.in_flight() > 0 {
            channel.poll_io(&mut |_| {});
        }
    }
}

fn channel(registry: &Registry) -> Channel {
    let desc = registry
        .open("base", OpenOptions::read_write("bench"))
        .expect("it was just made");
    desc.open_channel(&ReactorHandle::detached().expect("descriptors"))
        .expect("memory")
}

impl Bench {
    fn one_zone(touched: bool) -> Bench {
        let (volume, seeds, registry) = open(1, touched);
        let threads = seeds
            .into_iter()
            .map(|seed| seed.grow(channel(&registry)).expect("memory"))
            .collect();
        let mut bench = Bench {
            volume,
            threads,
            _registry: registry,
        };
        let started = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&started);
        bench.volume.start(Box::new(move |result| {
            result.expect("the volume starts");
            flag.store(true, Ordering::Relaxed);
        }));
        while !started.load(Ordering::Relaxed) {
            bench.threads[0].poll(begin_turn());
        }
        bench
    }

    /// Blocks written to the base device so far.
    fn blocks_out(&mut self) -> u64 {
        let answer = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&answer);
        self.volume.statistics(Box::new(move |statistics| {
            let total = statistics.total();
            let groups = [
                total.bios_out,
                total.bios_meta,
                total.bios_journal,
                total.bios_page_cache,
            ];
            told.store(
                groups.iter().map(|group| group.write).sum(),
                Ordering::Relaxed,
            );
        }));
        while answer.load(Ordering::Relaxed) == 0 {
            self.threads[0].poll(begin_turn());
        }
        answer.load(Ordering::Relaxed)
    }

    /// Every block is written once, and every content of duplicate writes is there.
    fn fill(&mut self) -> Caller {
        let mut caller = Caller::new(&self.volume, 0);
        let thread = &mut self.threads[0];
        caller.run(
            thread,
            Work::FILL_DUPLICATE,
            16 * CONTENTS,
            Some((RANGE, 1)),
        );
        caller.run(thread, Work::FILL_UNIQUE, RANGE, Some((0, 1)));
        caller
    }
}

struct Figure {
    iops: f64,
    allocations: f64,
}

fn one_zone(seconds: f64) -> Vec<Figure> {
    let mut bench = Bench::one_zone(true);
    let mut caller = bench.fill();
    Work::ALL
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
                let mut thread = seed.grow(channel(&registry)).expect("memory");
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

/// A plain copy of blocks to the malloc bdev, as many in flight.
fn plain(seconds: f64) -> f64 {
    let registry = Registry::default();
    let malloc = MallocBdev::new("base".into(), BASE_BLOCKS, BLOCK_SIZE as u32, None);
    registry
        .add(malloc.expect("memory"))
        .expect("the name is free");
    touch(&registry);
    let mut channel = channel(&registry);
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
                unsafe { channel.submit_io(BdevIo::write(offset, block, buffer.as_ptr(), token)) };
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
    if let Some(at) = arguments.iter().position(|one| one == "--memory") {
        let zones = arguments.get(at + 1).and_then(|one| one.parse().ok());
        return memory::measure(zones.unwrap_or(1));
    }
    if let Some(at) = arguments.iter().position(|one| one == "--instructions") {
        return count_instructions(arguments.get(at + 1).map_or("", String::as_str));
    }
    let seconds = 2.0;
    let limit = plain(seconds);
    let one = one_zone(seconds);
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
    println!("{:<32} {:>12}", "copy to the malloc bdev", thousands(limit));
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
            iops * 100.0 / limit,
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
    let kept = history::append(limit, &entries);
    match kept.and_then(|path| Ok((plot::draw(&path)?, path))) {
        Ok((picture, path)) => println!(
            "a line was added to {}, and {} drawn",
            path.display(),
            picture.display()
        ),
        Err(error) => eprintln!("the history could not be kept: {error}"),
    }
}
