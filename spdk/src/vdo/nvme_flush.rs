//! Whether SPDK passes flushes on to NVMe devices.
//!
//! Its NVMe bdevs answer a flush themselves unless an option (`bdev_nvme_set_options`: `enable_flush`) tells them to send it to the
//! device, and it is off for those who trust their devices not to lose power. A volume promises that what was flushed
//! is kept, so it is switched on before `main`, and a configuration that switches it off again is told what that means. (Bdevs of devices without
//! a volatile cache answer flushes themselves in any case.)

use spdk_sys as sys;

use crate::desc;

fn options() -> sys::spdk_bdev_nvme_opts {
    let mut options = sys::spdk_bdev_nvme_opts::default();
    let bytes = size_of::<sys::spdk_bdev_nvme_opts>();
    // SAFETY: SPDK fills in as many bytes as it is told there are.
    unsafe { sys::spdk_bdev_nvme_get_opts(&mut options, bytes) };
    options
}

/// Has NVMe bdevs pass flushes on. Before there are any.
pub(super) fn enable() {
    let mut options = options();
    options.enable_flush = true;
    // SAFETY: SPDK copies the options. It refuses only when there are NVMe bdevs already, and `check` sees that.
    unsafe { sys::spdk_bdev_nvme_set_opts(&options) };
}

/// Warns of NVMe bdevs that hold what was flushed in a volatile cache, now that a volume comes up that may lie on one.
/// On the app thread.
pub(super) fn check(volume: &str) {
    if options().enable_flush {
        return;
    }
    let volatile = volatile_bdevs();
    if !volatile.is_empty() {
        log::error!(
            "vdo {volume:?}: flushes of NVMe bdevs are switched off (bdev_nvme_set_options: enable_flush), and {} has a volatile \
             cache: if the volume lies on it, a power failure loses what was flushed, and damages the volume",
            volatile.join(", ")
        );
    }
}

/// Names of NVMe bdevs whose devices have a volatile cache.
fn volatile_bdevs() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: on the app thread, where bdevs stay while nobody awaits anything.
    unsafe {
        let mut next = sys::spdk_bdev_first();
        while let Some(bdev) = next.as_ref() {
            if bdev.write_cache != 0 && desc::text((*bdev.module).name) == "nvme" {
                names.push(desc::text(bdev.name));
            }
            next = sys::spdk_bdev_next(next);
        }
    }
    names
}
