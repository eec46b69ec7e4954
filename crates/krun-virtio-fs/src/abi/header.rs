//! Headers of requests and replies, and the beginning of a session.

use super::wire::wire;

wire! {
    /// Starts every request.
    InHeader: 40 {
        /// Length of the whole request, this header included.
        len: u32,
        /// See [`Opcode`](super::Opcode).
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
