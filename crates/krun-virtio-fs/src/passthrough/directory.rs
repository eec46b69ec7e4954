//! Lists directories.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{MutexGuard, PoisonError};

use rustix::fs::{OFlags, SeekFrom};

use super::data::open_quietly;
use super::handles::{Kind, Open};
use super::{PassthroughFs, sys};
use crate::errno::{Errno, FsResult};
use crate::types::{CachePolicy, DirEntry, Emit, EmitPlus, Handle, NodeId, OpenFlags, OpenOptions, Opened};

/// How much of a directory is read at once.
const BUFFER: usize = 32 << 10;

/// How far an open directory was listed, and what was read beyond that.
#[derive(Debug, Default)]
pub(super) struct Position {
    buffer: Vec<u8>,
    /// What of the buffer was read, and not listed yet.
    unread: std::ops::Range<usize>,
    /// The offset of the entry at `unread.start`.
    offset: u64,
}

/// An entry as `getdents64` lays it out: inode (8 bytes), offset (8), length (2), type (1), name.
struct Raw<'a> {
    ino: u64,
    offset: u64,
    length: usize,
    kind: u8,
    name: &'a CStr,
}

impl<'a> Raw<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (ino, rest) = bytes.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let name = CStr::from_bytes_until_nul(bytes.get(19..length)?).ok()?;
        Some(Self { ino: u64::from_ne_bytes(*ino), offset: u64::from_ne_bytes(*offset), length, kind: *kind, name })
    }
}

impl Position {
    /// Goes to an offset: nothing to do if the listing goes on where it stopped.
    fn go_to(&mut self, dir: BorrowedFd<'_>, offset: u64) -> Result<(), Errno> {
        if offset != self.offset {
            if i64::try_from(offset).is_err() {
                return Err(Errno::INVAL);
            }
            rustix::fs::seek(dir, SeekFrom::Start(offset))?;
            self.unread = 0..0;
            self.offset = offset;
        }
        Ok(())
    }

    /// Lists until `emit` says stop or the directory ends.
    fn list(&mut self, dir: BorrowedFd<'_>, mut emit: impl FnMut(&Raw<'_>) -> bool) -> Result<(), Errno> {
        loop {
            if self.unread.is_empty() {
                self.buffer.resize(BUFFER, 0);
                let count = sys::getdents(dir, &mut self.buffer)?;
                self.unread = 0..count;
                if count == 0 {
                    return Ok(());
                }
            }
            let raw = self.buffer.get(self.unread.clone()).and_then(Raw::parse).ok_or(Errno::IO)?;
            if !emit(&raw) {
                return Ok(());
            }
            self.unread.start += raw.length.max(1);
            self.offset = raw.offset;
        }
    }
}

fn position(open: &Open) -> Result<MutexGuard<'_, Position>, Errno> {
    match &open.kind {
        Kind::Directory(position) => Ok(position.lock().unwrap_or_else(PoisonError::into_inner)),
        Kind::File { .. } => Err(Errno::NOTDIR),
    }
}

impl PassthroughFs {
    pub(super) fn open_directory(&self, node: NodeId, wanted: OpenFlags) -> FsResult<Opened> {
        let inode = self.inodes.get(node)?;
        if !inode.is_directory() {
            return Err(Errno::NOTDIR.into());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |flags| Ok(rustix::fs::openat(inode.as_fd(), c".", flags, rustix::fs::Mode::empty())?);
        let fd = open_quietly(wanted, flags, open)?;
        let options = match self.cache {
            CachePolicy::None | CachePolicy::Auto => OpenOptions::empty(),
            CachePolicy::Always => OpenOptions::CACHE_DIR | OpenOptions::KEEP_CACHE,
        };
        Ok(Opened { handle: self.handles.insert(Open::directory(fd, node))?, options })
    }

    pub(super) fn list(&self, node: NodeId, handle: Handle, offset: u64, emit: Emit<'_>) -> FsResult<()> {
        let open = self.handles.directory(node, handle)?;
        let mut position = position(&open)?;
        position.go_to(open.as_fd(), offset)?;
        Ok(position.list(open.as_fd(), |raw| emit(&self.dir_entry(node, raw)))?)
    }

    pub(super) fn list_plus(&self, node: NodeId, handle: Handle, offset: u64, emit: EmitPlus<'_>) -> FsResult<()> {
        let dir = self.inodes.get(node)?;
        let open = self.handles.directory(node, handle)?;
        let mut position = position(&open)?;
        position.go_to(open.as_fd(), offset)?;
        let listed = position.list(open.as_fd(), |raw| {
            let mut listed = self.dir_entry(node, raw);
            if matches!(raw.name.to_bytes(), b"." | b"..") {
                return emit(&listed, None);
            }
            // What cannot be looked up is listed all the same, and the guest asks again if it wants to know.
            match self.look_up(&dir, raw.name) {
                Ok(entry) if !entry.is_negative() => {
                    listed.ino = entry.attr.ino;
                    let taken = emit(&listed, Some(&entry));
                    if !taken {
                        self.inodes.forget(entry.node, 1);
                    }
                    taken
                }
                _ => emit(&listed, None),
            }
        });
        Ok(listed?)
    }

    fn dir_entry<'a>(&self, dir: NodeId, raw: &Raw<'a>) -> DirEntry<'a> {
        let name = raw.name.to_bytes();
        // What lies above the root is nobody's business.
        let outside = dir == NodeId::ROOT && name == b"..";
        let ino = if outside { self.inodes.root().identity.ino } else { raw.ino };
        DirEntry { ino, offset: raw.offset, kind: raw.kind, name }
    }
}
