//! SPDK's tracepoints for the stages of a request: one for each [`Stretch`], recorded when it ends.
//!
//! They are switched like all others, by `trace_enable_tpoint_group` or `-e bdev_vdo`, and read by `spdk_trace`. A zone thread looks now and then
//! whether any is on; while none is, the engine keeps no time.

use std::cell::UnsafeCell;
use std::ffi::CString;

use spdk_sys as sys;
use vdo::volume::{Lap, Stretch, Tracer};

/// The group's number: the last there is. SPDK's own are given out from the front.
const GROUP: u32 = sys::SPDK_TRACE_MAX_GROUP_ID - 1;

/// Tracepoints in a group.
const IN_GROUP: u32 = 64;

struct Registration(UnsafeCell<sys::spdk_trace_register_fn>);

// SAFETY: written by SPDK, before `main`; it belongs to SPDK from then on.
unsafe impl Sync for Registration {}

static REGISTRATION: Registration = Registration(UnsafeCell::new(sys::spdk_trace_register_fn {
    name: c"bdev_vdo".as_ptr(),
    tgroup_id: GROUP as u8,
    reg_fn: Some(describe),
    next: std::ptr::null_mut(),
}));

/// Enters the group of tracepoints. Runs before `main`.
pub(super) fn register() {
    // SAFETY: the registration is static, and entered once.
    unsafe { sys::spdk_trace_add_register_fn(REGISTRATION.0.get()) }
}

fn tracepoint(stretch: Stretch) -> u16 {
    (GROUP * IN_GROUP) as u16 + stretch as u16
}

/// Tells SPDK what the tracepoints are called and what they carry.
unsafe extern "C" fn describe() {
    for &stretch in Stretch::ALL {
        let name = format!("VDO_{}", stretch.name().to_uppercase());
        let name = CString::new(name).expect("names have no zero in them");
        // SAFETY: null pointers and zero are what C leaves in members that are not named.
        let mut options: sys::spdk_trace_tpoint_opts = unsafe { std::mem::zeroed() };
        options.name = name.as_ptr();
        options.tpoint_id = tracepoint(stretch);
        options.args[0].name = c"ns".as_ptr();
        options.args[0].type_ = sys::SPDK_TRACE_ARG_TYPE_INT as u8;
        options.args[0].size = size_of::<u64>() as u8;
        // SAFETY: SPDK copies what it is told.
        unsafe { sys::spdk_trace_register_description_ext(&raw const options, 1) }
    }
}

/// Which tracepoints are on: bit *i* for the stretch with that number.
fn enabled() -> u64 {
    // SAFETY: reads a word of memory that is there as long as the program.
    unsafe { sys::spdk_trace_get_tpoint_mask(GROUP) }
}

/// What is to be told of stretches that end, as things are now.
pub(super) fn tracer() -> Option<Tracer> {
    (enabled() != 0).then_some(record as Tracer)
}

fn record(lap: Lap) {
    if enabled() & (1 << lap.stretch as u32) == 0 {
        return;
    }
    // SAFETY: the tracepoint was described with one argument of eight bytes; no owner, and the time is now.
    unsafe {
        sys::_spdk_trace_record(
            0,
            tracepoint(lap.stretch),
            0,
            0,
            u64::from(lap.request),
            1,
            lap.took.0,
        );
    }
}
