#![expect(
    unsafe_code,
    reason = "borrows descriptors whose owner does not implement `AsFd`, hands guest RAM to KVM, and reads a thread's clock"
)]
//! The little that needs `unsafe`.

use std::any::Any;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::thread::JoinHandleExt as _;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use krun_vcpu::{Kvm, KvmVm, MemoryRange, SlotFlags};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::GuestRam;
use crate::window::Window;

/// The descriptor of an eventfd: vmm-sys-util's type has no `AsFd`.
pub(crate) fn borrow(event: &vmm_sys_util::eventfd::EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event owns the descriptor, and the borrow ends before it.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// The descriptor of `/dev/kvm`: kvm-ioctls' type has no `AsFd`.
pub(crate) fn borrow_kvm(kvm: &Kvm) -> BorrowedFd<'_> {
    // SAFETY: `kvm` owns the descriptor, and the borrow ends before it.
    unsafe { BorrowedFd::borrow_raw(kvm.fd().as_raw_fd()) }
}

/// CPU time that a thread has used, a guest's included. Zero for a thread that has ended.
pub(crate) fn cpu_time(thread: &JoinHandle<()>) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the handle exists, so the thread is neither joined nor detached, and its pthread is valid.
    let known = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) } == 0;
    // SAFETY: `time` is ours and lives through the call.
    if !known || unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

/// Makes RAM the guest's: one memory slot for each side of the hole. KVM's side keeps it mapped.
pub(crate) fn add_ram(vm: &KvmVm, ram: &Arc<GuestRam>) -> Result<(), krun_vcpu::Error> {
    for region in ram.iter() {
        let Some(host) = NonNull::new(region.as_ptr()) else { continue };
        let range = MemoryRange { guest: region.start_addr(), host, size: region.len(), flags: SlotFlags::empty() };
        // SAFETY: the region is mapped readable and writable for as long as `ram` lives, and the slot holds a share of it.
        unsafe { vm.add_slot(&range, Some(Arc::clone(ram) as Arc<dyn Any + Send + Sync>))? };
    }
    Ok(())
}

/// Makes a window the guest's: a memory slot of its own.
pub(crate) fn add_window(vm: &KvmVm, guest: u64, window: &Arc<Window>) -> Result<(), krun_vcpu::Error> {
    let mapping = window.mapping();
    let range = MemoryRange {
        guest: GuestAddress(guest),
        host: mapping.base(),
        size: mapping.len() as u64,
        flags: SlotFlags::empty(),
    };
    // SAFETY: the reservation lasts as long as `window`, of which the slot holds a share; only the guest looks into it.
    unsafe { vm.add_slot(&range, Some(Arc::clone(window) as Arc<dyn Any + Send + Sync>)) }.map(drop)
}
