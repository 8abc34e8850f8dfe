//! The blocks in memory: where entries gather until they are written.
//!
//! 1. A block is *free*. It has a buffer and nothing else.
//! 2. Opened, it becomes the newest of the blocks in use, gets the journal's next number, and a header.
//! 3. Entries are assigned to it, which gives them their places. They queue beside the buffer, because
//!    the buffer may be on its way to disk with earlier entries.
//! 4. A write takes all that queue: they are packed into the buffer, and the whole block is written.
//!    Others may queue meanwhile, so that a block may be written several times as it fills.
//! 5. Full, with nothing queued and all its entries reported, it is free again. Blocks are freed in
//!    the order they were opened.

use std::collections::VecDeque;

use crate::buffer::Buffer;
use crate::format::Block;
use crate::format::recovery_journal::{
    ENTRIES_PER_BLOCK, RecoveryBlockHeader, RecoveryJournalBlockMut, RecoveryJournalEntry,
};
use crate::types::{JournalPoint, SequenceNumber};

use super::extent::Heads;

/// How far a write of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WritePhase {
    /// None is under way.
    Idle,
    /// Packed, and waiting for the flush that makes its entries' data durable.
    Flushing,
    /// The flush is done: the block's task may write it.
    Ready,
    /// Being written.
    Writing,
}

/// A block in memory.
pub(super) struct TailBlock {
    /// Absent only while the device has it.
    pub(super) buffer: Option<Buffer>,
    pub(super) sequence: SequenceNumber,
    pub(super) phase: WritePhase,
    /// Entries the last write added to those on disk.
    pub(super) in_write: u16,
    /// The entries that have a place here, each at its place: first those reported, then those in the buffer, then those that
    /// wait to be packed.
    entries: Vec<Pending>,
    /// Of those, how many are in the buffer.
    packed: u16,
    /// Of those, how many were reported.
    reported: u16,
}

/// An entry, and by which number who wants it knows it.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The number.
    pub tag: u64,
    /// The entry.
    pub entry: RecoveryJournalEntry,
}

impl TailBlock {
    fn new(buffer: Buffer) -> TailBlock {
        let capacity = usize::from(ENTRIES_PER_BLOCK);
        TailBlock {
            buffer: Some(buffer),
            sequence: SequenceNumber::default(),
            phase: WritePhase::Idle,
            in_write: 0,
            entries: Vec::with_capacity(capacity),
            packed: 0,
            reported: 0,
        }
    }

    fn open(&mut self, header: &RecoveryBlockHeader) {
        self.sequence = header.sequence;
        self.entries.clear();
        self.packed = 0;
        self.reported = 0;
        RecoveryJournalBlockMut::begin(bytes(&mut self.buffer), header);
    }

    pub(super) fn is_full(&self) -> bool {
        self.assigned() == ENTRIES_PER_BLOCK
    }

    /// Places given to entries.
    fn assigned(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Whether entries wait to be written.
    pub(super) fn is_waiting(&self) -> bool {
        self.packed < self.assigned()
    }

    /// Gives an entry the next place.
    pub(super) fn assign(&mut self, pending: Pending) {
        self.entries.push(pending);
    }

    /// Places no entry has taken.
    pub(super) fn unused(&self) -> u16 {
        ENTRIES_PER_BLOCK - self.assigned()
    }

    /// Packs the queued entries for a write that follows at once.
    pub(super) fn pack(&mut self, heads: Heads) {
        let before = self.packed;
        let mut block = RecoveryJournalBlockMut::new(bytes(&mut self.buffer));
        for pending in &self.entries[usize::from(before)..] {
            block.append(self.packed, &pending.entry);
            self.packed += 1;
        }
        block.prepare_write(heads.block_map, heads.slab_journal, self.packed);
        self.in_write = self.packed - before;
        self.phase = WritePhase::Flushing;
    }
}

fn bytes(buffer: &mut Option<Buffer>) -> &mut Block {
    let buffer = buffer.as_mut().expect("a block at rest has its buffer");
    buffer.first_block_mut()
}

/// All blocks in memory.
pub(super) struct Tail {
    pub(super) blocks: Vec<TailBlock>,
    free: Vec<usize>,
    /// Oldest first; only the last may have room.
    in_use: VecDeque<usize>,
}

impl Tail {
    pub(super) fn new(buffers: Vec<Buffer>) -> Tail {
        let count = buffers.len();
        Tail {
            blocks: buffers.into_iter().map(TailBlock::new).collect(),
            free: (0..count).rev().collect(),
            in_use: VecDeque::with_capacity(count),
        }
    }

    /// Bytes of memory it holds, buffers aside.
    pub(super) fn memory_held(&self) -> usize {
        let entries = |block: &TailBlock| block.entries.capacity() * size_of::<Pending>();
        self.blocks.iter().map(entries).sum()
    }

    /// The block that has room, if there is one.
    pub(super) fn active(&mut self) -> Option<&mut TailBlock> {
        let newest = &mut self.blocks[*self.in_use.back()?];
        (!newest.is_full()).then_some(newest)
    }

    /// Whether another block can be opened.
    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The oldest block in use.
    pub(super) fn oldest(&self) -> Option<SequenceNumber> {
        let index = self.in_use.front()?;
        Some(self.blocks[*index].sequence)
    }

    /// Opens a free block, of which there must be one.
    pub(super) fn open(&mut self, header: &RecoveryBlockHeader) {
        let index = self.free.pop().expect("asked for when there is one");
        self.blocks[index].open(header);
        self.in_use.push_back(index);
    }

    /// The blocks to write when no write is under way: every full one, or else the one that is filling,
    /// as far as they have entries waiting. Each is passed to `write`.
    pub(super) fn choose_writes(&mut self, mut write: impl FnMut(&mut TailBlock)) {
        let mut any = false;
        for &index in &self.in_use {
            let block = &mut self.blocks[index];
            if block.is_waiting() && (block.is_full() || !any) {
                any = true;
                write(block);
            }
        }
    }

    /// Passes each block that waits for the round's flush to `visit`, oldest first.
    pub(super) fn for_each_flushing(&mut self, mut visit: impl FnMut(usize, &mut TailBlock)) {
        for &index in &self.in_use {
            let block = &mut self.blocks[index];
            if block.phase == WritePhase::Flushing {
                visit(index, block);
            }
        }
    }

    /// Reports the oldest entries that are on disk, all those of one block: puts them into `entries`, and says where
    /// the first is.
    pub(super) fn take_committed(&mut self, entries: &mut Vec<Pending>) -> Option<JournalPoint> {
        for &index in &self.in_use {
            let block = &mut self.blocks[index];
            if block.phase != WritePhase::Idle {
                return None;
            }
            if block.reported < block.packed {
                let first = block.reported;
                let (from, to) = (usize::from(first), usize::from(block.packed));
                entries.extend_from_slice(&block.entries[from..to]);
                block.reported = block.packed;
                return Some(JournalPoint {
                    sequence: block.sequence,
                    entry: first,
                });
            }
            if block.is_waiting() || !block.is_full() {
                return None;
            }
        }
        None
    }

    /// Reports the oldest entry, wherever it is, if its block is at rest.
    pub(super) fn take_unreported(&mut self) -> Option<Pending> {
        for &index in &self.in_use {
            let block = &mut self.blocks[index];
            if block.phase != WritePhase::Idle {
                return None;
            }
            if let Some(pending) = block.entries.get(usize::from(block.reported)) {
                block.reported += 1;
                return Some(*pending);
            }
        }
        None
    }

    /// Frees the oldest block if it is done with, or with `even_partial` when it merely rests, and says
    /// which it was and how many of its places were never used.
    pub(super) fn free_oldest(&mut self, even_partial: bool) -> Option<(SequenceNumber, u16)> {
        let index = *self.in_use.front()?;
        let block = &self.blocks[index];
        let at_rest = block.phase == WritePhase::Idle && block.reported == block.assigned();
        if !at_rest || !(block.is_full() || even_partial) {
            return None;
        }
        self.in_use.pop_front();
        self.free.push(index);
        Some((block.sequence, block.unused()))
    }
}
