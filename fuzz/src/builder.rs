//! Fuzzes `krun-builder`.

/// Placeholder until the crate's author writes it.
pub fn config(_data: &[u8]) {}
