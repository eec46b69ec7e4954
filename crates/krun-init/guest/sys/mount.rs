//! File systems: mounted without a place at first, then attached to one.

use core::ffi::CStr;

use super::{Base, Fd, Result, call};

pub(crate) const MS_REMOUNT: u64 = 0x20;
pub(crate) const MS_BIND: u64 = 0x1000;
pub(crate) const MS_REC: u64 = 0x4000;
pub(crate) const MS_SHARED: u64 = 0x10_0000;

/// Attributes of a mount, as `fsmount(2)` takes them.
pub(crate) const NOSUID: u32 = 0x2;
pub(crate) const NODEV: u32 = 0x4;
pub(crate) const NOEXEC: u32 = 0x8;

const AT_FDCWD: i32 = -100;

/// Mounts a new file system of type `kind` with `options` (key and value), attached to nothing yet: its files can be
/// opened below the descriptor.
pub(crate) fn mount_detached(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u32) -> Result<Fd> {
    const CLOEXEC: u32 = 1;
    const SET_STRING: u32 = 1;
    const CREATE: u32 = 6;
    let context = Fd::from_answer(call!(FSOPEN, kind.as_ptr(), CLOEXEC)?);
    // What /proc/mounts shows as its device.
    let source = (c"source", kind);
    for (key, value) in [source].iter().chain(options) {
        call!(FSCONFIG, context.number(), SET_STRING, key.as_ptr(), value.as_ptr(), 0_usize)?;
    }
    call!(FSCONFIG, context.number(), CREATE, 0_usize, 0_usize, 0_usize)?;
    call!(FSMOUNT, context.number(), CLOEXEC, attributes).map(Fd::from_answer)
}

/// Attaches a detached mount to the directory `target`. A symbolic link is no directory: it is not followed.
pub(crate) fn attach(mount: &Fd, target: &CStr) -> Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
    let nothing = c"";
    call!(MOVE_MOUNT, mount.number(), nothing.as_ptr(), AT_FDCWD, target.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH).map(drop)
}

/// `mount(2)`.
pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, options: &CStr) -> Result<()> {
    call!(MOUNT, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr()).map(drop)
}

/// Whether something is mounted at `path` itself. Neither a symbolic link to a mount point is one (every file system has
/// `/`), nor a directory that would mount something when it is entered.
pub(crate) fn is_mounted(path: &CStr) -> bool {
    /// `struct statx`, of which only the attributes are wanted.
    #[repr(C)]
    struct Statx {
        mask: u32,
        block_size: u32,
        attributes: u64,
        rest: [u64; 30],
    }
    const MOUNT_ROOT: u64 = 0x2000;
    const SYMLINK_NOFOLLOW: u32 = 0x100;
    const NO_AUTOMOUNT: u32 = 0x800;
    const FLAGS: u32 = SYMLINK_NOFOLLOW | NO_AUTOMOUNT;
    let mut answer = Statx { mask: 0, block_size: 0, attributes: 0, rest: [0; 30] };
    let answer_at: *mut Statx = &mut answer;
    call!(STATX, AT_FDCWD, path.as_ptr(), FLAGS, 0_usize, answer_at).is_ok() && answer.attributes & MOUNT_ROOT != 0
}

/// The directory at `path`, which is no symbolic link, to look names up in.
pub(crate) fn open_tree(path: &CStr) -> Result<Fd> {
    super::open(Base::Root, path, super::PATH | super::DIRECTORY | super::NOFOLLOW)
}
