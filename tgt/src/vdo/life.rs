//! How a vdo bdev comes up and goes down.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use vdo::buffer::{DmaMemory, HeapMemory};
use vdo::format;
use vdo::types::BLOCK_SIZE;
use vdo::volume::{Done, Opening, Volume};
use vdo_rpc::params::Create;
use vdo_rpc::{ErrorCode, RpcError, volume};

use super::{EmbeddedHost, MODULE, ReactorWaker, VdoBdev, lock};
use crate::bdev::{BdevDesc, BdevError, BdevInfo, IoKind, IoKinds, OpenOptions};
use crate::reactor::{self, Activity, PollerId, ReactorCtx, ReactorError, ReactorHandle};
use crate::target::{Stage, Target};

/// How long a volume may take to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a vdo bdev could not be made or unmade.
#[derive(Debug, Error)]
pub enum VdoError {
    /// What both hosts refuse alike.
    #[error("{}", .0.message)]
    Refused(#[from] RpcError),
    /// The base bdev, or the registry, refused.
    #[error(transparent)]
    Bdev(#[from] BdevError),
    /// A reactor could not be reached.
    #[error(transparent)]
    Reactor(#[from] ReactorError),
    /// A zone thread ended without an answer.
    #[error("the volume ended before it answered")]
    NoAnswer,
}

impl From<VdoError> for RpcError {
    fn from(error: VdoError) -> RpcError {
        match error {
            VdoError::Refused(error) => error,
            VdoError::Bdev(error) => error.into(),
            VdoError::Reactor(_) | VdoError::NoAnswer => {
                RpcError::new(ErrorCode::EIO, error.to_string())
            }
        }
    }
}

/// What is answered when a bdev's name cannot be given to a volume.
fn name_refused(error: BdevError) -> VdoError {
    match error {
        BdevError::Exists(name) => RpcError::name_taken("name", &name).into(),
        error => error.into(),
    }
}

/// What is answered when the base bdev cannot be had.
fn base_refused(base: &str, error: BdevError) -> VdoError {
    match error {
        BdevError::NotFound(_) => RpcError::no_bdev("base_bdev_name", base).into(),
        BdevError::Claimed { module, .. } => RpcError::base_claimed(base, Some(&module)).into(),
        BdevError::Busy { user, .. } => RpcError::base_in_use(base, Some(&user)).into(),
        error => error.into(),
    }
}

/// What is answered when `name` is not that of a volume.
pub(super) fn no_volume(name: &str, error: BdevError) -> VdoError {
    match error {
        BdevError::NotFound(_) => RpcError::no_bdev("name", name).into(),
        BdevError::WrongKind { .. } => RpcError::wrong_kind("name", name, MODULE).into(),
        error => error.into(),
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
        let (name, base_name) = (params.name.clone(), params.base_bdev_name.clone());
        target.bdevs.check_name(&name).map_err(name_refused)?;
        let have: Vec<u32> = target
            .reactors
            .all()
            .iter()
            .map(|one| one.core() as u32)
            .collect();
        let cores = volume::zone_cores(params.cpumask.as_deref(), &have)?;
        let remover = Arc::downgrade(target);
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
        let base = target
            .bdevs
            .open(&base_name, options)
            .map_err(|error| base_refused(&base_name, error))?;
        let info = base.info();
        let writable = info.supports.contains(IoKind::Write);
        volume::check_base(&base_name, info.block_size, 0, writable)?;
        let found = open_base(&reactors_of(target, &cores)[0], &base, &params)?;
        let slabs = u64::from(found.layout.slabs.slab_count);
        let cores = volume::zones_that_fit(&params, cores, slabs)?;
        let reactors = reactors_of(target, &cores);
        let bdev = Arc::new(start(&reactors, &base, found, params)?);
        drop(base);
        if let Err(error) = target.bdevs.add(Arc::clone(&bdev)) {
            let _ = bdev.stop();
            return Err(match error {
                BdevError::Exists(_) => {
                    RpcError::identity_taken(&bdev.info.name, &bdev.info.uuid).into()
                }
                error => error.into(),
            });
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
            .with(name, MODULE, |bdev: &Arc<VdoBdev>| Arc::clone(bdev))
            .map_err(|error| no_volume(name, error))?;
        target
            .bdevs
            .remove(name, MODULE)
            .map_err(|error| no_volume(name, error))?;
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
        result?.map_err(|error| volume::engine_error(&self.params.name, &error).into())
    }
}

/// The reactors of the volume's zone threads, in order.
fn reactors_of(target: &Target, cores: &[u32]) -> Vec<ReactorHandle> {
    let all = target.reactors.all().iter();
    all.filter(|one| cores.contains(&(one.core() as u32)))
        .cloned()
        .collect()
}

/// Opens or formats the base bdev, on a reactor.
fn open_base(
    reactor: &ReactorHandle,
    base: &BdevDesc,
    params: &Create,
) -> Result<format::Volume, VdoError> {
    let request = volume::open_request(params)?;
    let blocks = base.info().bytes() / BLOCK_SIZE as u64;
    let (answer, answered) = mpsc::sync_channel(1);
    let base_desc = base.clone();
    reactor.call(move |ctx: &mut ReactorCtx| -> Result<(), BdevError> {
        let channel = base_desc.open_channel(ctx.handle())?;
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let mut opening = Some(Opening::new(channel, blocks, memory, request));
        ctx.add_poller("vdo opening", move |_: &mut ReactorCtx| {
            let Some(looking) = &mut opening else {
                return Activity::Finished;
            };
            let Poll::Ready(found) = looking.poll(reactor::now()) else {
                return Activity::Busy;
            };
            // The base bdev must be let go of before anybody hears that the volume was refused.
            opening = None;
            let _ = answer.send(found);
            Activity::Finished
        });
        Ok(())
    })??;
    let found = answered.recv().map_err(|_| VdoError::NoAnswer)?;
    found.map_err(|error| volume::volume_error(&params.base_bdev_name, error).into())
}

/// Grows the zone threads and starts the volume.
fn start(
    reactors: &[ReactorHandle],
    base: &BdevDesc,
    found: format::Volume,
    params: Create,
) -> Result<VdoBdev, VdoError> {
    let failed = |error| VdoError::from(volume::volume_error(&params.base_bdev_name, error));
    let options = volume::volume_options(&params, reactors.len() as u8);
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
            let mut thread = seed
                .grow(channel)
                .map_err(|error| volume::volume_error(&base_name, error))?;
            Ok(ctx.add_poller(label, move |_: &mut ReactorCtx| {
                let now = reactor::now();
                let mut busy = thread.poll(now);
                busy |= thread.expire_contexts(now);
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
