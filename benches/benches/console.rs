//! Benchmarks of `krun-console`.
fn main() {}
