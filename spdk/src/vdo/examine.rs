//! How volumes are found on new bdevs.
//!
//! SPDK shows every new bdev to every module. One that begins with a VDO geometry block is brought up as it is,
//! under the name of its base bdev with `_vdo` behind it. `bdev_vdo_create` on the same base bdev takes such a volume
//! over, so a configuration that names its volumes means the same whether they were found first or not.
//!
//! Where a configuration says beforehand which bdevs it will use, nothing is found on them
//! ([`spoken_for`](super::spoken_for)): whoever names a volume has it as it was named, before anybody else sees it.
//!
//! It can be switched off for the module (`bdev_vdo_set_examine`) or, for all modules, by SPDK
//! (`bdev_set_options --disable-auto-examine`; then `bdev_examine` shows single bdevs).

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use spdk_sys as sys;
use vdo::buffer::DmaMemory;
use vdo::format::{DecodeError, OpenError};
use vdo::volume::{RecoveryPolicy, VolumeError};
use vdo_rpc::params::{Create, Format};
use vdo_rpc::{ErrorCode, volume};

use super::life::{self, Origin};
use super::{bdev, state};
use crate::desc::{self, Desc};
use crate::dma::SpdkMemory;
use crate::task;

/// What a volume that was found is called.
pub fn name_for(base_name: &str) -> String {
    format!("{base_name}_vdo")
}

/// What a volume that was found is made with.
pub fn params_for(base_name: &str) -> Create {
    Create {
        format: Format::Never,
        ..Create::new(name_for(base_name), base_name)
    }
}

/// Whether new bdevs are looked at without anybody saying so. On the app thread.
pub fn is_on() -> bool {
    let mut options = sys::spdk_bdev_opts::default();
    // SAFETY: SPDK fills in as many bytes as it is told there are.
    unsafe { sys::spdk_bdev_get_opts(&mut options, size_of::<sys::spdk_bdev_opts>()) };
    state().examines.get() && options.bdev_auto_examine
}

/// The module's `examine_disk`.
///
/// # Safety
/// `new` is a bdev that SPDK shows to the module.
pub unsafe extern "C" fn examine_disk(new: *mut sys::spdk_bdev) {
    // A volume is not looked for on another volume. SAFETY: the bdev is there as long as the examination is
    // not done.
    let (name, is_ours) = unsafe {
        let name = desc::text(sys::spdk_bdev_get_name(new));
        (name, bdev::of(new).is_some())
    };
    task::spawn(async move {
        if state().examines.get() && !state().is_ending.get() && !is_ours {
            examine(&name).await;
        }
        // SAFETY: said once for each call.
        unsafe { sys::spdk_bdev_module_examine_done(super::module()) }
    });
}

/// Waits until every module has seen every bdev there is, and SPDK has let go of them.
pub async fn finished() {
    unsafe extern "C" fn finished(context: *mut c_void) {
        // SAFETY: the box that was given to `spdk_bdev_wait_for_examine`; SPDK calls once.
        let done = unsafe { Box::from_raw(context.cast::<oneshot::Sender<()>>()) };
        let _ = done.send(());
    }
    let (done, wait) = oneshot::channel::<()>();
    let context = Box::into_raw(Box::new(done)).cast();
    // SAFETY: on the app thread.
    if unsafe { sys::spdk_bdev_wait_for_examine(Some(finished), context) } != 0 {
        // SAFETY: SPDK did not take it.
        drop(unsafe { Box::from_raw(context.cast::<oneshot::Sender<()>>()) });
    }
    let _ = wait.await;
    // SPDK waits in the same way before it lets go, and may be told after us, in the same round of pollers.
    task::sleep(Duration::from_millis(1)).await;
}

async fn examine(base_name: &str) {
    if !holds_a_volume(base_name).await {
        return;
    }
    // Asked only now: some bdevs are given their aliases after they are shown.
    if state().spoken_for.borrow().has(base_name) {
        log::info!("bdev {base_name:?} holds a volume that is left to whoever names it");
        return;
    }
    let params = params_for(base_name);
    let name = params.name.clone();
    match life::bring_up(params, Origin::Found).await {
        Ok(()) => log::info!("vdo {name:?}: found on bdev {base_name:?}"),
        Err(error) if error.code == ErrorCode::EPERM => {
            // Whoever asked for the volume by name came first, or another module.
            log::info!("bdev {base_name:?} was taken before its volume was brought up: {error}");
        }
        Err(error) => {
            log::warn!("bdev {base_name:?} holds a volume that is not brought up: {error}");
        }
    }
}

/// Whether there is a volume on a bdev. Only reads it. Other modules look at it at the same time.
async fn holds_a_volume(base_name: &str) -> bool {
    let _turn = state().turn(base_name).await;
    let Ok(base) = Desc::open(base_name, false, |_| {}) else {
        return false;
    };
    let unfit = volume::check_base(base_name, base.block_bytes(), base.metadata_bytes(), true);
    if unfit.is_err() || is_claimed(&base) {
        return false;
    }
    let request = Create {
        format: Format::Never,
        ..Create::new("found", base_name)
    };
    let Ok(mut request) = volume::open_request(&request) else {
        return false;
    };
    request.recovery = RecoveryPolicy::Look;
    let memory: Arc<dyn DmaMemory> = Arc::new(SpdkMemory::default());
    match life::look(&base, None, request, &memory).await {
        Ok(_) => true,
        Err(VolumeError::Open(
            OpenError::Blank
            | OpenError::Foreign { .. }
            | OpenError::Decode(DecodeError::NotVdo { .. }),
        )) => false,
        Err(VolumeError::Open(error)) => {
            log::warn!("bdev {base_name:?} holds a volume that cannot be opened: {error}");
            false
        }
        Err(error) => {
            log::warn!("bdev {base_name:?} cannot be examined: {error}");
            false
        }
    }
}

/// Whether another module has taken the bdev meanwhile.
fn is_claimed(base: &Desc) -> bool {
    // SAFETY: open; the field is read on the app thread, where claims are made. There is no function for it.
    unsafe { (*base.bdev()).internal.claim_type != sys::SPDK_BDEV_CLAIM_NONE }
}
