//! The initial RAM disk.

use vm_memory::GuestAddress;

/// An initrd, in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initrd {
    address: GuestAddress,
    size: u64,
}

impl Initrd {
    /// Its first byte, at the start of a page.
    pub fn address(&self) -> GuestAddress {
        self.address
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}
