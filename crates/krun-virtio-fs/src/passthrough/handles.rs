//! Open files and directories.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::directory::Position;
use crate::errno::Errno;
use crate::slab::Slab;
use crate::types::{Handle, NodeId};

/// An open file or directory.
#[derive(Debug)]
pub(super) struct Open {
    fd: OwnedFd,
    /// The file that it was opened from: a handle is good for that node alone.
    node: NodeId,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    File {
        /// It may be written, so closing it may tell an error.
        writes: bool,
        /// The host's file system cannot tell whether a read would block.
        no_nowait: AtomicBool,
    },
    Directory(Mutex<Position>),
}

impl Open {
    pub(super) fn file(fd: OwnedFd, node: NodeId, writes: bool) -> Self {
        Self { fd, node, kind: Kind::File { writes, no_nowait: AtomicBool::new(false) } }
    }

    pub(super) fn directory(fd: OwnedFd, node: NodeId) -> Self {
        Self { fd, node, kind: Kind::Directory(Mutex::default()) }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File { .. })
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// All open files and directories.
#[derive(Debug)]
pub(super) struct Handles(Slab<Open>);

impl Handles {
    pub(super) fn new(limit: usize) -> Self {
        Self(Slab::new(limit))
    }

    pub(super) fn insert(&self, open: Open) -> Result<Handle, Errno> {
        self.0.insert(Arc::new(open)).map(Handle).ok_or(Errno::NFILE)
    }

    fn get(&self, node: NodeId, handle: Handle) -> Result<Arc<Open>, Errno> {
        self.0.get(handle.0).filter(|open| open.node == node).ok_or(Errno::BADF)
    }

    /// The open regular file.
    pub(super) fn file(&self, node: NodeId, handle: Handle) -> Result<Arc<Open>, Errno> {
        self.get(node, handle)?.filter_kind(true).ok_or(Errno::ISDIR)
    }

    /// The open directory.
    pub(super) fn directory(&self, node: NodeId, handle: Handle) -> Result<Arc<Open>, Errno> {
        self.get(node, handle)?.filter_kind(false).ok_or(Errno::NOTDIR)
    }

    /// Ends a handle. The descriptor closes with its last user.
    pub(super) fn remove(&self, node: NodeId, handle: Handle, file: bool) -> Result<(), Errno> {
        let gone = self.0.remove_if(handle.0, |open| open.node == node && open.is_file() == file);
        gone.map(drop).ok_or(Errno::BADF)
    }

    pub(super) fn clear(&self) {
        drop(self.0.clear());
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

trait FilterKind: Sized {
    fn filter_kind(self, file: bool) -> Option<Self>;
}

impl FilterKind for Arc<Open> {
    fn filter_kind(self, file: bool) -> Option<Self> {
        (self.is_file() == file).then_some(self)
    }
}
