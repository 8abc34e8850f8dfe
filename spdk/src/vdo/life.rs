//! How a volume comes up on a base bdev, and goes down.
//!
//! Up: the base bdev is opened and claimed; the volume on it is found, or made, from the app thread; each zone
//! thread grows on an SPDK thread of its own; the volume starts; its bdev is entered. Whatever fails undoes what was
//! done. Down is the opposite, and begins when the last user of the bdev has closed it.

use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;
use vdo::buffer::DmaMemory;
use vdo::error::VdoError;
use vdo::types::BLOCK_SIZE;
use vdo::volume::{Done, Found, IndexCommand, Losses, OpenRequest, Opening, Volume, VolumeError};
use vdo_rpc::events::Reporter;
use vdo_rpc::params::{Create, Format, Rebuild, SetOptions};
use vdo_rpc::results::Rebuilt;
use vdo_rpc::volume;
use vdo_rpc::{ErrorCode, RpcError};

use super::base::SpdkChannel;
use super::bdev::{self, VdoBdev};
use super::zone::{self, RunningZone, SpdkWaker};
use super::{NAME, SpdkHost, examine, nvme_flush, state};
use crate::desc::{self, Desc, Event};
use crate::dma::SpdkMemory;
use crate::poller::{Activity, Poller};
use crate::{notify, task, thread};

/// How often, and after what time, a base bdev that was found is tried again while others have it open.
const FIND_ATTEMPTS: u32 = 50;
const FIND_INTERVAL: Duration = Duration::from_millis(20);

/// How a vdo bdev came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By `bdev_vdo_create`.
    Asked,
    /// Its volume was found on a new bdev.
    Found,
}

/// What a volume that is up is made of, beside its handle.
pub struct Parts {
    /// The base bdev.
    pub base: Desc,
    /// Its zone threads.
    pub zones: Vec<RunningZone>,
    watch: Rc<Watch>,
}

/// What the base bdev's events reach.
#[derive(Default)]
struct Watch {
    is_leaving: Cell<bool>,
    bdev: Cell<Option<NonNull<VdoBdev>>>,
}

impl Watch {
    fn told(&self, event: Event) {
        // SAFETY: the bdev clears this before it goes, on the app thread, where this runs.
        let bdev = self.bdev.get().map(|bdev| unsafe { bdev.as_ref() });
        match event {
            Event::Remove => {
                self.is_leaving.set(true);
                if let Some(bdev) = bdev {
                    log::warn!(
                        "vdo {:?}: base bdev {:?} is being removed; the volume is shut down",
                        bdev.name(),
                        bdev.base_name().unwrap_or_default()
                    );
                    bdev.unregister_soon();
                }
            }
            Event::Resize => {
                if let Some(bdev) = bdev {
                    base_resized(bdev);
                }
            }
        }
    }
}

/// The base bdev has another size.
fn base_resized(bdev: &VdoBdev) {
    let Some(found) = bdev.base_bytes() else {
        return;
    };
    let name = bdev.name();
    let needed = bdev.volume().usage().physical_blocks * BLOCK_SIZE as u64;
    if let Some(more) = found.checked_sub(needed) {
        log::info!(
            "vdo {name:?}: its base bdev has {found} bytes now, {more} more than the volume uses; bdev_vdo_grow_physical takes them"
        );
        return;
    }
    let reason = format!(
        "the base bdev shrank to {found} bytes, and the volume needs {needed}; give it its size back"
    );
    log::error!("vdo {name:?}: {reason}");
    bdev.volume().enter_read_only(&reason);
}

/// Makes a vdo bdev as `params` say.
///
/// # Errors
/// Why it cannot be made; nothing is left behind then.
pub async fn bring_up(params: Create, origin: Origin) -> Result<(), RpcError> {
    let request = volume::open_request(&params)?;
    bring_up_as(params, origin, request).await.map(drop)
}

/// Has a volume that is read-only rebuilt, whether it is up or not. If it is, its users let go first, as if it was
/// deleted, and it comes up again.
///
/// # Errors
/// When it is not read-only, or the rebuild fails: it can be tried again then.
pub async fn rebuild(params: Rebuild) -> Result<Rebuilt, RpcError> {
    let base_name = params.base_bdev_name.unwrap_or_default();
    let known_base = bdev::canonical(&base_name);
    let up = match params.name {
        Some(name) => Some(bdev::find(&name)?),
        None => bdev::all().into_iter().find(|bdev| {
            // SAFETY: on the app thread; not kept.
            known_base.is_some() && unsafe { bdev.as_ref() }.base_name() == known_base
        }),
    };
    let Some(bdev) = up else {
        let create = Create::new(format!("{base_name} (rebuilt)"), &base_name);
        let request = volume::rebuild_request(&create)?;
        let no_base = || RpcError::no_bdev("base_bdev_name", &base_name);
        let _turn = state().turn(&known_base.ok_or_else(no_base)?).await;
        let base = open_base(&create, &Rc::default())?;
        let memory: Arc<dyn DmaMemory> = Arc::new(SpdkMemory::default());
        let found = look(&base, None, request, &memory).await;
        let found = found.map_err(|error| volume::volume_error(&base_name, error))?;
        return Ok(Rebuilt {
            name: None,
            base_bdev_name: base_name,
            dropped: found.dropped.unwrap_or_default().into(),
        });
    };
    // SAFETY: it was just found, on the app thread; not kept.
    let (create, origin) = unsafe {
        let bdev = bdev.as_ref();
        volume::check_rebuild(bdev.volume())?;
        (bdev.params(), bdev.origin())
    };
    let request = volume::rebuild_request(&create)?;
    match VdoBdev::unregister(bdev).await {
        Err(error) if error.code == ErrorCode::EBUSY => return Err(error),
        Err(error) => log::info!("vdo {:?} goes down to be rebuilt: {error}", create.name),
        Ok(()) => {}
    }
    let rebuilt = bring_up_as(create.clone(), origin, request).await;
    if rebuilt.is_err() {
        // It is as it was, and can be read, if it got no further than that.
        let _ = bring_up(create.clone(), origin).await;
    }
    Ok(Rebuilt {
        name: Some(create.name),
        base_bdev_name: create.base_bdev_name,
        dropped: rebuilt?.unwrap_or_default().into(),
    })
}

async fn bring_up_as(
    params: Create,
    origin: Origin,
    request: OpenRequest,
) -> Result<Option<Losses>, RpcError> {
    if origin == Origin::Asked {
        // Modules that look at a new bdev have it open, some of them for writing, and this one may find a volume
        // there, which gives way. And the base bdev itself may be one that only comes by that (a logical volume, a
        // partition, a RAID), or lie on one.
        examine::finished().await;
    }
    let known_base = bdev::canonical(&params.base_bdev_name);
    if let Some(taken) = bdev::lookup(&params.name)
        && !(origin == Origin::Asked && is_found_on(taken, known_base.as_deref()))
    {
        return Err(RpcError::name_taken("name", &params.name));
    }
    let cores = volume::zone_cores(params.cpumask.as_deref(), &thread::cores())?;
    let no_base = || RpcError::no_bdev("base_bdev_name", &params.base_bdev_name);
    let base_name = known_base.ok_or_else(no_base)?;
    let _name = state()
        .reserve(&params.name)
        .ok_or_else(|| RpcError::name_taken("name", &params.name))?;
    let _turn = state().turn(&base_name).await;
    if origin == Origin::Asked {
        state().spoken_for.borrow_mut().forget(&base_name);
    }
    if origin == Origin::Asked && take_over(&params, &base_name).await? {
        return Ok(None);
    }
    let watch = Rc::new(Watch::default());
    let base = match origin {
        Origin::Asked => open_base(&params, &watch)?,
        Origin::Found => open_base_among_others(&params, &watch).await?,
    };
    nvme_flush::check(&params.name);
    let memory: Arc<dyn DmaMemory> = Arc::new(SpdkMemory::default());
    let failed = |error| volume::volume_error(&params.base_bdev_name, error);
    let name = Some(params.name.as_str());
    let found = look(&base, name, request, &memory).await.map_err(failed)?;
    let dropped = found.dropped;
    let slabs = found.volume.layout.slabs.slab_count;
    let cores = volume::zones_that_fit(&params, cores, slabs.into())?;
    let (volume, zones) = start(&params, found, &cores, &base, &memory)
        .await
        .map_err(failed)?;
    let parts = Parts {
        base,
        zones,
        watch: Rc::clone(&watch),
    };
    if watch.is_leaving.get() || state().is_ending.get() {
        let _ = stop(&volume, parts).await;
        return Err(no_base());
    }
    let name = params.name.clone();
    match VdoBdev::new(volume, params, origin, parts).register() {
        Ok(bdev) => {
            watch.bdev.set(Some(bdev));
            Ok(dropped)
        }
        Err((errno, bdev)) => {
            let uuid = bdev.volume().layout().uuid;
            let _ = take_down(&bdev).await;
            Err(match errno {
                libc::EEXIST => RpcError::identity_taken(&name, &uuid),
                errno => {
                    RpcError::errno(errno, format!("name: SPDK does not take bdev \"{name}\""))
                }
            })
        }
    }
}

/// Whether a bdev is a volume that was found on the bdev called `base`.
fn is_found_on(raw: *mut spdk_sys::spdk_bdev, base: Option<&str>) -> bool {
    // SAFETY: there, on the app thread; not kept.
    unsafe {
        bdev::of(raw).is_some_and(|bdev| {
            let bdev = bdev.as_ref();
            bdev.origin() == Origin::Found && base.is_some() && bdev.base_name().as_deref() == base
        })
    }
}

/// The volume that was found on the bdev called `base_name`, if there is one.
fn found_on(base_name: &str) -> Option<NonNull<VdoBdev>> {
    bdev::all()
        .into_iter()
        // SAFETY: on the app thread; not kept across an await unless registered.
        .find(|bdev| is_found_on(unsafe { bdev.as_ref().raw() }, Some(base_name)))
}

fn is_open(bdev: NonNull<VdoBdev>) -> bool {
    // SAFETY: it was just found, on the app thread.
    unsafe { bdev.as_ref().is_open() }
}

/// A volume that was found on the base bdev gives way to one that is asked for: it becomes that one (true), if it is as
/// asked or is in use and can be made so, or else it is shut down.
async fn take_over(params: &Create, base_name: &str) -> Result<bool, RpcError> {
    let Some(bdev) = found_on(base_name) else {
        return Ok(false);
    };
    // SAFETY: as in `found_on`.
    let found = unsafe { bdev.as_ref().params() };
    let as_found = Create {
        format: found.format,
        base_bdev_name: found.base_bdev_name.clone(),
        ..params.clone()
    };
    let is_as_asked = as_found == found && params.format != Format::Force;
    if !is_as_asked && !is_open(bdev) {
        VdoBdev::unregister(bdev).await?;
        return Ok(false);
    }
    let differ = needs_opening(params, &found)?;
    if !differ.is_empty() {
        return Err(RpcError::new(
            ErrorCode::EBUSY,
            format!(
                "base_bdev_name: the volume on bdev \"{}\" was found and is in use as \"{}\", with another {}; use it as it is, \
                 have its users close it first, or switch examination off before its base bdev comes",
                params.base_bdev_name,
                found.name,
                differ.join(" and ")
            ),
        ));
    }
    // SAFETY: as above, and nothing was awaited since.
    let bdev = unsafe { bdev.as_ref() };
    bdev.adopt(params.clone()).map_err(|errno| match errno {
        libc::EEXIST => RpcError::name_taken("name", &params.name),
        errno => RpcError::errno(
            errno,
            format!("name: SPDK does not take alias \"{}\"", params.name),
        ),
    })?;
    let volume = Arc::clone(bdev.volume());
    let discards = volume.discarding().is_wanted();
    volume::apply_options(
        &volume,
        &SetOptions {
            compression: Some(params.compression),
            discard_freed: (params.discard_freed != discards).then_some(params.discard_freed),
            low_space_percent: Some(params.low_space_percent.clone()),
            ..SetOptions::none(&params.name)
        },
    )?;
    if params.deduplication != found.deduplication {
        let command = match params.deduplication {
            true => IndexCommand::Online,
            false => IndexCommand::Offline,
        };
        volume::prepare_index(&*volume, &params.name, command)?;
        let result = ask(|done| volume.index(command, done)).await;
        let result = result.ok_or_else(|| volume::no_answer(&params.name))?;
        volume::index_answer(&params.name, result)?;
    }
    Ok(true)
}

/// The parameters that only opening the volume again could give it.
fn needs_opening(params: &Create, found: &Create) -> Result<Vec<&'static str>, RpcError> {
    let cores = |params: &Create| volume::zone_cores(params.cpumask.as_deref(), &thread::cores());
    let differ = [
        ("format", params.format == Format::Force),
        ("cpumask", cores(params)? != cores(found)?),
        (
            "block_map_cache_mib",
            params.block_map_cache_mib != found.block_map_cache_mib,
        ),
    ];
    let differ = differ.into_iter().filter(|(_, differs)| *differs);
    Ok(differ.map(|(name, _)| name).collect())
}

/// Who has claimed the bdev called `name`, as far as can be said: a volume, or the module.
fn claimant(name: &str) -> Option<String> {
    let known = bdev::canonical(name)?;
    let on_it = |bdev: NonNull<VdoBdev>| {
        // SAFETY: on the app thread; not kept.
        let bdev = unsafe { bdev.as_ref() };
        let is_on_it = bdev.base_name().as_ref() == Some(&known);
        is_on_it.then(|| format!("{NAME} {:?}", bdev.name()))
    };
    let volume = bdev::all().into_iter().find_map(on_it);
    // SAFETY: the bdev is there, on the app thread.
    volume.or_else(|| unsafe { desc::claiming_module(bdev::lookup(name)?) })
}

/// As [`open_base`], while other modules look at the base bdev, too, and some of them have it open for writing
/// for a moment.
async fn open_base_among_others(params: &Create, watch: &Rc<Watch>) -> Result<Desc, RpcError> {
    let mut patience = FIND_ATTEMPTS;
    loop {
        let opened = open_base(params, watch);
        let is_claimed = || claimant(&params.base_bdev_name).is_some();
        match opened {
            Err(error) if error.code == ErrorCode::EPERM && patience > 0 && !is_claimed() => {
                patience -= 1;
                task::sleep(FIND_INTERVAL).await;
            }
            opened => return opened,
        }
    }
}

/// Opens and claims the base bdev.
fn open_base(params: &Create, watch: &Rc<Watch>) -> Result<Desc, RpcError> {
    let name = &params.base_bdev_name;
    let refused = |errno| match errno {
        libc::ENODEV => RpcError::no_bdev("base_bdev_name", name),
        libc::EPERM => RpcError::base_claimed(name, claimant(name).as_deref()),
        errno => RpcError::errno(
            errno,
            format!("base_bdev_name: bdev \"{name}\" cannot be opened"),
        ),
    };
    let listener = Rc::clone(watch);
    let base = Desc::open(name, true, move |event| listener.told(event)).map_err(refused)?;
    let writable = base.supports(spdk_sys::SPDK_BDEV_IO_TYPE_WRITE);
    volume::check_base(name, base.block_bytes(), base.metadata_bytes(), writable)?;
    // SAFETY: the module is registered.
    unsafe { base.claim(super::module()) }.map_err(|errno| match errno {
        libc::EPERM => RpcError::base_in_use(name, None),
        errno => refused(errno),
    })?;
    Ok(base)
}

/// Who tells of what happens to the volume called `name`.
fn reporter(name: &str) -> Arc<Reporter> {
    Arc::new(Reporter::new(name, Box::new(notify::send)))
}

/// Finds the volume on an open bdev, or makes one, as `request` says. `name` is what it will be called, if it will be a bdev.
///
/// # Errors
/// Why there is none.
pub async fn look(
    base: &Desc,
    name: Option<&str>,
    request: OpenRequest,
    memory: &Arc<dyn DmaMemory>,
) -> Result<Found, VolumeError> {
    let no_memory = |what| VolumeError::NoMemory { what };
    let channel = base
        .channel()
        .map_err(|_| no_memory("a channel to the base bdev"))?;
    let blocks = base.bytes() / BLOCK_SIZE as u64;
    let channel = SpdkChannel::new(channel);
    let mut opening = Opening::new(channel, blocks, Arc::clone(memory), request)
        .telling(reporter(name.unwrap_or(&base.name())));
    let _shown = volume::show(name, &base.name(), opening.progress());
    let (answer, answered) = oneshot::channel();
    let mut answer = Some(answer);
    let poller = Poller::register("vdo_opening", Duration::ZERO, move || {
        match opening.poll(zone::now()) {
            Poll::Pending => Activity::Idle,
            Poll::Ready(found) => {
                if let Some(answer) = answer.take() {
                    let _ = answer.send(found);
                }
                Activity::Busy
            }
        }
    })
    .ok_or(no_memory("a poller"))?;
    let found = answered.await;
    drop(poller);
    found.unwrap_or(Err(no_memory("opening the base bdev")))
}

/// Waits for the volume to answer.
pub async fn ask<T: Send + 'static>(question: impl FnOnce(Done<T>)) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    question(Box::new(move |value| drop(answer.send(value))));
    answered.await.ok()
}

type Started = (Arc<Volume<SpdkHost>>, Vec<RunningZone>);

/// Grows the zone threads and starts the volume.
async fn start(
    params: &Create,
    found: Found,
    cores: &[u32],
    base: &Desc,
    memory: &Arc<dyn DmaMemory>,
) -> Result<Started, VolumeError> {
    let wakers: Vec<_> = cores.iter().map(|_| SpdkWaker::new()).collect();
    let unmaps = base.supports(spdk_sys::SPDK_BDEV_IO_TYPE_UNMAP);
    let reporter = reporter(&params.name);
    let zones = cores.len() as u8;
    let options = volume::volume_options(params, &found.volume, zones, unmaps, reporter)?;
    let (volume, seeds) = Volume::<SpdkHost>::assemble(found, options, wakers.clone(), memory)?;
    let mut zones = Vec::new();
    let mut result = Ok(());
    for ((seed, waker), &core) in seeds.into_iter().zip(wakers).zip(cores) {
        let name = format!("vdo_{}_{}", params.name, seed.index().get());
        match zone::run(seed, waker, base.clone(), &name, core).await {
            Ok(zone) => zones.push(zone),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    if result.is_ok() {
        result = match ask(|done| volume.start(done)).await {
            Some(started) => started.map_err(VolumeError::from),
            None => Err(VolumeError::NoMemory {
                what: "starting the volume",
            }),
        };
    }
    match result {
        Ok(()) => Ok((volume, zones)),
        Err(error) => {
            end_all(zones).await;
            Err(error)
        }
    }
}

async fn end_all(zones: Vec<RunningZone>) {
    for zone in zones {
        zone.end().await;
    }
}

/// Shuts a volume down and lets go of its base bdev.
async fn stop(volume: &Arc<Volume<SpdkHost>>, parts: Parts) -> Result<(), VdoError> {
    let result = ask(|done| volume.shut_down(done)).await;
    end_all(parts.zones).await;
    parts.watch.bdev.set(None);
    drop(parts.base);
    result.unwrap_or(Err(VdoError::ShuttingDown))
}

/// Takes down the volume of a bdev that nobody uses any more.
///
/// # Errors
/// When it could not be shut down cleanly. It is down all the same.
pub async fn take_down(bdev: &VdoBdev) -> Result<(), RpcError> {
    let Some(parts) = bdev.take_parts() else {
        return Ok(());
    };
    let name = bdev.name();
    stop(bdev.volume(), parts).await.map_err(|error| {
        log::error!("vdo {name:?} was not shut down cleanly: {error}");
        volume::engine_error(&name, &error)
    })
}
