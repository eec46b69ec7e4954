//! Benchmarks of `krun-builder`.
fn main() {}
