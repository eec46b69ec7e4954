//! Benchmarks of `krun-init`.
fn main() {}
