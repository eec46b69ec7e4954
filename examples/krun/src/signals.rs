//! The signals that `krun` passes on to the command.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// What is passed on. The rest keeps its meaning for `krun` itself.
const FORWARDED: [i32; 7] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// Whether this signal asks a program to end.
pub(crate) fn ends(signal: i32) -> bool {
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT].contains(&signal)
}

/// Signals of this process, read instead of handled.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// Call before any thread is started: threads inherit the mask.
    pub(crate) fn take() -> io::Result<Self> {
        sys::signal_fd(&FORWARDED).map(Self)
    }

    /// The next signal, if one is there.
    pub(crate) fn next(&self) -> io::Result<Option<i32>> {
        const SIGNO: usize = offset_of!(libc::signalfd_siginfo, ssi_signo);
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut info) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let number = info.get(SIGNO..).and_then(|bytes| bytes.first_chunk());
        Ok(number.and_then(|bytes| i32::try_from(u32::from_ne_bytes(*bytes)).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
