//! Operations on open directories, and the encoding of their entries.

use super::reply::{Reply, entry_out};
use super::{FuseServer, Job};
use crate::abi::{
    Dirent, DirentPlus, EntryOut, FSYNC_FDATASYNC, FsyncIn, NAME_MAX, OpenIn, OpenOut, ReadIn, ReleaseIn,
};
use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{DirEntry, Entry, Handle, OpenFlags};

/// Room for the longest entry, padding included.
const LONGEST: usize = (DirentPlus::SIZE + NAME_MAX).next_multiple_of(8);

/// Entries on their way into a reply.
struct Listing<'r, 'a> {
    reply: &'r mut Reply<'a>,
    room: usize,
    entries: usize,
    full: bool,
}

impl<'r, 'a> Listing<'r, 'a> {
    fn new(reply: &'r mut Reply<'a>, size: u32) -> Self {
        let room = usize::try_from(size).unwrap_or(usize::MAX).min(reply.room());
        Self { reply, room, entries: 0, full: false }
    }

    /// Appends an entry; false if it does not fit. Entries are 8-aligned, padding included.
    fn push(&mut self, head: &[u8], name: &[u8]) -> bool {
        let mut wire = [0; LONGEST];
        let length = head.len() + name.len();
        let padded = length.next_multiple_of(8);
        let (Some(entry), true) = (wire.get_mut(..padded), padded <= self.room) else {
            self.full = true;
            return false;
        };
        if let Some((front, rest)) = entry.split_at_mut_checked(head.len()) {
            front.copy_from_slice(head);
            if let Some(place) = rest.get_mut(..name.len()) {
                place.copy_from_slice(name);
            }
        }
        if self.reply.write(entry).is_err() {
            self.full = true;
            return false;
        }
        self.room -= padded;
        self.entries += 1;
        true
    }

    /// An error after the first entry is for the next request: it starts where this one ends.
    fn settle(self, result: FsResult<()>) -> FsResult<()> {
        match result {
            _ if self.entries > 0 => Ok(()),
            Ok(()) if self.full => Err(Errno::INVAL.into()),
            result => result,
        }
    }
}

fn dirent(entry: &DirEntry<'_>) -> Dirent {
    let namelen = u32::try_from(entry.name.len()).unwrap_or_default();
    Dirent { ino: entry.ino, off: entry.offset, namelen, kind: entry.kind.into() }
}

impl<F: FileSystem + ?Sized> FuseServer<F> {
    pub(super) fn opendir(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(OpenOut::SIZE)?;
        let how = OpenIn::decode(&job.args.take()?);
        let opened = self.fs.opendir(&job.rq, job.node, OpenFlags(how.flags))?;
        Self::reply_open(job, &opened)
    }

    pub(super) fn readdir(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = ReadIn::decode(&job.args.take()?);
        let mut listing = Listing::new(&mut job.reply, how.size);
        let result = self.fs.readdir(&job.rq, job.node, Handle(how.fh), how.offset, &mut |entry| {
            listing.push(&dirent(entry).encode(), entry.name)
        });
        listing.settle(result)
    }

    pub(super) fn readdirplus(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = ReadIn::decode(&job.args.take()?);
        let mut listing = Listing::new(&mut job.reply, how.size);
        let mut emit = |entry: &DirEntry<'_>, known: Option<&Entry>| {
            let plus = DirentPlus { entry: known.map_or_else(EntryOut::default, entry_out), dirent: dirent(entry) };
            listing.push(&plus.encode(), entry.name)
        };
        let result = self.fs.readdirplus(&job.rq, job.node, Handle(how.fh), how.offset, &mut emit);
        listing.settle(result)
    }

    pub(super) fn releasedir(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = ReleaseIn::decode(&job.args.take()?);
        self.fs.releasedir(&job.rq, job.node, Handle(how.fh))
    }

    pub(super) fn fsyncdir(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = FsyncIn::decode(&job.args.take()?);
        self.fs.fsyncdir(&job.rq, job.node, Handle(how.fh), how.fsync_flags & FSYNC_FDATASYNC != 0)
    }
}
