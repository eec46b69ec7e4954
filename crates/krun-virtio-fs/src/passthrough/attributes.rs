//! Reads and changes attributes.

use std::os::fd::AsFd;

use krun_virtio::{Short, Sink};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};

use super::PassthroughFs;
use super::credentials::WithoutFsetid;
use super::inodes::Inode;
use super::lookup::stat_fd;
use super::procfd::ProcFd;
use crate::abi::SxTime;
use crate::errno::{Errno, FsResult};
use crate::types::{Attributes, Handle, NodeId, Request, SetAttr, SetTime, StatFs, Statx};

impl PassthroughFs {
    pub(super) fn attributes(&self, inode: &Inode) -> FsResult<Attributes> {
        Ok(Attributes { attr: self.attr(&stat_fd(inode.as_fd())?), valid: self.timeout })
    }

    pub(super) fn extended_attributes_of(&self, inode: &Inode, mask: u32) -> FsResult<Statx> {
        let stat = stat_fd(inode.as_fd())?;
        let attr = self.attr(&stat);
        let time = |t: rustix::fs::StatxTimestamp| SxTime { tv_sec: t.tv_sec, tv_nsec: t.tv_nsec, reserved: 0 };
        Ok(Statx {
            // Mount ids are the host's own business.
            mask: stat.stx_mask & mask & 0xfff,
            blksize: attr.blksize,
            attributes: 0,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            mode: stat.stx_mode,
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            attributes_mask: 0,
            atime: time(stat.stx_atime),
            btime: time(stat.stx_btime),
            ctime: time(stat.stx_ctime),
            mtime: time(stat.stx_mtime),
            rdev_major: stat.stx_rdev_major,
            rdev_minor: stat.stx_rdev_minor,
            ..Statx::default()
        })
    }

    pub(super) fn set_attributes(
        &self,
        node: NodeId,
        handle: Option<Handle>,
        change: &SetAttr,
    ) -> FsResult<Attributes> {
        let inode = self.inodes.get(node)?;
        if change.uid.is_some() || change.gid.is_some() {
            // Before the mode: a change of owner takes set-id bits away.
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            rustix::fs::chownat(inode.as_fd(), c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            self.change_mode(&inode, mode)?;
        }
        if let Some(size) = change.size {
            self.truncate(&inode, node, handle, size, change.kill_suid_gid)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            rustix::fs::utimensat(
                self.proc_fd.dir()?,
                ProcFd::name(inode.as_fd()).as_c_str(),
                &times,
                AtFlags::empty(),
            )?;
        }
        self.attributes(&inode)
    }

    pub(super) fn change_mode(&self, inode: &Inode, mode: u32) -> Result<(), Errno> {
        if inode.kind == libc::S_IFLNK {
            return Err(Errno::OPNOTSUPP);
        }
        let mode = Mode::from_raw_mode(mode & 0o7777);
        Ok(rustix::fs::chmodat(self.proc_fd.dir()?, ProcFd::name(inode.as_fd()).as_c_str(), mode, AtFlags::empty())?)
    }

    fn truncate(
        &self,
        inode: &Inode,
        node: NodeId,
        handle: Option<Handle>,
        size: u64,
        kill: bool,
    ) -> Result<(), Errno> {
        if !inode.is_regular() {
            return Err(if inode.is_directory() { Errno::ISDIR } else { Errno::INVAL });
        }
        if i64::try_from(size).is_err() {
            return Err(Errno::INVAL);
        }
        let _guard = WithoutFsetid::enter(kill)?;
        match handle.and_then(|h| self.handles.file(node, h).ok()).filter(|open| open.writes()) {
            Some(open) => rustix::fs::ftruncate(&*open, size)?,
            None => rustix::fs::ftruncate(self.proc_fd.reopen(inode.as_fd(), OFlags::WRONLY)?, size)?,
        }
        Ok(())
    }

    pub(super) fn read_link(&self, node: NodeId, into: &mut dyn Sink) -> FsResult<()> {
        let inode = self.inodes.get(node)?;
        if inode.kind != libc::S_IFLNK {
            return Err(Errno::INVAL.into());
        }
        let mut target = [0; 4096];
        let length = rustix::fs::readlinkat_raw(inode.as_fd(), c"", &mut target[..])?;
        let target = target.get(..length).unwrap_or_default();
        // What does not fit is cut, as readlink(2) does.
        let target = target.get(..into.remaining()).unwrap_or(target);
        Ok(into.write(target).map_err(|Short| Errno::INVAL)?)
    }

    /// The check that a client without `default_permissions` leaves to the server.
    pub(super) fn check_access(&self, rq: &Request, inode: &Inode, mask: u32) -> FsResult<()> {
        let attr = self.attr(&stat_fd(inode.as_fd())?);
        let wanted = mask & 7;
        let granted = if rq.uid == 0 {
            // The superuser needs one execute bit somewhere to execute, and nothing else.
            if attr.mode & 0o111 != 0 || inode.is_directory() { 7 } else { 6 }
        } else if rq.uid == attr.uid {
            attr.mode >> 6 & 7
        } else if rq.gid == attr.gid {
            attr.mode >> 3 & 7
        } else {
            attr.mode & 7
        };
        if wanted & !granted != 0 { Err(Errno::ACCES.into()) } else { Ok(()) }
    }

    pub(super) fn file_system_numbers(&self, inode: &Inode) -> FsResult<StatFs> {
        let stat = rustix::fs::fstatvfs(inode.as_fd())?;
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(StatFs {
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            block_size: narrow(stat.f_bsize),
            fragment_size: narrow(stat.f_frsize),
            name_max: narrow(stat.f_namemax),
        })
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At { seconds, nanoseconds }) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}
