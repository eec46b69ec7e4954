//! Advisory locks.

use super::{FuseServer, Job};
use crate::abi::{FileLock, LK_FLOCK, LkIn};
use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{Handle, Lock, LockKind, SetLock};

/// Numbers of `struct flock.l_type`, the same on every architecture we know.
const F_RDLCK: u32 = 0;
const F_WRLCK: u32 = 1;
const F_UNLCK: u32 = 2;

impl Lock {
    fn from_wire(wire: &FileLock) -> Result<Self, Errno> {
        let kind = match wire.kind {
            F_RDLCK => LockKind::Read,
            F_WRLCK => LockKind::Write,
            F_UNLCK => LockKind::Unlock,
            _ => return Err(Errno::INVAL),
        };
        if wire.start > wire.end || i64::try_from(wire.end).is_err() {
            return Err(Errno::INVAL);
        }
        Ok(Self { kind, start: wire.start, end: wire.end, pid: wire.pid })
    }

    fn to_wire(self) -> FileLock {
        let kind = match self.kind {
            LockKind::Read => F_RDLCK,
            LockKind::Write => F_WRLCK,
            LockKind::Unlock => F_UNLCK,
        };
        FileLock { start: self.start, end: self.end, kind, pid: self.pid }
    }
}

impl<F: FileSystem + ?Sized> FuseServer<F> {
    pub(super) fn getlk(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(FileLock::SIZE)?;
        let how = LkIn::decode(&job.args.take()?);
        let lock = Lock::from_wire(&how.lk)?;
        let found = self.fs.getlk(&job.rq, job.node, Handle(how.fh), how.owner, &lock)?;
        job.reply.write(&found.to_wire().encode())
    }

    pub(super) fn setlk(&self, job: &mut Job<'_>, wait: bool) -> FsResult<()> {
        let how = LkIn::decode(&job.args.take()?);
        let lock = Lock::from_wire(&how.lk)?;
        let set = SetLock { owner: how.owner, lock, flock: how.lk_flags & LK_FLOCK != 0, wait };
        self.fs.setlk(&job.rq, job.node, Handle(how.fh), &set)
    }
}
