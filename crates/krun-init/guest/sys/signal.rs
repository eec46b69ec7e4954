//! Signals: PID 1 takes them from a descriptor, its children get them as new.

use super::{Fd, Result, call};

pub(crate) const SIGKILL: u32 = 9;
const SIGCHLD: u32 = 17;
const SIGNALS: u32 = 64;
/// Bytes of a signal set.
const SET: usize = 8;
const SETMASK: u32 = 2;

/// Blocks every signal that can be blocked.
pub(crate) fn block_signals() -> Result<()> {
    set_mask(u64::MAX)
}

fn set_mask(mask: u64) -> Result<()> {
    let mask: *const u64 = &mask;
    call!(RT_SIGPROCMASK, SETMASK, mask, 0_usize, SET).map(drop)
}

/// Every signal has its default action and none is blocked, as a new program expects.
pub(crate) fn reset_signals() -> Result<()> {
    // `struct sigaction` of the kernel: handler (0 is the default), flags, restorer (x86_64 only), mask.
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        // The two that cannot be set answer EINVAL, and have their default anyway.
        let _ = call!(RT_SIGACTION, signal, default.as_ptr(), 0_usize, SET);
    }
    set_mask(0)
}

/// A descriptor that becomes readable when a child ends.
pub(crate) fn child_signals() -> Result<Fd> {
    let mask = 1_u64 << (SIGCHLD - 1);
    let mask: *const u64 = &mask;
    call!(SIGNALFD4, -1, mask, SET, super::CLOEXEC | super::NONBLOCK).map(Fd::from_answer)
}

/// Sends a signal to a process, or to the group `-target`, or to everything but PID 1 (`-1`).
pub(crate) fn send_signal(target: i32, signal: u32) -> Result<()> {
    call!(KILL, target, signal).map(drop)
}
