//! Benchmarks of `krun-vcpu`.
fn main() {}
