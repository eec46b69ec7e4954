//! Makes names and takes them away.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags};

use super::PassthroughFs;
use super::credentials::Caller;
use super::inodes::Inode;
use super::procfd::ProcFd;
use crate::errno::{Errno, FsResult};
use crate::types::{Entry, NodeId, Request};

impl PassthroughFs {
    /// Looks up what was just made.
    pub(super) fn look_up_made(&self, parent: &Inode, name: &CStr) -> FsResult<Entry> {
        let entry = self.look_up(parent, name)?;
        // Somebody on the host was quicker to remove it.
        if entry.is_negative() { Err(Errno::NOENT.into()) } else { Ok(entry) }
    }

    /// Makes up for the umask of the process, if that is what was applied.
    pub(super) fn correct_mode(&self, entry: &mut Entry, mode: u32, umask: u32) {
        let wanted = mode & !umask & 0o777;
        if wanted & !entry.attr.mode != 0
            && let Ok(inode) = self.inodes.get(entry.node)
            && self.change_mode(&inode, entry.attr.mode | wanted).is_ok()
        {
            entry.attr.mode |= wanted;
        }
    }

    pub(super) fn make_directory(
        &self,
        rq: &Request,
        parent: NodeId,
        name: &CStr,
        mode: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        let dir = self.inodes.get(parent)?;
        let caller = Caller::become_for(rq, umask)?;
        let made = rustix::fs::mkdirat(dir.as_fd(), name, Mode::from_raw_mode(mode & 0o7777));
        let correct = caller.must_correct_mode();
        drop(caller);
        made?;
        let mut entry = self.look_up_made(&dir, name)?;
        if correct {
            self.correct_mode(&mut entry, mode, umask);
        }
        Ok(entry)
    }

    pub(super) fn make_node(
        &self,
        rq: &Request,
        parent: NodeId,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => FileType::RegularFile,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR if rdev == 0 || self.device_nodes => FileType::CharacterDevice,
            libc::S_IFBLK if self.device_nodes => FileType::BlockDevice,
            libc::S_IFCHR | libc::S_IFBLK => return Err(Errno::PERM.into()),
            _ => return Err(Errno::INVAL.into()),
        };
        // The kernel's 32-bit encoding (`new_decode_dev`).
        let device = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => {
                rustix::fs::makedev(rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xf_ff00)
            }
            _ => 0,
        };
        let dir = self.inodes.get(parent)?;
        let caller = Caller::become_for(rq, umask)?;
        let made = rustix::fs::mknodat(dir.as_fd(), name, kind, Mode::from_raw_mode(mode & 0o7777), device);
        let correct = caller.must_correct_mode();
        drop(caller);
        made?;
        let mut entry = self.look_up_made(&dir, name)?;
        if correct {
            self.correct_mode(&mut entry, mode, umask);
        }
        Ok(entry)
    }

    pub(super) fn make_symlink(&self, rq: &Request, target: &CStr, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        let dir = self.inodes.get(parent)?;
        let caller = Caller::become_for(rq, 0)?;
        let made = rustix::fs::symlinkat(target, dir.as_fd(), name);
        drop(caller);
        made?;
        self.look_up_made(&dir, name)
    }

    pub(super) fn make_link(&self, node: NodeId, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        let (inode, dir) = (self.inodes.get(node)?, self.inodes.get(parent)?);
        if inode.is_directory() {
            return Err(Errno::PERM.into());
        }
        // Follows the magic link to the pinned file and, if that is a symbolic link, not a step further.
        let old = ProcFd::name(inode.as_fd());
        rustix::fs::linkat(self.proc_fd.dir()?, old.as_c_str(), dir.as_fd(), name, AtFlags::SYMLINK_FOLLOW)?;
        self.look_up_made(&dir, name)
    }

    pub(super) fn remove_name(&self, parent: NodeId, name: &CStr, directory: bool) -> FsResult<()> {
        let dir = self.inodes.get(parent)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(rustix::fs::unlinkat(dir.as_fd(), name, flags)?)
    }

    pub(super) fn rename_name(&self, from: (NodeId, &CStr), to: (NodeId, &CStr), flags: u32) -> FsResult<()> {
        let (old, new) = (self.inodes.get(from.0)?, self.inodes.get(to.0)?);
        if flags == 0 {
            rustix::fs::renameat(old.as_fd(), from.1, new.as_fd(), to.1)?;
        } else {
            let flags = RenameFlags::from_bits_retain(flags);
            rustix::fs::renameat_with(old.as_fd(), from.1, new.as_fd(), to.1, flags)?;
        }
        Ok(())
    }
}
