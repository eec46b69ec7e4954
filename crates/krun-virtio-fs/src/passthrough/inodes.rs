//! The files that the guest knows: each pinned by a descriptor, each under one number.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::errno::Errno;
use crate::slab::Slab;
use crate::types::NodeId;

/// What makes a file this file on the host. Unique for as long as a descriptor pins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) ino: u64,
    pub(super) dev: u64,
    pub(super) mount: u64,
}

/// A file that the guest knows.
#[derive(Debug)]
pub(super) struct Inode {
    /// `O_PATH`: pins the file, opens nothing.
    fd: OwnedFd,
    pub(super) identity: Identity,
    /// `S_IFMT` bits. The type of a file never changes.
    pub(super) kind: u32,
    /// Open files that hold the locks of one owner each.
    pub(super) locks: Mutex<Option<Box<super::locks::Owners>>>,
    /// The content when it was last opened, unless it was too fresh to tell from what came a moment later.
    pub(super) opened: Mutex<Option<Stamp>>,
}

/// Tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, u32),
    /// Cannot be set back by anybody.
    pub(super) changed: (i64, u32),
}

impl Inode {
    pub(super) fn new(fd: OwnedFd, identity: Identity, kind: u32) -> Self {
        Self { fd, identity, kind, locks: Mutex::new(None), opened: Mutex::new(None) }
    }

    pub(super) fn is_regular(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == libc::S_IFDIR
    }
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// All files that the guest knows, and how often it was told of each.
#[derive(Debug)]
pub(super) struct Inodes {
    root: Arc<Inode>,
    slab: Slab<Inode>,
    /// References change under this lock alone, which makes LOOKUP and FORGET of one file exclude each other.
    known: Mutex<HashMap<Identity, Known>>,
}

#[derive(Debug)]
struct Known {
    node: NodeId,
    references: u64,
}

impl Inodes {
    /// With the root, which is always there, and room for `limit` others.
    pub(super) fn new(root: Inode, limit: usize) -> Self {
        Self { root: Arc::new(root), slab: Slab::new(limit), known: Mutex::default() }
    }

    pub(super) fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Identity, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file with this number. The client is never told a number that it has forgotten, so others are made up.
    pub(super) fn get(&self, node: NodeId) -> Result<Arc<Inode>, Errno> {
        if node == NodeId::ROOT {
            return Ok(self.root.clone());
        }
        self.slab.get(node.0).ok_or(Errno::STALE)
    }

    /// Adds a reference to a file that is known already.
    pub(super) fn refer(&self, identity: &Identity) -> Option<NodeId> {
        if *identity == self.root.identity {
            return Some(NodeId::ROOT);
        }
        let mut known = self.known();
        let entry = known.get_mut(identity)?;
        entry.references = entry.references.saturating_add(1);
        Some(entry.node)
    }

    /// Adds a file with one reference, or a reference if it is known by now.
    pub(super) fn insert(&self, inode: Inode) -> Result<NodeId, Errno> {
        let identity = inode.identity;
        if identity == self.root.identity {
            return Ok(NodeId::ROOT);
        }
        let mut known = self.known();
        if let Some(entry) = known.get_mut(&identity) {
            entry.references = entry.references.saturating_add(1);
            let node = entry.node;
            drop(known);
            return Ok(node);
        }
        let node = NodeId(self.slab.insert(Arc::new(inode)).ok_or(Errno::NFILE)?);
        known.insert(identity, Known { node, references: 1 });
        Ok(node)
    }

    /// Takes references back; the last one lets the file go.
    pub(super) fn forget(&self, node: NodeId, count: u64) {
        let Some(inode) = self.slab.get(node.0) else { return };
        let mut known = self.known();
        let Some(entry) = known.get_mut(&inode.identity) else { return };
        if entry.node != node {
            return;
        }
        entry.references = entry.references.saturating_sub(count);
        if entry.references == 0 {
            known.remove(&inode.identity);
            let gone = self.slab.remove_if(node.0, |_| true);
            // Closing is a system call.
            drop(known);
            drop(gone);
        }
    }

    /// Lets all files go but the root.
    pub(super) fn clear(&self) {
        let mut known = self.known();
        known.clear();
        let gone = self.slab.clear();
        drop(known);
        drop(gone);
        *self.root.locks.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many files there are besides the root.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}
