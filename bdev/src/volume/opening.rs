//! Finding a volume on a device, or making one.
//!
//! Runs on one thread with a channel of its own, before there are zones: a small executor that reads
//! (and, if asked to format, writes) and is polled until it has an answer. Nothing is written unless
//! the device was found blank, or formatting was forced.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use uuid::Uuid;

use super::VolumeError;
use crate::buffer::{Buffer, DmaMemory};
use crate::error::VdoError;
use crate::format::identify::{Contents, identify, probe_extents};
use crate::format::open::{read_geometry, read_volume};
use crate::format::plan::{Content, FormatStep};
use crate::format::{self, FormatOptions, FormatPlan};
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::task::{Executor, Scheduler};
use crate::seam::{BaseChannel, Nanos};
use crate::types::{BLOCK_SIZE, Pbn};

/// Blocks written at once while formatting.
const STRIDE: usize = 256;

/// Whether a device may be formatted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FormatPolicy {
    /// If it is blank; a device that holds a volume is opened, any other refused.
    #[default]
    IfBlank,
    /// Never: there must be a volume.
    Never,
    /// Whatever is there is overwritten.
    Force,
}

/// What is wanted of a device.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// Whether it may be formatted.
    pub policy: FormatPolicy,
    /// The shape of a new volume.
    pub format: FormatOptions,
    /// A number no other volume has, for a new volume.
    pub nonce: u64,
    /// The name of a new volume.
    pub uuid: Uuid,
    /// How many slabs it must have at least: one for each zone thread that is to work on it. With fewer, a volume
    /// is not opened, and a device not formatted.
    pub slabs_wanted: u64,
}

type Found = Result<format::Volume, VolumeError>;

/// A device being looked at.
pub struct Opening<C: BaseChannel> {
    channel: C,
    base: Rc<BaseDevice>,
    scheduler: Rc<Scheduler>,
    executor: Executor,
    found: Rc<RefCell<Option<Found>>>,
}

impl<C: BaseChannel> Opening<C> {
    /// Begins to look at a device of `device_blocks` blocks of 4096 bytes.
    pub fn new(
        channel: C,
        device_blocks: u64,
        memory: Arc<dyn DmaMemory>,
        request: OpenRequest,
    ) -> Opening<C> {
        let scheduler = Scheduler::new();
        let base = BaseDevice::new(&scheduler, 4);
        let found = Rc::new(RefCell::new(None));
        let (io, result) = (Rc::clone(&base), Rc::clone(&found));
        scheduler.spawn(async move {
            let volume = open(&io, device_blocks, &memory, &request).await;
            *result.borrow_mut() = Some(volume);
        });
        let executor = Executor::new(Rc::clone(&scheduler));
        Opening {
            channel,
            base,
            scheduler,
            executor,
            found,
        }
    }

    /// Does what there is to do; ready once, with what was found.
    pub fn poll(&mut self, now: Nanos) -> Poll<Found> {
        self.scheduler.set_now(now);
        let base = &self.base;
        self.channel.poll(&mut |done| base.complete(done));
        self.executor.run(usize::MAX);
        while let Some(io) = base.next_outgoing() {
            // SAFETY: the table of I/Os owns the memory until the completion is given to it.
            unsafe { self.channel.submit(io) };
        }
        match self.found.borrow_mut().take() {
            Some(found) => Poll::Ready(found),
            None => Poll::Pending,
        }
    }

    /// The channel, when all is done.
    pub fn into_channel(self) -> C {
        self.channel
    }
}

async fn open(
    base: &BaseDevice,
    device_blocks: u64,
    memory: &Arc<dyn DmaMemory>,
    request: &OpenRequest,
) -> Found {
    if device_blocks == 0 {
        return Err(VolumeError::Option(
            "the base device has no room for one block".into(),
        ));
    }
    match request.policy {
        FormatPolicy::Never => load(base, device_blocks, memory, request).await,
        FormatPolicy::Force => make(base, device_blocks, memory, request).await,
        FormatPolicy::IfBlank => {
            let (head, tail) = probe_extents(device_blocks);
            let head = read(base, memory, head.start, head.blocks as usize).await?;
            let tail = read(base, memory, tail.start, tail.blocks as usize).await?;
            match identify(&head, &tail, device_blocks) {
                Contents::Volume => load(base, device_blocks, memory, request).await,
                Contents::Blank => make(base, device_blocks, memory, request).await,
                Contents::Foreign { what } => Err(VolumeError::NotBlank { found: what }),
                Contents::Unknown { offset } => Err(VolumeError::NotBlank {
                    found: format!("unknown data (a byte that is not zero at offset {offset})"),
                }),
            }
        }
    }
}

async fn read(
    base: &BaseDevice,
    memory: &Arc<dyn DmaMemory>,
    start: Pbn,
    blocks: usize,
) -> Result<Vec<u8>, VolumeError> {
    if blocks == 0 {
        return Ok(Vec::new());
    }
    let what = "a first look at the base device";
    let buffer = Buffer::new(memory, blocks).ok_or(VolumeError::NoMemory { what })?;
    let (buffer, result) = base.read(IoClass::Metadata, start, buffer, blocks).await;
    result?;
    Ok(buffer.to_vec())
}

fn require_slabs(layout: &format::VolumeLayout, request: &OpenRequest) -> Result<(), VolumeError> {
    let slabs = u64::from(layout.slabs.slab_count);
    match slabs < request.slabs_wanted {
        false => Ok(()),
        true => Err(VolumeError::TooFewSlabs {
            slabs,
            wanted: request.slabs_wanted,
        }),
    }
}

async fn load(
    base: &BaseDevice,
    device_blocks: u64,
    memory: &Arc<dyn DmaMemory>,
    request: &OpenRequest,
) -> Found {
    let first = read(base, memory, Pbn(0), 1).await?;
    let geometry = read_geometry(&first, device_blocks)?;
    let super_block = read(base, memory, geometry.super_block(), 1).await?;
    let volume = read_volume(geometry, &super_block, device_blocks)?;
    volume.require_clean()?;
    require_slabs(&volume.layout, request)?;
    Ok(volume)
}

async fn make(
    base: &BaseDevice,
    device_blocks: u64,
    memory: &Arc<dyn DmaMemory>,
    request: &OpenRequest,
) -> Found {
    let plan = FormatPlan::new(&request.format, device_blocks, request.nonce, request.uuid)?;
    require_slabs(&plan.layout, request)?;
    let what = "formatting the base device";
    let mut one = Buffer::new(memory, 1).ok_or(VolumeError::NoMemory { what })?;
    let mut zeroes = Buffer::new(memory, STRIDE).ok_or(VolumeError::NoMemory { what })?;
    for step in plan.steps() {
        match step {
            FormatStep::Flush => base.flush(IoClass::Metadata).await?,
            FormatStep::Write {
                extent,
                content: Content::Block(bytes),
            } => {
                one[..BLOCK_SIZE].copy_from_slice(&bytes[..]);
                let result: Result<(), VdoError>;
                (one, result) = base
                    .write(IoClass::Metadata, extent.start, one, 1, false)
                    .await;
                result?;
            }
            FormatStep::Write {
                extent,
                content: Content::Zeroes,
            } => {
                let mut at = extent.start.get();
                while at < extent.end().get() {
                    let blocks = (extent.end().get() - at).min(STRIDE as u64) as usize;
                    let result: Result<(), VdoError>;
                    (zeroes, result) = base
                        .write(IoClass::Metadata, Pbn(at), zeroes, blocks, false)
                        .await;
                    result?;
                    at += blocks as u64;
                }
            }
        }
    }
    Ok(plan.into_volume())
}
