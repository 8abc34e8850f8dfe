//! A user's channel to a vdo bdev.
//!
//! It belongs to the thread that got it. Requests go straight into the mailboxes of the zone threads; the
//! ended ones come back on a list that the channel's poller empties.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use spdk_sys as sys;
use vdo::volume::Volume;

use super::SpdkHost;
use super::request::{Ended, VdoRequest};
use crate::poller::{Activity, Poller};
use crate::thread::{self, Thread};

/// What a channel is made of. The list of ended I/Os comes first: I/Os know its address, and by it the
/// channel's.
#[repr(C)]
pub struct UserChannel {
    ended: Ended,
    volume: Arc<Volume<SpdkHost>>,
    /// What the base bdev needs memory aligned to.
    alignment: usize,
    in_flight: Cell<u64>,
    poller: Cell<Option<Poller>>,
}

impl UserChannel {
    /// A channel of the thread this runs on; `None` when SPDK is out of memory.
    pub fn open(volume: Arc<Volume<SpdkHost>>, alignment: usize) -> Option<Rc<UserChannel>> {
        let channel = Rc::new(UserChannel {
            ended: Ended::new(Thread::current()?),
            volume,
            alignment,
            in_flight: Cell::new(0),
            poller: Cell::new(None),
        });
        if !thread::interrupts() {
            let polled = Rc::downgrade(&channel);
            let poller = Poller::register("vdo_answers", Duration::ZERO, move || {
                // The poller ends with the channel, so the channel is there.
                polled.upgrade().map_or(Activity::Idle, |channel| {
                    let answered = channel.ended.answer_all();
                    channel.note_answered(answered as u64);
                    Activity::from(answered > 0)
                })
            })?;
            channel.poller.set(Some(poller));
        }
        Some(channel)
    }

    fn note_answered(&self, count: u64) {
        self.in_flight.set(self.in_flight.get() - count);
    }

    /// I/Os the engine has.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    /// Gives an I/O to the engine.
    ///
    /// # Safety
    /// `io` was submitted to the module by this channel, and its data, if any, has memory.
    pub unsafe fn submit(&self, io: NonNull<sys::spdk_bdev_io>) {
        // SAFETY: the caller's promise; the channel stays while it has I/Os in flight.
        match unsafe { VdoRequest::prepare(io, &self.ended, self.alignment) } {
            Some((header, request)) => {
                self.in_flight.set(self.in_flight.get() + 1);
                self.volume.submit(header, request);
            }
            // SAFETY: the I/O was not taken.
            None => unsafe {
                sys::spdk_bdev_io_complete(io.as_ptr(), sys::SPDK_BDEV_IO_STATUS_FAILED);
            },
        }
    }
}

/// Counts an I/O that is answered without the channel's poller.
///
/// # Safety
/// `ended` is the list of a living channel of the thread this runs on.
pub(super) unsafe fn answered_by_message(ended: *const Ended) {
    // SAFETY: the list is the channel's first field.
    unsafe { (*ended.cast::<UserChannel>()).note_answered(1) }
}

/// The memory SPDK keeps for each channel of the module holds the address of the Rust side.
pub const CONTEXT_BYTES: u32 = size_of::<*const UserChannel>() as u32;

/// Puts `channel` into SPDK's memory of a channel.
///
/// # Safety
/// `context` is that memory.
pub unsafe fn store(context: *mut c_void, channel: Rc<UserChannel>) {
    // SAFETY: it has room for one pointer.
    unsafe {
        context
            .cast::<*const UserChannel>()
            .write(Rc::into_raw(channel))
    }
}

/// Takes it out again.
///
/// # Safety
/// `context` was filled by [`store`], and is emptied once.
pub unsafe fn take(context: *mut c_void) -> Rc<UserChannel> {
    // SAFETY: as above.
    unsafe { Rc::from_raw(context.cast::<*const UserChannel>().read()) }
}

/// The Rust side of SPDK's channel.
///
/// # Safety
/// `channel` is a channel of the module, and stays while the result is used.
pub unsafe fn of<'a>(channel: *mut sys::spdk_io_channel) -> &'a UserChannel {
    // SAFETY: the caller's promise.
    unsafe { &**sys::spdk_io_channel_get_ctx(channel).cast::<*const UserChannel>() }
}
