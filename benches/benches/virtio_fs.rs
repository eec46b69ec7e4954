//! Benchmarks of `krun-virtio-fs`.
fn main() {}
