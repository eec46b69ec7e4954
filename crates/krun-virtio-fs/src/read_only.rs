//! A file system that cannot be changed.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use krun_virtio::{Sink, Source};

use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{
    Attributes, CopyRange, Create, Emit, EmitPlus, Entry, Handle, InitFlags, NodeId, OpenFlags, OpenOptions, Opened,
    Release, Request, SetAttr, StatFs, Statx, Write,
};

/// Lets nothing through that changes the file system below: `EROFS`.
///
/// Reading files and directories leaves their times of access alone, if they belong to the process's user or it has
/// `CAP_FOWNER`; reading symbolic links does not.
///
/// This is the host's word, whatever options the guest has mounted with. Locks are the guest's own affair, since there
/// is no writer that they could hold back.
#[derive(Debug)]
pub struct ReadOnly<F: ?Sized>(F);

impl<F> ReadOnly<F> {
    /// A read-only view of `inner`.
    pub fn new(inner: F) -> Self {
        Self(inner)
    }
}

impl<F: ?Sized> ReadOnly<F> {
    /// The file system below.
    pub fn inner(&self) -> &F {
        &self.0
    }
}

/// Not even times of access change, where the host lets this process see to that.
fn quiet(flags: OpenFlags) -> OpenFlags {
    OpenFlags(flags.0 | libc::O_NOATIME.cast_unsigned())
}

fn refuse<T>() -> FsResult<T> {
    Err(Errno::ROFS.into())
}

impl<F: FileSystem + ?Sized> FileSystem for ReadOnly<F> {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.0.descriptors()
    }

    fn init(&self, capable: InitFlags) -> InitFlags {
        self.0.init(capable - InitFlags::POSIX_LOCKS - InitFlags::FLOCK_LOCKS)
    }

    fn destroy(&self) {
        self.0.destroy();
    }

    fn lookup(&self, rq: &Request, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        self.0.lookup(rq, parent, name)
    }

    fn forget(&self, node: NodeId, count: u64) {
        self.0.forget(node, count);
    }

    fn getattr(&self, rq: &Request, node: NodeId, handle: Option<Handle>) -> FsResult<Attributes> {
        self.0.getattr(rq, node, handle)
    }

    fn setattr(&self, _: &Request, _: NodeId, _: Option<Handle>, _: &SetAttr) -> FsResult<Attributes> {
        refuse()
    }

    fn statx(&self, rq: &Request, node: NodeId, handle: Option<Handle>, mask: u32) -> FsResult<Statx> {
        self.0.statx(rq, node, handle, mask)
    }

    fn readlink(&self, rq: &Request, node: NodeId, into: &mut dyn Sink) -> FsResult<()> {
        self.0.readlink(rq, node, into)
    }

    fn symlink(&self, _: &Request, _: &CStr, _: NodeId, _: &CStr) -> FsResult<Entry> {
        refuse()
    }

    fn mknod(&self, _: &Request, _: NodeId, _: &CStr, _: u32, _: u32, _: u32) -> FsResult<Entry> {
        refuse()
    }

    fn mkdir(&self, _: &Request, _: NodeId, _: &CStr, _: u32, _: u32) -> FsResult<Entry> {
        refuse()
    }

    fn unlink(&self, _: &Request, _: NodeId, _: &CStr) -> FsResult<()> {
        refuse()
    }

    fn rmdir(&self, _: &Request, _: NodeId, _: &CStr) -> FsResult<()> {
        refuse()
    }

    fn rename(&self, _: &Request, _: (NodeId, &CStr), _: (NodeId, &CStr), _: u32) -> FsResult<()> {
        refuse()
    }

    fn link(&self, _: &Request, _: NodeId, _: NodeId, _: &CStr) -> FsResult<Entry> {
        refuse()
    }

    fn open(&self, rq: &Request, node: NodeId, flags: OpenFlags, kill_suid_gid: bool) -> FsResult<Opened> {
        if flags.writes() || flags.truncates() {
            return refuse();
        }
        let mut opened = self.0.open(rq, node, quiet(flags), kill_suid_gid)?;
        // Nothing to write back, no locks to end: closing need not be told.
        opened.options |= OpenOptions::NOFLUSH;
        Ok(opened)
    }

    fn create(&self, _: &Request, _: NodeId, _: &CStr, _: &Create) -> FsResult<(Entry, Opened)> {
        refuse()
    }

    fn tmpfile(&self, _: &Request, _: NodeId, _: &Create) -> FsResult<(Entry, Opened)> {
        refuse()
    }

    fn read(&self, rq: &Request, node: NodeId, handle: Handle, into: &mut dyn Sink, offset: u64) -> FsResult<usize> {
        self.0.read(rq, node, handle, into, offset)
    }

    fn write(&self, _: &Request, _: NodeId, _: Handle, _: &mut dyn Source, _: &Write) -> FsResult<usize> {
        refuse()
    }

    fn flush(&self, rq: &Request, node: NodeId, handle: Handle, lock_owner: u64) -> FsResult<()> {
        self.0.flush(rq, node, handle, lock_owner)
    }

    fn release(&self, rq: &Request, node: NodeId, handle: Handle, how: &Release) -> FsResult<()> {
        self.0.release(rq, node, handle, how)
    }

    fn fsync(&self, rq: &Request, node: NodeId, handle: Handle, data_only: bool) -> FsResult<()> {
        self.0.fsync(rq, node, handle, data_only)
    }

    fn opendir(&self, rq: &Request, node: NodeId, flags: OpenFlags) -> FsResult<Opened> {
        self.0.opendir(rq, node, quiet(flags))
    }

    fn readdir(&self, rq: &Request, node: NodeId, handle: Handle, offset: u64, emit: Emit<'_>) -> FsResult<()> {
        self.0.readdir(rq, node, handle, offset, emit)
    }

    fn readdirplus(&self, rq: &Request, node: NodeId, handle: Handle, offset: u64, emit: EmitPlus<'_>) -> FsResult<()> {
        self.0.readdirplus(rq, node, handle, offset, emit)
    }

    fn releasedir(&self, rq: &Request, node: NodeId, handle: Handle) -> FsResult<()> {
        self.0.releasedir(rq, node, handle)
    }

    fn fsyncdir(&self, rq: &Request, node: NodeId, handle: Handle, data_only: bool) -> FsResult<()> {
        self.0.fsyncdir(rq, node, handle, data_only)
    }

    fn statfs(&self, rq: &Request, node: NodeId) -> FsResult<StatFs> {
        self.0.statfs(rq, node)
    }

    fn setxattr(&self, _: &Request, _: NodeId, _: &CStr, _: &[u8], _: u32) -> FsResult<()> {
        refuse()
    }

    fn getxattr(&self, rq: &Request, node: NodeId, name: &CStr, value: &mut [u8]) -> FsResult<usize> {
        self.0.getxattr(rq, node, name, value)
    }

    fn listxattr(&self, rq: &Request, node: NodeId, names: &mut [u8]) -> FsResult<usize> {
        self.0.listxattr(rq, node, names)
    }

    fn removexattr(&self, _: &Request, _: NodeId, _: &CStr) -> FsResult<()> {
        refuse()
    }

    fn access(&self, rq: &Request, node: NodeId, mask: u32) -> FsResult<()> {
        if mask & libc::W_OK.cast_unsigned() != 0 {
            return refuse();
        }
        self.0.access(rq, node, mask)
    }

    fn lseek(&self, rq: &Request, node: NodeId, handle: Handle, offset: u64, whence: u32) -> FsResult<u64> {
        self.0.lseek(rq, node, handle, offset, whence)
    }

    fn fallocate(&self, _: &Request, _: NodeId, _: Handle, _: u32, _: u64, _: u64) -> FsResult<()> {
        refuse()
    }

    fn copy_file_range(&self, _: &Request, _: &CopyRange) -> FsResult<usize> {
        refuse()
    }
}
