//! Names: entries of directories, what makes them, what forgets them.

use super::Attr;
use super::wire::{nested_field, wire};

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
