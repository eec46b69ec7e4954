//! Benchmarks of every component crate; see `benches/`.
