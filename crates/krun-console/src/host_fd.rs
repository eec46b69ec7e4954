//! Reading and writing descriptors that belong to others, without ever waiting.
//!
//! `O_NONBLOCK` is a property of the open file description, and the description behind a program's standard streams is
//! shared with the shell that started it and with everything else in the pipeline. Setting the flag there breaks them.
//! So each kind of file is asked not to block in the way that touches nothing but this one call, or through a
//! description of our own.

use crate::{Error, Input, Output};
use krun_virtio::{Sink, Source};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat, major, minor, open};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// How a call on the descriptor is kept from waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Plain calls: regular files and their like never make a reader wait for anybody, and a description that is
    /// non-blocking (because it is ours, or a device's that its owner made so) answers for itself.
    Plain,
    /// `MSG_DONTWAIT` (and `MSG_NOSIGNAL`).
    Socket,
    /// `poll` first, then at most this many bytes. For what can be neither re-opened nor asked per call: a pipe or a
    /// terminal of another user, the master side of a pseudo-terminal.
    Polled(usize),
}

/// Most bytes of one call, so that one port does not keep the others waiting.
const MAX_CALL: usize = 1 << 20;

/// The direction a descriptor is used in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Input,
    Output,
}

/// A descriptor as one end of a port: file, pipe, socket, terminal, device.
///
/// Terminals and pipes are opened once more through `/proc/self/fd` where that is allowed, so the description that was
/// passed in is never changed. Where it is not allowed (no `/proc`, a terminal of another user) each call is preceded by
/// `poll` and moves few bytes.
#[derive(Debug)]
pub struct HostFd {
    fd: OwnedFd,
    way: Way,
}

impl HostFd {
    /// A descriptor to read from.
    ///
    /// # Errors
    /// [`Error::AccessMode`] if it is not open for reading, [`Error::Descriptor`] if it cannot be examined.
    pub fn input(fd: impl Into<OwnedFd>) -> Result<Self, Error> {
        Self::new(fd.into(), Direction::Input)
    }

    /// A descriptor to write to.
    ///
    /// # Errors
    /// [`Error::AccessMode`] if it is not open for writing, [`Error::Descriptor`] if it cannot be examined.
    pub fn output(fd: impl Into<OwnedFd>) -> Result<Self, Error> {
        Self::new(fd.into(), Direction::Output)
    }

    fn new(fd: OwnedFd, direction: Direction) -> Result<Self, Error> {
        let number = fd.as_raw_fd();
        let failed = |source: rustix::io::Errno| Error::Descriptor { fd: number, source: source.into() };
        let flags = fcntl_getfl(&fd).map_err(failed)?;
        let (direction_name, needed, other) = match direction {
            Direction::Input => ("the input", "reading", OFlags::WRONLY),
            Direction::Output => ("the output", "writing", OFlags::RDONLY),
        };
        if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == other {
            return Err(Error::AccessMode { fd: number, direction: direction_name, needed });
        }
        let stat = fstat(&fd).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket {
            return Ok(Self { fd, way: Way::Socket });
        }
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        let plain = matches!(kind, FileType::RegularFile | FileType::BlockDevice | FileType::Directory)
            || (kind == FileType::CharacterDevice && device.0 == MEMORY_DEVICES);
        if plain {
            return Ok(Self { fd, way: Way::Plain });
        }
        let shared = kind == FileType::Fifo || rustix::termios::isatty(&fd);
        // What programs pass on to each other may be made to block again by any of them; the flag says nothing of then.
        if !shared && flags.contains(OFlags::NONBLOCK) {
            return Ok(Self { fd, way: Way::Plain });
        }
        // Opening a pseudo-terminal's master again makes a new terminal, and other devices may keep state per open file.
        let may_reopen = shared && !is_pty_master(device);
        if may_reopen && let Some(own) = reopen(&fd, direction) {
            return Ok(Self { fd: own, way: Way::Plain });
        }
        // A writable pipe takes PIPE_BUF bytes, a writable terminal one unit of its buffer.
        let few = if kind == FileType::Fifo { 4096 } else { 256 };
        Ok(Self { fd, way: Way::Polled(few) })
    }

    /// Whether `poll` says one of `wanted`, now.
    fn polls(&self, wanted: PollFlags) -> bool {
        let mut fds = [PollFd::new(&self.fd, wanted)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&at_once)).is_ok_and(|count| count > 0)
            && fds.iter().any(|fd| fd.revents().intersects(wanted))
    }

    /// How many bytes a call may move now.
    fn allowance(&self, ready: PollFlags) -> io::Result<usize> {
        match self.way {
            Way::Plain | Way::Socket => Ok(MAX_CALL),
            Way::Polled(few) if self.polls(ready | PollFlags::HUP | PollFlags::ERR) => Ok(few),
            Way::Polled(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Major number of `/dev/null`, `/dev/zero`, `/dev/random`: none of them makes anybody wait.
const MEMORY_DEVICES: u32 = 1;

/// `/dev/ptmx` and the masters of old BSD pseudo-terminals (Documentation/admin-guide/devices.txt).
fn is_pty_master((major, minor): (u32, u32)) -> bool {
    (major, minor) == (5, 2) || major == 2 || (128..=135).contains(&major)
}

/// A description of our own of the same pipe or terminal.
fn reopen(fd: &OwnedFd, direction: Direction) -> Option<OwnedFd> {
    let mode = match direction {
        Direction::Input => OFlags::RDONLY,
        Direction::Output => OFlags::WRONLY,
    };
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path, mode | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
}

impl Input for HostFd {
    fn read(&mut self, into: &mut dyn Sink) -> io::Result<usize> {
        let max = self.allowance(PollFlags::IN)?;
        match self.way {
            Way::Socket => into.recv(self.fd.as_fd(), 0, max),
            Way::Plain | Way::Polled(_) => into.read_from(self.fd.as_fd(), max),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

impl Output for HostFd {
    fn write(&mut self, from: &mut dyn Source) -> io::Result<usize> {
        let max = self.allowance(PollFlags::OUT)?;
        match self.way {
            Way::Socket => from.send(self.fd.as_fd(), 0, max),
            Way::Plain | Way::Polled(_) => from.write_to(self.fd.as_fd(), max),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn is_gone(&self) -> bool {
        self.polls(PollFlags::HUP | PollFlags::ERR)
    }
}
