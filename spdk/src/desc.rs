//! A bdev that the module has open.
//!
//! [`Desc`] can be cloned and sent; the last clone to go closes the descriptor, on the thread that opened it,
//! as SPDK wants. A claim taken through a descriptor ends with it. Each thread that does I/O takes a [`Channel`] of
//! its own, which holds the descriptor open.

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use spdk_sys as sys;

use crate::thread::Thread;

/// What the bdev layer tells the opener of a bdev, on the thread that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The bdev is going away; it waits for the descriptor to be closed.
    Remove,
    /// The bdev has another size now.
    Resize,
}

type Listener = Box<dyn Fn(Event)>;

struct Open {
    raw: NonNull<sys::spdk_bdev_desc>,
    opener: Thread,
    listener: *mut Listener,
}

// SAFETY: a descriptor may be used for I/O from any thread; it is closed, and its listener called and dropped,
// on the opener's thread only (see `Drop`).
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

struct Closing {
    raw: *mut sys::spdk_bdev_desc,
    listener: *mut Listener,
}

// SAFETY: carried to the opener's thread and used there.
unsafe impl Send for Closing {}

impl Closing {
    fn close(self) {
        // SAFETY: this is the opener's thread, nobody uses the descriptor any more, and after closing it SPDK
        // does not call the listener again.
        unsafe { sys::spdk_bdev_close(self.raw) }
        // A listener may be what drops the last descriptor: its box must outlive the call.
        let listener = Closing {
            raw: std::ptr::null_mut(),
            listener: self.listener,
        };
        let free = move || {
            let listener = listener;
            // SAFETY: from `Box::into_raw` in `open`, and not called any more.
            drop(unsafe { Box::from_raw(listener.listener) });
        };
        if let Some(thread) = Thread::current()
            && let Err(error) = thread.send(free)
        {
            log::error!("a descriptor's listener is leaked: {error}");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let closing = Closing {
            raw: self.raw.as_ptr(),
            listener: self.listener,
        };
        if Thread::current() == Some(self.opener) {
            closing.close();
        } else if let Err(error) = self.opener.send(move || closing.close()) {
            log::error!("a bdev stays open: {error}");
        }
    }
}

/// An open bdev.
#[derive(Clone)]
pub struct Desc(Arc<Open>);

impl Desc {
    /// Opens the bdev called `name` and has `listener` called with its events, on this thread.
    ///
    /// # Errors
    /// SPDK's errno, positive: `ENODEV` when there is none, `EPERM` when it is to be written and claimed.
    ///
    /// # Panics
    /// When this is no SPDK thread.
    pub fn open(name: &str, write: bool, listener: impl Fn(Event) + 'static) -> Result<Desc, i32> {
        unsafe extern "C" fn told(
            event: sys::spdk_bdev_event_type,
            _bdev: *mut sys::spdk_bdev,
            context: *mut c_void,
        ) {
            let event = match event {
                sys::SPDK_BDEV_EVENT_REMOVE => Event::Remove,
                sys::SPDK_BDEV_EVENT_RESIZE => Event::Resize,
                _ => return,
            };
            // SAFETY: the descriptor is open, so its listener is there.
            unsafe { (*context.cast::<Listener>())(event) }
        }
        let opener = Thread::current().expect("bdevs are opened on SPDK threads");
        let name = CString::new(name).map_err(|_| libc::ENODEV)?;
        let listener = Box::into_raw(Box::new(Box::new(listener) as Listener));
        let mut raw = std::ptr::null_mut();
        // SAFETY: `told` gets the listener, which lives until the descriptor is closed.
        let rc = unsafe {
            sys::spdk_bdev_open_ext(name.as_ptr(), write, Some(told), listener.cast(), &mut raw)
        };
        match NonNull::new(raw) {
            Some(raw) if rc == 0 => Ok(Desc(Arc::new(Open {
                raw,
                opener,
                listener,
            }))),
            _ => {
                // SAFETY: the bdev was not opened, so nobody else knows the listener.
                drop(unsafe { Box::from_raw(listener) });
                Err(-rc)
            }
        }
    }

    /// Claims the bdev for `module`: others may read it, and nobody else write. The claim ends with the
    /// descriptor.
    ///
    /// # Errors
    /// SPDK's errno, positive: `EPERM` when it is claimed, or open for writing, by someone else.
    ///
    /// # Safety
    /// `module` is a registered bdev module.
    pub unsafe fn claim(&self, module: *mut sys::spdk_bdev_module) -> Result<(), i32> {
        let kind = sys::SPDK_BDEV_CLAIM_READ_MANY_WRITE_ONE;
        // SAFETY: the descriptor is open; no options; the caller vouches for the module.
        let rc = unsafe {
            sys::spdk_bdev_module_claim_bdev_desc(self.raw(), kind, std::ptr::null_mut(), module)
        };
        if rc == 0 { Ok(()) } else { Err(-rc) }
    }

    /// SPDK's pointer to the descriptor.
    pub fn raw(&self) -> *mut sys::spdk_bdev_desc {
        self.0.raw.as_ptr()
    }

    /// SPDK's pointer to the bdev.
    pub fn bdev(&self) -> *mut sys::spdk_bdev {
        // SAFETY: the descriptor is open.
        unsafe { sys::spdk_bdev_desc_get_bdev(self.raw()) }
    }

    /// Its name.
    pub fn name(&self) -> String {
        // SAFETY: an open bdev has a name, and keeps it.
        unsafe { text(sys::spdk_bdev_get_name(self.bdev())) }
    }

    /// Bytes of data in one of its blocks.
    pub fn block_bytes(&self) -> u32 {
        // SAFETY: the bdev is open.
        unsafe { sys::spdk_bdev_get_block_size(self.bdev()) }
    }

    /// Its size in its blocks.
    pub fn blocks(&self) -> u64 {
        // SAFETY: the bdev is open.
        unsafe { sys::spdk_bdev_get_num_blocks(self.bdev()) }
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks() * u64::from(self.block_bytes())
    }

    /// Bytes of metadata with one of its blocks.
    pub fn metadata_bytes(&self) -> u32 {
        // SAFETY: the bdev is open.
        unsafe { sys::spdk_bdev_get_md_size(self.bdev()) }
    }

    /// What addresses of memory for its I/O must be multiples of.
    pub fn buffer_alignment(&self) -> usize {
        // SAFETY: the bdev is open.
        unsafe { sys::spdk_bdev_get_buf_align(self.bdev()) }
    }

    /// Whether it knows I/O of this type.
    pub fn supports(&self, kind: sys::spdk_bdev_io_type) -> bool {
        // SAFETY: the bdev is open.
        unsafe { sys::spdk_bdev_io_type_supported(self.bdev(), kind) }
    }

    /// A way to do I/O to it from the thread this runs on.
    ///
    /// # Errors
    /// `ENOMEM` when SPDK cannot make one.
    pub fn channel(&self) -> Result<Channel, i32> {
        // SAFETY: the descriptor is open and this is an SPDK thread.
        let raw = unsafe { sys::spdk_bdev_get_io_channel(self.raw()) };
        let raw = NonNull::new(raw).ok_or(libc::ENOMEM)?;
        Ok(Channel {
            raw,
            desc: self.clone(),
            _here: PhantomData,
        })
    }
}

impl std::fmt::Debug for Desc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "open bdev {:?}", self.name())
    }
}

/// The module that has claimed a bdev, or one of those that have.
///
/// # Safety
/// On the app thread, where claims are made and bdevs stay while nobody awaits anything.
pub unsafe fn claiming_module(bdev: *mut sys::spdk_bdev) -> Option<String> {
    // SAFETY: the caller vouches for the bdev; its claims are of the kind that their type says, and there is no
    // function that shows them.
    unsafe {
        let internal = &(*bdev).internal;
        let module = match internal.claim_type {
            sys::SPDK_BDEV_CLAIM_NONE => return None,
            sys::SPDK_BDEV_CLAIM_EXCL_WRITE => internal.claim.v1.module,
            _ => internal.claim.v2.claims.tqh_first.as_ref()?.module,
        };
        Some(text((*module).name))
    }
}

/// A thread's channel to an open bdev. It stays on its thread, and is put back when dropped.
pub struct Channel {
    raw: NonNull<sys::spdk_io_channel>,
    desc: Desc,
    _here: PhantomData<*const ()>,
}

impl Channel {
    /// SPDK's pointer.
    pub fn raw(&self) -> *mut sys::spdk_io_channel {
        self.raw.as_ptr()
    }

    /// The bdev.
    pub fn desc(&self) -> &Desc {
        &self.desc
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: got on this thread, and put back once. The descriptor is dropped after.
        unsafe { sys::spdk_put_io_channel(self.raw.as_ptr()) }
    }
}

/// A C string of SPDK as text.
///
/// # Safety
/// `string` is null or a C string that stays for the length of the call.
pub unsafe fn text(string: *const std::ffi::c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(string) }
        .to_string_lossy()
        .into_owned()
}
