//! Operations on open files.

use super::reply::entry_out;
use super::{FuseServer, Job};
use crate::abi::{
    CopyFileRangeIn, CreateIn, EntryOut, FSYNC_FDATASYNC, FallocateIn, FlushIn, FsyncIn, LseekIn, LseekOut, NAME_MAX,
    OPEN_KILL_SUIDGID, OpenIn, OpenOut, RELEASE_FLOCK_UNLOCK, ReadIn, ReleaseIn, WRITE_CACHE, WRITE_KILL_SUIDGID,
    WriteIn, WriteOut,
};
use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{CopyRange, Create, Entry, Handle, NodeId, OpenFlags, Opened, Release, Write};

/// The most that one READ, WRITE or COPY_FILE_RANGE moves; the client goes on where a short one ends. So none keeps a
/// thread for long. (256 pages, as INIT tells the client, of at most 64 KiB each.)
const MAX_MOVE: u32 = 16 << 20;

/// How much of what was asked for is moved at once.
fn at_once(size: u32) -> usize {
    usize::try_from(size.min(MAX_MOVE)).unwrap_or(usize::MAX)
}

impl<F: FileSystem + ?Sized> FuseServer<F> {
    pub(super) fn reply_open(job: &mut Job<'_>, opened: &Opened) -> FsResult<()> {
        let out = OpenOut { fh: opened.handle.0, open_flags: opened.options.bits(), padding: 0 };
        job.reply.write(&out.encode())
    }

    fn reply_create(job: &mut Job<'_>, (entry, opened): &(Entry, Opened)) -> FsResult<()> {
        job.reply.write(&entry_out(entry).encode())?;
        Self::reply_open(job, opened)
    }

    pub(super) fn open(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(OpenOut::SIZE)?;
        let how = OpenIn::decode(&job.args.take()?);
        let kill = how.open_flags & OPEN_KILL_SUIDGID != 0;
        let opened = self.fs.open(&job.rq, job.node, OpenFlags(how.flags), kill)?;
        Self::reply_open(job, &opened)
    }

    fn create_args(job: &mut Job<'_>) -> FsResult<Create> {
        job.reply.need(EntryOut::SIZE + OpenOut::SIZE)?;
        let how = CreateIn::decode(&job.args.take()?);
        Ok(Create {
            flags: OpenFlags(how.flags),
            mode: how.mode,
            umask: how.umask,
            kill_suid_gid: how.open_flags & OPEN_KILL_SUIDGID != 0,
        })
    }

    pub(super) fn create(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = Self::create_args(job)?;
        let mut buffer = [0; NAME_MAX + 1];
        let name = job.args.name(&mut buffer)?;
        let created = self.fs.create(&job.rq, job.node, name, &how)?;
        Self::reply_create(job, &created)
    }

    pub(super) fn tmpfile(&self, job: &mut Job<'_>) -> FsResult<()> {
        // A name follows ("/" in Linux) that means nothing.
        let how = Self::create_args(job)?;
        let created = self.fs.tmpfile(&job.rq, job.node, &how)?;
        Self::reply_create(job, &created)
    }

    pub(super) fn read(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = ReadIn::decode(&job.args.take()?);
        let room = at_once(how.size).min(job.reply.room());
        let mut into = job.reply.payload(room);
        self.fs.read(&job.rq, job.node, Handle(how.fh), &mut into, how.offset)?;
        Ok(())
    }

    pub(super) fn write(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(WriteOut::SIZE)?;
        let how = WriteIn::decode(&job.args.take()?);
        let mut payload = job.args.payload(at_once(how.size))?;
        let write = Write {
            offset: how.offset,
            kill_suid_gid: how.write_flags & WRITE_KILL_SUIDGID != 0,
            from_cache: how.write_flags & WRITE_CACHE != 0,
        };
        let written = self.fs.write(&job.rq, job.node, Handle(how.fh), &mut payload, &write)?;
        let size = u32::try_from(written).map_err(|_| Errno::IO)?;
        job.reply.write(&WriteOut { size, padding: 0 }.encode())
    }

    pub(super) fn flush(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = FlushIn::decode(&job.args.take()?);
        self.fs.flush(&job.rq, job.node, Handle(how.fh), how.lock_owner)
    }

    pub(super) fn release(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = ReleaseIn::decode(&job.args.take()?);
        let release =
            Release { flock_unlock: how.release_flags & RELEASE_FLOCK_UNLOCK != 0, lock_owner: how.lock_owner };
        self.fs.release(&job.rq, job.node, Handle(how.fh), &release)
    }

    pub(super) fn fsync(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = FsyncIn::decode(&job.args.take()?);
        self.fs.fsync(&job.rq, job.node, Handle(how.fh), how.fsync_flags & FSYNC_FDATASYNC != 0)
    }

    pub(super) fn lseek(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(LseekOut::SIZE)?;
        let how = LseekIn::decode(&job.args.take()?);
        let offset = self.fs.lseek(&job.rq, job.node, Handle(how.fh), how.offset, how.whence)?;
        job.reply.write(&LseekOut { offset }.encode())
    }

    pub(super) fn fallocate(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = FallocateIn::decode(&job.args.take()?);
        self.fs.fallocate(&job.rq, job.node, Handle(how.fh), how.mode, how.offset, how.length)
    }

    pub(super) fn copy_file_range(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(WriteOut::SIZE)?;
        let how = CopyFileRangeIn::decode(&job.args.take()?);
        let range = CopyRange {
            from: (job.node, Handle(how.fh_in), how.off_in),
            to: (NodeId(how.nodeid_out), Handle(how.fh_out), how.off_out),
            length: how.len.min(MAX_MOVE.into()),
            flags: how.flags,
        };
        let copied = self.fs.copy_file_range(&job.rq, &range)?;
        let size = u32::try_from(copied).map_err(|_| Errno::IO)?;
        job.reply.write(&WriteOut { size, padding: 0 }.encode())
    }
}
