//! See `vdo_tests::fuzz::super_block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vdo_tests::fuzz::super_block(data));
