//! The slab summary: what the next start must know of each slab before reading anything of it.
//!
//! A zone keeps the entries of all slabs, changes those of its own, and writes the block an entry is in
//! to its own copy on disk. One write of a block is under way at a time; changes that arrive meanwhile
//! share the next. The device is flushed before each write, so that an entry never speaks of journal
//! blocks or counters that could still be lost.
//!
//! When a volume is opened, with another number of zones perhaps, [`combine_summaries`] runs once,
//! before any zone loads.

use std::sync::Arc;

use crate::buffer::{Buffer, DmaMemory};
use crate::error::VdoError;
use crate::format::slab::SlabGeometry;
use crate::format::slab_summary::{
    self, BLOCKS_PER_ZONE, ENTRIES_PER_BLOCK, ENTRY_SIZE, MAXIMUM_PHYSICAL_ZONES, SUMMARY_BLOCKS,
    SlabSummaryEntry,
};
use crate::runtime::base::{BaseDevice, IoClass};
use crate::types::{BLOCK_SIZE, Pbn, SlabNumber, ZoneIndex};

/// Who is told when an entry is on disk. Slabs are numbered within the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SummaryWaiter {
    /// A slab's journal told of blocks it wrote.
    Journal(u32),
    /// A slab's counters are all on disk.
    Clean(u32),
}

#[derive(Debug, Default)]
struct SummaryBlock {
    buffer: Option<Buffer>,
    writing: bool,
    /// Told by the write under way.
    current: Vec<SummaryWaiter>,
    /// Told by the next write.
    next: Vec<SummaryWaiter>,
}

/// One zone's copy.
#[derive(Debug)]
pub(super) struct Summary {
    origin: Pbn,
    shift: u32,
    entries: Vec<SlabSummaryEntry>,
    blocks: Vec<SummaryBlock>,
    /// Blocks being written.
    writes: usize,
    /// No further write begins for now.
    held: bool,
}

fn out_of_memory() -> VdoError {
    VdoError::Invalid("the host has no memory for the slab summary".into())
}

impl Summary {
    /// The copy of `zone` in the summary that starts at `start`; every slab unused.
    ///
    /// # Errors
    /// When the host has no memory.
    pub(super) fn new(
        slabs: &SlabGeometry,
        start: Pbn,
        zone: ZoneIndex,
        memory: &Arc<dyn DmaMemory>,
    ) -> Result<Summary, VdoError> {
        let count = slabs.slab_count as usize;
        let unused = SlabSummaryEntry::unused(slabs.config.data_blocks, slabs.slab_shift());
        // Each slab has a journal and counters to speak of.
        let waiters = 2 * count.min(ENTRIES_PER_BLOCK);
        let block = |_| {
            let mut buffer = Buffer::new(memory, 1).ok_or_else(out_of_memory)?;
            buffer.as_chunks_mut::<ENTRY_SIZE>().0.fill(unused.encode());
            Ok(SummaryBlock {
                buffer: Some(buffer),
                current: Vec::with_capacity(waiters),
                next: Vec::with_capacity(waiters),
                ..SummaryBlock::default()
            })
        };
        let blocks: Result<_, VdoError> =
            (0..count.div_ceil(ENTRIES_PER_BLOCK)).map(block).collect();
        Ok(Summary {
            origin: Pbn(start.get() + u64::from(zone.get()) * BLOCKS_PER_ZONE),
            shift: slabs.slab_shift(),
            entries: vec![unused; count],
            blocks: blocks?,
            writes: 0,
            held: false,
        })
    }

    /// Lets no write begin, or lets them begin again.
    pub(super) fn set_held(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether no write may begin.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Whether no block is being written.
    pub(super) fn is_still(&self) -> bool {
        self.writes == 0
    }

    /// Takes the place of `old`, of which it is an extension, while no write is under way: knows what that knew, and who waits for it.
    pub(super) fn replace(&mut self, old: &mut Summary) {
        self.entries[..old.entries.len()].copy_from_slice(&old.entries);
        for (block, old) in self.blocks.iter_mut().zip(&mut old.blocks) {
            std::mem::swap(block, old);
        }
        self.held = old.held;
    }

    /// What the summary says of a slab.
    pub(super) fn entry(&self, slab: SlabNumber) -> SlabSummaryEntry {
        self.entries[slab.index()]
    }

    /// Reads this zone's copy.
    ///
    /// # Errors
    /// When the base device fails.
    pub(super) async fn read(
        slabs: &SlabGeometry,
        (start, zone): (Pbn, ZoneIndex),
        base: &BaseDevice,
        memory: &Arc<dyn DmaMemory>,
    ) -> Result<Summary, VdoError> {
        let mut summary = Summary::new(slabs, start, zone, memory)?;
        for index in 0..summary.blocks.len() {
            let pbn = Pbn(summary.origin.get() + index as u64);
            let buffer = summary.blocks[index]
                .buffer
                .take()
                .ok_or_else(out_of_memory)?;
            let (buffer, result) = base.read(IoClass::Metadata, pbn, buffer, 1).await;
            result?;
            let entries = summary.entries[index * ENTRIES_PER_BLOCK..].iter_mut();
            let (packed, _) = buffer.as_chunks::<ENTRY_SIZE>();
            for (entry, packed) in entries.zip(packed) {
                *entry = SlabSummaryEntry::decode(*packed);
            }
            summary.blocks[index].buffer = Some(buffer);
        }
        Ok(summary)
    }

    /// Changes a slab's entry; `waiter` is told when it is on disk. Once counters were written they must
    /// be loaded, so `load_counts` never goes back. Returns the block to write, if none is being written.
    pub(super) fn update(
        &mut self,
        slab: SlabNumber,
        entry: SlabSummaryEntry,
        waiter: SummaryWaiter,
    ) -> Option<u32> {
        let old = &mut self.entries[slab.index()];
        let load_counts = old.load_counts || entry.load_counts;
        *old = SlabSummaryEntry {
            load_counts,
            ..entry
        };
        let index = slab.index() / ENTRIES_PER_BLOCK;
        let block = &mut self.blocks[index];
        block.next.push(waiter);
        let idle = !std::mem::replace(&mut block.writing, true);
        idle.then_some(index as u32)
    }

    /// The hint for a number of free blocks.
    pub(super) fn hint(&self, free: u32) -> u8 {
        slab_summary::fullness_hint(u64::from(free), self.shift)
    }

    /// Packs a block as it is now. Returns it and where it goes; the buffer comes back with
    /// [`Summary::finish_write`].
    pub(super) fn start_write(&mut self, index: u32) -> (Pbn, Buffer) {
        self.writes += 1;
        let block = &mut self.blocks[index as usize];
        std::mem::swap(&mut block.current, &mut block.next);
        let mut buffer = block
            .buffer
            .take()
            .expect("one write of a block is under way at a time");
        let entries = self.entries[index as usize * ENTRIES_PER_BLOCK..].iter();
        let (packed, _) = buffer.as_chunks_mut::<ENTRY_SIZE>();
        for (packed, entry) in packed.iter_mut().zip(entries) {
            *packed = entry.encode();
        }
        (Pbn(self.origin.get() + u64::from(index)), buffer)
    }

    /// A write is done, or was given up: moves those to be told to `told`, and says whether the block
    /// is to be written again.
    pub(super) fn finish_write(
        &mut self,
        index: u32,
        buffer: Buffer,
        told: &mut Vec<SummaryWaiter>,
    ) -> bool {
        self.writes -= 1;
        let block = &mut self.blocks[index as usize];
        block.buffer = Some(buffer);
        told.append(&mut block.current);
        block.writing = !block.next.is_empty();
        block.writing
    }
}

/// How the copies of the summary were left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRun {
    /// There was none: they were never written.
    None,
    /// Durably. A slab that was used when all were written last is so in each, and in its zone's: so a copy that has lost its
    /// entries is found.
    Settled,
    /// Perhaps while all were being written.
    Crashed,
}

/// Puts the copies the zones of the last run wrote together and writes the result to all copies.
/// `summary` is the first block of the summary; `zones` is the number of zones recorded with the volume
/// (0 and 1 mean the same). What the device held of a volume that was never opened is
/// ignored, and every slab is unused. To be called once, before any zone loads.
///
/// # Errors
/// When the base device fails or the host has no memory; when the copies contradict each other.
pub async fn combine_summaries(
    slabs: &SlabGeometry,
    summary: Pbn,
    zones: u8,
    last: LastRun,
    base: &BaseDevice,
    memory: &Arc<dyn DmaMemory>,
) -> Result<(), VdoError> {
    let blocks = SUMMARY_BLOCKS as usize;
    let buffer = Buffer::new(memory, blocks).ok_or_else(out_of_memory)?;
    let (mut buffer, result) = base.read(IoClass::Metadata, summary, buffer, blocks).await;
    let new = last == LastRun::None;
    if !new {
        result?;
    }
    let copy_bytes = BLOCKS_PER_ZONE as usize * BLOCK_SIZE;
    let (copies, _) = buffer.as_chunks::<ENTRY_SIZE>();
    let per_copy = copy_bytes / ENTRY_SIZE;
    let last_zones = usize::from(zones.clamp(1, MAXIMUM_PHYSICAL_ZONES as u8));
    let unused = SlabSummaryEntry::unused(slabs.config.data_blocks, slabs.slab_shift()).encode();
    let owner_copy = |slab: usize| copies[slab % last_zones * per_copy + slab];
    let combined: Vec<[u8; ENTRY_SIZE]> = (0..per_copy)
        .map(|slab| if new { unused } else { owner_copy(slab) })
        .collect();
    if last == LastRun::Settled {
        require_agreement(slabs, summary, &combined, copies, per_copy)?;
    }
    let combined = combined.as_flattened();
    if !new && buffer.chunks_exact(copy_bytes).all(|copy| copy == combined) {
        return Ok(());
    }
    for copy in buffer.chunks_exact_mut(copy_bytes) {
        copy.copy_from_slice(combined);
    }
    base.write(IoClass::Metadata, summary, buffer, blocks, false)
        .await
        .1
}

/// No slab is unused that was used when the copies were written last.
fn require_agreement(
    slabs: &SlabGeometry,
    summary: Pbn,
    combined: &[[u8; ENTRY_SIZE]],
    copies: &[[u8; ENTRY_SIZE]],
    per_copy: usize,
) -> Result<(), VdoError> {
    let is_unused = |entry: &[u8; ENTRY_SIZE]| SlabSummaryEntry::decode(*entry).is_unused();
    let numbers = (0..slabs.slab_count as usize).filter(|slab| is_unused(&combined[*slab]));
    for slab in numbers {
        let used =
            (0..copies.len() / per_copy).find(|copy| !is_unused(&copies[copy * per_copy + slab]));
        if let Some(copy) = used {
            return Err(VdoError::Inconsistent(format!(
                "the slab summary, in block {summary} and those after it, says that slab {slab} was never used, and its \
                 copy {copy} that it was"
            )));
        }
    }
    Ok(())
}
