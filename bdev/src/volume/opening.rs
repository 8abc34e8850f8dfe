//! Finding a volume on a device, or making one.
//!
//! Runs on one thread with a channel of its own, before there are zones: a small executor that reads
//! (and, if asked to format, writes) and is polled until it has an answer. Nothing is written unless
//! the device was found blank, or formatting was forced, or a volume was found that must be brought back first
//! ([`recovering`]).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use uuid::Uuid;

use super::{VolumeError, recovering};
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

/// What becomes of a volume that was not shut down, or is to be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryPolicy {
    /// It is brought back first.
    Recover {
        /// Memory for that, in blocks: as much as its block map will have when it runs.
        cache_blocks: u32,
    },
    /// It is only looked at: nothing is written, and it is found as it is. It must not be started so.
    Look,
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
    /// What becomes of a volume that was not shut down.
    pub recovery: RecoveryPolicy,
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
        let turns = Rc::clone(&scheduler);
        scheduler.spawn(async move {
            let device = Device {
                base: io,
                scheduler: turns,
                memory,
                blocks: device_blocks,
            };
            let volume = open(&device, &request).await;
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
        self.channel.poll(&mut |done| {
            base.complete(done);
        });
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

/// A device that is looked at.
struct Device {
    base: Rc<BaseDevice>,
    scheduler: Rc<Scheduler>,
    memory: Arc<dyn DmaMemory>,
    blocks: u64,
}

async fn open(device: &Device, request: &OpenRequest) -> Found {
    if device.blocks == 0 {
        return Err(VolumeError::Option(
            "the base device has no room for one block".into(),
        ));
    }
    match request.policy {
        FormatPolicy::Never => load(device, request).await,
        FormatPolicy::Force => make(device, request).await,
        FormatPolicy::IfBlank => {
            let (head, tail) = probe_extents(device.blocks);
            let head = read(device, head.start, head.blocks as usize).await?;
            let tail = read(device, tail.start, tail.blocks as usize).await?;
            match identify(&head, &tail, device.blocks) {
                Contents::Volume => load(device, request).await,
                Contents::Blank => make(device, request).await,
                Contents::Foreign { what } => Err(VolumeError::NotBlank { found: what }),
                Contents::Unknown { offset } => Err(VolumeError::NotBlank {
                    found: format!("unknown data (a byte that is not zero at offset {offset})"),
                }),
            }
        }
    }
}

async fn read(device: &Device, start: Pbn, blocks: usize) -> Result<Vec<u8>, VolumeError> {
    if blocks == 0 {
        return Ok(Vec::new());
    }
    let what = "a first look at the base device";
    let buffer = Buffer::new(&device.memory, blocks).ok_or(VolumeError::NoMemory { what })?;
    let read = device.base.read(IoClass::Metadata, start, buffer, blocks);
    let (buffer, result) = read.await;
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

async fn load(device: &Device, request: &OpenRequest) -> Found {
    let first = read(device, Pbn(0), 1).await?;
    let geometry = read_geometry(&first, device.blocks)?;
    let super_block = read(device, geometry.super_block(), 1).await?;
    let mut volume = read_volume(geometry, &super_block, device.blocks)?;
    require_slabs(&volume.layout, request)?;
    if !recovering::is_needed(volume.super_block.volume.state) {
        volume.require_clean()?;
    } else if let RecoveryPolicy::Recover { cache_blocks } = request.recovery {
        let (base, scheduler, memory) = (&device.base, &device.scheduler, &device.memory);
        recovering::bring_back(base, scheduler, memory, cache_blocks, &mut volume).await?;
    }
    Ok(volume)
}

async fn make(device: &Device, request: &OpenRequest) -> Found {
    let Device { base, memory, .. } = device;
    let plan = FormatPlan::new(&request.format, device.blocks, request.nonce, request.uuid)?;
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
