//! Files: owned descriptors and what is done with them.

use core::ffi::CStr;

use super::{Errno, Result, call};

pub(crate) const RDONLY: u32 = 0;
pub(crate) const WRONLY: u32 = 1;
pub(crate) const RDWR: u32 = 2;
pub(crate) const NOCTTY: u32 = 0o400;
pub(crate) const NONBLOCK: u32 = 0o4000;
pub(crate) const CLOEXEC: u32 = 0o2_000_000;
pub(crate) const PATH: u32 = 0o10_000_000;
#[cfg(target_arch = "x86_64")]
pub(crate) const DIRECTORY: u32 = 0o200_000;
#[cfg(target_arch = "x86_64")]
pub(crate) const NOFOLLOW: u32 = 0o400_000;
#[cfg(target_arch = "aarch64")]
pub(crate) const DIRECTORY: u32 = 0o40_000;
#[cfg(target_arch = "aarch64")]
pub(crate) const NOFOLLOW: u32 = 0o100_000;

const AT_FDCWD: i32 = -100;

/// A descriptor that is closed when it is dropped. Programs that are executed never inherit it.
#[derive(Debug)]
pub(crate) struct Fd(i32);

impl Fd {
    /// Takes over a descriptor that a system call has just made.
    pub(super) fn from_answer(answer: usize) -> Self {
        Self(super::number(answer))
    }

    pub(crate) const fn number(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // There is nothing left to do about an error of close.
        let _ = call!(CLOSE, self.0);
    }
}

/// A directory to look names up in: a descriptor, or the root of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Base<'a> {
    Root,
    Tree(&'a Fd),
}

impl Base<'_> {
    const fn number(self) -> i32 {
        match self {
            Self::Root => AT_FDCWD,
            Self::Tree(fd) => fd.number(),
        }
    }
}

pub(crate) fn open(base: Base<'_>, path: &CStr, flags: u32) -> Result<Fd> {
    again(|| call!(OPENAT, base.number(), path.as_ptr(), flags | CLOEXEC, 0_usize)).map(Fd::from_answer)
}

pub(crate) fn read(fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
    again(|| call!(READ, fd.0, buffer.as_mut_ptr(), buffer.len()))
}

pub(crate) fn write(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    again(|| call!(WRITE, fd.0, bytes.as_ptr(), bytes.len()))
}

pub(crate) fn write_all(fd: &Fd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match write(fd, bytes)? {
            0 => return Err(Errno::IO),
            count => bytes = bytes.get(count..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Writes to standard error, wherever that leads; for last words.
pub(crate) fn complain(bytes: &[u8]) {
    let _ = call!(WRITE, 2, bytes.as_ptr(), bytes.len());
}

/// Makes `number` another name of `fd`, one that executed programs inherit.
pub(crate) fn duplicate(fd: &Fd, number: i32) -> Result<()> {
    again(|| call!(DUP3, fd.0, number, 0_usize)).map(drop)
}

/// A pipe: the end to read from, the end to write to.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    call!(PIPE2, ends.as_mut_ptr(), CLOEXEC)?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

pub(crate) fn set_nonblocking(fd: &Fd) -> Result<()> {
    const F_GETFL: u32 = 3;
    const F_SETFL: u32 = 4;
    let flags = call!(FCNTL, fd.0, F_GETFL, 0_usize)?;
    call!(FCNTL, fd.0, F_SETFL, flags | NONBLOCK as usize).map(drop)
}

pub(crate) fn change_owner(fd: &Fd, uid: u32, gid: u32) -> Result<()> {
    call!(FCHOWN, fd.0, uid, gid).map(drop)
}

pub(crate) fn make_directory(path: &CStr) -> Result<()> {
    call!(MKDIRAT, AT_FDCWD, path.as_ptr(), 0o755_u32).map(drop)
}

pub(crate) fn make_symlink(target: &CStr, path: &CStr) -> Result<()> {
    call!(SYMLINKAT, target.as_ptr(), AT_FDCWD, path.as_ptr()).map(drop)
}

pub(crate) fn exists(path: &CStr) -> bool {
    call!(FACCESSAT, AT_FDCWD, path.as_ptr(), 0_usize).is_ok()
}

/// Whether files may be made in the directory `path`; false on a read-only file system even for root.
pub(crate) fn is_writable(path: &CStr) -> bool {
    const W_OK: u32 = 2;
    call!(FACCESSAT, AT_FDCWD, path.as_ptr(), W_OK).is_ok()
}

/// Calls `each` with every name in `directory`, until it answers.
pub(crate) fn find_entry<T>(directory: &Fd, mut each: impl FnMut(&CStr) -> Option<T>) -> Result<Option<T>> {
    /// Offset of the record length, then of the name, in `struct linux_dirent64`.
    const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
    let mut buffer = [0_u8; 2048];
    loop {
        let count = again(|| call!(GETDENTS64, directory.0, buffer.as_mut_ptr(), buffer.len()))?;
        if count == 0 {
            return Ok(None);
        }
        let mut rest = buffer.get(..count).unwrap_or_default();
        while let Some(&[low, high]) = rest.get(LENGTH_AT..LENGTH_AT + 2) {
            let length = usize::from(u16::from_le_bytes([low, high]));
            let (Some(record), Some(next)) = (rest.get(NAME_AT..length), rest.get(length..)) else { break };
            if let Some(found) = CStr::from_bytes_until_nul(record).ok().and_then(&mut each) {
                return Ok(Some(found));
            }
            rest = next;
        }
    }
}

/// Repeats what a signal interrupted.
fn again<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}
