//! Open files and directories.

use super::wire::{nested_field, wire};

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
