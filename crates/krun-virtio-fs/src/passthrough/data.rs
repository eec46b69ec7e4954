//! Opens files and moves their content.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use krun_virtio::{Sink, Source};
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::time::ClockId;

use super::credentials::{Caller, WithoutFsetid};
use super::handles::{Kind, Open};
use super::inodes::{Inode, Stamp};
use super::lookup::stat_fd;
use super::{Locks, MountPoints, PassthroughFs};
use crate::errno::{Errno, Failure, FsResult};
use crate::types::{
    CachePolicy, CopyRange, Create, Entry, Handle, NodeId, OpenFlags, OpenOptions, Opened, Request, Write,
};

/// Seconds after which a change of a file counts as past: more than any file system's resolution of times.
const SETTLED: i64 = 2;

impl Open {
    /// Whether the file may be written through it.
    pub(super) fn writes(&self) -> bool {
        matches!(self.kind, Kind::File { writes: true, .. })
    }
}

/// The flags that mean something to the host. All others would open other things, or make them, or are the guest
/// kernel's own business. `O_DIRECT` is left out because nobody aligns what guests send.
fn host_flags(flags: OpenFlags) -> Result<OFlags, Errno> {
    let access = flags.0 & libc::O_ACCMODE.cast_unsigned();
    if access == libc::O_ACCMODE.cast_unsigned() {
        return Err(Errno::INVAL);
    }
    let kept = OFlags::APPEND | OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC;
    Ok(OFlags::from_bits_retain(access) | OFlags::from_bits_retain(flags.0) & kept)
}

/// Opens a file without marking its reads as accesses, if that is wanted: only its owner and the privileged may.
pub(super) fn open_quietly(
    wanted: OpenFlags,
    flags: OFlags,
    open: impl Fn(OFlags) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    let quiet = OFlags::from_bits_retain(wanted.0) & OFlags::NOATIME;
    match open(flags | quiet) {
        Err(Errno::PERM) if !quiet.is_empty() => open(flags),
        opened => opened,
    }
}

/// A place in a file; the system calls take signed ones, and -1 means something else to some.
fn place(offset: u64) -> Result<u64, Errno> {
    if i64::try_from(offset).is_err() { Err(Errno::INVAL) } else { Ok(offset) }
}

/// For operations that wait for a disk.
fn blocking(rq: &Request) -> FsResult<()> {
    if rq.may_block { Ok(()) } else { Err(Failure::Again) }
}

impl PassthroughFs {
    fn opened(&self, open: Open) -> Result<Opened, Errno> {
        let mut options = match self.cache {
            CachePolicy::None => OpenOptions::DIRECT_IO,
            CachePolicy::Auto => OpenOptions::empty(),
            CachePolicy::Always => OpenOptions::KEEP_CACHE,
        };
        if self.locks == Locks::Guest && !self.tells_errors_late(&open) {
            options |= OpenOptions::NOFLUSH;
        }
        Ok(Opened { handle: self.handles.insert(open)?, options })
    }

    /// Network file systems tell errors of writing when a descriptor is closed.
    fn tells_errors_late(&self, open: &Open) -> bool {
        // Below mount points may be anything.
        open.writes() && !(self.closes_in_silence && self.mounts == MountPoints::Stay)
    }

    pub(super) fn open_file(&self, node: NodeId, flags: OpenFlags, kill_suid_gid: bool) -> FsResult<Opened> {
        let inode = self.inodes.get(node)?;
        match inode.kind {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno::ISDIR.into()),
            libc::S_IFLNK => return Err(Errno::LOOP.into()),
            // Opening a pipe or a device would block, or do things, on the host.
            _ => return Err(Errno::NXIO.into()),
        }
        let fd = {
            let _guard = WithoutFsetid::enter(kill_suid_gid && flags.truncates())?;
            open_quietly(flags, host_flags(flags)?, |flags| self.proc_fd.reopen(inode.as_fd(), flags))?
        };
        let keep = self.cache == CachePolicy::Auto && self.is_unchanged(&inode, flags, fd.as_fd());
        let mut opened = self.opened(Open::file(fd, node, flags.writes()))?;
        if keep {
            opened.options |= OpenOptions::KEEP_CACHE;
        }
        Ok(opened)
    }

    /// Whether the file is as it was when the guest opened it last: then what the guest has cached since is good. It
    /// sees what was closed on the host before it opens a file, and need not read the same program again and again.
    fn is_unchanged(&self, inode: &Inode, flags: OpenFlags, fd: BorrowedFd<'_>) -> bool {
        let stat = if flags.truncates() { None } else { stat_fd(fd).ok() };
        let stamp = stat.map(|stat| Stamp {
            size: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        });
        // Two changes within a tick of the host's clock have the same time. What was changed that recently is not
        // remembered; nor what says that it was changed in the future.
        let settled = rustix::time::clock_gettime(ClockId::Realtime).tv_sec - SETTLED;
        let memorable = stamp.filter(|stamp| stamp.changed.0 < settled && stamp.modified.0 < settled);
        let mut opened = inode.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = stamp.is_some() && *opened == stamp;
        *opened = memorable;
        unchanged
    }

    pub(super) fn create_file(
        &self,
        rq: &Request,
        parent: NodeId,
        name: &CStr,
        how: &Create,
    ) -> FsResult<(Entry, Opened)> {
        let dir = self.inodes.get(parent)?;
        let flags = (host_flags(how.flags)? - OFlags::TRUNC) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        match self.make_open(rq, &dir, name, flags, how) {
            Err(Failure::Errno(Errno::EXIST)) if !how.flags.exclusive() => {}
            made => return made,
        }
        // Somebody was quicker to make it. It is opened as OPEN would, once it is known what it is.
        let entry = self.look_up_made(&dir, name)?;
        match self.open_file(entry.node, how.flags, how.kill_suid_gid) {
            Ok(opened) => Ok((entry, opened)),
            Err(failure) => {
                self.inodes.forget(entry.node, 1);
                Err(failure)
            }
        }
    }

    pub(super) fn create_unnamed(&self, rq: &Request, parent: NodeId, how: &Create) -> FsResult<(Entry, Opened)> {
        let dir = self.inodes.get(parent)?;
        let mut flags = (host_flags(how.flags)? - OFlags::TRUNC) | OFlags::TMPFILE;
        if how.flags.exclusive() {
            flags |= OFlags::EXCL;
        }
        self.make_open(rq, &dir, c".", flags, how)
    }

    /// Makes and opens a file that was not there.
    fn make_open(
        &self,
        rq: &Request,
        dir: &Inode,
        name: &CStr,
        flags: OFlags,
        how: &Create,
    ) -> FsResult<(Entry, Opened)> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let caller = Caller::become_for(rq, how.umask)?;
        let made = rustix::fs::openat(dir.as_fd(), name, flags, Mode::from_raw_mode(how.mode & 0o7777));
        let correct = caller.must_correct_mode();
        drop(caller);
        let fd: OwnedFd = made?;
        // The very file that was made, whatever its name means by now.
        let pinned = self.proc_fd.reopen(fd.as_fd(), OFlags::PATH)?;
        let stat = stat_fd(pinned.as_fd())?;
        let mut entry = self.adopt(dir, pinned, &stat)?;
        if correct {
            self.correct_mode(&mut entry, how.mode, how.umask);
        }
        match self.opened(Open::file(fd, entry.node, how.flags.writes())) {
            Ok(opened) => Ok((entry, opened)),
            Err(errno) => {
                self.inodes.forget(entry.node, 1);
                Err(errno.into())
            }
        }
    }

    pub(super) fn read_file(&self, rq: &Request, open: &Open, into: &mut dyn Sink, offset: u64) -> FsResult<usize> {
        let Kind::File { no_nowait, .. } = &open.kind else { return Err(Errno::ISDIR.into()) };
        let mut nowait = !rq.may_block && !no_nowait.load(Ordering::Relaxed);
        let mut done = 0;
        while into.remaining() > 0 {
            let at = place(offset.checked_add(done as u64).ok_or(Errno::INVAL)?)?;
            let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
            match into.pread(open.as_fd(), at, flags, usize::MAX) {
                // The end of the file: a short read alone does not tell, it may be the end of what is cached.
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) if nowait => return Err(Failure::Again),
                    Some(libc::EOPNOTSUPP) if nowait => {
                        no_nowait.store(true, Ordering::Relaxed);
                        nowait = false;
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(done)
    }

    pub(super) fn write_file(&self, open: &Open, from: &mut dyn Source, how: &Write) -> FsResult<usize> {
        let _guard = WithoutFsetid::enter(how.kill_suid_gid)?;
        let mut done = 0;
        while from.remaining() > 0 {
            let at = place(how.offset.checked_add(done as u64).ok_or(Errno::FBIG)?)?;
            match from.pwrite(open.as_fd(), at, 0, usize::MAX) {
                Ok(0) => break,
                Ok(count) => done += count,
                // What is written is written; the next request meets the error at its first byte.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    pub(super) fn flush_file(&self, node: NodeId, handle: Handle, lock_owner: u64) -> FsResult<()> {
        let open = self.handles.file(node, handle)?;
        self.end_locks(node, lock_owner);
        if self.tells_errors_late(&open) {
            super::sys::close(open.as_fd().try_clone_to_owned()?)?;
        }
        Ok(())
    }

    pub(super) fn sync(&self, rq: &Request, open: &Open, data_only: bool) -> FsResult<()> {
        blocking(rq)?;
        Ok(if data_only { rustix::fs::fdatasync(open) } else { rustix::fs::fsync(open) }?)
    }

    pub(super) fn sync_all(&self, rq: &Request, node: NodeId) -> FsResult<()> {
        blocking(rq)?;
        let inode = self.inodes.get(node)?;
        let target = if inode.is_regular() || inode.is_directory() { &inode } else { self.inodes.root() };
        Ok(rustix::fs::syncfs(self.proc_fd.reopen(target.as_fd(), OFlags::RDONLY)?)?)
    }

    pub(super) fn seek(&self, open: &Open, offset: u64, whence: u32) -> FsResult<u64> {
        let offset = place(offset)?;
        // Other kinds of seeking are the guest's own business, and would mean nothing here.
        let from = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(rustix::fs::seek(open, from)?)
    }

    pub(super) fn allocate(&self, rq: &Request, open: &Open, mode: u32, offset: u64, length: u64) -> FsResult<()> {
        let (offset, length) = (place(offset)?, place(length)?);
        blocking(rq)?;
        Ok(rustix::fs::fallocate(open, FallocateFlags::from_bits_retain(mode), offset, length)?)
    }

    pub(super) fn copy_range(&self, rq: &Request, range: &CopyRange) -> FsResult<usize> {
        if range.flags != 0 {
            return Err(Errno::INVAL.into());
        }
        let (mut from_at, mut to_at) = (place(range.from.2)?, place(range.to.2)?);
        let from = self.handles.file(range.from.0, range.from.1)?;
        let to = self.handles.file(range.to.0, range.to.1)?;
        blocking(rq)?;
        let length = usize::try_from(range.length).unwrap_or(usize::MAX);
        Ok(rustix::fs::copy_file_range(&*from, Some(&mut from_at), &*to, Some(&mut to_at), length)?)
    }
}
