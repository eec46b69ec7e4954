//! Operations on attributes: of files, of their content's description, of the file system.

use super::args::split_string;
use super::reply::{attr_out, timeout};
use super::{FuseServer, Job};
use crate::abi::{
    AccessIn, AttrOut, COMPAT_SETXATTR_IN_SIZE, GETATTR_FH, GetattrIn, GetxattrIn, GetxattrOut, Kstatfs, NAME_MAX,
    SetattrIn, SetxattrIn, StatxIn, StatxOut, fattr,
};
use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{Handle, InitFlags, SetAttr, SetTime};

/// The longest value, and the longest list of names, of extended attributes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_SIZE_MAX: usize = 64 << 10;
/// Values up to this size need no allocation: capabilities, ACLs, labels.
const XATTR_SMALL: usize = 512;

impl SetAttr {
    /// From the wire; checks what has a fixed range.
    fn from_wire(wire: &SetattrIn) -> Result<Self, Errno> {
        let has = |flag| wire.valid & flag != 0;
        let time = |set, now, seconds: u64, nanoseconds: u32| match (has(set), has(now)) {
            (false, _) => Ok(None),
            (true, true) => Ok(Some(SetTime::Now)),
            (true, false) if nanoseconds < 1_000_000_000 => {
                Ok(Some(SetTime::At { seconds: seconds.cast_signed(), nanoseconds }))
            }
            (true, false) => Err(Errno::INVAL),
        };
        let id = |flag, value: u32| match (has(flag), value) {
            (false, _) => Ok(None),
            // -1 means "leave it" to the host's system call, which is not what was asked for.
            (true, u32::MAX) => Err(Errno::INVAL),
            (true, id) => Ok(Some(id)),
        };
        Ok(Self {
            mode: has(fattr::MODE).then_some(wire.mode),
            uid: id(fattr::UID, wire.uid)?,
            gid: id(fattr::GID, wire.gid)?,
            size: has(fattr::SIZE).then_some(wire.size),
            atime: time(fattr::ATIME, fattr::ATIME_NOW, wire.atime, wire.atimensec)?,
            mtime: time(fattr::MTIME, fattr::MTIME_NOW, wire.mtime, wire.mtimensec)?,
            kill_suid_gid: has(fattr::KILL_SUIDGID),
        })
    }
}

impl<F: FileSystem + ?Sized> FuseServer<F> {
    pub(super) fn getattr(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(AttrOut::SIZE)?;
        let how = GetattrIn::decode(&job.args.take()?);
        let handle = (how.getattr_flags & GETATTR_FH != 0).then_some(Handle(how.fh));
        let attributes = self.fs.getattr(&job.rq, job.node, handle)?;
        job.reply.write(&attr_out(&attributes).encode())
    }

    pub(super) fn setattr(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(AttrOut::SIZE)?;
        let wire = SetattrIn::decode(&job.args.take()?);
        let handle = (wire.valid & fattr::FH != 0).then_some(Handle(wire.fh));
        let attributes = self.fs.setattr(&job.rq, job.node, handle, &SetAttr::from_wire(&wire)?)?;
        job.reply.write(&attr_out(&attributes).encode())
    }

    pub(super) fn statx(&self, job: &mut Job<'_>) -> FsResult<()> {
        job.reply.need(StatxOut::SIZE)?;
        let how = StatxIn::decode(&job.args.take()?);
        let handle = (how.getattr_flags & GETATTR_FH != 0).then_some(Handle(how.fh));
        let stat = self.fs.statx(&job.rq, job.node, handle, how.sx_mask)?;
        // STATX fills in what GETATTR has no room for; what is cached comes from GETATTR.
        let (attr_valid, attr_valid_nsec) = timeout(std::time::Duration::ZERO);
        job.reply.write(&StatxOut { attr_valid, attr_valid_nsec, stat, ..StatxOut::default() }.encode())
    }

    pub(super) fn readlink(&self, job: &mut Job<'_>) -> FsResult<()> {
        // A target has no NUL on the wire: its length is the reply's.
        let room = job.reply.room().min(4095);
        self.fs.readlink(&job.rq, job.node, &mut job.reply.payload(room))
    }

    pub(super) fn access(&self, job: &mut Job<'_>) -> FsResult<()> {
        let mask = AccessIn::decode(&job.args.take()?).mask;
        if mask & !7 != 0 {
            return Err(Errno::INVAL.into());
        }
        self.fs.access(&job.rq, job.node, mask)
    }

    pub(super) fn statfs(&self, job: &mut Job<'_>) -> FsResult<()> {
        let stat = self.fs.statfs(&job.rq, job.node)?;
        let wire = Kstatfs {
            blocks: stat.blocks,
            bfree: stat.blocks_free,
            bavail: stat.blocks_available,
            files: stat.files,
            ffree: stat.files_free,
            bsize: stat.block_size,
            namelen: stat.name_max,
            frsize: stat.fragment_size,
            ..Kstatfs::default()
        };
        job.reply.write(&wire.encode())
    }

    pub(super) fn setxattr(&self, job: &mut Job<'_>) -> FsResult<()> {
        let how = if self.session.uses(InitFlags::SETXATTR_EXT) {
            SetxattrIn::decode(&job.args.take()?)
        } else {
            let mut wire = [0; SetxattrIn::SIZE];
            if let Some(short) = wire.get_mut(..COMPAT_SETXATTR_IN_SIZE) {
                job.args.fill(short)?;
            }
            SetxattrIn::decode(&wire)
        };
        let size = usize::try_from(how.size).unwrap_or(usize::MAX);
        if size > XATTR_SIZE_MAX {
            return Err(Errno::TOOBIG.into());
        }
        with_buffer(NAME_MAX + 1 + size, |buffer| {
            let (name, value) = split_string(job.args.rest(buffer, Errno::RANGE)?)?;
            // The request may be padded; `size` says where the value ends.
            let value = value.get(..size).ok_or(Errno::INVAL)?;
            self.fs.setxattr(&job.rq, job.node, attribute_name(name)?, value, how.flags)
        })
    }

    pub(super) fn getxattr(&self, job: &mut Job<'_>) -> FsResult<()> {
        let size = GetxattrIn::decode(&job.args.take()?).size;
        let mut buffer = [0; NAME_MAX + 1];
        let (name, _) = split_string(job.args.rest(&mut buffer, Errno::RANGE)?)?;
        let name = attribute_name(name)?;
        let Job { rq, node, reply, .. } = job;
        Self::sized(reply, size, |value| self.fs.getxattr(rq, *node, name, value))
    }

    pub(super) fn listxattr(&self, job: &mut Job<'_>) -> FsResult<()> {
        let size = GetxattrIn::decode(&job.args.take()?).size;
        let Job { rq, node, reply, .. } = job;
        Self::sized(reply, size, |names| self.fs.listxattr(rq, *node, names))
    }

    /// Answers with a value, or with its size if `size` is 0.
    fn sized(
        reply: &mut super::reply::Reply<'_>,
        size: u32,
        read: impl FnOnce(&mut [u8]) -> FsResult<usize>,
    ) -> FsResult<()> {
        if size == 0 {
            reply.need(GetxattrOut::SIZE)?;
            let size = u32::try_from(read(&mut [])?).map_err(|_| Errno::TOOBIG)?;
            return reply.write(&GetxattrOut { size, padding: 0 }.encode());
        }
        let room = usize::try_from(size).unwrap_or(usize::MAX).min(XATTR_SIZE_MAX).min(reply.room());
        if room == 0 {
            return Err(Errno::RANGE.into());
        }
        with_buffer(room, |buffer| {
            let count = read(buffer)?;
            reply.write(buffer.get(..count).ok_or(Errno::RANGE)?)
        })
    }

    pub(super) fn removexattr(&self, job: &mut Job<'_>) -> FsResult<()> {
        let mut buffer = [0; NAME_MAX + 1];
        let (name, _) = split_string(job.args.rest(&mut buffer, Errno::RANGE)?)?;
        self.fs.removexattr(&job.rq, job.node, attribute_name(name)?)
    }
}

/// Runs `use_it` with a zeroed buffer of `size` bytes: on the stack if that is small.
fn with_buffer<R>(size: usize, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut small = [0; NAME_MAX + 1 + XATTR_SMALL];
    match small.get_mut(..size) {
        Some(buffer) => use_it(buffer),
        None => use_it(&mut vec![0; size]),
    }
}

/// Admits what Linux admits as the name of an extended attribute.
fn attribute_name(name: &std::ffi::CStr) -> Result<&std::ffi::CStr, Errno> {
    if name.is_empty() || name.count_bytes() > NAME_MAX { Err(Errno::RANGE) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ids_that_mean_something_else_to_the_host_are_refused() {
        let base = SetattrIn { valid: fattr::ATIME | fattr::MTIME | fattr::UID, ..SetattrIn::default() };
        assert!(SetAttr::from_wire(&base).is_ok());
        // UTIME_NOW and UTIME_OMIT are numbers of nanoseconds out of range.
        for nanoseconds in [1_000_000_000, 0x3fff_ffff, 0x3fff_fffe, u32::MAX] {
            assert_eq!(SetAttr::from_wire(&SetattrIn { atimensec: nanoseconds, ..base }), Err(Errno::INVAL));
            assert_eq!(SetAttr::from_wire(&SetattrIn { mtimensec: nanoseconds, ..base }), Err(Errno::INVAL));
        }
        assert_eq!(SetAttr::from_wire(&SetattrIn { uid: u32::MAX, ..base }), Err(Errno::INVAL));
        let early = SetattrIn { atime: u64::MAX, ..base };
        let set = SetAttr::from_wire(&early).expect("before 1970");
        assert_eq!(set.atime, Some(SetTime::At { seconds: -1, nanoseconds: 0 }));
    }
}
