//! SPDK's `bdevio` with the vdo module in it. Its `main` is SPDK's; see the build script.
//!
//! `bdevio` wants three cores and knows no `--lcores`. On a machine with fewer, the environment variable
//! `BDEVIO_LCORES` says what its three are, as DPDK has it (`0@0,1@1,2@0`): the linker hands its call of
//! `spdk_app_start` to the function below (`--wrap`).

#![no_main]

use std::ffi::{CString, c_int, c_void};

use spdk_sys as sys;

/// Keeps the module.
#[used]
static MODULE: fn() = spdk::vdo::linked;

unsafe extern "C" {
    fn __real_spdk_app_start(
        options: *mut sys::spdk_app_opts,
        start: sys::spdk_msg_fn,
        context: *mut c_void,
    ) -> c_int;
}

/// # Safety
/// As `spdk_app_start`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_spdk_app_start(
    options: *mut sys::spdk_app_opts,
    start: sys::spdk_msg_fn,
    context: *mut c_void,
) -> c_int {
    let lcores = std::env::var("BDEVIO_LCORES")
        .ok()
        .and_then(|lcores| CString::new(lcores).ok());
    // SAFETY: the options are the caller's and outlive the call, as does the map.
    unsafe {
        if let Some(lcores) = &lcores {
            (*options).reactor_mask = std::ptr::null();
            (*options).lcore_map = lcores.as_ptr();
        }
        __real_spdk_app_start(options, start, context)
    }
}
