//! SPDK's notifications, which `notify_get_notifications` answers.

use std::ffi::CString;

use spdk_sys as sys;

/// Enters a type, for `notify_get_types`.
pub fn register(kind: &str) {
    let kind = text(kind);
    // SAFETY: a string; SPDK copies it.
    unsafe { sys::spdk_notify_type_register(kind.as_ptr()) };
}

/// Sends a notification, from any thread. Longer texts than [`vdo_rpc::events::LONGEST_CONTEXT`] must not be given: SPDK would
/// cut them without an end.
pub fn send(kind: &str, context: &str) {
    let (kind, context) = (text(kind), text(context));
    // SAFETY: strings; SPDK copies them, under a lock of its own.
    unsafe { sys::spdk_notify_send(kind.as_ptr(), context.as_ptr()) };
}

fn text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}
