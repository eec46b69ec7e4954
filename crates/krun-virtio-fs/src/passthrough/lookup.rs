//! From names to files, one component at a time.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Statx, StatxFlags};

use super::inodes::{Identity, Inode};
use super::{MountPoints, PassthroughFs};
use crate::abi::ATTR_SUBMOUNT;
use crate::errno::{Errno, Failure, FsResult};
use crate::types::{Attr, Entry, NodeId};

/// Bits of `statx.stx_attributes`.
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
/// `STATX_MNT_ID`, since Linux 5.8.
const STATX_MNT_ID: u32 = 0x1000;

/// `openat2(2)` is not there (or a sandbox hides it): found out once.
#[derive(Debug, Default)]
pub(super) struct NoOpenat2(AtomicBool);

/// Attributes of what `fd` pins.
pub(super) fn stat_fd(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    stat_at(fd, c"", AtFlags::EMPTY_PATH)
}

fn stat_at(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Statx, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::from_bits_retain(STATX_MNT_ID);
    let flags = flags | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(dir, name, flags, wanted)?)
}

/// `S_IFMT` bits.
pub(super) fn kind_of(stat: &Statx) -> u32 {
    u32::from(stat.stx_mode) & libc::S_IFMT
}

pub(super) fn identity_of(stat: &Statx) -> Identity {
    Identity { ino: stat.stx_ino, dev: device_of(stat), mount: if has_mount_id(stat) { stat.stx_mnt_id } else { 0 } }
}

fn has_mount_id(stat: &Statx) -> bool {
    stat.stx_mask & STATX_MNT_ID != 0
}

fn device_of(stat: &Statx) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}

/// A device number in the kernel's 32-bit encoding (`new_encode_dev`).
pub(super) fn encode_device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

impl PassthroughFs {
    /// Looks a name up and refers to what it names.
    pub(super) fn look_up(&self, parent: &Inode, name: &CStr) -> FsResult<Entry> {
        // The guest asks most for what it knows, or for what is not there: then this one system call is enough. The
        // identity decides, so it does no harm if the name means something else a moment later.
        let stat = match stat_at(parent.as_fd(), name, AtFlags::empty()) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if !self.negative.is_zero() => return Ok(Entry::negative(self.negative)),
            Err(errno) => return Err(errno.into()),
        };
        self.admit_mount(parent, &stat, None)?;
        if let Some(node) = self.inodes.refer(&identity_of(&stat)) {
            return Ok(self.entry(node, &stat, parent));
        }
        let fd = self.pin(parent, name)?;
        let stat = stat_fd(fd.as_fd())?;
        self.adopt(parent, fd, &stat)
    }

    /// Takes a pinned file into the table.
    pub(super) fn adopt(&self, parent: &Inode, fd: OwnedFd, stat: &Statx) -> FsResult<Entry> {
        self.admit_mount(parent, stat, Some(fd.as_fd()))?;
        let inode = Inode::new(fd, identity_of(stat), kind_of(stat));
        let node = self.inodes.insert(inode)?;
        Ok(self.entry(node, stat, parent))
    }

    /// Pins what a name names: opens nothing, follows nothing, leads nowhere else.
    fn pin(&self, parent: &Inode, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !self.no_openat2.0.load(Ordering::Relaxed) {
            let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
            if self.mounts == MountPoints::Stay {
                resolve |= ResolveFlags::NO_XDEV;
            }
            match rustix::fs::openat2(parent.as_fd(), name, flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(fd),
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                    self.no_openat2.0.store(true, Ordering::Relaxed);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        // One component with NOFOLLOW has nothing to walk either; mounts are checked by the caller.
        Ok(rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty())?)
    }

    /// Whether the guest may see a file on its mount.
    fn admit_mount(&self, parent: &Inode, stat: &Statx, pinned: Option<BorrowedFd<'_>>) -> FsResult<()> {
        if !crosses(parent, stat) {
            return Ok(());
        }
        if self.mounts == MountPoints::Stay {
            return Err(Errno::XDEV.into());
        }
        // The files of procfs are this process's memory, descriptors and more.
        match pinned.map(rustix::fs::fstatfs) {
            Some(Ok(fs)) if fs.f_type == PROC_SUPER_MAGIC => Err(Errno::XDEV.into()),
            Some(Err(errno)) => Err(Failure::from(errno)),
            _ => Ok(()),
        }
    }

    fn entry(&self, node: NodeId, stat: &Statx, parent: &Inode) -> Entry {
        let mut attr = self.attr(stat);
        if self.announces_submounts() && kind_of(stat) == libc::S_IFDIR && crosses(parent, stat) {
            attr.flags |= ATTR_SUBMOUNT;
        }
        Entry { node, generation: 0, attr, attr_valid: self.timeout, entry_valid: self.timeout }
    }

    /// Attributes as the guest sees them.
    pub(super) fn attr(&self, stat: &Statx) -> Attr {
        Attr {
            ino: self.guest_ino(stat),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: stat.stx_atime.tv_sec.cast_unsigned(),
            mtime: stat.stx_mtime.tv_sec.cast_unsigned(),
            ctime: stat.stx_ctime.tv_sec.cast_unsigned(),
            atimensec: stat.stx_atime.tv_nsec,
            mtimensec: stat.stx_mtime.tv_nsec,
            ctimensec: stat.stx_ctime.tv_nsec,
            mode: stat.stx_mode.into(),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: encode_device(stat.stx_rdev_major, stat.stx_rdev_minor),
            blksize: stat.stx_blksize,
            flags: 0,
        }
    }

    /// The guest sees one device. Files of others get numbers apart, so that two files are never taken for one.
    pub(super) fn guest_ino(&self, stat: &Statx) -> u64 {
        let device = device_of(stat);
        if device == self.inodes.root().identity.dev || self.announces_submounts() {
            return stat.stx_ino;
        }
        let mut devices = self.foreign_devices.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let index = match devices.iter().position(|d| *d == device) {
            Some(index) => index,
            None => {
                devices.push(device);
                devices.len() - 1
            }
        };
        // 15 bits for the device, below the bit that marks virtual files.
        stat.stx_ino ^ ((index as u64 + 1) & 0x7fff) << 48
    }
}

/// Whether a child lies on another mount than its parent. Devices are no sign of it where mounts have numbers: the
/// files of one overlay have several.
fn crosses(parent: &Inode, stat: &Statx) -> bool {
    if has_mount_id(stat) {
        return stat.stx_mnt_id != parent.identity.mount;
    }
    let attributes: u64 = stat.stx_attributes.bits();
    attributes & STATX_ATTR_MOUNT_ROOT != 0 || device_of(stat) != parent.identity.dev
}

#[cfg(test)]
mod tests {
    #[test]
    fn devices_are_encoded_as_linux_does() {
        assert_eq!(super::encode_device(8, 1), 0x801);
        assert_eq!(super::encode_device(0xabc, 0x12345), 0x123a_bc45);
        assert_eq!(super::encode_device(0, 0), 0);
    }
}
