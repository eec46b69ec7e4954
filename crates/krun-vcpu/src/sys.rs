//! The system calls that no crate offers in the form needed here: `KVM_RUN`, `KVM_SET_SIGNAL_MASK`, and signals to and
//! in one thread.
//!
//! Signal sets are the kernel's own: 64 bits, bit `n - 1` for signal `n`. The C library's wrappers are not used because
//! they hide some bits, and the set given to KVM must be the thread's true one.

#![expect(unsafe_code, reason = "raw system calls")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::{KVMIO, kvm_xsave};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ptr, ioctl_with_ptr, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr};

/// The kernel's `sigset_t` on 64-bit machines.
pub(crate) type SignalSet = u64;

/// `sizeof(sigset_t)` as the kernel counts it.
const SIGNAL_SET_SIZE: u32 = 8;

/// `struct kvm_signal_mask` with its set: `len`, then `len` bytes.
#[repr(C)]
struct KvmSignalMask {
    len: u32,
    set: [u8; SIGNAL_SET_SIZE as usize],
}

/// What the ioctl's number counts: the header without its flexible array.
type KvmSignalMaskHeader = u32;

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, KvmSignalMaskHeader);

ioctl_ior_nr!(KVM_GET_XSAVE, KVMIO, 0xa4, kvm_xsave);
ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);
ioctl_ior_nr!(KVM_GET_XSAVE2, KVMIO, 0xcf, kvm_xsave);

/// How large the XSAVE areas of a VM's vCPUs are: as many bytes KVM reads and writes.
pub(crate) fn xsave_size(vm: &VmFd) -> usize {
    usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(size_of::<kvm_xsave>())
}

/// Reads the XSAVE area of one of the VM's vCPUs.
pub(crate) fn get_xsave(vm: &VmFd, vcpu: &VcpuFd) -> io::Result<Vec<u8>> {
    let mut area = vec![0; xsave_size(vm)];
    let request = if area.len() > size_of::<kvm_xsave>() { KVM_GET_XSAVE2() } else { KVM_GET_XSAVE() };
    // SAFETY: KVM_GET_XSAVE writes 4096 bytes, KVM_GET_XSAVE2 as many as the capability tells; `area` has them.
    match unsafe { ioctl_with_mut_ptr(vcpu, request, area.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(area),
    }
}

/// Writes the XSAVE area of one of the VM's vCPUs; what `saved` is short of is zero.
pub(crate) fn set_xsave(vm: &VmFd, vcpu: &VcpuFd, saved: &[u8]) -> io::Result<()> {
    let mut area = saved.to_vec();
    area.resize(xsave_size(vm), 0);
    // SAFETY: KVM reads 4096 bytes, or as many as the capability tells; `area` has them.
    match unsafe { ioctl_with_ptr(vcpu, KVM_SET_XSAVE(), area.as_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The set that holds one signal.
pub(crate) const fn signal_set(signal: i32) -> SignalSet {
    1 << (signal.unsigned_abs() - 1)
}

/// The calling thread's id.
pub(crate) fn thread_id() -> libc::pid_t {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() }
}

/// Makes an open device kvm-ioctls'. Whether it is a KVM device is for its calls to find out.
pub(crate) fn kvm_from_fd(device: OwnedFd) -> Kvm {
    // SAFETY: an open descriptor that nobody else owns.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}

/// Borrows a vCPU's descriptor.
pub(crate) fn borrow(vcpu: &VcpuFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `vcpu` lives, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }
}

/// Enters the guest; returns at its next exit.
pub(crate) fn kvm_run(vcpu: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is a vCPU descriptor for the whole call (borrowed) and KVM_RUN takes no pointer. It writes to
    // the vCPU's run page, which `RunPage` only reads through raw pointers, and to guest memory, which the VM's owner
    // keeps mapped.
    match unsafe { ioctl(&vcpu.as_raw_fd(), KVM_RUN()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Sets which signals are blocked while the vCPU is inside `KVM_RUN`.
pub(crate) fn kvm_set_signal_mask(vcpu: BorrowedFd<'_>, blocked: SignalSet) -> io::Result<()> {
    let mask = KvmSignalMask { len: SIGNAL_SET_SIZE, set: blocked.to_ne_bytes() };
    // SAFETY: `mask` is a `struct kvm_signal_mask` followed by the `len` bytes it announces, alive for the call; the
    // kernel only reads it.
    match unsafe { ioctl_with_ref(&vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK(), &mask) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Adds `signals` to those blocked in the calling thread and returns what was blocked before.
pub(crate) fn block_signals(signals: SignalSet) -> io::Result<SignalSet> {
    change_mask(libc::SIG_BLOCK, signals)
}

/// Makes `signals` the set of blocked signals of the calling thread.
pub(crate) fn set_blocked_signals(signals: SignalSet) -> io::Result<()> {
    change_mask(libc::SIG_SETMASK, signals).map(drop)
}

fn change_mask(how: i32, signals: SignalSet) -> io::Result<SignalSet> {
    let mut old: SignalSet = 0;
    // SAFETY: both pointers are to live sets of the size given in the last argument.
    let result = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const signals, &raw mut old, size_of::<SignalSet>())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(old) }
}

/// Takes every pending signal of `signals`, all of which must be blocked, off the calling thread.
pub(crate) fn consume_signals(signals: SignalSet) {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        // SAFETY: set and timeout are alive for the call; a null siginfo asks for none.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                &raw const signals,
                std::ptr::null_mut::<libc::siginfo_t>(),
                &raw const now,
                size_of::<SignalSet>(),
            )
        };
        // EINTR: a handler of the program ran meanwhile. Anything else, EAGAIN above all: nothing is left.
        if result == -1 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// Sends `signal` to one thread of this process. EAGAIN: the user's queue of real-time signals is full
/// (`RLIMIT_SIGPENDING`), nothing was sent.
pub(crate) fn signal_thread(thread: libc::pid_t, signal: i32) -> io::Result<()> {
    // SAFETY: takes three numbers. The thread is named together with its process, so a reused id of another process is
    // not hit.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The last real-time signal but one: what a kick uses when the caller names none.
pub(crate) fn default_kick_signal() -> i32 {
    libc::SIGRTMAX() - 1
}

/// Whether `signal` is one that programs may use freely.
pub(crate) fn is_real_time(signal: i32) -> bool {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_the_kernels() {
        assert_eq!(KVM_RUN(), 0xae80);
        assert_eq!(KVM_SET_SIGNAL_MASK(), 0x4004_ae8b);
    }

    #[test]
    fn a_blocked_signal_waits_and_is_consumed() {
        let signal = default_kick_signal();
        let set = signal_set(signal);
        let before = block_signals(set).unwrap();
        for _ in 0..3 {
            signal_thread(thread_id(), signal).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        consume_signals(set);
        // Were one left, this would end the process: the signal's default action.
        set_blocked_signals(before).unwrap();
        assert_eq!(block_signals(0).unwrap(), before);
    }

    #[test]
    fn a_thread_that_is_gone_is_an_error() {
        let gone = std::thread::Builder::new().name("gone".into()).spawn(thread_id).unwrap().join().unwrap();
        // The id may be reused by nothing in this process within the instant of this test.
        let error = signal_thread(gone, default_kick_signal()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
