//! The page that KVM shares with the vCPU's owner (`struct kvm_run`), read and written through raw pointers.
//!
//! The kernel writes here during `KVM_RUN` and another thread may set `immediate_exit` at any time, so no Rust reference
//! to the structure as a whole ever exists. Mapped once more beside kvm-ioctls' own mapping: its accessor lends the
//! structure only, and the port data lie behind it.

#![expect(unsafe_code, reason = "raw pointers into a mapping shared with the kernel")]

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;

use crate::pio::PioBatch;

/// The part of `struct kvm_run` that depends on the exit reason.
pub(crate) type ExitDetails = kvm_bindings::kvm_run__bindgen_ty_1;

/// `size` bytes of a vCPU descriptor from offset 0, unmapped when the last holder is gone.
#[derive(Debug)]
struct Mapping {
    address: NonNull<kvm_run>,
    size: usize,
}

// SAFETY: the mapping belongs to no thread. Everything but `immediate_exit` is reached through `RunPage` alone, which is
// not `Clone`; `immediate_exit` is only accessed atomically.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: address and size are those `mmap` returned, and the last holder is gone.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.size) };
    }
}

/// The owner's side: everything in the page.
#[derive(Debug)]
pub(crate) struct RunPage(Arc<Mapping>);

/// The kicker's side: one byte of the page.
#[derive(Debug, Clone)]
pub(crate) struct ImmediateExit(Arc<Mapping>);

impl RunPage {
    /// Maps the run page of `vcpu`; `size` is what `KVM_GET_VCPU_MMAP_SIZE` says.
    pub(crate) fn map(vcpu: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the run page has only {size} bytes")));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast::<kvm_run>()) {
            Some(address) if address.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self(Arc::new(Mapping { address, size })))
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Another hold on the page, good for `immediate_exit` only.
    pub(crate) fn immediate_exit(&self) -> ImmediateExit {
        ImmediateExit(Arc::clone(&self.0))
    }

    /// `KVM_EXIT_*` of the last exit.
    pub(crate) fn exit_reason(&self) -> u32 {
        // SAFETY: inside the mapping, aligned, and the kernel does not run the vCPU now (its owner is here).
        unsafe { (&raw const (*self.0.address.as_ptr()).exit_reason).read() }
    }

    /// Forgets the last exit.
    pub(crate) fn clear_exit_reason(&mut self) {
        // SAFETY: as for `exit_reason`.
        unsafe { (&raw mut (*self.0.address.as_ptr()).exit_reason).write(kvm_bindings::KVM_EXIT_UNKNOWN) }
    }

    /// A copy of what the last exit says about itself, for the rare exits.
    pub(crate) fn details(&self) -> ExitDetails {
        // SAFETY: as for `exit_reason`; the union is plain data for which every bit pattern is valid.
        unsafe { (&raw const (*self.0.address.as_ptr()).__bindgen_anon_1).read() }
    }

    /// Writes the answer to a rare exit back. The kernel reads only the fields its exit reason defines.
    pub(crate) fn answer(&mut self, details: ExitDetails) {
        // SAFETY: inside the mapping and aligned; only the union is written, so `immediate_exit` (another thread's) is
        // left alone.
        unsafe { (&raw mut (*self.0.address.as_ptr()).__bindgen_anon_1).write(details) }
    }

    /// Address, direction and data of an MMIO exit. The access has at most 8 bytes.
    pub(crate) fn mmio(&mut self) -> MmioAccess<'_> {
        // SAFETY: inside the mapping; reading the union as `mmio` is right for KVM_EXIT_MMIO and harmless otherwise (all
        // of its fields are integers). The data are borrowed as long as `self` is, during which no KVM_RUN can start.
        unsafe {
            let mmio = &raw mut (*self.0.address.as_ptr()).__bindgen_anon_1.mmio;
            let length = (&raw const (*mmio).len).read() as usize;
            let data = (&raw mut (*mmio).data).cast::<u8>();
            MmioAccess {
                address: (&raw const (*mmio).phys_addr).read(),
                write: (&raw const (*mmio).is_write).read() != 0,
                data: slice::from_raw_parts_mut(data, length.min(8)),
            }
        }
    }

    /// The batch of port accesses of an I/O exit, and its data. `None` when the kernel describes data outside the page.
    pub(crate) fn pio(&mut self) -> Option<(PioBatch, &mut [u8])> {
        // SAFETY: as for `mmio`.
        let io = unsafe { (&raw const (*self.0.address.as_ptr()).__bindgen_anon_1.io).read() };
        let batch = PioBatch::decode(io.direction, io.size, io.port, io.count, io.data_offset, self.0.size)?;
        // SAFETY: `decode` checked that the range lies behind the structure and inside the mapping, so these bytes are
        // nobody's but the exit's; borrowed as long as `self` is.
        let data =
            unsafe { slice::from_raw_parts_mut(self.0.address.as_ptr().cast::<u8>().add(batch.offset()), batch.len()) };
        Some((batch, data))
    }
}

/// One MMIO exit.
pub(crate) struct MmioAccess<'a> {
    pub(crate) address: u64,
    pub(crate) write: bool,
    pub(crate) data: &'a mut [u8],
}

impl ImmediateExit {
    /// Makes the next `KVM_RUN` return at once (`true`), or run as usual.
    pub(crate) fn set(&self, value: bool) {
        let byte = self.0.address.as_ptr().cast::<u8>();
        // SAFETY: inside the mapping, which `self` keeps; user space accesses this byte only through this function, and
        // the kernel only reads it.
        let byte = unsafe { AtomicU8::from_ptr(byte.add(offset_of!(kvm_run, immediate_exit))) };
        byte.store(u8::from(value), Ordering::SeqCst);
    }
}
