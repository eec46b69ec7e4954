#![expect(unsafe_code, reason = "signal masks have no safe wrapper among our dependencies")]
//! Threads of a VM leave the host program's signals to the host program's threads.

use std::io;

/// Signals that the CPU raises: they are about the thread itself, and the host program may have handlers that count on
/// them (a garbage collector's, for example).
const SYNCHRONOUS: [i32; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// Runs `start`, which starts threads, with all signals blocked, so that its threads have them blocked from their first
/// instruction on. The caller's own mask is as before when this returns.
pub(crate) fn blocked<T>(start: impl FnOnce() -> T) -> io::Result<T> {
    let _restore = Mask::block()?;
    Ok(start())
}

/// The mask to go back to.
struct Mask(libc::sigset_t);

impl Mask {
    fn block() -> io::Result<Self> {
        // SAFETY: an all-zero `sigset_t` is a valid place to write a set to.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: both sets are ours and live through all calls; the numbers are constants of libc.
        let error = unsafe {
            libc::sigfillset(&raw mut all);
            for signal in SYNCHRONOUS {
                libc::sigdelset(&raw mut all, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before)
        };
        if error == 0 { Ok(Self(before)) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        // SAFETY: the set is the one that the system gave; setting a mask that was in force before cannot fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn threads_have_signals_blocked_and_the_caller_has_not() {
        let before = mask();
        let thread = blocked(|| std::thread::Builder::new().spawn(mask).unwrap()).unwrap();
        assert_eq!(mask(), before);
        let inside = thread.join().unwrap();
        let bit = |signal: i32| 1_u64 << (signal - 1);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD, libc::SIGUSR1, libc::SIGPIPE, libc::SIGALRM] {
            assert_ne!(inside & bit(signal), 0, "{signal}");
        }
        assert_eq!(inside & bit(libc::SIGSEGV), 0);
    }
}
