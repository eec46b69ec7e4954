#![expect(unsafe_code, reason = "reserves and unmaps the host memory behind guest RAM")]
//! Host memory that is congruent to the guest's: `host % 2 MiB == guest % 2 MiB`.
//!
//! Only then can KVM map a huge page of the host as a huge page of the guest; it alone takes most of a boot's page
//! faults away.

use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};

use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use vm_memory::MmapRegion;

use crate::layout::Layout;

/// Some address space with memory in it, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<c_void>,
    len: usize,
}

// SAFETY: an address range that this value owns; nothing in it depends on the thread.
unsafe impl Send for Mapping {}
// SAFETY: shared access only reads the two numbers.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private zero pages for the guest range that starts at `guest`.
    pub(crate) fn anonymous(len: u64, guest: u64) -> io::Result<Self> {
        Self::reserve(len, guest)?.fill(|base, len| {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: replaces pages of the reservation, which nobody knows of yet.
            unsafe { mm::mmap_anonymous(base, len, ProtFlags::READ | ProtFlags::WRITE, flags) }
        })
    }

    /// `len` bytes of `file` from `offset` on, shared with everybody who maps it.
    pub(crate) fn shared(file: impl AsFd, offset: u64, len: u64, guest: u64) -> io::Result<Self> {
        Self::reserve(len, guest)?.fill(|base, len| {
            let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: replaces pages of the reservation, which nobody knows of yet.
            unsafe { mm::mmap(base, len, ProtFlags::READ | ProtFlags::WRITE, flags, &file, offset) }
        })
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Address space only, congruent to `guest`: reserved one huge page too long, then cut to size at both ends.
    pub(crate) fn reserve(len: u64, guest: u64) -> io::Result<Self> {
        let too_long = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = usize::try_from(len).map_err(|_| too_long())?;
        let huge = usize::try_from(Layout::HUGE_PAGE).map_err(|_| too_long())?;
        let residue = usize::try_from(guest % Layout::HUGE_PAGE).map_err(|_| too_long())?;
        let whole = len.checked_add(huge).ok_or_else(too_long)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mm::mmap_anonymous(ptr::null_mut(), whole, ProtFlags::empty(), flags)? };
        let head = (residue + huge - start.addr() % huge) % huge;
        let base = start.wrapping_byte_add(head);
        let tail = whole - head - len;
        // SAFETY: both are parts of the mapping just made, outside of what is kept.
        unsafe {
            if head > 0 {
                mm::munmap(start, head)?;
            }
            if tail > 0 {
                mm::munmap(base.wrapping_byte_add(len), tail)?;
            }
        }
        let base = NonNull::new(base).ok_or_else(too_long)?;
        Ok(Self { base, len })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base.cast()
    }

    /// Maps a file over `part`, shared with everybody else who maps it.
    pub(crate) fn place_file(&self, part: Range<usize>, fd: BorrowedFd<'_>, at: u64, writable: bool) -> io::Result<()> {
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let start = self.part(&part)?;
        // SAFETY: replaces pages of this mapping, of which the host has no references, only the guest.
        unsafe { mm::mmap(start, part.len(), protection, MapFlags::SHARED | MapFlags::FIXED, fd, at)? };
        Ok(())
    }

    /// Takes away whatever is mapped over `part`.
    pub(crate) fn clear(&self, part: Range<usize>) -> io::Result<()> {
        let start = self.part(&part)?;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: as in `place_file`.
        unsafe { mm::mmap_anonymous(start, part.len(), ProtFlags::empty(), flags)? };
        Ok(())
    }

    fn part(&self, part: &Range<usize>) -> io::Result<*mut c_void> {
        if part.start < part.end && part.end <= self.len {
            Ok(self.base.as_ptr().wrapping_byte_add(part.start))
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    fn fill(self, map: impl FnOnce(*mut c_void, usize) -> rustix::io::Result<*mut c_void>) -> io::Result<Self> {
        map(self.base.as_ptr(), self.len)?;
        // The hints may be unknown to the host kernel (no huge pages built in): then there are none.
        // Huge pages: see above. Not in core dumps: a guest's secrets. Not in children: they have no use for it, and a
        // fork would copy its page tables.
        for advice in [Advice::LinuxHugepage, Advice::LinuxDontDump, Advice::LinuxDontFork] {
            // SAFETY: none of the three changes the bytes of this mapping, which is ours alone.
            if let Err(error) = unsafe { mm::madvise(self.base.as_ptr(), self.len, advice) } {
                tracing::debug!(?advice, %error, "the host kernel ignores advice about guest memory");
            }
        }
        Ok(self)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and its users hold the `GuestRam` that holds this value.
        if let Err(error) = unsafe { mm::munmap(self.base.as_ptr(), self.len) } {
            tracing::warn!(%error, "cannot unmap guest memory");
        }
    }
}

/// vm-memory's view of a mapping; it must not outlive it.
pub(crate) fn region(mapping: &Mapping) -> Result<MmapRegion, vm_memory::mmap::MmapRegionError> {
    // SAFETY: the range is mapped readable and writable, and the caller (`GuestRam`) keeps `mapping` for as long as the
    // region. The region does not unmap what it did not map.
    unsafe {
        MmapRegion::build_raw(
            mapping.base.as_ptr().cast(),
            mapping.len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        )
    }
}
