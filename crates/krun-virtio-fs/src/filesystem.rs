//! A file system, free of rings and of the wire format.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use krun_virtio::{Sink, Source};

use crate::errno::{Errno, FsResult};
use crate::types::{
    Attributes, CopyRange, Create, Emit, EmitPlus, Entry, Handle, InitFlags, Lock, NodeId, OpenFlags, Opened, Release,
    Request, SetAttr, SetLock, StatFs, Statx, Write,
};

/// A file system: one method per FUSE operation.
///
/// Methods take `&self` and may be called from several threads at once. What an implementation leaves out answers
/// `ENOSYS`, which a Linux client remembers: it does not ask again.
///
/// # For implementers
/// - Node ids, handles, names and numbers come from a guest. Every one may be made up.
/// - [`FuseServer`](crate::FuseServer) has checked what the protocol can check: names have 1 to 255 bytes and are not
///   `.`, `..` or with `/` in them; cursors end where the request's own size ends.
/// - Each [`Entry`] that is returned counts as one reference to its node, which [`FileSystem::forget`] takes back.
/// - Where [`Request::may_block`] is false, what may wait long answers [`Failure::Again`](crate::Failure::Again)
///   before it has any effect.
pub trait FileSystem: Send + Sync {
    /// The descriptors that it needs as long as it lives: those that a jail must leave open.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// A session begins. `capable` is what client and server both can do; the answer is what shall be used of it.
    /// Nodes and handles of an earlier session are gone.
    fn init(&self, capable: InitFlags) -> InitFlags {
        capable
    }

    /// The session has ended: unmounted, reset, or never begun properly. All nodes and handles go.
    fn destroy(&self) {}

    /// Looks a name up.
    fn lookup(&self, _rq: &Request, _parent: NodeId, _name: &CStr) -> FsResult<Entry> {
        Err(Errno::NOSYS.into())
    }

    /// Takes back `count` references. Unknown nodes and too large counts do no harm; the root is never forgotten.
    fn forget(&self, _node: NodeId, _count: u64) {}

    /// Reads attributes.
    fn getattr(&self, _rq: &Request, _node: NodeId, _handle: Option<Handle>) -> FsResult<Attributes> {
        Err(Errno::NOSYS.into())
    }

    /// Changes attributes.
    fn setattr(
        &self,
        _rq: &Request,
        _node: NodeId,
        _handle: Option<Handle>,
        _change: &SetAttr,
    ) -> FsResult<Attributes> {
        Err(Errno::NOSYS.into())
    }

    /// Extended attributes of a file's life: birth time, flags.
    fn statx(&self, _rq: &Request, _node: NodeId, _handle: Option<Handle>, _mask: u32) -> FsResult<Statx> {
        Err(Errno::NOSYS.into())
    }

    /// Reads the target of a symbolic link.
    fn readlink(&self, _rq: &Request, _node: NodeId, _into: &mut dyn Sink) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Makes a symbolic link.
    fn symlink(&self, _rq: &Request, _target: &CStr, _parent: NodeId, _name: &CStr) -> FsResult<Entry> {
        Err(Errno::NOSYS.into())
    }

    /// Makes a file of any kind but a directory. `rdev` is in the kernel's 32-bit encoding.
    fn mknod(
        &self,
        _rq: &Request,
        _parent: NodeId,
        _name: &CStr,
        _mode: u32,
        _rdev: u32,
        _umask: u32,
    ) -> FsResult<Entry> {
        Err(Errno::NOSYS.into())
    }

    /// Makes a directory.
    fn mkdir(&self, _rq: &Request, _parent: NodeId, _name: &CStr, _mode: u32, _umask: u32) -> FsResult<Entry> {
        Err(Errno::NOSYS.into())
    }

    /// Removes a name that is not a directory's.
    fn unlink(&self, _rq: &Request, _parent: NodeId, _name: &CStr) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Removes an empty directory.
    fn rmdir(&self, _rq: &Request, _parent: NodeId, _name: &CStr) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Gives a file another name; `flags` are `RENAME_*`.
    fn rename(&self, _rq: &Request, _from: (NodeId, &CStr), _to: (NodeId, &CStr), _flags: u32) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Gives a file one more name.
    fn link(&self, _rq: &Request, _node: NodeId, _parent: NodeId, _name: &CStr) -> FsResult<Entry> {
        Err(Errno::NOSYS.into())
    }

    /// Opens a file.
    fn open(&self, _rq: &Request, _node: NodeId, _flags: OpenFlags, _kill_suid_gid: bool) -> FsResult<Opened> {
        Err(Errno::NOSYS.into())
    }

    /// Makes a file if it is not there, and opens it.
    fn create(&self, _rq: &Request, _parent: NodeId, _name: &CStr, _how: &Create) -> FsResult<(Entry, Opened)> {
        Err(Errno::NOSYS.into())
    }

    /// Makes a file without a name, and opens it.
    fn tmpfile(&self, _rq: &Request, _parent: NodeId, _how: &Create) -> FsResult<(Entry, Opened)> {
        Err(Errno::NOSYS.into())
    }

    /// Reads from `offset` into the sink, whose room is what was asked for. Less means: the file ends there.
    fn read(
        &self,
        _rq: &Request,
        _node: NodeId,
        _handle: Handle,
        _into: &mut dyn Sink,
        _offset: u64,
    ) -> FsResult<usize> {
        Err(Errno::NOSYS.into())
    }

    /// Writes what the source holds.
    fn write(
        &self,
        _rq: &Request,
        _node: NodeId,
        _handle: Handle,
        _from: &mut dyn Source,
        _how: &Write,
    ) -> FsResult<usize> {
        Err(Errno::NOSYS.into())
    }

    /// A descriptor was closed (there may be others of the same open file). Locks of the owner on the file end.
    fn flush(&self, _rq: &Request, _node: NodeId, _handle: Handle, _lock_owner: u64) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// The open file is no longer used.
    fn release(&self, _rq: &Request, _node: NodeId, _handle: Handle, _how: &Release) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Brings content (and attributes, unless `data_only`) to the disk.
    fn fsync(&self, _rq: &Request, _node: NodeId, _handle: Handle, _data_only: bool) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Opens a directory.
    fn opendir(&self, _rq: &Request, _node: NodeId, _flags: OpenFlags) -> FsResult<Opened> {
        Err(Errno::NOSYS.into())
    }

    /// Lists a directory from `offset` on (0, or the offset of an entry listed before) until there is no room or the
    /// directory ends.
    fn readdir(&self, _rq: &Request, _node: NodeId, _handle: Handle, _offset: u64, _emit: Emit<'_>) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Lists a directory and looks every name up.
    fn readdirplus(
        &self,
        _rq: &Request,
        _node: NodeId,
        _handle: Handle,
        _offset: u64,
        _emit: EmitPlus<'_>,
    ) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// The open directory is no longer used.
    fn releasedir(&self, _rq: &Request, _node: NodeId, _handle: Handle) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Brings a directory to the disk.
    fn fsyncdir(&self, _rq: &Request, _node: NodeId, _handle: Handle, _data_only: bool) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Numbers of the file system that holds the node.
    fn statfs(&self, _rq: &Request, _node: NodeId) -> FsResult<StatFs> {
        Err(Errno::NOSYS.into())
    }

    /// Sets an extended attribute; `flags` are `XATTR_*`.
    fn setxattr(&self, _rq: &Request, _node: NodeId, _name: &CStr, _value: &[u8], _flags: u32) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Reads an extended attribute; an empty buffer asks for its size. Returns the size.
    fn getxattr(&self, _rq: &Request, _node: NodeId, _name: &CStr, _value: &mut [u8]) -> FsResult<usize> {
        Err(Errno::NOSYS.into())
    }

    /// Lists extended attributes, each name with its NUL; an empty buffer asks for the size. Returns the size.
    fn listxattr(&self, _rq: &Request, _node: NodeId, _names: &mut [u8]) -> FsResult<usize> {
        Err(Errno::NOSYS.into())
    }

    /// Removes an extended attribute.
    fn removexattr(&self, _rq: &Request, _node: NodeId, _name: &CStr) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// May the caller do this (`R_OK`, `W_OK`, `X_OK`)?
    fn access(&self, _rq: &Request, _node: NodeId, _mask: u32) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Finds data or holes: `SEEK_DATA`, `SEEK_HOLE`.
    fn lseek(&self, _rq: &Request, _node: NodeId, _handle: Handle, _offset: u64, _whence: u32) -> FsResult<u64> {
        Err(Errno::NOSYS.into())
    }

    /// Allocates or frees part of a file; `mode` are `FALLOC_FL_*`.
    fn fallocate(
        &self,
        _rq: &Request,
        _node: NodeId,
        _handle: Handle,
        _mode: u32,
        _offset: u64,
        _length: u64,
    ) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Copies between files. Returns how much.
    fn copy_file_range(&self, _rq: &Request, _range: &CopyRange) -> FsResult<usize> {
        Err(Errno::NOSYS.into())
    }

    /// Brings the whole file system to the disk.
    fn syncfs(&self, _rq: &Request, _node: NodeId) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }

    /// Which lock is in the way of this one? Kind [`Unlock`](crate::LockKind::Unlock): none.
    fn getlk(&self, _rq: &Request, _node: NodeId, _handle: Handle, _owner: u64, _lock: &Lock) -> FsResult<Lock> {
        Err(Errno::NOSYS.into())
    }

    /// Takes or ends a lock.
    fn setlk(&self, _rq: &Request, _node: NodeId, _handle: Handle, _how: &SetLock) -> FsResult<()> {
        Err(Errno::NOSYS.into())
    }
}
