#![no_main]
//! See [`krun_fuzz::init::frames`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| krun_fuzz::init::frames(data));
