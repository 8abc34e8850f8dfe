//! Volumes on memory to be measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use uuid::Uuid;
use vdo::buffer::{Buffer, DmaMemory, HeapMemory};
use vdo::format::FormatOptions;
use vdo::format::index_region::{IndexConfig, IndexMemory};
use vdo::types::BLOCK_SIZE;
use vdo::volume::{
    Found, OpenRequest, Opening, RecoveryPolicy, Volume, VolumeOptions, ZoneSeed, ZoneThread,
};
use vdo_tgt::bdev::{BdevIo, Channel, MallocBdev, OpenOptions, Registry};
use vdo_tgt::reactor::{ReactorHandle, begin_turn};

use super::load::{Awake, BenchHost, CONTENTS, Caller, RANGE, Work};

/// Blocks of the base device: 5 GiB, about half of them for the index.
pub(crate) const BASE_BLOCKS: u64 = 5 << 18;

pub(crate) struct Bench {
    pub(crate) volume: Arc<Volume<BenchHost>>,
    pub(crate) threads: Vec<ZoneThread<BenchHost>>,
    // Dropped after the channels of the threads.
    pub(crate) registry: Registry,
}

// Zone threads are made on the thread that polls them; this hands over what they are made of.
pub(crate) fn open(
    zones: u8,
    touched: bool,
) -> (Arc<Volume<BenchHost>>, Vec<ZoneSeed<BenchHost>>, Registry) {
    let (found, registry) = format(touched);
    let (volume, seeds) = assemble(found, zones);
    (volume, seeds, registry)
}

/// A new volume on a malloc bdev.
pub(crate) fn format(touched: bool) -> (Found, Registry) {
    let registry = bdev(BASE_BLOCKS);
    if touched {
        touch(&registry);
    }
    let found = open_on(&registry, "base", format_request());
    (found, registry)
}

/// A malloc bdev of so many blocks, called base.
pub(crate) fn bdev(blocks: u64) -> Registry {
    let registry = Registry::default();
    let malloc = MallocBdev::new("base".into(), blocks, BLOCK_SIZE as u32, None);
    registry
        .add(malloc.expect("memory"))
        .expect("the name is free");
    registry
}

/// What is asked of a device that is to be formatted.
pub(crate) fn format_request() -> OpenRequest {
    OpenRequest {
        policy: vdo::volume::FormatPolicy::IfBlank,
        format: FormatOptions {
            slab_blocks: 1 << 15,
            logical_blocks: Some(2 * RANGE),
            index: IndexConfig {
                memory: IndexMemory::MB_256,
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
    }
}

/// Opens a volume, or makes one.
pub(crate) fn open_on(registry: &Registry, bdev: &str, request: OpenRequest) -> Found {
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let blocks = registry.open(bdev, OpenOptions::read_only("bench"));
    let blocks = blocks.expect("it is there").info().num_blocks.get();
    let mut opening = Opening::new(channel(registry, bdev), blocks, memory, request);
    loop {
        if let Poll::Ready(found) = opening.poll(begin_turn()) {
            break found.expect("the volume can be opened or made");
        }
    }
}

pub(crate) fn assemble(
    found: Found,
    zones: u8,
) -> (Arc<Volume<BenchHost>>, Vec<ZoneSeed<BenchHost>>) {
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let options = VolumeOptions {
        zones,
        ..VolumeOptions::default()
    };
    let wakers = (0..zones).map(|_| Awake).collect();
    Volume::assemble(found, options, wakers, &memory).expect("the options make sense")
}

/// Writes zeroes over all of the base device, so that no figure counts the kernel's finding of memory.
pub(crate) fn touch(registry: &Registry) {
    const STRIDE: usize = 256;
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let zeroes = Buffer::new(&memory, STRIDE).expect("memory");
    let mut channel = channel(registry, "base");
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

pub(crate) fn channel(registry: &Registry, bdev: &str) -> Channel {
    let desc = registry
        .open(bdev, OpenOptions::read_write("bench"))
        .expect("it was just made");
    desc.open_channel(&ReactorHandle::detached().expect("descriptors"))
        .expect("memory")
}

/// Starts a volume whose zone threads are all polled by this thread.
pub(crate) fn start(
    volume: &Arc<Volume<BenchHost>>,
    seeds: Vec<ZoneSeed<BenchHost>>,
    registry: &Registry,
    bdev: &str,
) -> Vec<ZoneThread<BenchHost>> {
    let mut threads: Vec<_> = seeds
        .into_iter()
        .map(|seed| seed.grow(channel(registry, bdev)).expect("memory"))
        .collect();
    let started = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&started);
    volume.start(Box::new(move |result| {
        result.expect("the volume starts");
        flag.store(true, Ordering::Relaxed);
    }));
    while !started.load(Ordering::Relaxed) {
        poll(&mut threads);
    }
    threads
}

/// Polls them once, one after the other.
pub(crate) fn poll(threads: &mut [ZoneThread<BenchHost>]) {
    for thread in threads {
        thread.poll(begin_turn());
    }
}

impl Bench {
    pub(crate) fn one_zone(touched: bool) -> Bench {
        let (volume, seeds, registry) = open(1, touched);
        let threads = start(&volume, seeds, &registry, "base");
        Bench {
            volume,
            threads,
            registry,
        }
    }

    /// Blocks written to the base device so far.
    pub(crate) fn blocks_out(&mut self) -> u64 {
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
    pub(crate) fn fill(&mut self) -> Caller {
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
