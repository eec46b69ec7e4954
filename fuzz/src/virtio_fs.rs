//! Fuzzes `krun-virtio-fs`.

/// Placeholder until the crate's author writes it.
pub fn requests(_data: &[u8]) {}
