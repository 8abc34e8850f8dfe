//! How a vdo bdev comes up and goes down.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use uuid::Uuid;
use vdo::buffer::{DmaMemory, HeapMemory};
use vdo::format::index_region::{IndexConfig, IndexMemory};
use vdo::format::{self, FormatOptions};
use vdo::types::BLOCK_SIZE;
use vdo::volume::{
    Done, FormatPolicy, MAXIMUM_ZONES, OpenRequest, Opening, Volume, VolumeError, VolumeOptions,
};
use vdo_rpc::params::{Create, Format};
use vdo_rpc::{ErrorCode, RpcError};

use super::{EmbeddedHost, MODULE, ReactorWaker, VdoBdev, lock};
use crate::bdev::{BdevDesc, BdevError, BdevInfo, IoKinds, OpenOptions};
use crate::reactor::{self, Activity, CpuMask, PollerId, ReactorCtx, ReactorError, ReactorHandle};
use crate::target::{Stage, Target};

/// How long a volume may take to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a vdo bdev could not be made or unmade.
#[derive(Debug, Error)]
pub enum VdoError {
    /// The base bdev, or the registry, refused.
    #[error(transparent)]
    Bdev(#[from] BdevError),
    /// The engine refused.
    #[error("base bdev {base:?}: {source}")]
    Volume {
        /// The base bdev.
        base: String,
        /// Why.
        source: VolumeError,
    },
    /// A reactor could not be reached.
    #[error(transparent)]
    Reactor(#[from] ReactorError),
    /// A parameter makes no sense here.
    #[error("{parameter}: {reason}")]
    Parameter {
        /// Which.
        parameter: &'static str,
        /// Why.
        reason: String,
    },
    /// A zone thread ended without an answer.
    #[error("the volume ended before it answered")]
    NoAnswer,
}

impl From<VdoError> for RpcError {
    fn from(error: VdoError) -> RpcError {
        let text = error.to_string();
        match error {
            VdoError::Bdev(error) => error.into(),
            VdoError::Volume { source, .. } => RpcError::errno(source.errno(), text),
            VdoError::Parameter { .. } => RpcError::new(ErrorCode::EINVAL, text),
            VdoError::Reactor(_) | VdoError::NoAnswer => RpcError::new(ErrorCode::EIO, text),
        }
    }
}

/// Asks the volume something and waits for the answer.
pub(super) fn ask<T: Send + 'static>(start: impl FnOnce(Done<T>)) -> Option<T> {
    let (answer, answered) = mpsc::sync_channel(1);
    start(Box::new(move |value| {
        let _ = answer.send(value);
    }));
    answered.recv_timeout(ANSWER_TIMEOUT).ok()
}

/// As [`ask`], for what may take long: starting, stopping.
fn wait<T: Send + 'static>(start: impl FnOnce(Done<T>)) -> Result<T, VdoError> {
    let (answer, answered) = mpsc::sync_channel(1);
    start(Box::new(move |value| {
        let _ = answer.send(value);
    }));
    answered.recv().map_err(|_| VdoError::NoAnswer)
}

/// A zone thread as a poller of a reactor.
pub(super) struct ZonePoller {
    reactor: ReactorHandle,
    poller: PollerId,
}

impl VdoBdev {
    /// Makes a vdo bdev as `params` say. Not to be called on a reactor.
    ///
    /// # Errors
    /// Why it cannot be made; nothing is left behind then.
    pub fn bring_up(target: &Arc<Target>, params: Create) -> Result<(), VdoError> {
        // Before anything is formatted; whoever takes the name meanwhile is noticed below.
        target.bdevs.check_name(&params.name)?;
        let reactors = reactors_of(target, &params)?;
        let remover = Arc::downgrade(target);
        let name = params.name.clone();
        let options =
            OpenOptions::claimed(format!("{MODULE} {:?}", params.name)).on_remove(move || {
                let (remover, name) = (remover.clone(), name.clone());
                std::thread::spawn(move || {
                    if let Some(target) = remover.upgrade()
                        && let Err(error) = VdoBdev::take_down(&target, &name)
                    {
                        log::error!("vdo {name:?}: its base bdev is going away: {error}");
                    }
                });
            });
        let base = target.bdevs.open(&params.base_bdev_name, options)?;
        let found = open_base(&reactors[0], &base, &params)?;
        let bdev = Arc::new(start(&reactors, &base, found, params)?);
        drop(base);
        if let Err(error) = target.bdevs.add(Arc::clone(&bdev)) {
            let _ = bdev.stop();
            return Err(error.into());
        }
        let last = Arc::downgrade(&bdev);
        target.on_shutdown(Stage::Volumes, move |target| {
            if let Some(bdev) = last.upgrade()
                && let Err(error) = VdoBdev::take_down(target, &bdev.params.name)
            {
                log::error!("vdo {:?}: {error}", bdev.params.name);
            }
        });
        Ok(())
    }

    /// Unmakes a vdo bdev: its users let go, the volume is shut down, its base bdev is let go of. The data
    /// stays.
    ///
    /// # Errors
    /// When there is none of that name, a user does not let go, or the volume cannot be shut down cleanly.
    pub fn take_down(target: &Target, name: &str) -> Result<(), VdoError> {
        let bdev = target
            .bdevs
            .with(name, MODULE, |bdev: &Arc<VdoBdev>| Arc::clone(bdev))?;
        target.bdevs.remove(name, MODULE)?;
        bdev.stop()
    }

    /// Shuts the volume down and drops its zone threads. Does nothing the second time.
    fn stop(&self) -> Result<(), VdoError> {
        let mut stopped = lock(&self.stopped);
        if std::mem::replace(&mut *stopped, true) {
            return Ok(());
        }
        let result = wait(|done| self.volume.shut_down(done));
        for zone in lock(&self.zones).drain(..) {
            zone.reactor
                .call(move |reactor| reactor.remove_poller(zone.poller))?;
        }
        result?.map_err(|error| self.failed(error.into()))
    }

    fn failed(&self, source: VolumeError) -> VdoError {
        VdoError::Volume {
            base: self.params.base_bdev_name.clone(),
            source,
        }
    }
}

/// The reactors of the bdev's core mask, one for each zone thread.
fn reactors_of(target: &Target, params: &Create) -> Result<Vec<ReactorHandle>, VdoError> {
    let all = target.reactors.all();
    let Some(mask) = &params.cpumask else {
        return Ok(all
            .iter()
            .take(usize::from(MAXIMUM_ZONES))
            .cloned()
            .collect());
    };
    let refused = |reason: String| VdoError::Parameter {
        parameter: "cpumask",
        reason,
    };
    let mask: CpuMask = mask.parse().map_err(|error| refused(format!("{error}")))?;
    let chosen: Vec<_> = all
        .iter()
        .filter(|one| mask.contains(one.core()))
        .cloned()
        .collect();
    if chosen.len() != mask.cores().len() {
        let cores: Vec<_> = all.iter().map(ReactorHandle::core).collect();
        let reason =
            format!("mask 0x{mask} names cores the target has no reactor on; it has {cores:?}");
        return Err(refused(reason));
    }
    if chosen.len() > usize::from(MAXIMUM_ZONES) {
        let reason = format!(
            "mask 0x{mask} has {} cores; at most {MAXIMUM_ZONES} can share one volume",
            chosen.len()
        );
        return Err(refused(reason));
    }
    Ok(chosen)
}

fn request_of(params: &Create) -> Result<OpenRequest, VdoError> {
    let invalid = |parameter| {
        move |error: format::index_region::IndexError| VdoError::Parameter {
            parameter,
            reason: error.to_string(),
        }
    };
    let memory =
        IndexMemory::from_gb(params.index_memory_gb).map_err(invalid("index_memory_gb"))?;
    let blocks_per_mib = (1 << 20) / BLOCK_SIZE as u64;
    // Microseconds, as dm-vdo's own tool takes them, and a count, for two volumes made at once.
    static MADE: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(OpenRequest {
        policy: match params.format {
            Format::IfBlank => FormatPolicy::IfBlank,
            Format::Never => FormatPolicy::Never,
            Format::Force => FormatPolicy::Force,
        },
        format: FormatOptions {
            logical_blocks: params.logical_size_mib.map(|mib| mib * blocks_per_mib),
            slab_blocks: params.slab_size_mib * blocks_per_mib,
            index: IndexConfig {
                memory,
                sparse: params.index_sparse,
            },
            ..FormatOptions::default()
        },
        nonce: now.as_micros() as u64 + MADE.fetch_add(1, Ordering::Relaxed),
        uuid: Uuid::new_v4(),
    })
}

/// Opens or formats the base bdev, on a reactor.
fn open_base(
    reactor: &ReactorHandle,
    base: &BdevDesc,
    params: &Create,
) -> Result<format::Volume, VdoError> {
    let request = request_of(params)?;
    let blocks = base.info().bytes() / BLOCK_SIZE as u64;
    let (answer, answered) = mpsc::sync_channel(1);
    let base_desc = base.clone();
    reactor.call(move |ctx: &mut ReactorCtx| -> Result<(), BdevError> {
        let channel = base_desc.open_channel(ctx.handle())?;
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let mut opening = Opening::new(channel, blocks, memory, request);
        ctx.add_poller("vdo opening", move |_: &mut ReactorCtx| {
            match opening.poll(reactor::now()) {
                Poll::Pending => Activity::Busy,
                Poll::Ready(found) => {
                    let _ = answer.send(found);
                    Activity::Finished
                }
            }
        });
        Ok(())
    })??;
    let found = answered.recv().map_err(|_| VdoError::NoAnswer)?;
    found.map_err(|source| VdoError::Volume {
        base: params.base_bdev_name.clone(),
        source,
    })
}

/// Grows the zone threads and starts the volume.
fn start(
    reactors: &[ReactorHandle],
    base: &BdevDesc,
    found: format::Volume,
    params: Create,
) -> Result<VdoBdev, VdoError> {
    let failed = |source| VdoError::Volume {
        base: params.base_bdev_name.clone(),
        source,
    };
    let wanted = match &params.cpumask {
        Some(_) => reactors.len(),
        // Nobody asked for so many: a small volume has fewer slabs than the target has cores.
        None => reactors.len().min(found.layout.slabs.slab_count as usize),
    };
    let reactors = &reactors[..wanted.max(1)];
    let blocks_per_mib = (1 << 20) / BLOCK_SIZE as u64;
    let options = VolumeOptions {
        name: params.name.clone(),
        zones: reactors.len() as u8,
        block_map_cache_blocks: u32::try_from(params.block_map_cache_mib * blocks_per_mib)
            .unwrap_or(u32::MAX),
        deduplication: params.deduplication,
        compression: params.compression,
        ..VolumeOptions::default()
    };
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let uuid = found.layout.uuid;
    let wakers = reactors
        .iter()
        .map(|one| ReactorWaker(one.waker().clone()))
        .collect();
    let (volume, seeds) =
        Volume::<EmbeddedHost>::assemble(found, options, wakers, &memory).map_err(failed)?;
    let info = BdevInfo {
        name: params.name.clone(),
        product_name: "VDO bdev",
        uuid,
        block_size: BLOCK_SIZE as u32,
        num_blocks: volume.layout().logical_blocks,
        supports: IoKinds::ALL,
    };
    let bdev = VdoBdev {
        info,
        params: params.clone(),
        volume: Arc::clone(&volume),
        zones: Mutex::new(Vec::new()),
        stopped: Mutex::new(false),
    };
    for (reactor, seed) in reactors.iter().zip(seeds) {
        let base = base.clone();
        let label = format!("vdo {} zone {}", params.name, seed.index());
        let base_name = params.base_bdev_name.clone();
        let grown = reactor.call(move |ctx: &mut ReactorCtx| {
            let channel = base.open_channel(ctx.handle())?;
            let mut thread = seed.grow(channel).map_err(|source| VdoError::Volume {
                base: base_name,
                source,
            })?;
            Ok(ctx.add_poller(label, move |_: &mut ReactorCtx| {
                let mut busy = thread.poll(reactor::now());
                if !busy {
                    busy = !thread.prepare_to_sleep();
                    if let Some(deadline) = thread.next_deadline() {
                        reactor::poll_by(deadline);
                    }
                }
                Activity::from(busy)
            }))
        });
        match grown.map_err(VdoError::from).and_then(|grown| grown) {
            Ok(poller) => lock(&bdev.zones).push(ZonePoller {
                reactor: reactor.clone(),
                poller,
            }),
            Err(error) => {
                bdev.discard();
                return Err(error);
            }
        }
    }
    match wait(|done| volume.start(done)) {
        Ok(Ok(())) => Ok(bdev),
        Ok(Err(error)) => {
            bdev.discard();
            Err(failed(error.into()))
        }
        Err(error) => {
            bdev.discard();
            Err(error)
        }
    }
}

impl VdoBdev {
    /// Drops the zone threads of a volume that never started.
    fn discard(&self) {
        *lock(&self.stopped) = true;
        for zone in lock(&self.zones).drain(..) {
            let _ = zone
                .reactor
                .call(move |reactor| reactor.remove_poller(zone.poller));
        }
    }
}
