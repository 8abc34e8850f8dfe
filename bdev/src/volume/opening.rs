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

use super::progress::Progress;
use super::{Demand, Losses, REQUESTS, VolumeError, recovering};
use crate::buffer::{Buffer, DmaMemory};
use crate::error::VdoError;
use crate::format::components::VolumeState;
use crate::format::identify::{Contents, identify, probe_extents};
use crate::format::index_region::IndexMemory;
use crate::format::open::{read_geometry, read_volume};
use crate::format::plan::{Content, FormatStep};
use crate::format::{self, FormatOptions, FormatPlan, Growth};
use crate::recovery::map_replay::Overlay;
use crate::runtime::base::{BaseDevice, IoClass};
use crate::runtime::task::{Executor, Scheduler};
use crate::seam::{BaseChannel, Listener, Nanos};
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
    /// It is brought back first; and it must be read-only, or asked to be rebuilt already, and is rebuilt.
    Rebuild {
        /// Memory for that, as above.
        cache_blocks: u32,
    },
    /// It is only looked at: nothing is written, and it is found as it is. It must not be started so, if it was not shut
    /// down.
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
    /// The memory the volume may come to use, in bytes. One that would use more is neither opened nor made nor recovered.
    pub available_memory: u64,
    /// Whether it will ask its index, and so use memory for that.
    pub deduplication: bool,
}

/// A volume that was found on a device, or made there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The volume.
    pub volume: format::Volume,
    /// Why it is read-only, if it is. It can be started then, and read.
    pub read_only: Option<String>,
    /// What had to be dropped, if it was rebuilt.
    pub dropped: Option<Losses>,
    /// What its journal knows better than its block map, if it is read-only.
    pub(crate) overlay: Option<Arc<Overlay>>,
}

impl From<format::Volume> for Found {
    fn from(volume: format::Volume) -> Found {
        Found {
            volume,
            read_only: None,
            dropped: None,
            overlay: None,
        }
    }
}

type Outcome = Result<Found, VolumeError>;

/// A device being looked at.
pub struct Opening<C: BaseChannel> {
    channel: C,
    base: Rc<BaseDevice>,
    scheduler: Rc<Scheduler>,
    executor: Executor,
    found: Rc<RefCell<Option<Outcome>>>,
    progress: Arc<Progress>,
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
        let progress = Arc::<Progress>::default();
        let told = Arc::clone(&progress);
        scheduler.spawn(async move {
            let device = Device {
                base: io,
                scheduler: turns,
                memory,
                blocks: device_blocks,
                told,
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
            progress,
        }
    }

    /// Tells `listener` of a recovery or a rebuild. To be called before the first poll.
    #[must_use]
    pub fn telling(self, listener: Arc<dyn Listener>) -> Opening<C> {
        self.progress.listen(listener);
        self
    }

    /// How far it is, for whoever wants to know.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Does what there is to do; ready once, with what was found.
    pub fn poll(&mut self, now: Nanos) -> Poll<Outcome> {
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
    told: Arc<Progress>,
}

async fn open(device: &Device, request: &OpenRequest) -> Outcome {
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

/// Whether the machine can have the volume.
fn require_memory(
    layout: &format::VolumeLayout,
    index: IndexMemory,
    request: &OpenRequest,
) -> Result<(), VolumeError> {
    match request.recovery {
        RecoveryPolicy::Recover { cache_blocks } | RecoveryPolicy::Rebuild { cache_blocks } => {
            let index = request.deduplication.then_some(index);
            Demand::of(layout, index, cache_blocks, REQUESTS).check(request.available_memory)
        }
        RecoveryPolicy::Look => Ok(()),
    }
}

async fn load(device: &Device, request: &OpenRequest) -> Outcome {
    let first = read(device, Pbn(0), 1).await?;
    let geometry = read_geometry(&first, device.blocks)?;
    let super_block = read(device, geometry.super_block(), 1).await?;
    let mut volume = read_volume(geometry, &super_block, device.blocks)?;
    require_slabs(&volume.layout, request)?;
    require_memory(&volume.layout, volume.geometry.index.memory, request)?;
    if volume.grown(Growth::Physical(device.blocks)).is_ok() {
        log::info!(
            "the base device has {} blocks of 4096 bytes, and the volume on it uses {}; it takes the rest when it is told to grow \
             (bdev_vdo_grow_physical)",
            device.blocks,
            volume.layout.physical_blocks
        );
    }
    let (base, scheduler, memory) = (&device.base, &device.scheduler, &device.memory);
    let state = volume.super_block.volume.state;
    let cache_blocks = match request.recovery {
        RecoveryPolicy::Look => None,
        RecoveryPolicy::Recover { cache_blocks } => Some(cache_blocks),
        RecoveryPolicy::Rebuild { cache_blocks } => {
            match state {
                VolumeState::ReadOnly => {
                    recovering::ask_for_rebuild(base, scheduler, memory, &mut volume).await?;
                }
                VolumeState::ForceRebuild | VolumeState::RebuildForUpgrade => {}
                state => return Err(VolumeError::NotReadOnly { state }),
            }
            Some(cache_blocks)
        }
    };
    if let Some(cache_blocks) = cache_blocks
        && recovering::is_needed(volume.super_block.volume.state)
    {
        let told = &device.told;
        return recovering::bring_back(base, scheduler, memory, told, cache_blocks, volume).await;
    }
    if state == VolumeState::Clean && request.recovery != RecoveryPolicy::Look {
        let told = &device.told;
        return recovering::look_over(base, scheduler, memory, told, volume).await;
    }
    if state == VolumeState::ReadOnly && request.recovery != RecoveryPolicy::Look {
        let told = &device.told;
        let found =
            recovering::found_read_only(base, scheduler, memory, told, volume, MARKED).await;
        return Ok(found);
    }
    Ok(volume.into())
}

/// Why a volume is read-only that was found so.
const MARKED: &str = "its super block says that it is: it stopped after an error, in an earlier run whose log says which, or \
                      was marked by a program";

async fn make(device: &Device, request: &OpenRequest) -> Outcome {
    let Device { base, memory, .. } = device;
    let plan = FormatPlan::new(&request.format, device.blocks, request.nonce, request.uuid)?;
    require_slabs(&plan.layout, request)?;
    require_memory(&plan.layout, request.format.index.memory, request)?;
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
    Ok(plan.into_volume().into())
}
