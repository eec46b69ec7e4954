#![no_main]
//! See [`krun_fuzz::virtio_fs::requests`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| krun_fuzz::virtio_fs::requests(data));
