//! SPDK's `bdevperf` with the vdo module in it. Its `main` is SPDK's; see the build script.

#![no_main]

/// Keeps the module.
#[used]
static MODULE: fn() = spdk::vdo::linked;
