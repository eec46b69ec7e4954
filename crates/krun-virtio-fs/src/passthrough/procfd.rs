//! `/proc/self/fd`: how a pinned file (`O_PATH`) is opened, or named, without walking any path.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC};

use super::sys::Birthplace;
use crate::errno::Errno;
use crate::error::Error;

/// The directory `/proc/self/fd`, opened once: what is mounted over `/proc` later does not matter.
///
/// It is that of the process which opened it. In a child of that process, its numbers would mean the parent's files, so
/// there it is of no use: `EIO`.
#[derive(Debug)]
pub(super) struct ProcFd {
    dir: OwnedFd,
    /// Device and inode number of the directory: they differ from process to process.
    identity: (u64, u64),
    opened_in: Birthplace,
}

impl ProcFd {
    pub(super) fn open() -> Result<Self, Error> {
        let wrap = |source: std::io::Error| Error::ProcSelfFd { source };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty()).map_err(|e| wrap(e.into()))?;
        let stat = rustix::fs::fstatfs(&dir).map_err(|e| wrap(e.into()))?;
        if stat.f_type != PROC_SUPER_MAGIC {
            return Err(wrap(std::io::Error::other("what is mounted there is not procfs")));
        }
        let stat = rustix::fs::fstat(&dir).map_err(|e| wrap(e.into()))?;
        Ok(Self { dir, identity: (stat.st_dev, stat.st_ino), opened_in: Birthplace::here().map_err(wrap)? })
    }

    /// The directory, which is to stay open.
    pub(super) fn pinned(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The directory, in the process whose files it names.
    pub(super) fn dir(&self) -> Result<BorrowedFd<'_>, Errno> {
        if self.opened_in.is_here() { Ok(self.dir.as_fd()) } else { Err(Errno::IO) }
    }

    /// What tells it from the directories of other processes.
    pub(super) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The name of a descriptor in this directory.
    pub(super) fn name(fd: BorrowedFd<'_>) -> FdName {
        FdName::new(b"", fd)
    }

    /// The path of a descriptor, for system calls that take no directory.
    pub(super) fn path(fd: BorrowedFd<'_>) -> FdName {
        FdName::new(b"/proc/self/fd/", fd)
    }

    /// Opens the file that `fd` pins. The caller has made sure that it is a regular file or a directory: opening
    /// anything else may block or have effects.
    pub(super) fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        // The magic link leads to the very file, whatever its name is now. NONBLOCK is for leases of host processes.
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(self.dir()?, Self::name(fd).as_c_str(), flags, Mode::empty())?)
    }
}

/// A short string on the stack: a prefix, a number, NULs.
pub(super) struct FdName([u8; 28]);

impl FdName {
    fn new(prefix: &[u8], fd: BorrowedFd<'_>) -> Self {
        let mut digits = [0; 10];
        let (mut rest, mut count) = (fd.as_raw_fd().unsigned_abs(), 0);
        for place in digits.iter_mut().rev() {
            *place = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        let mut name = [0; 28];
        let text = prefix.iter().chain(digits.iter().skip(10 - count));
        // The last byte stays NUL: 14 bytes of prefix, at most 10 digits.
        name.iter_mut().zip(text).for_each(|(place, byte)| *place = *byte);
        Self(name)
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::super::sys;
    use super::*;

    #[test]
    fn names_are_decimal() {
        let file = tempfile::tempfile().expect("a file");
        let number = file.as_raw_fd().to_string();
        assert_eq!(ProcFd::name(file.as_fd()).as_c_str().to_str(), Ok(&*number));
        assert_eq!(ProcFd::path(file.as_fd()).as_c_str().to_str(), Ok(&*format!("/proc/self/fd/{number}")));
    }

    #[test]
    fn a_reopened_file_is_the_same_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        std::fs::write(&path, "inside").expect("write");
        let pinned =
            rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).expect("open");
        std::fs::remove_file(&path).expect("remove");
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("symlink");
        let again = ProcFd::open().expect("procfs").reopen(pinned.as_fd(), OFlags::RDONLY).expect("reopen");
        let text = std::io::read_to_string(std::fs::File::from(again)).expect("read");
        assert_eq!(text, "inside");
    }
    #[test]
    fn a_child_does_not_open_files_of_its_parent() {
        let proc_fd = ProcFd::open().expect("procfs");
        let file = tempfile::tempfile().expect("a file");
        let refused = sys::in_a_child(|| {
            // The next descriptor's number means nothing to the parent, or something else.
            rustix::io::dup(&file).is_ok_and(|own| proc_fd.reopen(own.as_fd(), OFlags::RDONLY).err() == Some(Errno::IO))
                && proc_fd.reopen(file.as_fd(), OFlags::RDONLY).err() == Some(Errno::IO)
        });
        assert!(refused);
        assert!(proc_fd.reopen(file.as_fd(), OFlags::RDONLY).is_ok());
        assert!(sys::in_a_child(|| ProcFd::open().is_ok_and(|own| own.reopen(file.as_fd(), OFlags::RDONLY).is_ok())));
    }
}
