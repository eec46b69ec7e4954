//! Operations on names: LOOKUP, what makes a name, what takes one away.

use super::args::{component, split_string};
use super::reply::entry_out;
use super::{FuseServer, Job};
use crate::abi::{EntryOut, LinkIn, MkdirIn, MknodIn, NAME_MAX, Rename2In, RenameIn};
use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{Entry, NodeId};

/// The longest target of a symbolic link, with its NUL.
const PATH_MAX: usize = 4096;

impl<F: FileSystem + ?Sized> FuseServer<F> {
    fn reply_entry(job: &mut Job<'_>, entry: &Entry) -> FsResult<()> {
        job.reply.write(&entry_out(entry).encode())
    }

    pub(super) fn lookup(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(EntryOut::SIZE)?;
        let mut buffer = [0; NAME_MAX + 1];
        let name = job.args.name(&mut buffer)?;
        let entry = self.fs.lookup(&job.rq, job.node, name)?;
        Self::reply_entry(job, &entry)
    }

    pub(super) fn symlink(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(EntryOut::SIZE)?;
        let mut buffer = [0; NAME_MAX + 1 + PATH_MAX];
        let (name, rest) = split_string(job.args.rest(&mut buffer, Errno::NAMETOOLONG)?)?;
        let (target, rest) = split_string(rest)?;
        if target.is_empty() {
            return Err(Errno::NOENT.into());
        }
        if !rest.is_empty() {
            return Err(Errno::INVAL.into());
        }
        let entry = self.fs.symlink(&job.rq, target, job.node, component(name)?)?;
        Self::reply_entry(job, &entry)
    }

    pub(super) fn mknod(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(EntryOut::SIZE)?;
        let how = MknodIn::decode(&job.args.take()?);
        let mut buffer = [0; NAME_MAX + 1];
        let name = job.args.name(&mut buffer)?;
        let entry = self.fs.mknod(&job.rq, job.node, name, how.mode, how.rdev, how.umask)?;
        Self::reply_entry(job, &entry)
    }

    pub(super) fn mkdir(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(EntryOut::SIZE)?;
        let how = MkdirIn::decode(&job.args.take()?);
        let mut buffer = [0; NAME_MAX + 1];
        let name = job.args.name(&mut buffer)?;
        let entry = self.fs.mkdir(&job.rq, job.node, name, how.mode, how.umask)?;
        Self::reply_entry(job, &entry)
    }

    pub(super) fn unlink(&self, job: &mut Job<'_>) -> FsResult<()> {
        let mut buffer = [0; NAME_MAX + 1];
        let name = job.args.name(&mut buffer)?;
        self.fs.unlink(&job.rq, job.node, name)
    }

    pub(super) fn rmdir(&self, job: &mut Job<'_>) -> FsResult<()> {
        let mut buffer = [0; NAME_MAX + 1];
        let name = job.args.name(&mut buffer)?;
        self.fs.rmdir(&job.rq, job.node, name)
    }

    pub(super) fn rename(&self, job: &mut Job<'_>) -> FsResult<()> {
        let newdir = RenameIn::decode(&job.args.take()?).newdir;
        self.rename_names(job, newdir, 0)
    }

    pub(super) fn rename2(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = Rename2In::decode(&job.args.take()?);
        self.rename_names(job, how.newdir, how.flags)
    }

    fn rename_names(&self, job: &mut Job<'_>, newdir: u64, flags: u32) -> FsResult<()> {
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT) != 0 {
            return Err(Errno::INVAL.into());
        }
        let mut buffer = [0; 2 * (NAME_MAX + 1)];
        let (old, rest) = split_string(job.args.rest(&mut buffer, Errno::NAMETOOLONG)?)?;
        let (new, rest) = split_string(rest)?;
        if !rest.is_empty() {
            return Err(Errno::INVAL.into());
        }
        let (from, to) = ((job.node, component(old)?), (NodeId(newdir), component(new)?));
        self.fs.rename(&job.rq, from, to, flags)
    }

    pub(super) fn link(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(EntryOut::SIZE)?;
        let old = NodeId(LinkIn::decode(&job.args.take()?).oldnodeid);
        let mut buffer = [0; NAME_MAX + 1];
        let name = job.args.name(&mut buffer)?;
        let entry = self.fs.link(&job.rq, old, job.node, name)?;
        Self::reply_entry(job, &entry)
    }
}
