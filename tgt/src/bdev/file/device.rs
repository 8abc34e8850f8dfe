//! One channel of a file bdev.
//!
//! An I/O takes a slot when it is submitted, or waits in line when all are taken. Each slot has at most one
//! operation with the engine, which is an io_uring ([`ring`](super::ring)) or, where that is forbidden,
//! threads ([`threads`](super::threads)); both have room for one operation per slot, and never run over.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use vdo::buffer::{Buffer, DmaMemory, HeapMemory};

use super::super::DeviceChannel;
use super::super::io::{BdevIo, IoKind, IoMeta};
use super::open::OpenFile;
use super::ring::Ring;
use super::slot::{Next, Slot};
use super::threads::Threads;
use crate::reactor::ReactorHandle;

/// How many I/Os the kernel is given at once, per channel.
pub(super) const SLOTS: u32 = 256;

/// Who talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// An io_uring per channel.
    IoUring,
    /// System calls on threads, where io_uring is forbidden.
    Threads,
}

impl EngineKind {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::IoUring => "io_uring",
            EngineKind::Threads => "threads",
        }
    }
}

enum Engine {
    Ring(Ring),
    Threads(Threads),
}

/// One channel's way to the file.
pub struct FileDevice {
    engine: Engine,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    waiting: VecDeque<BdevIo>,
    /// I/O that ended before it came to the engine.
    failed: Vec<(IoMeta, i32)>,
    /// Whether zeroes may be holes.
    punch: bool,
    heap: Arc<dyn DmaMemory>,
    file: Arc<OpenFile>,
}

impl FileDevice {
    pub(super) fn new(
        kind: EngineKind,
        file: Arc<OpenFile>,
        punch: bool,
        reactor: &ReactorHandle,
    ) -> io::Result<FileDevice> {
        let engine = match kind {
            EngineKind::IoUring => Engine::Ring(Ring::new(&file, reactor)?),
            EngineKind::Threads => Engine::Threads(Threads::new(&file, reactor)?),
        };
        Ok(FileDevice {
            engine,
            slots: (0..SLOTS).map(|_| None).collect(),
            free: (0..SLOTS).rev().collect(),
            waiting: VecDeque::with_capacity(SLOTS as usize),
            failed: Vec::new(),
            punch,
            heap: Arc::new(HeapMemory),
            file,
        })
    }

    /// Gives an I/O a slot and its first operation.
    fn begin(&mut self, place: u32, io: BdevIo) {
        let mut bounce = None;
        let moves_data = matches!(io.meta.kind, IoKind::Read | IoKind::Write);
        if moves_data && !self.file.takes_memory_at(io.memory.as_ptr() as usize) {
            bounce = Buffer::new(&self.heap, (io.meta.length as usize).div_ceil(4096));
            if bounce.is_none() {
                self.free.push(place);
                self.failed.push((io.meta, libc::ENOMEM));
                return;
            }
        }
        self.go_on(place, Slot::new(io, self.punch, bounce));
    }

    /// Enters the slot's next operation.
    fn go_on(&mut self, place: u32, slot: Slot) {
        // SAFETY: the operation's memory is the I/O's, vouched for until its end, or the slot's buffer, or
        // static; the slot lives until the answer, for drop waits for that.
        unsafe {
            match &mut self.engine {
                Engine::Ring(ring) => ring.push(place, slot.operation()),
                Engine::Threads(threads) => threads.push(place, slot.operation()),
            }
        }
        self.slots[place as usize] = Some(slot);
    }

    /// Takes every answer there is.
    fn reap(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let mut any = false;
        loop {
            let answer = match &mut self.engine {
                Engine::Ring(ring) => ring.next(),
                Engine::Threads(threads) => threads.next(),
            };
            let Some((place, result)) = answer else { break };
            any = true;
            let mut slot = self.slots[place as usize]
                .take()
                .expect("operations of slots in use are answered, once each");
            match slot.advance(result) {
                Next::Step(_) => self.go_on(place, slot),
                Next::Done(errno) => {
                    self.free.push(place);
                    done(slot.io.meta, errno);
                }
            }
        }
        any
    }
}

impl DeviceChannel for FileDevice {
    unsafe fn submit(&mut self, io: BdevIo) {
        match self.free.pop() {
            Some(place) => self.begin(place, io),
            None => self.waiting.push_back(io),
        }
    }

    fn poll(&mut self, done: &mut dyn FnMut(IoMeta, i32)) -> bool {
        let mut any = self.reap(done);
        while !self.waiting.is_empty()
            && let Some(place) = self.free.pop()
            && let Some(io) = self.waiting.pop_front()
        {
            self.begin(place, io);
        }
        for (meta, errno) in self.failed.drain(..) {
            any = true;
            done(meta, errno);
        }
        any | match &mut self.engine {
            Engine::Ring(ring) => ring.submit(),
            Engine::Threads(threads) => threads.submit(),
        }
    }
}

impl Drop for FileDevice {
    /// Waits for what the kernel has: it may be using memory that is about to be freed.
    fn drop(&mut self) {
        self.waiting.clear();
        while self.free.len() < self.slots.len() {
            match &mut self.engine {
                Engine::Threads(threads) => threads.wait(),
                Engine::Ring(ring) => {
                    if let Err(error) = ring.wait() {
                        log::error!(
                            "io_uring does not say when it is done with our memory: {error}"
                        );
                        std::process::abort();
                    }
                }
            }
            self.reap(&mut |_, _| {});
        }
    }
}
