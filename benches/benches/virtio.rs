//! Benchmarks of `krun-virtio`.
fn main() {}
