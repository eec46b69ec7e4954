//! The initial RAM disk.

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::error::{Error, Result};
use crate::kernel::image::Reader;
use crate::kernel::{Image, LoadedKernel};
use crate::x86_64::layout::PAGE_SIZE;

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

/// Copies an initrd to the highest pages of low memory that the kernel can take it from.
///
/// So far up it is out of the way of a kernel that unpacks and moves itself; a kernel's own range is never touched.
///
/// # Errors
///
/// [`Error::EmptyInitrd`]; [`Error::InitrdDoesNotFit`] if the memory above the kernel is too small for it;
/// [`Error::Read`] if it cannot be read, and [`Error::WriteGuest`] if `ram` is not the kernel's.
pub fn load_initrd<M: GuestMemoryBackend>(ram: &M, kernel: &LoadedKernel, image: impl Image) -> Result<Initrd> {
    let mut file = Reader::new(image, "the initrd")?;
    let size = file.size();
    if size == 0 {
        return Err(Error::EmptyInitrd);
    }
    let room = kernel.range.end..kernel.initrd_end;
    let address = room.end.checked_sub(size).map(|address| address - address % PAGE_SIZE);
    let Some(address) = address.filter(|address| *address >= room.start) else {
        return Err(Error::InitrdDoesNotFit { size, room_start: room.start, room_end: room.end });
    };
    file.copy_to(ram, address, 0, size, "the initrd")?;
    tracing::debug!(address, size, "initrd loaded");
    Ok(Initrd { address: GuestAddress(address), size })
}
