//! Reset: it is done when every I/O that was under way has ended.
//!
//! The bdev layer keeps new I/O back meanwhile. The reset is not passed to the base bdev: that would abort
//! writes of the volume's metadata, and the volume would have to turn read-only. A base bdev that hangs is up to
//! its own timeouts (`bdev_nvme_set_options --timeout-us`, for one), whose outcome ends what waits here.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_channel::oneshot;
use spdk_sys as sys;

use super::channel;
use crate::task;

/// How often the channels are asked.
const INTERVAL: Duration = Duration::from_millis(1);

/// Begins a reset, which ends by completing `io`.
///
/// # Safety
/// `io` is a reset that SPDK handed to the module on this thread.
pub unsafe fn begin(io: *mut sys::spdk_bdev_io) {
    task::spawn(async move {
        // SAFETY: the bdev stays while a reset is under way.
        let device = unsafe { (*(*io).bdev).ctxt };
        while in_flight(device).await > 0 {
            task::sleep(INTERVAL).await;
        }
        // SAFETY: completed once, on the thread it was submitted on.
        unsafe { sys::spdk_bdev_io_complete(io, sys::SPDK_BDEV_IO_STATUS_SUCCESS) }
    });
}

struct Count {
    sum: AtomicU64,
    done: Option<oneshot::Sender<u64>>,
}

/// The I/Os that all channels of a vdo bdev have in flight.
async fn in_flight(device: *mut c_void) -> u64 {
    unsafe extern "C" fn add(iteration: *mut sys::spdk_io_channel_iter) {
        // SAFETY: SPDK iterates over channels of the module, on their threads; the count outlives the iteration.
        unsafe {
            let count = sys::spdk_io_channel_iter_get_ctx(iteration).cast::<Count>();
            let channel = sys::spdk_io_channel_iter_get_channel(iteration);
            let in_flight = channel::of(channel).in_flight();
            (*count).sum.fetch_add(in_flight, Ordering::Relaxed);
            sys::spdk_for_each_channel_continue(iteration, 0);
        }
    }
    unsafe extern "C" fn end(iteration: *mut sys::spdk_io_channel_iter, _status: c_int) {
        // SAFETY: the last call; the box is taken back.
        let count =
            unsafe { Box::from_raw(sys::spdk_io_channel_iter_get_ctx(iteration).cast::<Count>()) };
        if let Some(done) = count.done {
            let _ = done.send(count.sum.into_inner());
        }
    }
    let (done, counted) = oneshot::channel();
    let count = Box::into_raw(Box::new(Count {
        sum: AtomicU64::new(0),
        done: Some(done),
    }));
    // SAFETY: the device is registered; `end` frees the count.
    unsafe { sys::spdk_for_each_channel(device, Some(add), count.cast(), Some(end)) }
    counted.await.unwrap_or(0)
}
