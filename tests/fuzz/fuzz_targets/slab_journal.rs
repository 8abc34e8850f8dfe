//! See `vdo_tests::fuzz::slab_journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vdo_tests::fuzz::slab_journal(data));
