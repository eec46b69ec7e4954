//! Attributes: of files, of file systems, extended ones.

use super::wire::{nested_field, wire};

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
    /// ACCESS.
    AccessIn: 8 {
        /// `R_OK`, `W_OK`, `X_OK`.
        mask: u32,
        /// Nothing.
        padding: u32,
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
        spare2: [u64; 14],
    }
}
nested_field!(Statx);
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
