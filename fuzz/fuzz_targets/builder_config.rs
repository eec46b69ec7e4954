#![no_main]
//! See [`krun_fuzz::builder::config`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| krun_fuzz::builder::config(data));
