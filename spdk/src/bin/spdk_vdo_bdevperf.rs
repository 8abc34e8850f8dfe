//! SPDK's `bdevperf` with the vdo module in it. Its `main` is SPDK's; see the build script.
//!
//! `bdevperf` writes zeroes, or with `-U` something new each time. For what lies in between, `BDEVPERF_REPEAT`
//! in the environment fills each of its buffers once with data of its own, so that as many different blocks are
//! written over and over as it has requests in flight. (The linker hands allocations to the function below.)
//!
//! The memory of a malloc bdev is written once when it is taken, so that no figure counts the kernel's finding of pages.

#![no_main]

use std::ffi::{c_int, c_void};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keeps the module.
#[used]
static MODULE: fn() = spdk::vdo::linked;

/// The size of a buffer that is filled: that of an I/O.
const IO_BYTES: usize = 4096;

/// What is at least this large is the memory of a malloc bdev.
const DISK_BYTES: usize = 64 << 20;

unsafe extern "C" {
    fn __real_spdk_zmalloc(
        bytes: usize,
        alignment: usize,
        unused: *mut u64,
        numa_id: c_int,
        flags: u32,
    ) -> *mut c_void;
}

/// # Safety
/// As `spdk_zmalloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_spdk_zmalloc(
    bytes: usize,
    alignment: usize,
    unused: *mut u64,
    numa_id: c_int,
    flags: u32,
) -> *mut c_void {
    static REPEATS: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("BDEVPERF_REPEAT").is_some());
    static BUFFERS: AtomicU64 = AtomicU64::new(1);
    // SAFETY: the arguments are the caller's; the memory is `bytes` long.
    unsafe {
        let memory = __real_spdk_zmalloc(bytes, alignment, unused, numa_id, flags);
        if bytes >= DISK_BYTES && !memory.is_null() {
            memory.write_bytes(0, bytes);
        }
        if *REPEATS && bytes == IO_BYTES && !memory.is_null() {
            let mark = BUFFERS.fetch_add(1, Ordering::Relaxed);
            let words = std::slice::from_raw_parts_mut(memory.cast::<u64>(), IO_BYTES / 8);
            words
                .iter_mut()
                .zip(0..)
                .for_each(|(word, at)| *word = mark << 32 | at);
        }
        memory
    }
}
