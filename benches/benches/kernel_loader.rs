//! Benchmarks of `krun-kernel-loader`.
fn main() {}
