//! Extended attributes.
//!
//! No system call reaches those of a pinned file by its descriptor (before Linux 6.13), so the descriptor's name in
//! `/proc/self/fd` is used, which leads to the file itself and not further. The thread works in that directory, so a
//! process whose root has no `/proc` any more can serve too.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::XattrFlags;

use super::credentials::work_in;
use super::inodes::Inode;
use super::procfd::{FdName, ProcFd};
use super::{PassthroughFs, Xattrs};
use crate::errno::{Errno, FsResult};

/// The longest list of names (`XATTR_LIST_MAX`).
const LIST_MAX: usize = 64 << 10;

impl Xattrs {
    fn admits(self, name: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::Usual => name.starts_with(b"user.") || name == b"security.capability",
            Self::All => true,
        }
    }
}

impl PassthroughFs {
    fn admit_xattr(&self, name: &CStr) -> Result<(), Errno> {
        match self.xattrs {
            // The client does not ask again.
            Xattrs::None => Err(Errno::NOSYS),
            policy if policy.admits(name.to_bytes()) => Ok(()),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    /// Where the thread finds the file that is pinned.
    fn name_of(&self, inode: &Inode) -> Result<FdName, Errno> {
        Ok(if work_in(&self.proc_fd)? { ProcFd::name(inode.as_fd()) } else { ProcFd::path(inode.as_fd()) })
    }

    pub(super) fn get_xattr(&self, inode: &Inode, name: &CStr, value: &mut [u8]) -> FsResult<usize> {
        self.admit_xattr(name)?;
        Ok(rustix::fs::getxattr(self.name_of(inode)?.as_c_str(), name, value)?)
    }

    pub(super) fn set_xattr(&self, inode: &Inode, name: &CStr, value: &[u8], flags: u32) -> FsResult<()> {
        self.admit_xattr(name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        Ok(rustix::fs::setxattr(self.name_of(inode)?.as_c_str(), name, value, flags)?)
    }

    pub(super) fn remove_xattr(&self, inode: &Inode, name: &CStr) -> FsResult<()> {
        self.admit_xattr(name)?;
        Ok(rustix::fs::removexattr(self.name_of(inode)?.as_c_str(), name)?)
    }

    pub(super) fn list_xattrs(&self, inode: &Inode, names: &mut [u8]) -> FsResult<usize> {
        if self.xattrs == Xattrs::None {
            return Err(Errno::NOSYS.into());
        }
        let path = self.name_of(inode)?;
        let mut small = [0; 512];
        match rustix::fs::listxattr(path.as_c_str(), &mut small[..]) {
            Ok(length) => self.admitted_names(small.get(..length).unwrap_or_default(), names),
            Err(rustix::io::Errno::RANGE) => {
                let mut large = vec![0; LIST_MAX];
                let length = rustix::fs::listxattr(path.as_c_str(), &mut large[..])?;
                self.admitted_names(large.get(..length).unwrap_or_default(), names)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Copies the names that the guest may see, or tells how long they are.
    fn admitted_names(&self, all: &[u8], into: &mut [u8]) -> FsResult<usize> {
        let mut length = 0;
        for name in all.split_inclusive(|byte| *byte == 0) {
            if !self.xattrs.admits(name.strip_suffix(b"\0").unwrap_or(name)) {
                continue;
            }
            if !into.is_empty() {
                into.get_mut(length..length + name.len()).ok_or(Errno::RANGE)?.copy_from_slice(name);
            }
            length += name.len();
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    #[test]
    fn a_thread_finds_pinned_files_without_a_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let fs = PassthroughFs::builder(dir.path()).build().expect("a share");
        let before = std::env::current_dir().expect("a working directory");
        let serve = || {
            let root = fs.inodes.get(NodeId::ROOT).expect("the root");
            let name = fs.name_of(&root).expect("its own process");
            let found = std::fs::read_link(std::path::Path::new(name.as_c_str().to_str().expect("digits")));
            (name.as_c_str().to_bytes().starts_with(b"/"), found.expect("a link"))
        };
        let (absolute, found) = std::thread::scope(|scope| scope.spawn(serve).join()).expect("no panic");
        assert_eq!(found, dir.path().canonicalize().expect("a path"));
        assert!(!absolute, "unless a sandbox forbids unshare(CLONE_FS)");
        // Only that thread has gone there.
        assert_eq!(std::env::current_dir().expect("a working directory"), before);
    }
}
