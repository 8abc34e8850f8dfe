//! Recovery journal and slab summary move to the end of a device that has become larger, while requests are served.
//!
//! The new places are no part of the volume until the super block says so, and the old ones are until then. So nothing is at risk while
//! they are filled; but what is written to the old ones meanwhile has to be copied as well. Therefore in rounds:
//!
//! 1. The whole ring of the journal is copied, while the journal goes on. Then what it has written meanwhile, and again, until that
//!    is little: copying is faster than journaling.
//! 2. The journal holds, and every zone thread holds its copy of the summary: what is being written is waited for, and what is to be written
//!    waits. The rest of the journal is copied, and the summary, which is small.
//!
//! From 2 until the super block is written, requests that need a journal entry wait: for some ten I/Os.

use std::ops::Range;
use std::sync::Arc;

use super::GrowthStep;
use crate::buffer::{Buffer, DmaMemory};
use crate::error::VdoError;
use crate::format::slab_summary::{BLOCKS_PER_ZONE, ENTRY_SIZE, SUMMARY_BLOCKS, SlabSummaryEntry};
use crate::format::{Extent, VolumeLayout};
use crate::journal::RecoveryJournal;
use crate::runtime::base::IoClass;
use crate::seam::Nanos;
use crate::types::{BLOCK_SIZE, Pbn};
use crate::zone::message::AdminStep;
use crate::zone::owner::Zone;

/// Blocks copied at once.
const STRIDE: u64 = 256;

/// This part of the ring is little enough to be copied while nothing is written.
const LITTLE: u64 = 1024;

/// Rounds, at most: after them what is left is copied while nothing is written, however much it is.
const ROUNDS: u32 = 16;

/// A move of the journal and the summary.
pub(super) struct Move<'a> {
    zone: &'a Zone,
    journal: &'a RecoveryJournal,
    from: Arc<VolumeLayout>,
    to: Arc<VolumeLayout>,
    buffer: Option<Buffer>,
    /// Since when requests wait.
    held: Option<Nanos>,
}

impl<'a> Move<'a> {
    /// The move to where `to` has them, if they move.
    ///
    /// # Errors
    /// When the host has no memory for it.
    pub(super) fn new(
        zone: &'a Zone,
        memory: &Arc<dyn DmaMemory>,
        to: &Arc<VolumeLayout>,
    ) -> Result<Option<Move<'a>>, VdoError> {
        let from = zone.shared.extent.layout();
        let Some(journal) = &zone.journal else {
            return Err(zone.no_journal("a growth"));
        };
        if from.recovery_journal == to.recovery_journal {
            return Ok(None);
        }
        let buffer = Buffer::new(memory, STRIDE as usize).ok_or(VdoError::NoMemory {
            what: "moving the recovery journal",
            bytes: STRIDE * BLOCK_SIZE as u64,
        })?;
        Ok(Some(Move {
            zone,
            journal,
            from,
            to: Arc::clone(to),
            buffer: Some(buffer),
            held: None,
        }))
    }

    /// Fills the new places. If this ends well, journal and summary hold; if not, the journal goes on as before.
    ///
    /// # Errors
    /// When the base device fails. Nothing has changed then.
    pub(super) async fn copy(&mut self) -> Result<(), VdoError> {
        let copied = self.copy_all().await;
        if copied.is_err() {
            self.release();
        }
        copied
    }

    async fn copy_all(&mut self) -> Result<(), VdoError> {
        let size = self.from.recovery_journal.blocks;
        let (_, mut since) = self.journal.written_since(None);
        self.copy_ring(0..size).await?;
        for _ in 0..ROUNDS {
            let (written, next) = self.journal.written_since(Some(since));
            if written.end - written.start <= (size / LITTLE).max(2) {
                break;
            }
            self.copy_ring(written).await?;
            since = next;
        }
        self.held = Some(self.zone.scheduler.now());
        self.journal.hold().await;
        let hold = AdminStep::Grow(GrowthStep::HoldSummary);
        self.zone.step_everywhere(hold).await?;
        let (written, _) = self.journal.written_since(Some(since));
        self.copy_ring(written).await?;
        self.copy_summary().await
    }

    /// The journal's place has changed.
    pub(super) fn commit(&self) {
        self.journal.move_to(self.to.recovery_journal.start);
    }

    /// The journal goes on; says for how long it held, in nanoseconds.
    pub(super) fn release(&mut self) -> u64 {
        self.journal.release_hold();
        let held = self.held.take().unwrap_or(self.zone.scheduler.now());
        self.zone.scheduler.now().0 - held.0
    }

    /// Copies blocks of the journal, by number.
    async fn copy_ring(&mut self, numbers: Range<u64>) -> Result<(), VdoError> {
        let (from, to) = (self.from.recovery_journal, self.to.recovery_journal);
        let size = from.blocks;
        let mut next = match numbers.end - numbers.start < size {
            true => numbers.start,
            false => numbers.end - size,
        };
        while next < numbers.end {
            let place = next % size;
            let blocks = (numbers.end - next).min(size - place).min(STRIDE);
            self.copy_blocks(from, to, place, blocks, |_| {}).await?;
            next += blocks;
        }
        Ok(())
    }

    /// Copies the summary. New slabs are unused in every copy, whatever stood there of slabs that did not exist.
    async fn copy_summary(&mut self) -> Result<(), VdoError> {
        let (from, to) = (self.from.slab_summary, self.to.slab_summary);
        let slabs = self.from.slabs;
        let known = slabs.slab_count as usize;
        let unused =
            SlabSummaryEntry::unused(slabs.config.data_blocks, slabs.slab_shift()).encode();
        let copy_bytes = BLOCK_SIZE * BLOCKS_PER_ZONE as usize;
        let blank = |bytes: &mut [u8]| {
            for copy in bytes.chunks_exact_mut(copy_bytes) {
                let (entries, _) = copy.as_chunks_mut::<ENTRY_SIZE>();
                entries[known..].fill(unused);
            }
        };
        self.copy_blocks(from, to, 0, SUMMARY_BLOCKS, blank).await
    }

    async fn copy_blocks(
        &mut self,
        from: Extent,
        to: Extent,
        place: u64,
        blocks: u64,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), VdoError> {
        let count = blocks as usize;
        let buffer = self.buffer.take().expect("one copy is under way at a time");
        let at = |extent: Extent| Pbn(extent.start.get() + place);
        let read = self
            .zone
            .base
            .read(IoClass::Metadata, at(from), buffer, count);
        let (mut buffer, mut result) = read.await;
        if result.is_ok() {
            change(&mut buffer[..count * BLOCK_SIZE]);
            let write = self
                .zone
                .base
                .write(IoClass::Metadata, at(to), buffer, count, false);
            (buffer, result) = write.await;
        }
        self.buffer = Some(buffer);
        result
    }
}
