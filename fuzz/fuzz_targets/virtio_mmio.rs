#![no_main]
//! See [`krun_fuzz::virtio::mmio`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| krun_fuzz::virtio::mmio(data));
