//! Fuzzes `krun-console`.

/// Placeholder until the crate's author writes it.
pub fn device(_data: &[u8]) {}
