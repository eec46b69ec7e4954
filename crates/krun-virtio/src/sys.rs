//! Descriptors of types that only know the raw number, and the signal mask of threads.
#![expect(unsafe_code, reason = "BorrowedFd from types without AsFd; signal sets of the C library")]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Borrows the descriptor of `owner`, whose type does not offer it as one.
pub(crate) fn borrow(owner: &vmm_sys_util::eventfd::EventFd) -> BorrowedFd<'_> {
    // SAFETY: an `EventFd` owns its descriptor, which stays open while `owner` is borrowed.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Signals that are about the thread itself: they are never held back.
const OWN: [libc::c_int; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];

/// Calls `spawn` with all signals of the process blocked, so that a thread made in it never runs a handler of the
/// host's: it inherits the mask. The caller's own is then as it was.
pub(crate) fn without_signals<R>(spawn: impl FnOnce() -> R) -> R {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: `sigfillset` initialises the set, `sigdelset` changes it by valid numbers, and `pthread_sigmask` reads it
    // and initialises the other one. None of them can fail with these arguments.
    let before: libc::sigset_t = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        for signal in OWN {
            libc::sigdelset(all.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    };
    let result = spawn();
    // SAFETY: `before` is a set that this thread had.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    result
}
