#![expect(unsafe_code, reason = "signal masks and signalfd have no safe wrapper among our dependencies")]
//! Signals as a file descriptor.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// Blocks `signals` in this thread, and so in every thread it starts from now on, and returns a descriptor that reads
/// them, one `signalfd_siginfo` each.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: an all-zero `sigset_t` is a valid place for `sigemptyset` to write to.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours and lives through all calls; the signal numbers are constants of libc.
    let fd = unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
