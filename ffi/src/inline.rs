//! Inline functions and macros of SPDK's headers, which have no symbol to link and which bindgen does
//! not see. Each says what it stands for.

use core::ffi::c_void;

use crate::{SPDK_IO_CHANNEL_STRUCT_SIZE, spdk_bdev_io, spdk_io_channel};

/// `spdk_io_channel_get_ctx`: the module's own memory of a channel, which follows the channel's.
///
/// The channel's own structure is not public; the header says how many bytes it takes.
///
/// # Safety
/// `channel` is a channel that has not been put back.
#[inline]
pub unsafe fn spdk_io_channel_get_ctx(channel: *mut spdk_io_channel) -> *mut c_void {
    // SAFETY: the context is allocated together with the channel, right behind it.
    unsafe {
        channel
            .byte_add(SPDK_IO_CHANNEL_STRUCT_SIZE as usize)
            .cast()
    }
}

/// `bdev_io->driver_ctx`: the module's own memory of an I/O, as many bytes as its `get_ctx_size` said.
///
/// # Safety
/// `io` is an I/O that was submitted to the module and has not been completed.
#[inline]
pub unsafe fn spdk_bdev_io_driver_ctx(io: *mut spdk_bdev_io) -> *mut c_void {
    // SAFETY: the flexible array at the end of the structure is where the module's memory begins.
    unsafe { (&raw mut (*io).driver_ctx).cast() }
}

/// `spdk_bdev_io_from_ctx`: the I/O whose `driver_ctx` this is.
///
/// # Safety
/// `context` came from [`spdk_bdev_io_driver_ctx`].
#[inline]
pub unsafe fn spdk_bdev_io_from_ctx(context: *mut c_void) -> *mut spdk_bdev_io {
    // SAFETY: the inverse of the addition above.
    unsafe {
        context
            .cast::<u8>()
            .sub(core::mem::offset_of!(spdk_bdev_io, driver_ctx))
            .cast()
    }
}

/// Whether this SPDK has vhost or vfio-user, whose sockets have a folder.
pub const HAS_SOCKET_FOLDER: bool = cfg!(any(spdk_vhost, spdk_vfu_tgt));

/// `spdk_vhost_set_socket_path` and `spdk_vfu_set_socket_path`, of which an SPDK may have both, one or neither.
///
/// # Safety
/// `path` is a C string; called before the framework starts.
pub unsafe fn set_socket_folder(path: *const core::ffi::c_char) -> core::ffi::c_int {
    let mut result = 0;
    let _ = path;
    #[cfg(spdk_vhost)]
    {
        unsafe extern "C" {
            fn spdk_vhost_set_socket_path(path: *const core::ffi::c_char) -> core::ffi::c_int;
        }
        // SAFETY: the caller's promise.
        result |= unsafe { spdk_vhost_set_socket_path(path) };
    }
    #[cfg(spdk_vfu_tgt)]
    {
        unsafe extern "C" {
            fn spdk_vfu_set_socket_path(path: *const core::ffi::c_char) -> core::ffi::c_int;
        }
        // SAFETY: the caller's promise.
        result |= unsafe { spdk_vfu_set_socket_path(path) };
    }
    if !HAS_SOCKET_FOLDER {
        result = -1;
    }
    result
}
