//! Advisory locks, seen by the guest, by other guests and by the host alike.
//!
//! Locks of `fcntl` become locks of open file descriptions: each owner in the guest gets an open file of its own on the
//! host, so that two owners exclude each other. Locks of `flock` are taken on the open file itself.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use rustix::fs::{FlockOperation, OFlags};

use super::inodes::Inode;
use super::{Locks, PassthroughFs, sys};
use crate::errno::{Errno, Failure, FsResult};
use crate::types::{Handle, Lock, LockKind, NodeId, SetLock};

/// The open files that hold the locks on one file, by owner.
pub(super) type Owners = HashMap<u64, LockFile>;

/// Counts the open files that hold locks.
#[derive(Debug)]
pub(super) struct LockFiles {
    limit: usize,
    used: Arc<AtomicUsize>,
}

/// An open file that holds the locks of one owner on one file. They end with it.
#[derive(Debug)]
pub(super) struct LockFile {
    fd: OwnedFd,
    used: Arc<AtomicUsize>,
}

impl Drop for LockFile {
    fn drop(&mut self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl LockFiles {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: Arc::default() }
    }

    fn open(&self, open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<LockFile, Errno> {
        if self.used.load(Ordering::Relaxed) >= self.limit {
            return Err(Errno::new(libc::ENOLCK));
        }
        let fd = open()?;
        self.used.fetch_add(1, Ordering::Relaxed);
        Ok(LockFile { fd, used: self.used.clone() })
    }
}

/// A lock that is held by somebody else.
fn busy(errno: Errno, wait: bool) -> Failure {
    match errno {
        Errno::AGAIN | Errno::ACCES if wait => Failure::Wait,
        Errno::ACCES => Errno::AGAIN.into(),
        other => other.into(),
    }
}

impl PassthroughFs {
    /// The open file of an owner that has none yet.
    fn open_for_locks(&self, inode: &Inode) -> Result<LockFile, Errno> {
        // Exclusive locks want a file that may be written. Where that is denied, shared ones still work.
        self.lock_files.open(|| {
            self.proc_fd.reopen(inode.as_fd(), OFlags::RDWR).or_else(|_| {
                self.proc_fd
                    .reopen(inode.as_fd(), OFlags::RDONLY)
                    .or_else(|_| self.proc_fd.reopen(inode.as_fd(), OFlags::WRONLY))
            })
        })
    }

    /// All locks of an owner on a file end.
    pub(super) fn end_locks(&self, node: NodeId, owner: u64) {
        let Ok(inode) = self.inodes.get(node) else { return };
        let mut locks = inode.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = locks.as_mut().and_then(|owners| owners.remove(&owner));
        if locks.as_ref().is_some_and(|owners| owners.is_empty()) {
            *locks = None;
        }
        drop(locks);
        drop(gone);
    }

    fn keeps_locks(&self) -> Result<(), Errno> {
        match self.locks {
            Locks::Everywhere => Ok(()),
            Locks::Guest => Err(Errno::NOSYS),
        }
    }

    pub(super) fn get_lock(&self, node: NodeId, handle: Handle, owner: u64, lock: &Lock) -> FsResult<Lock> {
        self.keeps_locks()?;
        let (inode, open) = (self.inodes.get(node)?, self.handles.file(node, handle)?);
        if lock.kind == LockKind::Unlock {
            return Err(Errno::INVAL.into());
        }
        let owners = inode.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // An open file of the guest holds no locks of this kind: everybody's are in its way, as they should be.
        match owners.as_ref().and_then(|owners| owners.get(&owner)) {
            Some(file) => Ok(sys::ofd_get_lock(file.as_fd(), lock)?),
            None => Ok(sys::ofd_get_lock(open.as_fd(), lock)?),
        }
    }

    pub(super) fn set_lock(&self, node: NodeId, handle: Handle, how: &SetLock) -> FsResult<()> {
        self.keeps_locks()?;
        let (inode, open) = (self.inodes.get(node)?, self.handles.file(node, handle)?);
        if how.flock {
            let operation = match how.lock.kind {
                LockKind::Read => FlockOperation::NonBlockingLockShared,
                LockKind::Write => FlockOperation::NonBlockingLockExclusive,
                LockKind::Unlock => FlockOperation::NonBlockingUnlock,
            };
            return rustix::fs::flock(&*open, operation).map_err(|errno| busy(errno.into(), how.wait));
        }
        // No call below waits. Held throughout, so that threads of one owner do not take each other's open file away.
        let mut owners = inode.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = owners.as_ref().and_then(|owners| owners.get(&how.owner)) {
            return sys::ofd_set_lock(file.as_fd(), &how.lock).map_err(|errno| busy(errno, how.wait));
        }
        if how.lock.kind == LockKind::Unlock {
            return Ok(());
        }
        // Who gets no lock needs no open file meanwhile: it is kept only afterwards.
        let file = self.open_for_locks(&inode)?;
        sys::ofd_set_lock(file.as_fd(), &how.lock).map_err(|errno| busy(errno, how.wait))?;
        owners.get_or_insert_default().insert(how.owner, file);
        Ok(())
    }
}
