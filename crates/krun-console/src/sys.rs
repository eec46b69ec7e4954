//! Signal masks: the one thing here that has no safe wrapper.
#![expect(unsafe_code, reason = "signal masks have no safe interface in our dependencies")]

use std::mem::MaybeUninit;
use std::ptr;

/// While it lives, a write to a pipe without a reader fails with `EPIPE` and nothing else happens.
///
/// `SIGPIPE` is blocked in this thread only; what the process does about the signal is left alone. A signal that was
/// raised meanwhile is taken back before the old mask returns.
#[derive(Debug)]
pub(crate) struct SigpipeGuard {
    /// The mask of before; `None` if the signal was blocked already and nothing is to be undone.
    restore: Option<libc::sigset_t>,
}

impl SigpipeGuard {
    pub(crate) fn new() -> Self {
        Self { restore: block(&sigpipe()).filter(|old| !contains(old)) }
    }
}

impl Drop for SigpipeGuard {
    fn drop(&mut self) {
        let Some(old) = self.restore.take() else { return };
        // The signal was not blocked before, so one that is pending now has been raised meanwhile.
        if is_pending() {
            let (set, now) = (sigpipe(), libc::timespec { tv_sec: 0, tv_nsec: 0 });
            // SAFETY: `set` and `now` are valid for the call; a null `info` is allowed.
            unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const now) };
        }
        // SAFETY: `old` is a mask that the kernel has stored for `block`; a null old set is allowed.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, ptr::null_mut()) };
    }
}

/// Whether this thread has `SIGPIPE` blocked.
pub(crate) fn sigpipe_is_blocked() -> bool {
    let mut now = MaybeUninit::uninit();
    // SAFETY: with a null new set the call only stores the current mask.
    let ok = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), now.as_mut_ptr()) } == 0;
    // SAFETY: the call succeeded, so the mask has been stored.
    ok && contains(&unsafe { now.assume_init() })
}

fn sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given and cannot fail on valid memory; SIGPIPE is a valid signal.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

fn contains(set: &libc::sigset_t) -> bool {
    // SAFETY: `set` is an initialised set.
    unsafe { libc::sigismember(set, libc::SIGPIPE) == 1 }
}

fn is_pending() -> bool {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigpending` stores the set of pending signals.
    let ok = unsafe { libc::sigpending(set.as_mut_ptr()) } == 0;
    // SAFETY: the call succeeded, so the set has been stored.
    ok && contains(&unsafe { set.assume_init() })
}

/// Blocks the signals of `set` and returns the mask of before.
fn block(set: &libc::sigset_t) -> Option<libc::sigset_t> {
    let mut old = MaybeUninit::uninit();
    // SAFETY: both sets are valid for the call.
    let ok = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set, old.as_mut_ptr()) } == 0;
    // SAFETY: the call succeeded, so the mask has been stored.
    ok.then(|| unsafe { old.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};

    #[test]
    fn a_write_to_a_closed_pipe_leaves_no_signal_behind() {
        // Rust's runtime ignores SIGPIPE; a C program does not, so neither does this thread's check.
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        let blocked = sigpipe_is_blocked();
        {
            let _guard = SigpipeGuard::new();
            assert!(sigpipe_is_blocked());
            assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
        assert_eq!(sigpipe_is_blocked(), blocked);
        assert!(!is_pending());
    }

    #[test]
    fn guards_nest() {
        let _outer = SigpipeGuard::new();
        drop(SigpipeGuard::new());
        assert!(sigpipe_is_blocked());
    }
}
