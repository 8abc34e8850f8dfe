//! Reading everything, on several threads.
//!
//! Each thread takes a batch, reads it, names its blocks, and squeezes those that seem new, beside the others. Then it waits until all
//! batches before its own are in the store, and puts its own there. With more threads than processors, some read while others compute: that is
//! how reads run ahead.

use std::num::NonZeroU16;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use vdo::buffer::{Buffer, DmaMemory, HeapMemory};
use vdo::content::{Compressor, hash_blocks, is_zero_block};
use vdo::format::Block;
use vdo::types::{BLOCK_SIZE, RecordName};

use crate::BLOCK;
use crate::complaints::Complaints;
use crate::inputs::{BATCH_BLOCKS, Batch, Found, Inputs};
use crate::progress::Progress;
use crate::store::{Outcome, Squeezed, Store};

/// Threads for each processor, if nobody says how many.
const THREADS_PER_PROCESSOR: usize = 2;

/// Blocks that were gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// That were read, or are holes.
    pub read: u64,
    /// Of these, holes.
    pub holes: u64,
    /// Of these, all zero, holes among them.
    pub zero: u64,
    /// That could not be read.
    pub unread: u64,
}

/// What came of a survey.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// What was found.
    pub found: Found,
    /// Blocks.
    pub passed: Passed,
    /// What a volume would store of them.
    pub outcome: Outcome,
}

/// What waits for its turn.
struct Turns {
    /// The batch whose turn it is.
    next: u64,
    store: Store,
    passed: Passed,
}

struct Shared<'a> {
    inputs: Mutex<Inputs>,
    turns: Mutex<Turns>,
    turned: Condvar,
    complaints: &'a Complaints,
    progress: &'a Progress,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads all of `inputs` and puts it into `store`.
pub fn survey(
    inputs: Inputs,
    store: Store,
    threads: Option<NonZeroU16>,
    complaints: &Complaints,
    progress: &Progress,
) -> Survey {
    let threads = threads.map_or_else(
        || thread::available_parallelism().map_or(1, usize::from) * THREADS_PER_PROCESSOR,
        |threads| threads.get().into(),
    );
    let shared = Shared {
        inputs: Mutex::new(inputs),
        turns: Mutex::new(Turns {
            next: 0,
            store,
            passed: Passed::default(),
        }),
        turned: Condvar::new(),
        complaints,
        progress,
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| Reader::new().run(&shared));
        }
    });
    let turns = shared.turns.into_inner();
    let turns = turns.unwrap_or_else(PoisonError::into_inner);
    Survey {
        found: lock(&shared.inputs).found(),
        passed: turns.passed,
        outcome: turns.store.finish(),
    }
}

/// Whose batch never comes keeps all others waiting.
struct EndsAllIfItPanics;

impl Drop for EndsAllIfItPanics {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

/// One block of a batch that is not zero.
struct Data {
    /// Where in the buffer.
    at: usize,
    name: RecordName,
    fragment: Fragment,
}

/// What was squeezed out of it, and where in the fragments that is.
enum Fragment {
    Untried,
    TooLarge,
    Bytes(std::ops::Range<usize>),
}

/// A thread's own.
struct Reader {
    buffer: Buffer,
    compressor: Compressor,
    data: Vec<Data>,
    fragments: Vec<u8>,
}

impl Reader {
    fn new() -> Reader {
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        Reader {
            buffer: Buffer::new(&memory, BATCH_BLOCKS).expect("there is memory for a batch"),
            compressor: Compressor::default(),
            data: Vec::with_capacity(BATCH_BLOCKS),
            fragments: Vec::new(),
        }
    }

    fn run(mut self, shared: &Shared<'_>) {
        let _guard = EndsAllIfItPanics;
        loop {
            let (batch, files) = {
                let inputs = &mut *lock(&shared.inputs);
                let batch = inputs.next_batch(shared.complaints);
                (batch, inputs.found().files)
            };
            let Some(batch) = batch else {
                return;
            };
            let passed = self.read(&batch, shared.complaints);
            self.squeeze(shared);
            self.hand_over(&batch, passed, shared);
            let done = passed.read + passed.unread;
            shared.progress.advance(done * BLOCK, files);
        }
    }

    /// Reads a batch and names its blocks.
    fn read(&mut self, batch: &Batch, complaints: &Complaints) -> Passed {
        let mut passed = Passed {
            read: batch.holes,
            holes: batch.holes,
            zero: batch.holes,
            unread: 0,
        };
        let mut at = 0;
        self.data.clear();
        for piece in &batch.pieces {
            let room = &mut self.buffer[at * BLOCK_SIZE..][..piece.blocks * BLOCK_SIZE];
            let read = piece.read(room, complaints);
            passed.read += read as u64;
            passed.unread += (piece.blocks - read) as u64;
            let blocks = room.as_chunks::<BLOCK_SIZE>().0;
            for (number, block) in blocks.iter().enumerate().take(read) {
                if is_zero_block(block) {
                    passed.zero += 1;
                    continue;
                }
                self.data.push(Data {
                    at: at + number,
                    name: RecordName::default(),
                    fragment: Fragment::Untried,
                });
            }
            at += piece.blocks;
        }
        let blocks = self.buffer.as_chunks::<BLOCK_SIZE>().0;
        let data: Vec<&Block> = self.data.iter().map(|data| &blocks[data.at]).collect();
        let mut names = [RecordName::default(); BATCH_BLOCKS];
        hash_blocks(&data, &mut names[..data.len()]);
        for (data, name) in self.data.iter_mut().zip(names) {
            data.name = name;
        }
        passed
    }

    /// Squeezes the blocks whose names are new so far.
    fn squeeze(&mut self, shared: &Shared<'_>) {
        self.fragments.clear();
        let wanted: Vec<bool> = {
            let store = &lock(&shared.turns).store;
            let names = self.data.iter().map(|data| &data.name);
            names.map(|name| store.wants_squeezed(name)).collect()
        };
        let blocks = self.buffer.as_chunks::<BLOCK_SIZE>().0;
        let wanted = self.data.iter_mut().zip(wanted);
        for (data, _) in wanted.filter(|(_, is_wanted)| *is_wanted) {
            data.fragment = match self.compressor.compress(&blocks[data.at]) {
                Some(fragment) => {
                    let start = self.fragments.len();
                    self.fragments.extend_from_slice(fragment);
                    Fragment::Bytes(start..self.fragments.len())
                }
                None => Fragment::TooLarge,
            };
        }
    }

    /// Puts a batch into the store when its turn has come.
    fn hand_over(&self, batch: &Batch, passed: Passed, shared: &Shared<'_>) {
        let blocks = self.buffer.as_chunks::<BLOCK_SIZE>().0;
        let not_yet = |turns: &mut Turns| turns.next != batch.number;
        let mut turns = shared
            .turned
            .wait_while(lock(&shared.turns), not_yet)
            .unwrap_or_else(PoisonError::into_inner);
        for data in &self.data {
            let squeezed = match &data.fragment {
                Fragment::Untried => Squeezed::Untried,
                Fragment::TooLarge => Squeezed::TooLarge,
                Fragment::Bytes(range) => Squeezed::Fragment(&self.fragments[range.clone()]),
            };
            turns.store.meet(&data.name, &blocks[data.at], squeezed);
        }
        turns.passed.read += passed.read;
        turns.passed.holes += passed.holes;
        turns.passed.zero += passed.zero;
        turns.passed.unread += passed.unread;
        turns.next += 1;
        drop(turns);
        shared.turned.notify_all();
    }
}
