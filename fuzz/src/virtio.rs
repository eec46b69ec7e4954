//! Fuzzes `krun-virtio`.

/// Placeholder until the crate's author writes it.
pub fn mmio(_data: &[u8]) {}
