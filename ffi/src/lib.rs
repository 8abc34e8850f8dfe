//! SPDK's C interface: what bindgen made of the installed headers, and, in [`inline`], the few inline
//! functions it cannot see.
//!
//! Nothing here is safe to use without SPDK's documentation at hand; the crate `spdk` wraps it. The
//! build script says where an SPDK is looked for and what is linked.

/// Names, types and layouts exactly as in C.
#[allow(
    missing_docs,
    unnecessary_transmutes,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub mod inline;

pub use bindings::*;
pub use inline::*;
