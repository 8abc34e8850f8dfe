//! The device as a recovery uses it: reads and writes many at a time, and the memory for them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::buffer::{Buffer, DmaMemory};
use crate::error::VdoError;
use crate::format::{self, Block};
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::task::Scheduler;
use crate::seam::{Nanos, VolumeEvent};
use crate::types::{BLOCK_SIZE, Pbn};
use crate::volume::VolumeError;
use crate::volume::progress::{Progress, Step, Work};

/// Blocks read or written at once where they lie one behind the other.
pub(super) const STRIDE: usize = 256;

/// Single blocks read or written at once.
const LANES: usize = 128;

/// How long nothing is said of progress.
const QUIET: Nanos = Nanos(3_000_000_000);

/// All blocks of a buffer.
pub(super) fn blocks_of(buffer: &Buffer) -> &[Block] {
    buffer.as_chunks::<BLOCK_SIZE>().0
}

/// A device, and how much memory may be used with it.
pub(super) struct Medium {
    base: Rc<BaseDevice>,
    scheduler: Rc<Scheduler>,
    memory: Arc<dyn DmaMemory>,
    name: uuid::Uuid,
    told: Arc<Progress>,
    /// Blocks of memory for the block map.
    cache_blocks: usize,
    spoke: Cell<Nanos>,
}

impl Medium {
    pub(super) fn new(
        base: &Rc<BaseDevice>,
        scheduler: &Rc<Scheduler>,
        memory: &Arc<dyn DmaMemory>,
        told: &Arc<Progress>,
        volume: &format::Volume,
        cache_blocks: u32,
    ) -> Medium {
        Medium {
            base: Rc::clone(base),
            scheduler: Rc::clone(scheduler),
            memory: Arc::clone(memory),
            name: volume.layout.uuid,
            told: Arc::clone(told),
            cache_blocks: cache_blocks as usize,
            spoke: Cell::new(scheduler.now()),
        }
    }

    /// Memory for a block: `count` buffers of `blocks` blocks.
    pub(super) fn buffers(&self, count: usize, blocks: usize) -> Result<Vec<Buffer>, VolumeError> {
        let what = "bringing the volume back";
        let buffer = |_| Buffer::new(&self.memory, blocks).ok_or(VolumeError::NoMemory { what });
        (0..count).map(buffer).collect()
    }

    /// Buffers of one block for single blocks under way at once, and how many mappings may be gathered beside them: half
    /// of the memory for each.
    pub(super) fn page_memory(&self) -> Result<(Vec<Buffer>, usize), VolumeError> {
        let pages = (self.cache_blocks / 2).clamp(1, LANES);
        let mappings = self.cache_blocks.saturating_sub(pages).max(1) * BLOCK_SIZE
            / crate::recovery::map_replay::MAPPING_BYTES;
        Ok((self.buffers(pages, 1)?, mappings))
    }

    /// Buffers of one block for metadata of slabs.
    pub(super) fn lanes(&self) -> Result<Vec<Buffer>, VolumeError> {
        self.buffers(LANES / 2, 1)
    }

    /// Reads blocks into the front of a buffer.
    pub(super) async fn read(
        &self,
        start: u64,
        buffer: Buffer,
        blocks: usize,
    ) -> Result<Buffer, VdoError> {
        let (buffer, result) = self.try_read(start, buffer, blocks).await;
        result.map(|()| buffer)
    }

    /// Reads blocks; the buffer comes back in any case.
    pub(super) async fn try_read(
        &self,
        start: u64,
        buffer: Buffer,
        blocks: usize,
    ) -> (Buffer, Result<(), VdoError>) {
        let class = IoClass::Metadata;
        self.base.read(class, Pbn(start), buffer, blocks).await
    }

    /// Writes the front of a buffer.
    pub(super) async fn write(
        &self,
        start: u64,
        buffer: Buffer,
        blocks: usize,
    ) -> Result<Buffer, VdoError> {
        let class = IoClass::Metadata;
        let (buffer, result) = self
            .base
            .write(class, Pbn(start), buffer, blocks, false)
            .await;
        result.map(|()| buffer)
    }

    /// Makes everything written durable.
    pub(super) async fn flush(&self) -> Result<(), VdoError> {
        self.base.flush(IoClass::Metadata).await
    }

    /// Writes the super block, durably, after everything written before.
    pub(super) async fn save_super_block(
        &self,
        volume: &format::Volume,
    ) -> Result<(), VolumeError> {
        let what = "the super block";
        let buffer = Buffer::new(&self.memory, 1);
        let mut buffer = buffer.ok_or(VolumeError::NoMemory { what })?;
        volume.super_block.encode(buffer.first_block_mut());
        self.flush().await?;
        let pbn = volume.layout.super_block;
        let class = IoClass::Metadata;
        let (_, result) = self.base.write(class, pbn, buffer, 1, true).await;
        result?;
        Ok(self.flush().await?)
    }

    /// Says how far it is: to who asks, and every few seconds to the log.
    pub(super) fn progress(&self, work: Work, done: u64, all: u64) {
        let step = Step { work, done, all };
        self.told.tell(step);
        let now = self.scheduler.now();
        if now.0.saturating_sub(self.spoke.get().0) >= QUIET.0 {
            self.spoke.set(now);
            log::info!("volume {}: {step}", self.name);
        }
    }

    /// Tells who listens.
    pub(super) fn happened(&self, event: &VolumeEvent) {
        self.told.happened(event);
    }

    /// The memory buffers come from.
    pub(super) fn memory(&self) -> &Arc<dyn DmaMemory> {
        &self.memory
    }

    /// The device itself.
    pub(super) fn base(&self) -> &Rc<BaseDevice> {
        &self.base
    }
}
