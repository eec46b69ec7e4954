#![no_main]
//! See [`krun_fuzz::vcpu::state`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| krun_fuzz::vcpu::state(data));
