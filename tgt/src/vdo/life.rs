//! How a vdo bdev comes up and goes down.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use vdo::buffer::{DmaMemory, HeapMemory};
use vdo::format::{Growth, VolumeLayout};
use vdo::types::BLOCK_SIZE;
use vdo::volume::{Done, Found, Losses, OpenRequest, Opening, Volume, VolumeError};
use vdo_rpc::events::Reporter;
use vdo_rpc::params::{Create, Rebuild};
use vdo_rpc::results::Rebuilt;
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
        let request = volume::open_request(&params)?;
        VdoBdev::bring_up_as(target, params, request).map(drop)
    }

    /// Has a volume that is read-only rebuilt, whether it is up or not. If it is, its users let go first, as if it was
    /// deleted, and it comes up again.
    ///
    /// # Errors
    /// When it is not read-only, or the rebuild fails: it can be tried again then.
    pub fn rebuild(target: &Arc<Target>, params: &Rebuild) -> Result<Rebuilt, VdoError> {
        let up = match params {
            Rebuild {
                name: Some(name), ..
            } => Some(VdoBdev::called(target, name)?),
            Rebuild { base_bdev_name, .. } => target
                .bdevs
                .names()
                .iter()
                .filter_map(|name| VdoBdev::called(target, name).ok())
                .find(|bdev| Some(&bdev.params.base_bdev_name) == base_bdev_name.as_ref()),
        };
        let (name, create, dropped) = match up {
            Some(bdev) => {
                volume::check_rebuild(&bdev.volume)?;
                let create = bdev.params.clone();
                let request = volume::rebuild_request(&create)?;
                bdev.let_go(target)?;
                if let Err(error) = bdev.stop() {
                    log::info!("vdo {:?} goes down to be rebuilt: {error}", create.name);
                }
                let rebuilt = VdoBdev::bring_up_as(target, create.clone(), request);
                if rebuilt.is_err() {
                    // It is as it was, and can be read, if it got no further than that.
                    let _ = VdoBdev::bring_up(target, create.clone());
                }
                (Some(create.name.clone()), create, rebuilt?)
            }
            None => {
                let base = params.base_bdev_name.clone().unwrap_or_default();
                let create = Create::new(format!("{base} (rebuilt)"), base);
                let request = volume::rebuild_request(&create)?;
                let user = format!("{MODULE} rebuild");
                let base = claim_base(target, &create, OpenOptions::claimed(user))?;
                let reactor = &target.reactors.all()[0];
                let reporter = reporter(target, &create.base_bdev_name);
                let base_name = &create.base_bdev_name;
                let found = open_base(reactor, &base, (None, base_name), request, reporter)?;
                (None, create, found.dropped)
            }
        };
        Ok(Rebuilt {
            name,
            base_bdev_name: create.base_bdev_name,
            dropped: dropped.unwrap_or_default().into(),
        })
    }

    fn bring_up_as(
        target: &Arc<Target>,
        params: Create,
        request: OpenRequest,
    ) -> Result<Option<Losses>, VdoError> {
        // Before anything is formatted; whoever takes the name meanwhile is noticed below.
        let name = params.name.clone();
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
        let base = claim_base(target, &params, options)?;
        let first = &reactors_of(target, &cores)[0];
        let (name, base_name) = (&params.name, &params.base_bdev_name);
        let names = (Some(name.as_str()), base_name.as_str());
        let found = open_base(first, &base, names, request, reporter(target, name))?;
        let dropped = found.dropped;
        let slabs = u64::from(found.volume.layout.slabs.slab_count);
        let cores = volume::zones_that_fit(&params, cores, slabs)?;
        let reactors = reactors_of(target, &cores);
        let reporter = reporter(target, name);
        let bdev = Arc::new(start(&reactors, &base, found, params, reporter)?);
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
        target.on_shutdown(Stage::Notice, move |_| {
            if let Some(bdev) = last.upgrade() {
                bdev.volume.give_way(true);
            }
        });
        let last = Arc::downgrade(&bdev);
        target.on_shutdown(Stage::Volumes, move |target| {
            if let Some(bdev) = last.upgrade()
                && let Err(error) = VdoBdev::take_down(target, &bdev.params.name)
            {
                log::error!("vdo {:?}: {error}", bdev.params.name);
            }
        });
        Ok(dropped)
    }

    fn called(target: &Target, name: &str) -> Result<Arc<VdoBdev>, VdoError> {
        let bdev = |bdev: &Arc<VdoBdev>| Arc::clone(bdev);
        let found = target.bdevs.with(name, MODULE, bdev);
        found.map_err(|error| no_volume(name, error))
    }

    /// Has its users let go of it, and their long requests give way to that.
    fn let_go(&self, target: &Target) -> Result<(), VdoError> {
        let name = &self.params.name;
        self.volume.give_way(true);
        target.bdevs.remove(name, MODULE).map_err(|error| {
            self.volume.give_way(false);
            no_volume(name, error)
        })
    }

    /// Unmakes a vdo bdev: its users let go, the volume is shut down, its base bdev is let go of. The data
    /// stays.
    ///
    /// # Errors
    /// When there is none of that name, a user does not let go, or the volume cannot be shut down cleanly.
    pub fn take_down(target: &Target, name: &str) -> Result<(), VdoError> {
        let bdev = VdoBdev::called(target, name)?;
        bdev.let_go(target)?;
        bdev.stop()
    }

    /// Has the volume grow while it works. Not to be called on a reactor.
    ///
    /// # Errors
    /// When a zone thread ended without an answer; within, what the volume says.
    pub(super) fn grow(
        &self,
        target: &Target,
        growth: Growth,
    ) -> Result<Result<Arc<VolumeLayout>, VolumeError>, VdoError> {
        let grown = wait(|done| self.volume.grow(growth, volume::growth_keeper(), done))?;
        let blocks = self.volume.layout().logical_blocks;
        if blocks > self.info.num_blocks.get() {
            self.info.num_blocks.grow(blocks);
            target.bdevs.resized(&self.info.name);
        }
        Ok(grown)
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

/// Opens the base bdev of a volume and claims it, if it will do.
fn claim_base(
    target: &Target,
    params: &Create,
    options: OpenOptions,
) -> Result<BdevDesc, VdoError> {
    let name = &params.base_bdev_name;
    let base = target.bdevs.open(name, options);
    let base = base.map_err(|error| base_refused(name, error))?;
    let info = base.info();
    let writable = info.supports.contains(IoKind::Write);
    volume::check_base(name, info.block_size, 0, writable)?;
    Ok(base)
}

/// Who tells of what happens to the volume called `name`.
fn reporter(target: &Target, name: &str) -> Arc<Reporter> {
    let notifications = Arc::clone(&target.notifications);
    let notify = move |kind: &str, context: &str| notifications.send(kind, context);
    Arc::new(Reporter::new(name, Box::new(notify)))
}

/// Finds the volume on the base bdev, or makes one, on a reactor. The names are what it will be called, if it will be a bdev, and the base
/// bdev's.
fn open_base(
    reactor: &ReactorHandle,
    base: &BdevDesc,
    (name, base_name): (Option<&str>, &str),
    request: OpenRequest,
    reporter: Arc<Reporter>,
) -> Result<Found, VdoError> {
    let blocks = base.info().bytes() / BLOCK_SIZE as u64;
    let (answer, answered) = mpsc::sync_channel(1);
    let base_desc = base.clone();
    let (to_show, shown) = mpsc::sync_channel(1);
    reactor.call(move |ctx: &mut ReactorCtx| -> Result<(), BdevError> {
        let channel = base_desc.open_channel(ctx.handle())?;
        let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
        let opening = Opening::new(channel, blocks, memory, request);
        let mut opening = Some(opening.telling(reporter));
        let _ = to_show.send(opening.as_ref().map(Opening::progress));
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
    let progress = shown.recv().ok().flatten().unwrap_or_default();
    let _shown = volume::show(name, base_name, progress);
    let found = answered.recv().map_err(|_| VdoError::NoAnswer)?;
    found.map_err(|error| volume::volume_error(base_name, error).into())
}

/// Grows the zone threads and starts the volume.
fn start(
    reactors: &[ReactorHandle],
    base: &BdevDesc,
    found: Found,
    params: Create,
    reporter: Arc<Reporter>,
) -> Result<VdoBdev, VdoError> {
    let failed = |error| VdoError::from(volume::volume_error(&params.base_bdev_name, error));
    let (zones, unmaps) = (
        reactors.len() as u8,
        base.info().supports.contains(IoKind::Unmap),
    );
    let options = volume::volume_options(&params, &found.volume, zones, unmaps, reporter);
    let options = options.map_err(failed)?;
    let memory: Arc<dyn DmaMemory> = Arc::new(HeapMemory);
    let uuid = found.volume.layout.uuid;
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
        num_blocks: volume.layout().logical_blocks.into(),
        supports: IoKinds::ALL,
    };
    let bdev = VdoBdev {
        info,
        params: params.clone(),
        volume: Arc::clone(&volume),
        base_blocks: (base.info().block_size, base.info().num_blocks.clone()),
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
