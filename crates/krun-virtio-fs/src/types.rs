//! The typed arguments and results of [`FileSystem`](crate::FileSystem).

use std::time::Duration;

pub use crate::abi::{Attr, InitFlags, OpenOptions, Statx};

/// Names a file for as long as the client remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory. It is there from the start and is never forgotten.
    pub const ROOT: Self = Self(crate::abi::ROOT_ID);
}

/// Names an open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// File system user id of the calling process.
    pub uid: u32,
    /// File system group id of the calling process.
    pub gid: u32,
    /// Process id of the caller; 0 if the client asks for itself.
    pub pid: u32,
    /// False on a queue's own thread: what would block answers [`Failure::Again`](crate::Failure::Again) instead.
    pub may_block: bool,
}

/// Attributes and how long they may be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The attributes.
    pub attr: Attr,
    /// How long they may be cached.
    pub valid: Duration,
}

/// What a name stands for. The client holds one reference to the node, until FORGET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node. Number 0 says that there is no such file and that this may be cached for `entry_valid`.
    pub node: NodeId,
    /// Tells two files apart that had the same node number one after the other.
    pub generation: u64,
    /// The node's attributes.
    pub attr: Attr,
    /// How long the attributes may be cached.
    pub attr_valid: Duration,
    /// How long the name may be cached.
    pub entry_valid: Duration,
}

impl Entry {
    /// No such file, for `valid`.
    #[must_use]
    pub fn negative(valid: Duration) -> Self {
        Self { node: NodeId(0), generation: 0, attr: Attr::default(), attr_valid: Duration::ZERO, entry_valid: valid }
    }

    /// Whether the name does not exist.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.node.0 == 0
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.attr.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// Open flags of the guest: Linux's `O_*`, unfiltered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OpenFlags(pub u32);

impl OpenFlags {
    fn has(self, flag: i32) -> bool {
        self.0 & flag.cast_unsigned() != 0
    }

    /// Whether the file may be written through it.
    #[must_use]
    pub fn writes(self) -> bool {
        self.has(libc::O_WRONLY | libc::O_RDWR)
    }

    /// `O_TRUNC`
    #[must_use]
    pub fn truncates(self) -> bool {
        self.has(libc::O_TRUNC)
    }

    /// `O_EXCL`
    #[must_use]
    pub fn exclusive(self) -> bool {
        self.has(libc::O_EXCL)
    }
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its handle.
    pub handle: Handle,
    /// How the client shall treat it.
    pub options: OpenOptions,
}

/// A time stamp to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time when it is set.
    Now,
    /// This time.
    At {
        /// Since 1970.
        seconds: i64,
        /// Below 1,000,000,000.
        nanoseconds: u32,
    },
}

/// Which attributes to change, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permissions (type bits are ignored).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// The caller may not keep set-id bits over a change of size.
    pub kill_suid_gid: bool,
}

/// How to make a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create {
    /// How to open it.
    pub flags: OpenFlags,
    /// Its permissions.
    pub mode: u32,
    /// The caller's umask, not yet applied to `mode`.
    pub umask: u32,
    /// The caller may not keep set-id bits (if the file exists and is truncated).
    pub kill_suid_gid: bool,
}

/// What WRITE says besides its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where to write, bytes.
    pub offset: u64,
    /// The caller may not keep set-id bits.
    pub kill_suid_gid: bool,
    /// Written back from a cache, for whomever.
    pub from_cache: bool,
}

/// What RELEASE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// A lock of `flock` ends with the file.
    pub flock_unlock: bool,
    /// Whose locks.
    pub lock_owner: u64,
}

/// What a lock does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None: an end of locks, or no conflict.
    Unlock,
}

/// A locked range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Kind of lock.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// Last byte, at most `i64::MAX`, which means: without end.
    pub end: u64,
    /// Process that holds it, 0 if unknown.
    pub pid: u32,
}

/// What SETLK and SETLKW ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetLock {
    /// Who owns the lock: a number that the client makes up for each of its owners.
    pub owner: u64,
    /// The lock.
    pub lock: Lock,
    /// A lock of `flock` on the whole open file, not one of `fcntl`.
    pub flock: bool,
    /// Wait until it is free ([`Failure::Wait`](crate::Failure::Wait)).
    pub wait: bool,
}

/// What COPY_FILE_RANGE asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    /// File to read.
    pub from: (NodeId, Handle, u64),
    /// File to write.
    pub to: (NodeId, Handle, u64),
    /// How many bytes.
    pub length: u64,
    /// None are defined.
    pub flags: u64,
}

/// A directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where the listing goes on after it.
    pub offset: u64,
    /// `DT_*`.
    pub kind: u8,
    /// Its name, 1 to 255 bytes, without NUL and `/`.
    pub name: &'a [u8],
}

/// Takes entries of READDIR. False: there was no room, and the listing ends before this entry.
pub type Emit<'a> = &'a mut dyn FnMut(&DirEntry<'_>) -> bool;

/// Takes entries of READDIRPLUS, with what LOOKUP would say (and one reference, taken over by the callee if it
/// answers true). False: there was no room, and the listing ends before this entry.
pub type EmitPlus<'a> = &'a mut dyn FnMut(&DirEntry<'_>, Option<&Entry>) -> bool;

/// Numbers of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StatFs {
    /// Size in units of `fragment_size`.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for unprivileged users.
    pub blocks_available: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Preferred size of reads and writes.
    pub block_size: u32,
    /// Unit of the block counts.
    pub fragment_size: u32,
    /// Longest name.
    pub name_max: u32,
}

/// How much a client may keep in its own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CachePolicy {
    /// Nothing: every access sees the host's state. Files cannot be mapped shared.
    None,
    /// Names and attributes for a second; content until the next open, and longer if the file is unchanged by then.
    #[default]
    Auto,
    /// Everything for a day: for directories that nobody but this guest changes.
    Always,
}

impl CachePolicy {
    /// How long names and attributes are valid.
    #[must_use]
    pub fn timeout(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Auto => Duration::from_secs(1),
            Self::Always => Duration::from_secs(24 * 60 * 60),
        }
    }
}
