//! See `vdo_tests::fuzz::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vdo_tests::fuzz::image(data));
