//! What is done to a volume while it is measured: kinds of requests, and callers that keep some of them in flight.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use vdo::buffer::{Buffer, DmaMemory, HeapMemory};
use vdo::seam::{Host, HostRequest, RequestHeader, RequestKind, ZoneWaker};
use vdo::types::BLOCK_SIZE;
use vdo::volume::{Volume, ZoneThread};
use vdo_tgt::bdev::Channel;
use vdo_tgt::reactor::begin_turn;

/// Requests in flight for each zone thread.
pub(crate) const DEPTH: usize = 64;
/// Blocks of a large request.
pub(crate) const RUN: u64 = 16;
/// Logical blocks that are written and read: 1 GiB.
pub(crate) const RANGE: u64 = 1 << 18;
/// Different contents of duplicate writes.
pub(crate) const CONTENTS: u64 = 8192;
/// Bytes that compressible data compresses to, about: two of them fit in a block.
pub(crate) const FRAGMENT: usize = 1960;
/// While instructions are counted, one block of so many is mapped.
pub(crate) const SPARSE: u64 = RANGE / CONTENTS;

pub(crate) struct BenchHost;

impl Host for BenchHost {
    type Channel = Channel;
    type Request = BenchRequest;
    type Waker = Awake;
}

pub(crate) struct Awake;

impl ZoneWaker for Awake {
    fn wake(&self) {}
}

pub(crate) struct Place {
    pub(crate) memory: NonNull<u8>,
    pub(crate) errno: AtomicI32,
    /// Bytes of the request not done yet; a flush has none.
    pub(crate) left: AtomicU64,
    pub(crate) number: u32,
    pub(crate) ended: Arc<ArrayQueue<u32>>,
}

// SAFETY: one request at a time uses the memory, and its pieces do not overlap.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

#[derive(Clone)]
pub(crate) struct BenchRequest(Arc<Place>);

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
pub(crate) enum Data {
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
pub(crate) enum At {
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
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) data: Data,
    pub(crate) at: At,
    pub(crate) compressed: bool,
}

impl Work {
    pub(crate) const fn new(name: &'static str, data: Data, at: At) -> Work {
        Work {
            name,
            data,
            at,
            compressed: false,
        }
    }

    /// With compression.
    pub(crate) const fn compressed(mut self) -> Work {
        self.compressed = true;
        self
    }

    pub(crate) const ALL: [Work; 12] = [
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
    pub(crate) const HALVES: Work =
        Work::new("half compressible overwrites", Data::Halves, At::Mapped);
    pub(crate) const HALVES_COMPRESSED: Work =
        Work::new("half compressible, compressed", Data::Halves, At::Mapped).compressed();

    pub(crate) const FILL_UNIQUE: Work = Work::new("", Data::Unique, At::Anywhere);
    pub(crate) const FILL_DUPLICATE: Work = Work::new("", Data::Duplicate, At::Anywhere);

    /// Blocks of one request.
    pub(crate) fn blocks(self) -> u64 {
        match self.at {
            At::InOrder => RUN,
            _ => 1,
        }
    }

    /// Blocks that are named for each 4 KiB, many at once.
    pub(crate) fn named(self) -> Option<f64> {
        match (self.data, self.at) {
            (Data::Read, _) => Some(0.0),
            (_, At::Flushed) => None,
            _ => Some(1.0),
        }
    }

    /// Requests in flight.
    pub(crate) fn depth(self) -> usize {
        match self.at {
            At::Flushed => 1,
            At::InOrder => DEPTH / 4,
            _ => DEPTH,
        }
    }
}

/// A cheap source of numbers.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// One caller: its requests in flight and their data.
pub(crate) struct Caller {
    pub(crate) volume: Arc<Volume<BenchHost>>,
    pub(crate) places: Vec<Arc<Place>>,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) free: Vec<u32>,
    pub(crate) ended: Arc<ArrayQueue<u32>>,
    pub(crate) numbers: Numbers,
    pub(crate) stamp: u64,
    /// Whether the buffers hold data that compresses to half.
    pub(crate) halves: bool,
    /// One block of so many was written before.
    pub(crate) spacing: u64,
    pub(crate) position: u64,
}

impl Caller {
    pub(crate) fn new(volume: &Arc<Volume<BenchHost>>, number: u64) -> Caller {
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
    pub(crate) fn make_ready(&mut self, halves: bool) {
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
    pub(crate) fn submit(&mut self, work: Work, lbn: u64) {
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

    pub(crate) fn send(&mut self, place: u32, kind: RequestKind, offset: u64, length: u64) {
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
    pub(crate) fn next_lbn(&mut self, work: Work) -> u64 {
        match work.at {
            At::Anywhere => self.numbers.next() % RANGE,
            At::Mapped | At::Flushed => self.numbers.next() % (RANGE / self.spacing) * self.spacing,
            At::InOrder => {
                self.position = (self.position + RUN) % RANGE;
                self.position
            }
        }
    }

    pub(crate) fn reap(&mut self) -> u64 {
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
    pub(crate) fn run(
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

    pub(crate) fn flush(&mut self, thread: &mut ZoneThread<BenchHost>) {
        let place = self.free.pop().expect("nothing is in flight");
        self.send(place, RequestKind::Flush, 0, 0);
        while self.reap() == 0 {
            thread.poll(begin_turn());
        }
    }
}
