//! A directory of the host as a file system, with no way out of it.

mod attributes;
mod builder;
mod credentials;
mod data;
mod directory;
mod handles;
mod inodes;
mod locks;
mod lookup;
mod names;
mod procfd;
mod sys;
mod xattr;

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use krun_virtio::{Sink, Source};

use crate::errno::FsResult;
use crate::filesystem::FileSystem;
use crate::types::{
    Attributes, CachePolicy, CopyRange, Create, Emit, EmitPlus, Entry, Handle, InitFlags, Lock, NodeId, OpenFlags,
    Opened, Release, Request, SetAttr, SetLock, StatFs, Statx, Write,
};
pub use builder::{Locks, MountPoints, PassthroughBuilder, Xattrs};
use handles::Handles;
use inodes::Inodes;
use locks::LockFiles;
use lookup::NoOpenat2;
use procfd::ProcFd;

/// Serves a directory of the host.
///
/// # Confinement
/// The guest is taken to be hostile. What keeps it inside:
/// - Every file that it knows is pinned by an `O_PATH` descriptor. Nothing is ever found by a path: a lookup is one
///   component in a pinned directory, never `..`, never through a symbolic link.
/// - Symbolic links are data. The guest resolves them, in its own tree.
/// - Only regular files and directories are opened, from their pinned descriptor. Pipes, sockets and device nodes are
///   names with attributes and nothing else; device nodes cannot be made unless
///   [allowed](PassthroughBuilder::device_nodes).
/// - [Mount points](MountPoints) are not crossed unless asked for, and never into procfs.
/// - Node ids and handles are checked; each is good for one file and one life.
///
/// # Threads
/// A thread that serves requests gets a umask and a working directory of its own (`unshare(CLONE_FS)`), and acts under
/// the caller's user and group while it makes a file, if the process may do that (`CAP_SETUID` and `CAP_SETGID`).
/// Serve from threads that do nothing else. A process without these privileges makes files as its own user.
///
/// # Descriptors
/// Each file that the guest remembers takes one descriptor. Raise `RLIMIT_NOFILE` before making one of these; when it
/// is used up, the guest gets `ENFILE` or `EMFILE`, and nothing else happens.
#[derive(Debug)]
pub struct PassthroughFs {
    proc_fd: ProcFd,
    inodes: Inodes,
    handles: Handles,
    lock_files: LockFiles,
    cache: CachePolicy,
    timeout: Duration,
    negative: Duration,
    mounts: MountPoints,
    device_nodes: bool,
    xattrs: Xattrs,
    locks: Locks,
    /// The root is on a file system of this machine, which tells no errors when files are closed.
    closes_in_silence: bool,
    no_openat2: NoOpenat2,
    /// Devices other than the root's whose files were seen.
    foreign_devices: Mutex<Vec<u64>>,
    /// [`InitFlags`] of the session.
    session: AtomicU64,
}

impl PassthroughFs {
    /// Files that the guest knows besides the root, and files that it has open.
    #[must_use]
    pub fn in_use(&self) -> (usize, usize) {
        (self.inodes.len(), self.handles.len())
    }

    fn announces_submounts(&self) -> bool {
        self.mounts == MountPoints::Announce && self.uses(InitFlags::SUBMOUNTS)
    }

    fn uses(&self, flag: InitFlags) -> bool {
        InitFlags::from_bits_retain(self.session.load(Ordering::Relaxed)).contains(flag)
    }
}

impl FileSystem for PassthroughFs {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.proc_fd.pinned(), self.inodes.root().as_fd()]
    }

    fn init(&self, capable: InitFlags) -> InitFlags {
        let mut used = capable;
        if self.cache == CachePolicy::None {
            used -= InitFlags::CACHE_SYMLINKS;
        }
        if self.mounts != MountPoints::Announce {
            used -= InitFlags::SUBMOUNTS;
        }
        if self.locks == Locks::Guest {
            used -= InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS;
        }
        self.session.store(used.bits(), Ordering::Relaxed);
        used
    }

    fn destroy(&self) {
        self.handles.clear();
        self.inodes.clear();
    }

    fn lookup(&self, _rq: &Request, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        self.look_up(&*self.inodes.get(parent)?, name)
    }

    fn forget(&self, node: NodeId, count: u64) {
        self.inodes.forget(node, count);
    }

    fn getattr(&self, _rq: &Request, node: NodeId, _handle: Option<Handle>) -> FsResult<Attributes> {
        self.attributes(&*self.inodes.get(node)?)
    }

    fn setattr(&self, _rq: &Request, node: NodeId, handle: Option<Handle>, change: &SetAttr) -> FsResult<Attributes> {
        self.set_attributes(node, handle, change)
    }

    fn statx(&self, _rq: &Request, node: NodeId, _handle: Option<Handle>, mask: u32) -> FsResult<Statx> {
        self.extended_attributes_of(&*self.inodes.get(node)?, mask)
    }

    fn readlink(&self, _rq: &Request, node: NodeId, into: &mut dyn Sink) -> FsResult<()> {
        self.read_link(node, into)
    }

    fn symlink(&self, rq: &Request, target: &CStr, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        self.make_symlink(rq, target, parent, name)
    }

    fn mknod(&self, rq: &Request, parent: NodeId, name: &CStr, mode: u32, rdev: u32, umask: u32) -> FsResult<Entry> {
        self.make_node(rq, parent, name, mode, rdev, umask)
    }

    fn mkdir(&self, rq: &Request, parent: NodeId, name: &CStr, mode: u32, umask: u32) -> FsResult<Entry> {
        self.make_directory(rq, parent, name, mode, umask)
    }

    fn unlink(&self, _rq: &Request, parent: NodeId, name: &CStr) -> FsResult<()> {
        self.remove_name(parent, name, false)
    }

    fn rmdir(&self, _rq: &Request, parent: NodeId, name: &CStr) -> FsResult<()> {
        self.remove_name(parent, name, true)
    }

    fn rename(&self, _rq: &Request, from: (NodeId, &CStr), to: (NodeId, &CStr), flags: u32) -> FsResult<()> {
        self.rename_name(from, to, flags)
    }

    fn link(&self, _rq: &Request, node: NodeId, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        self.make_link(node, parent, name)
    }

    fn open(&self, _rq: &Request, node: NodeId, flags: OpenFlags, kill_suid_gid: bool) -> FsResult<Opened> {
        self.open_file(node, flags, kill_suid_gid)
    }

    fn create(&self, rq: &Request, parent: NodeId, name: &CStr, how: &Create) -> FsResult<(Entry, Opened)> {
        self.create_file(rq, parent, name, how)
    }

    fn tmpfile(&self, rq: &Request, parent: NodeId, how: &Create) -> FsResult<(Entry, Opened)> {
        self.create_unnamed(rq, parent, how)
    }

    fn read(&self, rq: &Request, node: NodeId, handle: Handle, into: &mut dyn Sink, offset: u64) -> FsResult<usize> {
        self.read_file(rq, &*self.handles.file(node, handle)?, into, offset)
    }

    fn write(
        &self,
        _rq: &Request,
        node: NodeId,
        handle: Handle,
        from: &mut dyn Source,
        how: &Write,
    ) -> FsResult<usize> {
        self.write_file(&*self.handles.file(node, handle)?, from, how)
    }

    fn flush(&self, _rq: &Request, node: NodeId, handle: Handle, lock_owner: u64) -> FsResult<()> {
        self.flush_file(node, handle, lock_owner)
    }

    fn release(&self, _rq: &Request, node: NodeId, handle: Handle, _how: &Release) -> FsResult<()> {
        // A lock of `flock` belongs to the open file and ends with it.
        Ok(self.handles.remove(node, handle, true)?)
    }

    fn fsync(&self, rq: &Request, node: NodeId, handle: Handle, data_only: bool) -> FsResult<()> {
        self.sync(rq, &*self.handles.file(node, handle)?, data_only)
    }

    fn opendir(&self, _rq: &Request, node: NodeId, flags: OpenFlags) -> FsResult<Opened> {
        self.open_directory(node, flags)
    }

    fn readdir(&self, _rq: &Request, node: NodeId, handle: Handle, offset: u64, emit: Emit<'_>) -> FsResult<()> {
        self.list(node, handle, offset, emit)
    }

    fn readdirplus(
        &self,
        _rq: &Request,
        node: NodeId,
        handle: Handle,
        offset: u64,
        emit: EmitPlus<'_>,
    ) -> FsResult<()> {
        self.list_plus(node, handle, offset, emit)
    }

    fn releasedir(&self, _rq: &Request, node: NodeId, handle: Handle) -> FsResult<()> {
        Ok(self.handles.remove(node, handle, false)?)
    }

    fn fsyncdir(&self, rq: &Request, node: NodeId, handle: Handle, data_only: bool) -> FsResult<()> {
        self.sync(rq, &*self.handles.directory(node, handle)?, data_only)
    }

    fn statfs(&self, _rq: &Request, node: NodeId) -> FsResult<StatFs> {
        self.file_system_numbers(&*self.inodes.get(node)?)
    }

    fn setxattr(&self, _rq: &Request, node: NodeId, name: &CStr, value: &[u8], flags: u32) -> FsResult<()> {
        self.set_xattr(&*self.inodes.get(node)?, name, value, flags)
    }

    fn getxattr(&self, _rq: &Request, node: NodeId, name: &CStr, value: &mut [u8]) -> FsResult<usize> {
        self.get_xattr(&*self.inodes.get(node)?, name, value)
    }

    fn listxattr(&self, _rq: &Request, node: NodeId, names: &mut [u8]) -> FsResult<usize> {
        self.list_xattrs(&*self.inodes.get(node)?, names)
    }

    fn removexattr(&self, _rq: &Request, node: NodeId, name: &CStr) -> FsResult<()> {
        self.remove_xattr(&*self.inodes.get(node)?, name)
    }

    fn access(&self, rq: &Request, node: NodeId, mask: u32) -> FsResult<()> {
        self.check_access(rq, &*self.inodes.get(node)?, mask)
    }

    fn lseek(&self, _rq: &Request, node: NodeId, handle: Handle, offset: u64, whence: u32) -> FsResult<u64> {
        self.seek(&*self.handles.file(node, handle)?, offset, whence)
    }

    fn fallocate(
        &self,
        rq: &Request,
        node: NodeId,
        handle: Handle,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> FsResult<()> {
        self.allocate(rq, &*self.handles.file(node, handle)?, mode, offset, length)
    }

    fn copy_file_range(&self, rq: &Request, range: &CopyRange) -> FsResult<usize> {
        self.copy_range(rq, range)
    }

    fn syncfs(&self, rq: &Request, node: NodeId) -> FsResult<()> {
        self.sync_all(rq, node)
    }

    fn getlk(&self, _rq: &Request, node: NodeId, handle: Handle, owner: u64, lock: &Lock) -> FsResult<Lock> {
        self.get_lock(node, handle, owner, lock)
    }

    fn setlk(&self, _rq: &Request, node: NodeId, handle: Handle, how: &SetLock) -> FsResult<()> {
        self.set_lock(node, handle, how)
    }
}
