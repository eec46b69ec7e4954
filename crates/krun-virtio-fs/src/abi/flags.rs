//! Bits.

/// `FATTR_*`: fields of [`SetattrIn`](super::SetattrIn) that count.
pub mod fattr {
    /// `mode`.
    pub const MODE: u32 = 1 << 0;
    /// `uid`.
    pub const UID: u32 = 1 << 1;
    /// `gid`.
    pub const GID: u32 = 1 << 2;
    /// `size`.
    pub const SIZE: u32 = 1 << 3;
    /// `atime`.
    pub const ATIME: u32 = 1 << 4;
    /// `mtime`.
    pub const MTIME: u32 = 1 << 5;
    /// `fh`.
    pub const FH: u32 = 1 << 6;
    /// The access time is now.
    pub const ATIME_NOW: u32 = 1 << 7;
    /// The modification time is now.
    pub const MTIME_NOW: u32 = 1 << 8;
    /// `lock_owner`.
    pub const LOCKOWNER: u32 = 1 << 9;
    /// `ctime`.
    pub const CTIME: u32 = 1 << 10;
    /// The caller may not keep set-id bits.
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `GETATTR_FH`: the handle of GETATTR and STATX is valid.
pub const GETATTR_FH: u32 = 1 << 0;
/// `LK_FLOCK`: a lock of `flock`, not of `fcntl`.
pub const LK_FLOCK: u32 = 1 << 0;
/// `WRITE_CACHE`: written back from the page cache, the handle is a guess.
pub const WRITE_CACHE: u32 = 1 << 0;
/// `WRITE_KILL_SUIDGID`: the caller may not keep set-id bits.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `OPEN_KILL_SUIDGID`: the caller may not keep set-id bits.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `SETXATTR_ACL_KILL_SGID`: clear the set-group-id bit with an access ACL.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// `FSYNC_FDATASYNC`: data only.
pub const FSYNC_FDATASYNC: u32 = 1 << 0;
/// `RELEASE_FLOCK_UNLOCK`: a lock of `flock` ends with the file.
pub const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// `ATTR_SUBMOUNT`: the directory is where another file system is mounted.
pub const ATTR_SUBMOUNT: u32 = 1 << 0;

bitflags::bitflags! {
    /// `FUSE_INIT` flags: what a client can do, and what a session uses.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct InitFlags: u64 {
        /// Reads may be under way at the same time.
        const ASYNC_READ = 1 << 0;
        /// Locks of `fcntl` are the server's business.
        const POSIX_LOCKS = 1 << 1;
        /// OPEN and CREATE truncate.
        const ATOMIC_O_TRUNC = 1 << 3;
        /// LOOKUP of `.` and `..`.
        const EXPORT_SUPPORT = 1 << 4;
        /// Writes of more than a page.
        const BIG_WRITES = 1 << 5;
        /// The server applies the umask.
        const DONT_MASK = 1 << 6;
        /// Locks of `flock` are the server's business.
        const FLOCK_LOCKS = 1 << 10;
        /// IOCTL on directories.
        const HAS_IOCTL_DIR = 1 << 11;
        /// Cached pages go when the modification time changes.
        const AUTO_INVAL_DATA = 1 << 12;
        /// READDIRPLUS.
        const DO_READDIRPLUS = 1 << 13;
        /// READDIRPLUS when it pays.
        const READDIRPLUS_AUTO = 1 << 14;
        /// Direct I/O may be under way at the same time.
        const ASYNC_DIO = 1 << 15;
        /// Writes are cached by the client.
        const WRITEBACK_CACHE = 1 << 16;
        /// OPEN may be left out.
        const NO_OPEN_SUPPORT = 1 << 17;
        /// LOOKUP and READDIR of one directory may be under way at the same time.
        const PARALLEL_DIROPS = 1 << 18;
        /// The server removes set-id bits, always.
        const HANDLE_KILLPRIV = 1 << 19;
        /// The client enforces POSIX ACLs that the server keeps.
        const POSIX_ACL = 1 << 20;
        /// Reads of an aborted connection say so.
        const ABORT_ERROR = 1 << 21;
        /// `max_pages` is valid.
        const MAX_PAGES = 1 << 22;
        /// Targets of symbolic links may be cached.
        const CACHE_SYMLINKS = 1 << 23;
        /// OPENDIR may be left out.
        const NO_OPENDIR_SUPPORT = 1 << 24;
        /// Cached pages go only when the server says so.
        const EXPLICIT_INVAL_DATA = 1 << 25;
        /// `map_alignment` is valid.
        const MAP_ALIGNMENT = 1 << 26;
        /// The client mounts what `ATTR_SUBMOUNT` announces.
        const SUBMOUNTS = 1 << 27;
        /// The server removes set-id bits when the client says so.
        const HANDLE_KILLPRIV_V2 = 1 << 28;
        /// SETXATTR is the long form.
        const SETXATTR_EXT = 1 << 29;
        /// The upper half of these flags is valid.
        const INIT_EXT = 1 << 30;
        /// Creating sends a security context.
        const SECURITY_CTX = 1 << 32;
        /// DAX per file.
        const HAS_INODE_DAX = 1 << 33;
        /// Creating sends a supplementary group.
        const CREATE_SUPP_GROUP = 1 << 34;
        /// Entries can be expired without being forgotten.
        const HAS_EXPIRE_ONLY = 1 << 35;
        /// Direct I/O files may be mapped shared.
        const DIRECT_IO_ALLOW_MMAP = 1 << 36;
    }
}

bitflags::bitflags! {
    /// `FOPEN_*`: how the client shall treat an open file.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct OpenOptions: u32 {
        /// Nothing is cached.
        const DIRECT_IO = 1 << 0;
        /// What is cached stays valid.
        const KEEP_CACHE = 1 << 1;
        /// There is no position.
        const NONSEEKABLE = 1 << 2;
        /// The directory's listing may be cached.
        const CACHE_DIR = 1 << 3;
        /// A stream.
        const STREAM = 1 << 4;
        /// Closing need not be told.
        const NOFLUSH = 1 << 5;
        /// Direct writes may be under way at the same time.
        const PARALLEL_DIRECT_WRITES = 1 << 6;
    }
}
