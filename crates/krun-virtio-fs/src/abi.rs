//! The FUSE wire format: `include/uapi/linux/fuse.h`, protocol 7.39, little-endian hosts and guests.
//!
//! Every structure has the name of its C counterpart without `fuse_`, and knows its size. Decoding copies: what a
//! guest may change under us is read once.

/// Protocol version that this server speaks.
pub const MAJOR: u32 = 7;
/// The newest minor version whose messages are all understood.
pub const MINOR: u32 = 39;
/// The oldest minor version of a client that is served (Linux 4.20).
pub const MIN_MINOR: u32 = 28;
/// Node id of the root directory.
pub const ROOT_ID: u64 = 1;
/// The longest file name, without its NUL.
pub const NAME_MAX: usize = 255;

/// Declares a wire structure: fields in order, no padding but what is named, a size that is checked.
macro_rules! wire {
    ($(#[$doc:meta])* $name:ident: $size:literal { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        impl $name {
            /// Size on the wire, in bytes.
            pub const SIZE: usize = $size;

            /// Reads the structure from its bytes.
            #[must_use]
            pub fn decode(bytes: &[u8; $size]) -> Self {
                let mut at = Fields(bytes);
                Self { $($field: <$type as Field>::get(&mut at),)* }
            }

            /// The structure's bytes.
            #[must_use]
            pub fn encode(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                let mut at = FieldsMut(&mut bytes);
                $(Field::put(&self.$field, &mut at);)*
                bytes
            }
        }

        const _: () = assert!($size == 0 $(+ <$type as Field>::WIDTH)*);
    };
}

struct Fields<'a>(&'a [u8]);
struct FieldsMut<'a>(&'a mut [u8]);

/// What a structure may be made of.
trait Field: Sized {
    const WIDTH: usize;
    fn get(at: &mut Fields<'_>) -> Self;
    fn put(&self, at: &mut FieldsMut<'_>);
}

macro_rules! integer_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const WIDTH: usize = size_of::<Self>();
            #[inline]
            fn get(at: &mut Fields<'_>) -> Self {
                // The sizes are checked at compile time: there always is a chunk.
                let Some((field, rest)) = at.0.split_first_chunk() else { return 0 };
                at.0 = rest;
                Self::from_le_bytes(*field)
            }
            #[inline]
            fn put(&self, at: &mut FieldsMut<'_>) {
                if let Some((field, rest)) = std::mem::take(&mut at.0).split_first_chunk_mut() {
                    *field = self.to_le_bytes();
                    at.0 = rest;
                }
            }
        }
    )*};
}
integer_field!(u16, u32, u64, i32, i64);

macro_rules! nested_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const WIDTH: usize = Self::SIZE;
            #[inline]
            fn get(at: &mut Fields<'_>) -> Self {
                let Some((field, rest)) = at.0.split_first_chunk() else { return Self::default() };
                at.0 = rest;
                Self::decode(field)
            }
            #[inline]
            fn put(&self, at: &mut FieldsMut<'_>) {
                if let Some((field, rest)) = std::mem::take(&mut at.0).split_first_chunk_mut() {
                    *field = self.encode();
                    at.0 = rest;
                }
            }
        }
    )*};
}

wire! {
    /// Starts every request.
    InHeader: 40 {
        /// Length of the whole request, this header included.
        len: u32,
        /// See [`Opcode`].
        opcode: u32,
        /// Names the request in its reply and in INTERRUPT.
        unique: u64,
        /// The file it is about.
        nodeid: u64,
        /// User id of the calling process (its file system user id).
        uid: u32,
        /// Group id of the calling process.
        gid: u32,
        /// Process id of the calling process.
        pid: u32,
        /// Length of the extensions at the end of the request, in units of 8 bytes.
        total_extlen: u16,
        /// Nothing.
        padding: u16,
    }
}
wire! {
    /// Starts every reply.
    OutHeader: 16 {
        /// Length of the whole reply, this header included.
        len: u32,
        /// 0 or a negative error number.
        error: i32,
        /// The request's.
        unique: u64,
    }
}
wire! {
    /// Attributes of a file.
    Attr: 88 {
        /// Inode number.
        ino: u64,
        /// Size in bytes.
        size: u64,
        /// Blocks of 512 bytes that are allocated.
        blocks: u64,
        /// Last access, seconds since 1970 (two's complement).
        atime: u64,
        /// Last change of the content.
        mtime: u64,
        /// Last change of the attributes.
        ctime: u64,
        /// Nanoseconds of `atime`.
        atimensec: u32,
        /// Nanoseconds of `mtime`.
        mtimensec: u32,
        /// Nanoseconds of `ctime`.
        ctimensec: u32,
        /// Type and permissions.
        mode: u32,
        /// Number of names.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number of a device node, in the kernel's 32-bit encoding.
        rdev: u32,
        /// Preferred size of reads and writes.
        blksize: u32,
        /// `ATTR_SUBMOUNT`, `ATTR_DAX`.
        flags: u32,
    }
}
nested_field!(Attr);
wire! {
    /// Reply of LOOKUP and of whatever makes a file.
    EntryOut: 128 {
        /// Node id; 0 means: no such file, and the absence may be cached.
        nodeid: u64,
        /// Tells two lives of one node id apart.
        generation: u64,
        /// For how long the name may be cached, seconds.
        entry_valid: u64,
        /// For how long the attributes may be cached, seconds.
        attr_valid: u64,
        /// Nanoseconds of `entry_valid`.
        entry_valid_nsec: u32,
        /// Nanoseconds of `attr_valid`.
        attr_valid_nsec: u32,
        /// The attributes.
        attr: Attr,
    }
}
wire! {
    /// Reply of GETATTR and SETATTR.
    AttrOut: 104 {
        /// For how long the attributes may be cached, seconds.
        attr_valid: u64,
        /// Nanoseconds of `attr_valid`.
        attr_valid_nsec: u32,
        /// Nothing.
        dummy: u32,
        /// The attributes.
        attr: Attr,
    }
}
nested_field!(EntryOut);
wire! {
    /// Head of a directory entry; the name follows, padded to 8 bytes.
    Dirent: 24 {
        /// Inode number.
        ino: u64,
        /// Where to go on after this entry.
        off: u64,
        /// Length of the name.
        namelen: u32,
        /// `DT_*`.
        kind: u32,
    }
}
nested_field!(Dirent);
wire! {
    /// Head of a READDIRPLUS entry.
    DirentPlus: 152 {
        /// As LOOKUP would answer; all zero where there is nothing to say.
        entry: EntryOut,
        /// The entry itself.
        dirent: Dirent,
    }
}
wire! {
    /// FORGET.
    ForgetIn: 8 {
        /// How many lookups are forgotten.
        nlookup: u64,
    }
}
wire! {
    /// BATCH_FORGET: followed by `count` of [`ForgetOne`].
    BatchForgetIn: 8 {
        /// How many follow.
        count: u32,
        /// Nothing.
        dummy: u32,
    }
}
wire! {
    /// One of BATCH_FORGET.
    ForgetOne: 16 {
        /// The file.
        nodeid: u64,
        /// How many lookups are forgotten.
        nlookup: u64,
    }
}
wire! {
    /// GETATTR.
    GetattrIn: 16 {
        /// `GETATTR_FH`: `fh` is valid.
        getattr_flags: u32,
        /// Nothing.
        dummy: u32,
        /// Handle.
        fh: u64,
    }
}
wire! {
    /// SETATTR.
    SetattrIn: 88 {
        /// `FATTR_*`: which of the fields count.
        valid: u32,
        /// Nothing.
        padding: u32,
        /// Handle.
        fh: u64,
        /// New size.
        size: u64,
        /// Lock owner.
        lock_owner: u64,
        /// New access time.
        atime: u64,
        /// New modification time.
        mtime: u64,
        /// New change time.
        ctime: u64,
        /// Nanoseconds of `atime`.
        atimensec: u32,
        /// Nanoseconds of `mtime`.
        mtimensec: u32,
        /// Nanoseconds of `ctime`.
        ctimensec: u32,
        /// New permissions.
        mode: u32,
        /// Nothing.
        unused4: u32,
        /// New owner.
        uid: u32,
        /// New group.
        gid: u32,
        /// Nothing.
        unused5: u32,
    }
}
wire! {
    /// MKNOD; the name follows.
    MknodIn: 16 {
        /// Type and permissions.
        mode: u32,
        /// Device number.
        rdev: u32,
        /// The caller's umask.
        umask: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// MKDIR; the name follows.
    MkdirIn: 8 {
        /// Permissions.
        mode: u32,
        /// The caller's umask.
        umask: u32,
    }
}
wire! {
    /// RENAME; both names follow.
    RenameIn: 8 {
        /// Directory of the new name.
        newdir: u64,
    }
}
wire! {
    /// RENAME2; both names follow.
    Rename2In: 16 {
        /// Directory of the new name.
        newdir: u64,
        /// `RENAME_*`.
        flags: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// LINK; the new name follows.
    LinkIn: 8 {
        /// The file that gets one more name.
        oldnodeid: u64,
    }
}
wire! {
    /// OPEN and OPENDIR.
    OpenIn: 8 {
        /// `O_*`.
        flags: u32,
        /// `OPEN_KILL_SUIDGID`.
        open_flags: u32,
    }
}
wire! {
    /// CREATE and TMPFILE; the name follows.
    CreateIn: 16 {
        /// `O_*`.
        flags: u32,
        /// Type and permissions.
        mode: u32,
        /// The caller's umask.
        umask: u32,
        /// `OPEN_KILL_SUIDGID`.
        open_flags: u32,
    }
}
wire! {
    /// Reply of OPEN and OPENDIR; the second half of CREATE's.
    OpenOut: 16 {
        /// Handle.
        fh: u64,
        /// `FOPEN_*`.
        open_flags: u32,
        /// Nothing (a backing id since 7.40).
        padding: u32,
    }
}
wire! {
    /// RELEASE and RELEASEDIR.
    ReleaseIn: 24 {
        /// Handle.
        fh: u64,
        /// `O_*`.
        flags: u32,
        /// `RELEASE_*`.
        release_flags: u32,
        /// Lock owner.
        lock_owner: u64,
    }
}
wire! {
    /// FLUSH.
    FlushIn: 24 {
        /// Handle.
        fh: u64,
        /// Nothing.
        unused: u32,
        /// Nothing.
        padding: u32,
        /// Whose locks end.
        lock_owner: u64,
    }
}
wire! {
    /// READ, READDIR, READDIRPLUS.
    ReadIn: 40 {
        /// Handle.
        fh: u64,
        /// Where to start.
        offset: u64,
        /// How many bytes at most.
        size: u32,
        /// `READ_LOCKOWNER`.
        read_flags: u32,
        /// Lock owner.
        lock_owner: u64,
        /// `O_*`.
        flags: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// WRITE; the data follow.
    WriteIn: 40 {
        /// Handle.
        fh: u64,
        /// Where to start.
        offset: u64,
        /// How many bytes.
        size: u32,
        /// `WRITE_*`.
        write_flags: u32,
        /// Lock owner.
        lock_owner: u64,
        /// `O_*`.
        flags: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// Reply of WRITE and COPY_FILE_RANGE.
    WriteOut: 8 {
        /// How many bytes were written.
        size: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// Reply of STATFS.
    Kstatfs: 80 {
        /// Size of the file system in units of `frsize`.
        blocks: u64,
        /// Free blocks.
        bfree: u64,
        /// Free blocks for unprivileged users.
        bavail: u64,
        /// Inodes.
        files: u64,
        /// Free inodes.
        ffree: u64,
        /// Preferred size of reads and writes.
        bsize: u32,
        /// Longest name.
        namelen: u32,
        /// Unit of the block counts.
        frsize: u32,
        /// Nothing.
        padding: u32,
        /// Nothing.
        spare0: u64,
        /// Nothing.
        spare1: u64,
        /// Nothing.
        spare2: u64,
    }
}
wire! {
    /// FSYNC and FSYNCDIR.
    FsyncIn: 16 {
        /// Handle.
        fh: u64,
        /// `FSYNC_FDATASYNC`.
        fsync_flags: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// SETXATTR with `SETXATTR_EXT`; name and value follow.
    SetxattrIn: 16 {
        /// Length of the value.
        size: u32,
        /// `XATTR_CREATE`, `XATTR_REPLACE`.
        flags: u32,
        /// `SETXATTR_ACL_KILL_SGID`.
        setxattr_flags: u32,
        /// Nothing.
        padding: u32,
    }
}
/// Size of [`SetxattrIn`] for a client without `SETXATTR_EXT`: the first two fields.
pub const COMPAT_SETXATTR_IN_SIZE: usize = 8;
wire! {
    /// GETXATTR (the name follows) and LISTXATTR.
    GetxattrIn: 8 {
        /// Room for the value; 0 asks for its size.
        size: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// Reply of GETXATTR and LISTXATTR to a question for the size.
    GetxattrOut: 8 {
        /// The size.
        size: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// A range of a file that is locked.
    FileLock: 24 {
        /// First byte.
        start: u64,
        /// Last byte; `i64::MAX` is the end of the file, wherever that is.
        end: u64,
        /// `F_RDLCK`, `F_WRLCK`, `F_UNLCK`.
        kind: u32,
        /// Process id of the owner.
        pid: u32,
    }
}
nested_field!(FileLock);
wire! {
    /// GETLK, SETLK, SETLKW.
    LkIn: 48 {
        /// Handle.
        fh: u64,
        /// Lock owner.
        owner: u64,
        /// The lock.
        lk: FileLock,
        /// `LK_FLOCK`.
        lk_flags: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// ACCESS.
    AccessIn: 8 {
        /// `R_OK`, `W_OK`, `X_OK`.
        mask: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// INIT, as far as every client sends it.
    InitIn: 16 {
        /// The client's major version.
        major: u32,
        /// The client's minor version.
        minor: u32,
        /// How far the client reads ahead, bytes.
        max_readahead: u32,
        /// Lower half of what the client can do.
        flags: u32,
    }
}
wire! {
    /// What follows [`InitIn`] if it has `INIT_EXT`.
    InitExtIn: 48 {
        /// Upper half of what the client can do.
        flags2: u32,
        /// Nothing.
        unused0: u32,
        /// Nothing.
        unused1: u64,
        /// Nothing.
        unused2: u64,
        /// Nothing.
        unused3: u64,
        /// Nothing.
        unused4: u64,
        /// Nothing.
        unused5: u64,
    }
}
wire! {
    /// Reply of INIT.
    InitOut: 64 {
        /// The server's major version.
        major: u32,
        /// The server's minor version.
        minor: u32,
        /// How far to read ahead, bytes.
        max_readahead: u32,
        /// Lower half of what is used.
        flags: u32,
        /// Requests without a waiting process that may be under way.
        max_background: u16,
        /// From how many on the client holds back.
        congestion_threshold: u16,
        /// Longest WRITE, bytes.
        max_write: u32,
        /// Resolution of time stamps, nanoseconds.
        time_gran: u32,
        /// Longest request in pages.
        max_pages: u16,
        /// Binary logarithm of the alignment of DAX mappings.
        map_alignment: u16,
        /// Upper half of what is used.
        flags2: u32,
        /// Nothing.
        unused0: u32,
        /// Nothing.
        unused1: u64,
        /// Nothing.
        unused2: u64,
        /// Nothing.
        unused3: u64,
    }
}
wire! {
    /// INTERRUPT.
    InterruptIn: 8 {
        /// Which request to interrupt.
        unique: u64,
    }
}
wire! {
    /// IOCTL.
    IoctlIn: 32 {
        /// Handle.
        fh: u64,
        /// `IOCTL_*`.
        flags: u32,
        /// The command.
        cmd: u32,
        /// Its argument.
        arg: u64,
        /// Length of the data that follow.
        in_size: u32,
        /// Room for an answer.
        out_size: u32,
    }
}
wire! {
    /// FALLOCATE.
    FallocateIn: 32 {
        /// Handle.
        fh: u64,
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// `FALLOC_FL_*`.
        mode: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// LSEEK.
    LseekIn: 24 {
        /// Handle.
        fh: u64,
        /// From where.
        offset: u64,
        /// `SEEK_DATA`, `SEEK_HOLE`.
        whence: u32,
        /// Nothing.
        padding: u32,
    }
}
wire! {
    /// Reply of LSEEK.
    LseekOut: 8 {
        /// Where data or a hole begin.
        offset: u64,
    }
}
wire! {
    /// COPY_FILE_RANGE; the header names the file to read.
    CopyFileRangeIn: 56 {
        /// Handle of the file to read.
        fh_in: u64,
        /// First byte to read.
        off_in: u64,
        /// The file to write.
        nodeid_out: u64,
        /// Its handle.
        fh_out: u64,
        /// First byte to write.
        off_out: u64,
        /// How many bytes.
        len: u64,
        /// None are defined.
        flags: u64,
    }
}
wire! {
    /// STATX.
    StatxIn: 24 {
        /// `GETATTR_FH`: `fh` is valid.
        getattr_flags: u32,
        /// Nothing.
        reserved: u32,
        /// Handle.
        fh: u64,
        /// `AT_STATX_*`.
        sx_flags: u32,
        /// `STATX_*`: what is wanted.
        sx_mask: u32,
    }
}
wire! {
    /// A time stamp of STATX.
    SxTime: 16 {
        /// Seconds since 1970.
        tv_sec: i64,
        /// Nanoseconds.
        tv_nsec: u32,
        /// Nothing.
        reserved: i32,
    }
}
nested_field!(SxTime);
wire! {
    /// Attributes as STATX tells them.
    Statx: 256 {
        /// Which of the fields are valid.
        mask: u32,
        /// Preferred size of reads and writes.
        blksize: u32,
        /// `STATX_ATTR_*`.
        attributes: u64,
        /// Number of names.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Type and permissions.
        mode: u16,
        /// Nothing.
        spare0: u16,
        /// Inode number.
        ino: u64,
        /// Size in bytes.
        size: u64,
        /// Blocks of 512 bytes that are allocated.
        blocks: u64,
        /// Which attributes are supported.
        attributes_mask: u64,
        /// Last access.
        atime: SxTime,
        /// Birth.
        btime: SxTime,
        /// Last change of the attributes.
        ctime: SxTime,
        /// Last change of the content.
        mtime: SxTime,
        /// Device number of a device node, major part.
        rdev_major: u32,
        /// The same, minor part.
        rdev_minor: u32,
        /// Device that holds the file, major part.
        dev_major: u32,
        /// The same, minor part.
        dev_minor: u32,
        /// Nothing.
        spare2: Spare,
    }
}
nested_field!(Statx);
wire! {
    /// Room for fields of later versions.
    Spare: 112 {
        /// Nothing.
        s0: u64, /// Nothing.
        s1: u64, /// Nothing.
        s2: u64, /// Nothing.
        s3: u64, /// Nothing.
        s4: u64, /// Nothing.
        s5: u64, /// Nothing.
        s6: u64, /// Nothing.
        s7: u64, /// Nothing.
        s8: u64, /// Nothing.
        s9: u64, /// Nothing.
        s10: u64, /// Nothing.
        s11: u64, /// Nothing.
        s12: u64, /// Nothing.
        s13: u64,
    }
}
nested_field!(Spare);
wire! {
    /// Reply of STATX.
    StatxOut: 288 {
        /// For how long the attributes may be cached, seconds.
        attr_valid: u64,
        /// Nanoseconds of `attr_valid`.
        attr_valid_nsec: u32,
        /// Nothing.
        flags: u32,
        /// Nothing.
        spare0: u64,
        /// Nothing.
        spare1: u64,
        /// The attributes.
        stat: Statx,
    }
}

/// `FATTR_*`: fields of [`SetattrIn`] that count.
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

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[allow(missing_docs, reason = "the names are FUSE's own")]
        pub enum Opcode { $($(#[$doc])* $name = $value,)* }

        impl Opcode {
            /// Every operation there is a name for.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The operation with this number.
            #[must_use]
            pub const fn new(number: u32) -> Option<Self> {
                match number {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    Lookup = 1, Forget = 2, Getattr = 3, Setattr = 4, Readlink = 5, Symlink = 6, Mknod = 8, Mkdir = 9, Unlink = 10,
    Rmdir = 11, Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, Statfs = 17, Release = 18, Fsync = 20,
    Setxattr = 21, Getxattr = 22, Listxattr = 23, Removexattr = 24, Flush = 25, Init = 26, Opendir = 27, Readdir = 28,
    Releasedir = 29, Fsyncdir = 30, Getlk = 31, Setlk = 32, Setlkw = 33, Access = 34, Create = 35, Interrupt = 36,
    Bmap = 37, Destroy = 38, Ioctl = 39, Poll = 40, NotifyReply = 41, BatchForget = 42, Fallocate = 43,
    Readdirplus = 44, Rename2 = 45, Lseek = 46, CopyFileRange = 47, Setupmapping = 48, Removemapping = 49, Syncfs = 50,
    Tmpfile = 51, Statx = 52,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset of a field: where the only byte that is not zero lies.
    fn offset(bytes: &[u8]) -> usize {
        let at = bytes.iter().position(|b| *b != 0).expect("a field is set");
        assert_eq!(bytes.iter().filter(|b| **b != 0).count(), 1);
        at
    }

    #[test]
    fn sizes_are_the_kernels() {
        // Of `pahole fuse`: the C structures of the same names.
        let sizes = [
            (InHeader::SIZE, 40),
            (OutHeader::SIZE, 16),
            (Attr::SIZE, 88),
            (EntryOut::SIZE, 128),
            (AttrOut::SIZE, 104),
            (Dirent::SIZE, 24),
            (DirentPlus::SIZE, 152),
            (SetattrIn::SIZE, 88),
            (CreateIn::SIZE, 16),
            (OpenOut::SIZE, 16),
            (ReadIn::SIZE, 40),
            (WriteIn::SIZE, 40),
            (Kstatfs::SIZE, 80),
            (LkIn::SIZE, 48),
            (InitIn::SIZE + InitExtIn::SIZE, 64),
            (InitOut::SIZE, 64),
            (CopyFileRangeIn::SIZE, 56),
            (Statx::SIZE, 256),
            (StatxOut::SIZE, 288),
        ];
        for (i, (ours, theirs)) in sizes.into_iter().enumerate() {
            assert_eq!(ours, theirs, "row {i}");
        }
    }

    #[test]
    fn offsets_are_the_kernels() {
        assert_eq!(offset(&InHeader { nodeid: 1, ..Default::default() }.encode()), 16);
        assert_eq!(offset(&InHeader { pid: 1, ..Default::default() }.encode()), 32);
        assert_eq!(offset(&InHeader { total_extlen: 1, ..Default::default() }.encode()), 36);
        assert_eq!(offset(&Attr { atimensec: 1, ..Default::default() }.encode()), 48);
        assert_eq!(offset(&Attr { mode: 1, ..Default::default() }.encode()), 60);
        assert_eq!(offset(&Attr { rdev: 1, ..Default::default() }.encode()), 76);
        let attr = Attr { ino: 1, ..Default::default() };
        assert_eq!(offset(&EntryOut { attr, ..Default::default() }.encode()), 40);
        assert_eq!(offset(&AttrOut { attr, ..Default::default() }.encode()), 16);
        assert_eq!(offset(&SetattrIn { atimensec: 1, ..Default::default() }.encode()), 56);
        assert_eq!(offset(&SetattrIn { mode: 1, ..Default::default() }.encode()), 68);
        assert_eq!(offset(&SetattrIn { uid: 1, ..Default::default() }.encode()), 76);
        assert_eq!(offset(&InitOut { max_write: 1, ..Default::default() }.encode()), 20);
        assert_eq!(offset(&InitOut { max_pages: 1, ..Default::default() }.encode()), 28);
        assert_eq!(offset(&InitOut { flags2: 1, ..Default::default() }.encode()), 32);
        assert_eq!(offset(&Kstatfs { frsize: 1, ..Default::default() }.encode()), 48);
        assert_eq!(offset(&Statx { ino: 1, ..Default::default() }.encode()), 32);
        assert_eq!(offset(&Statx { dev_minor: 1, ..Default::default() }.encode()), 140);
        assert_eq!(offset(&LkIn { lk_flags: 1, ..Default::default() }.encode()), 40);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let bytes: [u8; InHeader::SIZE] = std::array::from_fn(|i| u8::try_from(i + 1).expect("small"));
        assert_eq!(InHeader::decode(&bytes).encode(), bytes);
        let bytes: [u8; StatxOut::SIZE] = std::array::from_fn(|i| u8::try_from(i % 251).expect("small"));
        assert_eq!(StatxOut::decode(&bytes).encode(), bytes);
    }

    #[test]
    fn opcodes_have_their_numbers() {
        for op in Opcode::ALL {
            assert_eq!(Opcode::new(*op as u32), Some(*op));
        }
        for unknown in [0, 7, 19, 53, 4096, u32::MAX] {
            assert_eq!(Opcode::new(unknown), None);
        }
    }
}
