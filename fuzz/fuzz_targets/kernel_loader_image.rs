#![no_main]
//! See [`krun_fuzz::kernel_loader::image`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| krun_fuzz::kernel_loader::image(data));
