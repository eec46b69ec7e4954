//! Virtual files and directories over any file system.

mod builder;
mod listing;
mod tree;

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use krun_virtio::{Sink, Source};

use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{
    Attr, Attributes, CopyRange, Create, Emit, EmitPlus, Entry, Handle, InitFlags, Lock, NodeId, OpenFlags,
    OpenOptions, Opened, Release, Request, SetAttr, SetLock, StatFs, Statx, Write,
};
pub use builder::OverlayBuilder;
use tree::{Content, Node, Place, Tree};

/// A file system with virtual files and directories on top: in the guest they are there, on the host nothing is left
/// behind.
///
/// - A virtual **file** stands in front of whatever lies below in its place.
/// - A virtual **directory** is there if there is none below.
/// - Virtual entries cannot be changed: making something in their place is `EEXIST`, changing them is `EROFS`, taking
///   them or a directory on the way to them away is `EBUSY`, as for a mount point.
///
/// ```
/// # let share = tempfile::tempdir()?;
/// use krun_virtio_fs::{OverlayFs, PassthroughFs};
///
/// let share = PassthroughFs::builder(share.path()).build()?;
/// let root = OverlayFs::builder().file("/init.krun", b"\x7fELF...", 0o755).dir("/proc", 0o555).build(share)?;
/// # drop(root);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OverlayFs<F: ?Sized> {
    tree: Tree,
    below: F,
}

impl OverlayFs<()> {
    /// Says which names are virtual.
    pub fn builder() -> OverlayBuilder {
        OverlayBuilder::default()
    }
}

/// Virtual entries never change. (Names in directories below may get something below them, thus not for ever.)
const VALID: Duration = Duration::from_secs(1);

fn virtual_attr(index: usize, node: &Node) -> Attr {
    let (kind, size, nlink) = match &node.content {
        Content::Directory => (libc::S_IFDIR, 0, 2),
        Content::File { size, .. } => (libc::S_IFREG, *size, 1),
    };
    Attr {
        ino: Tree::node_id(index).0,
        size,
        blocks: size.div_ceil(512),
        mode: kind | node.mode,
        nlink,
        blksize: 4096,
        ..Attr::default()
    }
}

fn virtual_statx(attr: &Attr) -> Statx {
    Statx {
        // STATX_BASIC_STATS: there is no time of birth.
        mask: 0x7ff,
        blksize: attr.blksize,
        nlink: attr.nlink,
        mode: u16::try_from(attr.mode).unwrap_or_default(),
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        ..Statx::default()
    }
}

fn virtual_entry(index: usize, node: &Node) -> Entry {
    Entry {
        node: Tree::node_id(index),
        generation: 0,
        attr: virtual_attr(index, node),
        attr_valid: VALID,
        entry_valid: VALID,
    }
}

/// What may happen to a name.
enum Name {
    /// It is only the file system below's.
    Free,
    /// A virtual entry, visible now.
    Virtual,
    /// Something below, with virtual names further down.
    OnTheWay,
}

impl<F> OverlayFs<F> {
    fn new(tree: Tree, below: F) -> Self {
        Self { tree, below }
    }
}

impl<F: FileSystem + ?Sized> OverlayFs<F> {
    /// The file system below.
    pub fn below(&self) -> &F {
        &self.below
    }

    fn virtual_node(&self, node: NodeId) -> FsResult<Option<(usize, &Node)>> {
        if !Tree::is_virtual(node) {
            return Ok(None);
        }
        self.tree.virtual_node(node).map(Some).ok_or(Errno::STALE.into())
    }

    /// For operations that change a file: virtual ones do not change.
    fn changeable(&self, node: NodeId) -> FsResult<()> {
        if Tree::is_virtual(node) { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    /// What a directory below has under a name that is virtual too, with a reference to it.
    fn look_below(&self, rq: &Request, parent: NodeId, child: &Node) -> Option<Entry> {
        if child.is_file() {
            return None;
        }
        // Whatever the error is, the guest finds a directory there: a place to mount something.
        let entry = self.below.lookup(rq, parent, &child.name).ok().filter(|entry| !entry.is_negative())?;
        if entry.is_directory() {
            child.set_below(entry.node);
        }
        Some(entry)
    }

    /// What a name in a directory is.
    fn name(&self, rq: &Request, parent: NodeId, name: &CStr) -> FsResult<Name> {
        let parent_node = match self.tree.place(parent) {
            Place::Below if Tree::is_virtual(parent) => return Err(Errno::STALE.into()),
            Place::Below => return Ok(Name::Free),
            Place::Virtual(_, node) => {
                return Ok(match self.tree.child(node, name) {
                    Some(_) => Name::Virtual,
                    None if node.is_file() => return Err(Errno::NOTDIR.into()),
                    None => Name::Free,
                });
            }
            Place::Mixed(node) => node,
        };
        let Some((_, child)) = self.tree.child(parent_node, name) else { return Ok(Name::Free) };
        let Some(entry) = self.look_below(rq, parent, child) else { return Ok(Name::Virtual) };
        self.below.forget(entry.node, 1);
        Ok(if child.children.is_empty() { Name::Free } else { Name::OnTheWay })
    }

    /// For operations that make a name.
    fn make(&self, rq: &Request, parent: NodeId, name: &CStr) -> FsResult<()> {
        match self.name(rq, parent, name)? {
            Name::Virtual => Err(Errno::EXIST.into()),
            // A virtual directory takes nothing in.
            Name::Free if Tree::is_virtual(parent) => Err(Errno::ROFS.into()),
            Name::Free | Name::OnTheWay => Ok(()),
        }
    }

    /// For operations that take a name away.
    fn take(&self, rq: &Request, parent: NodeId, name: &CStr) -> FsResult<()> {
        match self.name(rq, parent, name)? {
            Name::Virtual | Name::OnTheWay => Err(Errno::BUSY.into()),
            Name::Free if Tree::is_virtual(parent) => Err(Errno::NOENT.into()),
            Name::Free => Ok(()),
        }
    }
}

impl<F: FileSystem + ?Sized> FileSystem for OverlayFs<F> {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = self.below.descriptors();
        all.extend(self.tree.files().map(AsFd::as_fd));
        all
    }

    fn init(&self, capable: InitFlags) -> InitFlags {
        self.tree.forget_below();
        self.below.init(capable)
    }

    fn destroy(&self) {
        self.tree.forget_below();
        self.below.destroy();
    }

    fn lookup(&self, rq: &Request, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        match self.tree.place(parent) {
            Place::Below if Tree::is_virtual(parent) => Err(Errno::STALE.into()),
            Place::Below => self.below.lookup(rq, parent, name),
            Place::Virtual(_, node) if node.is_file() => Err(Errno::NOTDIR.into()),
            Place::Virtual(_, node) => match self.tree.child(node, name) {
                Some((index, child)) => Ok(virtual_entry(index, child)),
                None => Err(Errno::NOENT.into()),
            },
            Place::Mixed(node) => match self.tree.child(node, name) {
                Some((index, child)) => {
                    Ok(self.look_below(rq, parent, child).unwrap_or_else(|| virtual_entry(index, child)))
                }
                None => self.below.lookup(rq, parent, name),
            },
        }
    }

    fn forget(&self, node: NodeId, count: u64) {
        if !Tree::is_virtual(node) {
            self.below.forget(node, count);
        }
    }

    fn getattr(&self, rq: &Request, node: NodeId, handle: Option<Handle>) -> FsResult<Attributes> {
        match self.virtual_node(node)? {
            Some((index, found)) => Ok(Attributes { attr: virtual_attr(index, found), valid: VALID }),
            None => self.below.getattr(rq, node, handle),
        }
    }

    fn setattr(&self, rq: &Request, node: NodeId, handle: Option<Handle>, change: &SetAttr) -> FsResult<Attributes> {
        self.changeable(node)?;
        self.below.setattr(rq, node, handle, change)
    }

    fn statx(&self, rq: &Request, node: NodeId, handle: Option<Handle>, mask: u32) -> FsResult<Statx> {
        match self.virtual_node(node)? {
            Some((index, found)) => Ok(virtual_statx(&virtual_attr(index, found))),
            None => self.below.statx(rq, node, handle, mask),
        }
    }

    fn readlink(&self, rq: &Request, node: NodeId, into: &mut dyn Sink) -> FsResult<()> {
        match self.virtual_node(node)? {
            Some(_) => Err(Errno::INVAL.into()),
            None => self.below.readlink(rq, node, into),
        }
    }

    fn symlink(&self, rq: &Request, target: &CStr, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        self.make(rq, parent, name)?;
        self.below.symlink(rq, target, parent, name)
    }

    fn mknod(&self, rq: &Request, parent: NodeId, name: &CStr, mode: u32, rdev: u32, umask: u32) -> FsResult<Entry> {
        self.make(rq, parent, name)?;
        self.below.mknod(rq, parent, name, mode, rdev, umask)
    }

    fn mkdir(&self, rq: &Request, parent: NodeId, name: &CStr, mode: u32, umask: u32) -> FsResult<Entry> {
        self.make(rq, parent, name)?;
        self.below.mkdir(rq, parent, name, mode, umask)
    }

    fn unlink(&self, rq: &Request, parent: NodeId, name: &CStr) -> FsResult<()> {
        self.take(rq, parent, name)?;
        self.below.unlink(rq, parent, name)
    }

    fn rmdir(&self, rq: &Request, parent: NodeId, name: &CStr) -> FsResult<()> {
        self.take(rq, parent, name)?;
        self.below.rmdir(rq, parent, name)
    }

    fn rename(&self, rq: &Request, from: (NodeId, &CStr), to: (NodeId, &CStr), flags: u32) -> FsResult<()> {
        self.take(rq, from.0, from.1)?;
        match self.name(rq, to.0, to.1)? {
            Name::Virtual | Name::OnTheWay => return Err(Errno::BUSY.into()),
            Name::Free => self.changeable(to.0)?,
        }
        self.below.rename(rq, from, to, flags)
    }

    fn link(&self, rq: &Request, node: NodeId, parent: NodeId, name: &CStr) -> FsResult<Entry> {
        if Tree::is_virtual(node) {
            return Err(Errno::XDEV.into());
        }
        self.make(rq, parent, name)?;
        self.below.link(rq, node, parent, name)
    }

    fn open(&self, rq: &Request, node: NodeId, flags: OpenFlags, kill_suid_gid: bool) -> FsResult<Opened> {
        let Some((_, found)) = self.virtual_node(node)? else {
            return self.below.open(rq, node, flags, kill_suid_gid);
        };
        if !found.is_file() {
            return Err(Errno::ISDIR.into());
        }
        if flags.writes() || flags.truncates() {
            return Err(Errno::ROFS.into());
        }
        // The node says it all: the handle is its number.
        Ok(Opened { handle: Handle(node.0), options: OpenOptions::KEEP_CACHE | OpenOptions::NOFLUSH })
    }

    fn create(&self, rq: &Request, parent: NodeId, name: &CStr, how: &Create) -> FsResult<(Entry, Opened)> {
        self.make(rq, parent, name)?;
        self.below.create(rq, parent, name, how)
    }

    fn tmpfile(&self, rq: &Request, parent: NodeId, how: &Create) -> FsResult<(Entry, Opened)> {
        self.changeable(parent)?;
        self.below.tmpfile(rq, parent, how)
    }

    fn read(&self, rq: &Request, node: NodeId, handle: Handle, into: &mut dyn Sink, offset: u64) -> FsResult<usize> {
        let Some((_, found)) = self.virtual_node(node)? else {
            return self.below.read(rq, node, handle, into, offset);
        };
        let Content::File { content, size } = &found.content else { return Err(Errno::ISDIR.into()) };
        let mut done = 0;
        while offset.saturating_add(done as u64) < *size && into.remaining() > 0 {
            match into.pread(content.as_fd(), offset + done as u64, 0, usize::MAX)? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    fn write(&self, rq: &Request, node: NodeId, handle: Handle, from: &mut dyn Source, how: &Write) -> FsResult<usize> {
        if Tree::is_virtual(node) {
            return Err(Errno::BADF.into());
        }
        self.below.write(rq, node, handle, from, how)
    }

    fn flush(&self, rq: &Request, node: NodeId, handle: Handle, lock_owner: u64) -> FsResult<()> {
        match self.virtual_node(node)? {
            Some(_) => Ok(()),
            None => self.below.flush(rq, node, handle, lock_owner),
        }
    }

    fn release(&self, rq: &Request, node: NodeId, handle: Handle, how: &Release) -> FsResult<()> {
        match self.virtual_node(node)? {
            Some(_) => Ok(()),
            None => self.below.release(rq, node, handle, how),
        }
    }

    fn fsync(&self, rq: &Request, node: NodeId, handle: Handle, data_only: bool) -> FsResult<()> {
        match self.virtual_node(node)? {
            Some(_) => Ok(()),
            None => self.below.fsync(rq, node, handle, data_only),
        }
    }

    fn opendir(&self, rq: &Request, node: NodeId, flags: OpenFlags) -> FsResult<Opened> {
        match self.virtual_node(node)? {
            Some((_, found)) if found.is_file() => Err(Errno::NOTDIR.into()),
            Some(_) => Ok(Opened { handle: Handle(node.0), options: OpenOptions::empty() }),
            None => self.below.opendir(rq, node, flags),
        }
    }

    fn readdir(&self, rq: &Request, node: NodeId, handle: Handle, offset: u64, emit: Emit<'_>) -> FsResult<()> {
        self.list(rq, node, handle, offset, emit)
    }

    fn readdirplus(&self, rq: &Request, node: NodeId, handle: Handle, offset: u64, emit: EmitPlus<'_>) -> FsResult<()> {
        self.list_plus(rq, node, handle, offset, emit)
    }

    fn releasedir(&self, rq: &Request, node: NodeId, handle: Handle) -> FsResult<()> {
        match self.virtual_node(node)? {
            Some(_) => Ok(()),
            None => self.below.releasedir(rq, node, handle),
        }
    }

    fn fsyncdir(&self, rq: &Request, node: NodeId, handle: Handle, data_only: bool) -> FsResult<()> {
        match self.virtual_node(node)? {
            Some(_) => Ok(()),
            None => self.below.fsyncdir(rq, node, handle, data_only),
        }
    }

    fn statfs(&self, rq: &Request, node: NodeId) -> FsResult<StatFs> {
        let node = if Tree::is_virtual(node) { NodeId::ROOT } else { node };
        self.below.statfs(rq, node)
    }

    fn setxattr(&self, rq: &Request, node: NodeId, name: &CStr, value: &[u8], flags: u32) -> FsResult<()> {
        self.changeable(node)?;
        self.below.setxattr(rq, node, name, value, flags)
    }

    fn getxattr(&self, rq: &Request, node: NodeId, name: &CStr, value: &mut [u8]) -> FsResult<usize> {
        match self.virtual_node(node)? {
            Some(_) => Err(Errno::NODATA.into()),
            None => self.below.getxattr(rq, node, name, value),
        }
    }

    fn listxattr(&self, rq: &Request, node: NodeId, names: &mut [u8]) -> FsResult<usize> {
        match self.virtual_node(node)? {
            Some(_) => Ok(0),
            None => self.below.listxattr(rq, node, names),
        }
    }

    fn removexattr(&self, rq: &Request, node: NodeId, name: &CStr) -> FsResult<()> {
        self.changeable(node)?;
        self.below.removexattr(rq, node, name)
    }

    fn access(&self, rq: &Request, node: NodeId, mask: u32) -> FsResult<()> {
        match self.virtual_node(node)? {
            Some(_) if mask & libc::W_OK.cast_unsigned() != 0 => Err(Errno::ROFS.into()),
            Some((_, found)) if found.mode & mask != mask && rq.uid != 0 => Err(Errno::ACCES.into()),
            Some(_) => Ok(()),
            None => self.below.access(rq, node, mask),
        }
    }

    fn lseek(&self, rq: &Request, node: NodeId, handle: Handle, offset: u64, whence: u32) -> FsResult<u64> {
        let Some((_, found)) = self.virtual_node(node)? else {
            return self.below.lseek(rq, node, handle, offset, whence);
        };
        let Content::File { size, .. } = &found.content else { return Err(Errno::ISDIR.into()) };
        match i32::try_from(whence) {
            Ok(libc::SEEK_DATA | libc::SEEK_HOLE) if offset >= *size => Err(Errno::NXIO.into()),
            Ok(libc::SEEK_DATA) => Ok(offset),
            Ok(libc::SEEK_HOLE) => Ok(*size),
            _ => Err(Errno::INVAL.into()),
        }
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
        self.changeable(node)?;
        self.below.fallocate(rq, node, handle, mode, offset, length)
    }

    fn copy_file_range(&self, rq: &Request, range: &CopyRange) -> FsResult<usize> {
        if Tree::is_virtual(range.from.0) || Tree::is_virtual(range.to.0) {
            // The client then copies by reading and writing.
            return Err(Errno::XDEV.into());
        }
        self.below.copy_file_range(rq, range)
    }

    fn syncfs(&self, rq: &Request, node: NodeId) -> FsResult<()> {
        let node = if Tree::is_virtual(node) { NodeId::ROOT } else { node };
        self.below.syncfs(rq, node)
    }

    fn getlk(&self, rq: &Request, node: NodeId, handle: Handle, owner: u64, lock: &Lock) -> FsResult<Lock> {
        match self.virtual_node(node)? {
            // Nobody writes to it, so nobody's lock is in the way.
            Some(_) => Ok(Lock { kind: crate::types::LockKind::Unlock, ..*lock }),
            None => self.below.getlk(rq, node, handle, owner, lock),
        }
    }

    fn setlk(&self, rq: &Request, node: NodeId, handle: Handle, how: &SetLock) -> FsResult<()> {
        match self.virtual_node(node)? {
            Some(_) => Ok(()),
            None => self.below.setlk(rq, node, handle, how),
        }
    }
}
