//! Extended attributes.
//!
//! No system call reaches those of a pinned file by its descriptor (before Linux 6.13), so the path of the descriptor
//! is used: `/proc/self/fd/N` leads to the file itself and not further.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::XattrFlags;

use super::inodes::Inode;
use super::procfd::ProcFd;
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

    pub(super) fn get_xattr(&self, inode: &Inode, name: &CStr, value: &mut [u8]) -> FsResult<usize> {
        self.admit_xattr(name)?;
        Ok(rustix::fs::getxattr(ProcFd::path(inode.as_fd()).as_c_str(), name, value)?)
    }

    pub(super) fn set_xattr(&self, inode: &Inode, name: &CStr, value: &[u8], flags: u32) -> FsResult<()> {
        self.admit_xattr(name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        Ok(rustix::fs::setxattr(ProcFd::path(inode.as_fd()).as_c_str(), name, value, flags)?)
    }

    pub(super) fn remove_xattr(&self, inode: &Inode, name: &CStr) -> FsResult<()> {
        self.admit_xattr(name)?;
        Ok(rustix::fs::removexattr(ProcFd::path(inode.as_fd()).as_c_str(), name)?)
    }

    pub(super) fn list_xattrs(&self, inode: &Inode, names: &mut [u8]) -> FsResult<usize> {
        if self.xattrs == Xattrs::None {
            return Err(Errno::NOSYS.into());
        }
        let path = ProcFd::path(inode.as_fd());
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
