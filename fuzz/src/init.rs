//! Fuzzes `krun-init`.

/// Placeholder until the crate's author writes it.
pub fn frames(_data: &[u8]) {}
