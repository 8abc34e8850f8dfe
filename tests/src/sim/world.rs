//! The simulator's world: zone threads, a disk and a clock, moved by one seeded random order.
//!
//! Each step polls one zone thread or lets one I/O happen. When neither can do anything, time jumps to
//! the next deadline. So every interleaving that real threads could have may come up, and the seed
//! repeats it.

use std::sync::{Arc, Mutex};
use std::task::Poll;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use vdo::VdoError;
use vdo::buffer::{DmaMemory, HeapMemory};
use vdo::seam::{Host, Nanos, RequestHeader, RequestKind, ZoneWaker};
use vdo::stats::VolumeStatistics;
use vdo::volume::{
    IndexCommand, OpenRequest, Opening, Volume, VolumeDump, VolumeError, VolumeOptions, ZoneThread,
};

use super::complaints;
use super::disk::{SimChannel, SimDisk};
use super::request::{SimRequest, Ticket};

/// The deterministic host.
pub struct SimHost;

/// Nobody sleeps here.
pub struct NoWaker;

impl ZoneWaker for NoWaker {
    fn wake(&self) {}
}

impl Host for SimHost {
    type Channel = SimChannel;
    type Request = SimRequest;
    type Waker = NoWaker;
}

/// A running volume and everything around it.
pub struct World {
    /// The base device.
    pub disk: SimDisk,
    /// The volume.
    pub volume: Arc<Volume<SimHost>>,
    threads: Vec<ZoneThread<SimHost>>,
    /// The source of every choice.
    pub random: ChaCha8Rng,
    /// At most so many nanoseconds pass with each poll.
    pub pace: u64,
    /// Whether the host's timers run.
    pub timers: bool,
    now: Nanos,
}

/// Steps without anything happening after which a volume is taken to hang.
const PATIENCE: u32 = 2_000_000;

impl World {
    /// Opens (or formats) the disk and starts the volume.
    pub fn open(
        disk: &SimDisk,
        request: OpenRequest,
        options: VolumeOptions,
        random: ChaCha8Rng,
    ) -> Result<World, VolumeError> {
        let mut world = World::assemble(disk, request, options, random)?;
        let volume = Arc::clone(&world.volume);
        world.wait_for(|done| volume.start(done))?;
        Ok(world)
    }

    /// Opens (or formats) the disk, and does not start the volume yet.
    pub fn assemble(
        disk: &SimDisk,
        request: OpenRequest,
        options: VolumeOptions,
        mut random: ChaCha8Rng,
    ) -> Result<World, VolumeError> {
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let (channel, size) = (disk.channel(), disk.size());
        let opening = Opening::new(channel, size, Arc::clone(&memory), request);
        let mut opening = opening.telling(Arc::new(complaints::Host));
        let found = loop {
            if let Poll::Ready(found) = opening.poll(Nanos(0)) {
                break found?;
            }
            // All that is under way, or only some of it: a recovery has many I/Os at once.
            let mut some = random.random_range(0..=disk.under_way());
            while disk.under_way() > some {
                disk.complete(random.random_range(0..disk.under_way()));
                some = some.min(disk.under_way());
            }
        };
        let wakers = (0..options.zones).map(|_| NoWaker).collect();
        let options = VolumeOptions {
            listener: Some(Arc::new(complaints::Host)),
            ..options
        };
        let (volume, seeds) = Volume::<SimHost>::assemble(found, options, wakers, &memory)?;
        let threads = seeds
            .into_iter()
            .map(|seed| seed.grow(disk.channel()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(World {
            disk: disk.clone(),
            volume,
            threads,
            random,
            pace: 20_000,
            timers: true,
            now: Nanos(0),
        })
    }

    /// Does one thing, chosen at random; false when nothing can be done until time passes.
    pub fn step(&mut self) -> bool {
        let ios = self.disk.under_way();
        let thread = self.random.random_range(0..self.threads.len());
        if ios > 0 && self.random.random_bool(0.5) {
            let pick = self.random.random_range(0..ios);
            self.disk.complete(pick);
            return true;
        }
        self.now.0 += self.random.random_range(0..self.pace);
        let busy = poll(&mut self.threads[thread], self.now, self.timers);
        self.disk.note(|| ("poll", thread, self.now.0, busy));
        if busy {
            return true;
        }
        if ios > 0 {
            let pick = self.random.random_range(0..ios);
            self.disk.complete(pick);
            return true;
        }
        let mut any = false;
        for thread in &mut self.threads {
            any |= poll(thread, self.now, self.timers);
        }
        any || self.disk.under_way() > 0
    }

    /// Polls every zone thread until none has anything to do, and lets no I/O happen.
    pub fn poll_without_io(&mut self) {
        loop {
            let mut any = false;
            for thread in &mut self.threads {
                any |= poll(thread, self.now, self.timers);
            }
            if !any {
                return;
            }
        }
    }

    /// Polls every zone thread once, and then lets every I/O happen.
    pub fn turn(&mut self) {
        for thread in &mut self.threads {
            poll(thread, self.now, self.timers);
        }
        while self.disk.under_way() > 0 {
            self.disk.complete(0);
        }
    }

    /// Steps until no thread has anything to do and no I/O is under way.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    /// What time it is.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Jumps to the next deadline, if there is one.
    pub fn pass_time(&mut self) -> bool {
        let deadline = self
            .threads
            .iter()
            .filter_map(ZoneThread::next_deadline)
            .min();
        match deadline {
            Some(deadline) => {
                self.now = self.now.max(deadline);
                true
            }
            None => false,
        }
    }

    /// Steps until every slab is scrubbed.
    pub fn run_until_scrubbed(&mut self) {
        let volume = Arc::clone(&self.volume);
        self.run_until(|| !volume.is_recovering());
    }

    /// Steps until `over`; panics if the volume hangs.
    pub fn run_until(&mut self, mut over: impl FnMut() -> bool) {
        let mut idle = 0;
        while !over() {
            if self.step() {
                idle = 0;
                continue;
            }
            idle += 1;
            if !self.pass_time() && idle > 100 {
                self.complain("nothing happens any more");
            }
            if idle > PATIENCE {
                self.complain("time passes and nothing happens");
            }
        }
    }

    fn complain(&mut self, what: &str) -> ! {
        let dump = self.describe();
        panic!("the volume hangs: {what}\n{dump}");
    }

    /// What every zone thread is at, for messages.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for thread in &self.threads {
            let zone = thread.zone();
            text += &format!(
                "zone {}: {} busy, {} waiting, {} flushes, {} I/Os, {} logical locks, {} hash locks\n",
                zone.index,
                zone.gauge.busy.get(),
                zone.gauge.waiting.get(),
                zone.gauge.waiting_flushes.get(),
                zone.base.in_flight(),
                zone.locks.len(),
                zone.hash.lock_reports().len(),
            );
            for lock in zone.hash.lock_reports().iter().take(20) {
                text += &format!("  {lock:?}\n");
            }
        }
        text
    }

    /// Starts something that says when it is over, and steps until then.
    pub fn wait_for<T: Send + 'static>(&mut self, start: impl FnOnce(vdo::volume::Done<T>)) -> T {
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        start(Box::new(move |value| {
            *result.lock().expect("one thread") = Some(value)
        }));
        self.run_until(|| slot.lock().expect("one thread").is_some());
        slot.lock().expect("one thread").take().expect("just seen")
    }

    /// Gives the volume a request.
    pub fn submit(&mut self, header: RequestHeader, data: Vec<u8>) -> Arc<Ticket> {
        let request = SimRequest::new(header, data, self.random.random());
        let ticket = Arc::clone(&request.0);
        self.volume.submit(header, request);
        ticket
    }

    /// Gives the volume a request and waits for its end.
    pub fn run(&mut self, header: RequestHeader, data: Vec<u8>) -> Result<Vec<u8>, i32> {
        let ticket = self.submit(header, data);
        self.run_until(|| ticket.result().is_some());
        match ticket.result() {
            Some(0) => Ok(ticket.data()),
            errno => Err(errno.unwrap_or(0)),
        }
    }

    /// Writes `data` at byte `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), i32> {
        let header = RequestHeader {
            kind: RequestKind::Write,
            offset,
            length: data.len() as u64,
            fua: false,
        };
        self.run(header, data.to_vec()).map(drop)
    }

    /// Reads `length` bytes at byte `offset`.
    pub fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, i32> {
        let kind = RequestKind::Read;
        let header = RequestHeader {
            kind,
            offset,
            length: length as u64,
            fua: false,
        };
        self.run(header, vec![0; length])
    }

    /// Flushes.
    pub fn flush(&mut self) -> Result<(), i32> {
        let kind = RequestKind::Flush;
        self.run(
            RequestHeader {
                kind,
                offset: 0,
                length: 0,
                fua: false,
            },
            Vec::new(),
        )
        .map(drop)
    }

    /// Counts everything.
    pub fn statistics(&mut self) -> VolumeStatistics {
        let volume = Arc::clone(&self.volume);
        self.wait_for(|done| volume.statistics(done))
    }

    /// Dumps the hash zones.
    pub fn dump(&mut self) -> VolumeDump {
        let volume = Arc::clone(&self.volume);
        self.wait_for(|done| volume.dump(done))
    }

    /// Steers the index.
    pub fn index(&mut self, command: IndexCommand) -> Result<vdo::volume::IndexWord, VdoError> {
        let volume = Arc::clone(&self.volume);
        self.wait_for(|done| volume.index(command, done))
    }

    /// Shuts the volume down and gives back the source of chance.
    pub fn shut_down(mut self) -> (Result<(), VdoError>, ChaCha8Rng) {
        let volume = Arc::clone(&self.volume);
        let result = self.wait_for(|done| volume.shut_down(done));
        self.check_at_rest();
        (result, self.random)
    }

    /// Nothing is left over when nothing is under way.
    pub fn check_at_rest(&self) {
        for thread in &self.threads {
            let zone = thread.zone();
            assert_eq!(zone.gauge.busy.get(), 0, "requests are left");
            assert!(zone.locks.is_empty(), "locks on logical blocks are left");
            assert!(zone.hash.is_idle(), "hash locks are left");
            assert_eq!(
                zone.physical.locked_blocks(),
                0,
                "locks on physical blocks are left"
            );
            assert_eq!(zone.base.in_flight(), 0, "I/Os are left");
        }
    }
}

/// What a host's pollers do: the busy one, and the timed one that looks for late answers when it is time.
fn poll(thread: &mut ZoneThread<SimHost>, now: Nanos, timers: bool) -> bool {
    let busy = thread.poll(now);
    let due = thread.next_deadline().is_some_and(|due| due <= now);
    (due && timers && thread.expire_contexts(now)) | busy
}
