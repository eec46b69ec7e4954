//! Fuzzes `krun-vcpu`.

/// Placeholder until the crate's author writes it.
pub fn state(_data: &[u8]) {}
