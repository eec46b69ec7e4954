//! Terminals.

use super::{Fd, Result, call};
use crate::protocol::Resize;

/// Makes `terminal` the controlling terminal of this session, whoever had it.
pub(crate) fn take_terminal(terminal: &Fd) -> Result<()> {
    const TIOCSCTTY: u32 = 0x540e;
    const STEAL: u32 = 1;
    call!(IOCTL, terminal.number(), TIOCSCTTY, STEAL).map(drop)
}

pub(crate) fn set_size(terminal: &Fd, size: Resize) -> Result<()> {
    const TIOCSWINSZ: u32 = 0x5414;
    // `struct winsize`: rows, columns, and two sizes in pixels that nobody knows.
    let size = [size.rows, size.columns, 0, 0];
    call!(IOCTL, terminal.number(), TIOCSWINSZ, size.as_ptr()).map(drop)
}

/// Waits until everything written to `terminal` has left it.
pub(crate) fn drain(terminal: &Fd) {
    drain_number(terminal.number());
}

/// Waits until everything written to the console, which is PID 1's standard error, has left it.
pub(crate) fn drain_console() {
    drain_number(2);
}

fn drain_number(terminal: i32) {
    const TCSBRK: u32 = 0x5409;
    const ONLY_DRAIN: u32 = 1;
    // What is not a terminal has nothing to wait for.
    let _ = call!(IOCTL, terminal, TCSBRK, ONLY_DRAIN);
}
