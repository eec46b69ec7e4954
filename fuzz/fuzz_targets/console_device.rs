#![no_main]
//! See [`krun_fuzz::console::device`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| krun_fuzz::console::device(data));
