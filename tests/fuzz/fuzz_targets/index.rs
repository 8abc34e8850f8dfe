//! See `vdo_tests::fuzz::index`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vdo_tests::fuzz::index(data));
