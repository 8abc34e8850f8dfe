//! A base device of the simulator: memory, with I/O that takes time, passes each other, and fails.
//!
//! An I/O that was submitted is *under way* until the world picks it, in any order; only then does it
//! touch the blocks, or fail. So two I/Os under way at once may happen in either order, as on a real
//! device.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vdo::seam::{BaseChannel, BaseIo, BaseOp, IoCompletion};
use vdo::types::BLOCK_SIZE;

struct UnderWay {
    channel: usize,
    io: BaseIo,
}

// SAFETY: the memory an I/O points to stays valid until its completion is polled, whichever thread
// copies to or from it; the simulator has only one thread anyway.
unsafe impl Send for UnderWay {}

/// What the blocks are and what is on its way to them.
#[derive(Default)]
pub struct DiskState {
    /// Blocks that were written; others read as zeroes.
    pub blocks: BTreeMap<u64, Box<[u8; BLOCK_SIZE]>>,
    under_way: Vec<UnderWay>,
    completions: Vec<VecDeque<IoCompletion>>,
    /// Blocks whose reads fail.
    pub bad_reads: HashSet<u64>,
    /// Blocks whose writes fail.
    pub bad_writes: HashSet<u64>,
    /// Every write fails.
    pub fail_writes: bool,
    /// Every flush fails.
    pub fail_flushes: bool,
    /// I/Os done so far.
    pub done: u64,
    /// Writes done so far to each block, if counted.
    pub writes: u64,
}

/// A disk, shared by its channels and the world.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<DiskState>>,
    /// Its size in blocks.
    pub size: u64,
}

impl SimDisk {
    /// A blank disk.
    pub fn new(size: u64) -> SimDisk {
        SimDisk {
            state: Arc::default(),
            size,
        }
    }

    /// The state, for looking and for breaking things.
    pub fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new channel.
    pub fn channel(&self) -> SimChannel {
        let mut state = self.state();
        state.completions.push(VecDeque::new());
        SimChannel {
            disk: self.clone(),
            number: state.completions.len() - 1,
        }
    }

    /// How many I/Os are under way.
    pub fn under_way(&self) -> usize {
        self.state().under_way.len()
    }

    /// Lets the I/O number `pick` of those under way happen.
    pub fn complete(&self, pick: usize) {
        let size = self.size;
        let state = &mut *self.state();
        let UnderWay { channel, io } = state.under_way.swap_remove(pick);
        let errno = state.perform(&io, size);
        state.done += 1;
        state.completions[channel].push_back(IoCompletion {
            token: io.token,
            errno,
        });
    }

    /// The disk as an image, `size` blocks long.
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.size as usize * BLOCK_SIZE];
        for (pbn, block) in &self.state().blocks {
            let at = *pbn as usize * BLOCK_SIZE;
            image[at..at + BLOCK_SIZE].copy_from_slice(&block[..]);
        }
        image
    }

    /// One block.
    pub fn block(&self, pbn: u64) -> [u8; BLOCK_SIZE] {
        self.state()
            .blocks
            .get(&pbn)
            .map_or([0; BLOCK_SIZE], |block| **block)
    }
}

impl DiskState {
    fn perform(&mut self, io: &BaseIo, size: u64) -> i32 {
        const EIO: i32 = 5;
        if io.op == BaseOp::Flush {
            return if self.fail_flushes { EIO } else { 0 };
        }
        let first = io.pbn.get();
        if first + u64::from(io.blocks) > size {
            return EIO;
        }
        if io.op == BaseOp::Write && self.fail_writes {
            return EIO;
        }
        for index in 0..u64::from(io.blocks) {
            let pbn = first + index;
            // SAFETY: the engine keeps the memory of an I/O valid, and to the device, until its completion.
            let memory = || unsafe {
                let start = io.memory.as_ptr().add(index as usize * BLOCK_SIZE);
                std::slice::from_raw_parts_mut(start, BLOCK_SIZE)
            };
            match io.op {
                BaseOp::Read if self.bad_reads.contains(&pbn) => return EIO,
                BaseOp::Write if self.bad_writes.contains(&pbn) => return EIO,
                BaseOp::Read => match self.blocks.get(&pbn) {
                    Some(block) => memory().copy_from_slice(&block[..]),
                    None => memory().fill(0),
                },
                BaseOp::Write => {
                    self.writes += 1;
                    let block = self
                        .blocks
                        .entry(pbn)
                        .or_insert_with(|| Box::new([0; BLOCK_SIZE]));
                    block.copy_from_slice(memory());
                }
                BaseOp::Discard => {
                    self.blocks.remove(&pbn);
                }
                BaseOp::Flush => {}
            }
        }
        0
    }
}

/// One zone thread's way to the disk.
pub struct SimChannel {
    disk: SimDisk,
    number: usize,
}

impl BaseChannel for SimChannel {
    unsafe fn submit(&mut self, io: BaseIo) {
        self.disk.state().under_way.push(UnderWay {
            channel: self.number,
            io,
        });
    }

    fn poll(&mut self, done: &mut dyn FnMut(IoCompletion)) -> bool {
        let mut any = false;
        loop {
            let next = self.disk.state().completions[self.number].pop_front();
            let Some(completion) = next else { return any };
            any = true;
            done(completion);
        }
    }
}
