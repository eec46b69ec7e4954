//! System calls that no safe wrapper exists for.
#![expect(unsafe_code, reason = "raw system calls on descriptors that are borrowed for the call")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::errno::Errno;
use crate::types::{Lock, LockKind};

fn check(result: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error().into())
}

/// `close(2)`, with its error, which dropping a descriptor swallows.
pub(super) fn close(fd: OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor was ours alone and is given up here; it is closed once, whatever the answer.
    let result = unsafe { libc::close(fd.into_raw_fd()) };
    check(result.into()).map(drop)
}

/// `getdents64(2)`: the next directory entries, as the kernel lays them out.
pub(super) fn getdents(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to a buffer that we hold exclusively; any bytes are valid.
    check(unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) })
}

/// Gives the thread its own working directory and umask.
pub(super) fn unshare_fs() -> Result<(), Errno> {
    // SAFETY: takes no pointer. CLONE_FS separates root, working directory and umask, which no Rust type relies on.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_FS) }).map(drop)
}

/// `setfsuid(2)` of the calling thread alone. The answer of the call is the old id, whether it changed or not, so the
/// second call tells.
pub(super) fn set_fs_uid(uid: u32) -> bool {
    // SAFETY: both calls take numbers and change the calling thread's file system user id, or nothing.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsuid, uid);
        libc::syscall(libc::SYS_setfsuid, u32::MAX)
    };
    now == libc::c_long::from(uid)
}

/// `setfsgid(2)` of the calling thread alone.
pub(super) fn set_fs_gid(gid: u32) -> bool {
    // SAFETY: both calls take numbers and change the calling thread's file system group id, or nothing.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsgid, u32::MAX)
    };
    now == libc::c_long::from(gid)
}

fn flock_of(lock: &Lock) -> Result<libc::flock, Errno> {
    let kind = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    let start = i64::try_from(lock.start).map_err(|_| Errno::INVAL)?;
    let end = i64::try_from(lock.end).map_err(|_| Errno::INVAL)?;
    // Length 0 means: to the end, wherever that is.
    let length = if end == i64::MAX { 0 } else { end.checked_sub(start).ok_or(Errno::INVAL)? + 1 };
    Ok(libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: length,
        // Must be 0 for locks of an open file description.
        l_pid: 0,
    })
}

/// `F_OFD_SETLK`: takes or ends a lock of this open file, without waiting.
pub(super) fn ofd_set_lock(file: BorrowedFd<'_>, lock: &Lock) -> Result<(), Errno> {
    let wish = flock_of(lock)?;
    // SAFETY: `wish` is a valid `struct flock` that lives through the call, which only reads it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const wish) };
    check(result.into()).map(drop)
}

/// `F_OFD_GETLK`: a lock that is in the way.
pub(super) fn ofd_get_lock(file: BorrowedFd<'_>, lock: &Lock) -> Result<Lock, Errno> {
    let mut wish = flock_of(lock)?;
    // SAFETY: `wish` is a valid `struct flock` that lives through the call, which reads and overwrites it.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut wish) };
    check(result.into())?;
    let kind = match i32::from(wish.l_type) {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        _ => return Ok(Lock { kind: LockKind::Unlock, ..*lock }),
    };
    let start = u64::try_from(wish.l_start).unwrap_or_default();
    let end = match u64::try_from(wish.l_len) {
        Ok(0) | Err(_) => i64::MAX.cast_unsigned(),
        Ok(length) => start.saturating_add(length - 1),
    };
    // Process numbers of the host mean nothing to the guest.
    Ok(Lock { kind, start, end, pid: 0 })
}

/// Tells the process that made it from its children, which have copies.
///
/// The kernel wipes its page in a child (`MADV_WIPEONFORK`, Linux 4.14); so even a child that has the same number in a
/// PID namespace of its own finds out. Where the kernel does not know this, the number alone tells.
#[derive(Debug)]
pub(super) struct Birthplace(NonNull<AtomicU32>);

// SAFETY: it owns its page, which is only ever read and written as an atomic number.
unsafe impl Send for Birthplace {}
// SAFETY: as above.
unsafe impl Sync for Birthplace {}

impl Birthplace {
    /// The kernel rounds it up to a page.
    const SIZE: usize = size_of::<AtomicU32>();

    pub(super) fn here() -> io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for new memory, at a place of the kernel's choice.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), Self::SIZE, access, kind, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let this = Self(NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?);
        // SAFETY: our own page. The advice changes nothing in this process.
        let _ = unsafe { libc::madvise(page, Self::SIZE, libc::MADV_WIPEONFORK) };
        this.number().store(std::process::id(), Ordering::Relaxed);
        Ok(this)
    }

    fn number(&self) -> &AtomicU32 {
        // SAFETY: a page that is mapped, aligned and readable and writable as long as `self` lives.
        unsafe { self.0.as_ref() }
    }

    /// Whether this is the process that made it.
    pub(super) fn is_here(&self) -> bool {
        self.number().load(Ordering::Relaxed) == std::process::id()
    }
}

impl Drop for Birthplace {
    fn drop(&mut self) {
        // SAFETY: the page that `here` mapped, which nobody else knows; no borrow of it is left.
        unsafe { libc::munmap(self.0.as_ptr().cast(), Self::SIZE) };
    }
}

/// What `probe` says in a child of this process. It must not allocate: other threads' locks stay as they were.
#[cfg(test)]
pub(super) fn in_a_child(probe: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child makes system calls only, and ends without running any destructor of its parent.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "fork: {}", io::Error::last_os_error());
        if child == 0 {
            libc::_exit(i32::from(!probe()));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_elsewhere() {
        let place = Birthplace::here().expect("memory");
        assert!(place.is_here());
        assert!(in_a_child(|| !place.is_here()));
        assert!(in_a_child(|| Birthplace::here().is_ok_and(|place| place.is_here())));
        // Whatever the child's number is.
        assert!(in_a_child(|| place.number().load(Ordering::Relaxed) == 0), "unless the kernel is older than 4.14");
        assert!(place.is_here());
    }
}
