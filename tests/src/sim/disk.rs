//! A base device of the simulator: memory, with I/O that takes time, passes each other, fails, and is
//! not durable until it is flushed.
//!
//! An I/O that was submitted is *under way* until the world picks it, in any order; only then does it
//! touch the blocks, or fail. So two I/Os under way at once may happen in either order, as on a real
//! device. A block that is discarded holds garbage from then on, of which nobody knows whether it stays. What was written stands in a volatile cache, until a flush that began after the write had ended is
//! done, or the write itself asked for it: [`SimDisk::after_power_loss`] shows what might be left.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use vdo::format::{Block, SECTOR_SIZE};
use vdo::seam::{BaseChannel, BaseIo, BaseOp, IoCompletion, IoToken};
use vdo::types::BLOCK_SIZE;

use super::trace::Trace;

struct UnderWay {
    channel: usize,
    io: BaseIo,
    /// How many writes had ended when this began.
    began: u64,
}

// SAFETY: the memory an I/O points to stays valid until its completion is polled, whichever thread
// copies to or from it; the simulator has only one thread anyway.
unsafe impl Send for UnderWay {}

/// Decides whether an I/O fails. It sees the I/O, and of each block what it holds or is to hold.
pub type Fault = Box<dyn FnMut(&BaseIo, u64, &Block) -> bool + Send>;

/// When the power goes, and how.
#[derive(Clone, Debug)]
pub struct Fuse {
    /// After how many more I/Os.
    pub left: u64,
    /// Counted from the next write of this block on, if there is one.
    pub from: Option<u64>,
    /// How a write that is not durable yet comes out.
    pub loss: Loss,
    /// Which of them have their own luck.
    pub marked: Marked,
    /// The source of chance for it.
    pub random: ChaCha8Rng,
}

/// What a loss of power does to writes that are not durable, each one by chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// How likely a write is kept.
    pub kept: f64,
    /// How likely a write that was under way, and not answered, is.
    pub unanswered: f64,
    /// Whether each sector of a write has its own luck.
    pub torn: bool,
}

/// Of the writes that are not durable when the power goes, those that come out otherwise than all others: these are lost (or torn)
/// and those kept, or the other way round. Pure chance hardly ever makes that of many writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// None: each write has the luck of [`Loss`].
    None,
    /// One write is lost.
    OneLost,
    /// One is kept.
    OneKept,
    /// All to a block near that of some write are lost.
    PlaceLost,
    /// All before some write are lost.
    EarlyLost,
}

impl Marked {
    /// Whether each of these writes, in order, is kept; `None` if that is for chance to say.
    fn choose(self, places: &[u64], random: &mut ChaCha8Rng) -> Option<Vec<bool>> {
        if self == Marked::None || places.is_empty() {
            return None;
        }
        let one = random.random_range(0..places.len());
        let near = *[0, 1, 16, 64].choose(random).expect("not empty");
        let kept = |(index, place): (usize, &u64)| match self {
            Marked::None => true,
            Marked::OneLost => index != one,
            Marked::OneKept => index == one,
            Marked::PlaceLost => place.abs_diff(places[one]) > near,
            Marked::EarlyLost => index >= one,
        };
        Some(places.iter().enumerate().map(kept).collect())
    }
}

/// The power has gone, while I/O was under way: what unwinds everything above the disk, with the disk that is left.
pub struct PowerLost(pub SimDisk);

/// How many I/Os of each kind were done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoTally {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// I/Os that failed.
    pub failed: u64,
}

/// What the blocks are and what is on its way to them.
#[derive(Default)]
pub struct DiskState {
    size: u64,
    blocks: BTreeMap<u64, Box<Block>>,
    under_way: Vec<UnderWay>,
    /// I/Os of this kind do not happen for now.
    pub hold: Option<BaseOp>,
    /// Those that do not.
    held: Vec<UnderWay>,
    completions: Vec<VecDeque<IoCompletion>>,
    /// Makes I/Os fail.
    pub fault: Option<Fault>,
    /// What was done so far.
    pub tally: IoTally,
    /// After how many more I/Os the power goes.
    pub fuse: Option<Fuse>,
    /// Whether what was never written is not zero: somebody used the device before.
    pub used_before: bool,
    /// Whether to remember what a loss of power would leave.
    pub volatile: bool,
    /// What is durable, if it is remembered: each block, and the write it is of.
    durable: BTreeMap<u64, (u64, Box<Block>)>,
    /// Writes that are not durable yet, in order: which, of what block, and the data.
    cached: VecDeque<(u64, u64, Box<Block>)>,
    written: u64,
    /// Everything that happens, if it is to be kept.
    pub trace: Option<Trace>,
}

/// A disk, shared by its channels and the world.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<DiskState>>,
}

impl SimDisk {
    /// A blank disk.
    pub fn new(size: u64) -> SimDisk {
        let disk = SimDisk::default();
        disk.state().size = size;
        disk
    }

    /// Its size in blocks.
    pub fn size(&self) -> u64 {
        self.state().size
    }

    /// Becomes larger by so many blocks, which hold nothing.
    pub fn grow(&self, blocks: u64) {
        self.state().size += blocks;
    }

    /// A disk that holds this, durably.
    pub fn holding(blocks: BTreeMap<u64, Block>, size: u64) -> SimDisk {
        let disk = SimDisk::new(size);
        disk.state().blocks = blocks
            .into_iter()
            .map(|(pbn, block)| (pbn, Box::new(block)))
            .collect();
        disk
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

    /// Adds to the trace, if one is kept.
    pub fn note<T: Hash>(&self, event: impl FnOnce() -> T) {
        if let Some(trace) = &mut self.state().trace {
            trace.note(event());
        }
    }

    /// How many I/Os are under way.
    pub fn under_way(&self) -> usize {
        self.state().under_way.len()
    }

    /// How many I/Os are held.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Lets I/Os that are held happen, and all to come.
    pub fn release_held(&self) {
        let state = &mut *self.state();
        state.hold = None;
        state.under_way.append(&mut state.held);
    }

    /// Lets the I/O number `pick` of those under way happen.
    pub fn complete(&self, pick: usize) {
        self.burn();
        let state = &mut *self.state();
        let size = state.size;
        let UnderWay { channel, io, began } = state.under_way.swap_remove(pick);
        let errno = state.perform(&io, size, began);
        if let Some(fuse) = &mut state.fuse
            && io.op == BaseOp::Write
            && fuse.from == Some(io.pbn.get())
        {
            fuse.from = None;
        }
        state.tally.failed += u64::from(errno != 0);
        if let Some(trace) = &mut state.trace {
            trace.note(("I/O ends", pick, errno));
        }
        state.completions[channel].push_back(IoCompletion {
            token: io.token,
            errno,
        });
    }

    /// Has the power go within so many I/Os, or so many after the next write of block `from`, if it is to go at all.
    pub fn shorten_fuse(&self, left: u64, from: Option<u64>) {
        if let Some(fuse) = &mut self.state().fuse {
            fuse.left = fuse.left.min(left);
            fuse.from = from;
        }
    }

    /// Lets the power go if it is time: unwinds with [`PowerLost`].
    fn burn(&self) {
        let fuse = {
            let mut state = self.state();
            let Some(fuse) = &mut state.fuse else { return };
            if fuse.from.is_some() {
                return;
            }
            if fuse.left > 0 {
                fuse.left -= 1;
                return;
            }
            state.fuse.take()
        };
        if let Some(Fuse {
            loss,
            marked,
            mut random,
            ..
        }) = fuse
        {
            let left = self.after(loss, marked, &mut random);
            std::panic::resume_unwind(Box::new(PowerLost(left)));
        }
    }

    /// The disk as it comes back if the power goes now, everything on it durable.
    pub fn after_loss(&self, loss: Loss, random: &mut ChaCha8Rng) -> SimDisk {
        self.after(loss, Marked::None, random)
    }

    fn after(&self, loss: Loss, marked: Marked, random: &mut ChaCha8Rng) -> SimDisk {
        let state = &*self.state();
        let writes = state.not_durable();
        let places: Vec<u64> = writes.iter().map(|(pbn, ..)| *pbn).collect();
        let kept = marked.choose(&places, random);
        let mut blocks: BTreeMap<u64, Box<Block>> = state
            .durable
            .iter()
            .map(|(pbn, (_, block))| (*pbn, block.clone()))
            .collect();
        for (index, (pbn, block, answered)) in writes.iter().enumerate() {
            let luck = match (&kept, answered) {
                (Some(kept), _) if kept[index] => 1.0,
                // What is lost may be half lost.
                (Some(_), _) if loss.torn => 0.5,
                (Some(_), _) => 0.0,
                (None, true) => loss.kept,
                (None, false) => loss.unanswered,
            };
            let old = blocks
                .entry(*pbn)
                .or_insert_with(|| Box::new(state.never_written(*pbn)));
            let pieces = if loss.torn { SECTOR_SIZE } else { BLOCK_SIZE };
            for (old, new) in old.chunks_mut(pieces).zip(block.chunks(pieces)) {
                if random.random_bool(luck) {
                    old.copy_from_slice(new);
                }
            }
        }
        let left = SimDisk::new(state.size);
        left.state().blocks = blocks;
        left.state().trace = state.trace.clone();
        left.state().used_before = state.used_before;
        left.remember_durable();
        left
    }

    /// Changes one block, durably.
    pub fn overwrite(&self, pbn: u64, block: &Block) {
        let mut state = self.state();
        state.blocks.insert(pbn, Box::new(*block));
        let written = state.written;
        state.durable.insert(pbn, (written, Box::new(*block)));
    }

    /// The disk as an image, `size` blocks long.
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.size() as usize * BLOCK_SIZE];
        for (pbn, block) in &self.state().blocks {
            let at = *pbn as usize * BLOCK_SIZE;
            image[at..at + BLOCK_SIZE].copy_from_slice(&block[..]);
        }
        image
    }

    /// The blocks that were written, as they are now.
    pub fn blocks(&self) -> BTreeMap<u64, Block> {
        let state = self.state();
        state
            .blocks
            .iter()
            .map(|(pbn, block)| (*pbn, **block))
            .collect()
    }

    /// One block.
    pub fn block(&self, pbn: u64) -> Block {
        self.state()
            .blocks
            .get(&pbn)
            .map_or([0; BLOCK_SIZE], |block| **block)
    }

    /// From now on, what is durable is told from what is not. What is there now is.
    pub fn remember_durable(&self) {
        let state = &mut *self.state();
        state.volatile = true;
        state.cached.clear();
        state.durable = state
            .blocks
            .iter()
            .map(|(pbn, block)| (*pbn, (0, block.clone())))
            .collect();
    }

    /// What is surely left if the power goes now.
    pub fn durable(&self) -> BTreeMap<u64, Block> {
        let state = &*self.state();
        let durable = state.durable.iter();
        durable.map(|(pbn, (_, block))| (*pbn, **block)).collect()
    }

    /// What might be left if the power went now: all that is durable, and of each block that was written
    /// since, any of its newer versions, by chance.
    pub fn after_power_loss(&self, random: &mut ChaCha8Rng) -> BTreeMap<u64, Block> {
        let state = &*self.state();
        let mut image: BTreeMap<u64, (u64, Block)> = state
            .durable
            .iter()
            .map(|(pbn, (write, block))| (*pbn, (*write, **block)))
            .collect();
        let lucky = random.random_range(0.0..1.0);
        for (write, pbn, block) in &state.cached {
            let newer = image.get(pbn).is_none_or(|(durable, _)| durable < write);
            if newer && random.random_bool(lucky) {
                image.insert(*pbn, (*write, **block));
            }
        }
        image
            .into_iter()
            .map(|(pbn, (_, block))| (pbn, block))
            .collect()
    }
}

impl DiskState {
    /// Writes that may be lost, in order: the block, the data, and whether the write was answered.
    fn not_durable(&self) -> Vec<(u64, Box<Block>, bool)> {
        let is_durable = |write: &u64, pbn: &u64| {
            let known = self.durable.get(pbn);
            known.is_some_and(|(durable, _)| durable >= write)
        };
        let cached = self.cached.iter();
        let mut writes: Vec<_> = cached
            .filter(|(write, pbn, _)| !is_durable(write, pbn))
            .map(|(_, pbn, block)| (*pbn, block.clone(), true))
            .collect();
        let under_way = self.under_way.iter().map(|one| &one.io);
        for io in under_way {
            let data = self.data_of(io);
            for (pbn, block) in (io.pbn.get()..).zip(data.as_chunks::<BLOCK_SIZE>().0) {
                writes.push((pbn, Box::new(*block), false));
            }
        }
        writes
    }

    /// What the blocks of an I/O are to hold: garbage after a discard, which is another each time.
    fn data_of(&self, io: &BaseIo) -> Vec<u8> {
        if io.op != BaseOp::Discard {
            return written_by(io);
        }
        let mut data = vec![0; io.blocks as usize * BLOCK_SIZE];
        let (words, _) = data.as_chunks_mut();
        for (number, word) in (0..).zip(words) {
            let place = io.pbn.get() * BLOCK_SIZE as u64 + number;
            *word = (place ^ (self.written << 40) ^ (u64::MAX / 3)).to_be_bytes();
        }
        data
    }

    /// What a block holds that nobody has written.
    fn never_written(&self, pbn: u64) -> Block {
        let mut block = [0; BLOCK_SIZE];
        if self.used_before {
            // Looks like anything, a page with mappings for one.
            let word = (pbn | 1).wrapping_mul(0x0101_0101_0101_0101).to_le_bytes();
            block.as_chunks_mut().0.fill(word);
        }
        block
    }

    fn fails(&mut self, io: &BaseIo) -> bool {
        let Some(fault) = &mut self.fault else {
            return false;
        };
        let nothing = [0; BLOCK_SIZE];
        let blocks = u64::from(io.blocks).max(1);
        (0..blocks).any(|index| {
            let pbn = io.pbn.get() + index;
            let mut new = [0; BLOCK_SIZE];
            let block = match io.op {
                BaseOp::Write => {
                    // SAFETY: the engine keeps the memory of an I/O valid until its completion.
                    unsafe {
                        let start = io.memory.as_ptr().add(index as usize * BLOCK_SIZE);
                        start.copy_to(new.as_mut_ptr(), BLOCK_SIZE);
                    }
                    &new
                }
                _ => self.blocks.get(&pbn).map_or(&nothing, |block| &**block),
            };
            fault(io, pbn, block)
        })
    }

    fn make_durable(&mut self, before: u64) {
        while self
            .cached
            .front()
            .is_some_and(|(write, ..)| *write <= before)
        {
            let Some((write, pbn, block)) = self.cached.pop_front() else {
                return;
            };
            if self
                .durable
                .get(&pbn)
                .is_none_or(|(durable, _)| *durable < write)
            {
                self.durable.insert(pbn, (write, block));
            }
        }
    }

    fn perform(&mut self, io: &BaseIo, size: u64, began: u64) -> i32 {
        const EIO: i32 = 5;
        match io.op {
            BaseOp::Read => self.tally.reads += 1,
            BaseOp::Write => self.tally.writes += 1,
            BaseOp::Flush => self.tally.flushes += 1,
            BaseOp::Discard => self.tally.discards += 1,
        }
        let first = io.pbn.get();
        let in_range = first + u64::from(io.blocks) <= size;
        let fails = !in_range || self.fails(io);
        // A discard that failed may have been done all the same.
        if fails && (io.op != BaseOp::Discard || !in_range) {
            return EIO;
        }
        if io.op == BaseOp::Flush {
            self.make_durable(began);
            return 0;
        }
        let data = self.data_of(io);
        for index in 0..u64::from(io.blocks) {
            let pbn = first + index;
            match io.op {
                BaseOp::Read => {
                    let known = self.blocks.get(&pbn);
                    let block = known.map_or_else(|| self.never_written(pbn), |block| **block);
                    // SAFETY: the engine keeps the memory of an I/O valid, and to the device, until its completion.
                    unsafe {
                        let start = io.memory.as_ptr().add(index as usize * BLOCK_SIZE);
                        start.copy_from(block.as_ptr(), BLOCK_SIZE);
                    }
                }
                BaseOp::Write | BaseOp::Discard => {
                    let block = Box::new(data.as_chunks::<BLOCK_SIZE>().0[index as usize]);
                    self.written += 1;
                    if self.volatile && io.fua {
                        self.durable.insert(pbn, (self.written, block.clone()));
                    } else if self.volatile {
                        self.cached.push_back((self.written, pbn, block.clone()));
                    }
                    self.blocks.insert(pbn, block);
                }
                BaseOp::Flush => {}
            }
        }
        if fails { EIO } else { 0 }
    }
}

/// What makes an I/O this one.
fn name_of(io: &BaseIo) -> (IoToken, u64, u32, u8, bool) {
    (io.token, io.pbn.get(), io.blocks, io.op as u8, io.fua)
}

/// What a write is to write.
fn written_by(io: &BaseIo) -> Vec<u8> {
    let length = match io.op {
        BaseOp::Write => io.blocks as usize * BLOCK_SIZE,
        _ => 0,
    };
    let mut data = vec![0; length];
    // SAFETY: the engine keeps the memory of an I/O valid until its completion.
    unsafe { io.memory.as_ptr().copy_to(data.as_mut_ptr(), length) };
    data
}

/// One zone thread's way to the disk.
pub struct SimChannel {
    disk: SimDisk,
    number: usize,
}

impl BaseChannel for SimChannel {
    unsafe fn submit(&mut self, io: BaseIo) {
        let mut state = self.disk.state();
        let began = state.written;
        if let Some(trace) = &mut state.trace {
            trace.note(("I/O begins", self.number, name_of(&io), written_by(&io)));
        }
        let under_way = UnderWay {
            channel: self.number,
            io,
            began,
        };
        match state.hold == Some(io.op) {
            true => state.held.push(under_way),
            false => state.under_way.push(under_way),
        }
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
