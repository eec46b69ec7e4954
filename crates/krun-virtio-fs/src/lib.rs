//! A virtio-fs device and FUSE server: a shared directory that the guest cannot leave.
//!
//! [`FuseServer`] speaks the FUSE protocol (7.28 to 7.39: Linux 4.20 and later) over byte cursors, whatever carries
//! them: a virtio ring, `/dev/fuse`, plain slices. It checks what can be checked, and calls a [`FileSystem`]: one
//! typed method per operation. [`PassthroughFs`] is the file system that serves a directory of the host; [`ReadOnly`]
//! and [`OverlayFs`] go over any. [`FsDevice`] puts a server behind the rings of a virtio-fs device (virtio 1.2
//! section 5.11).
//!
//! Serving a directory to a client that is a few lines of bytes:
//!
//! ```
//! use std::sync::Arc;
//!
//! use krun_virtio::VecSink;
//! use krun_virtio_fs::abi::{self, Opcode};
//! use krun_virtio_fs::{FuseServer, PassthroughFs};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! std::fs::write(dir.path().join("greeting"), "hello")?;
//! let server = FuseServer::new(Arc::new(PassthroughFs::builder(dir.path()).build()?));
//!
//! let ask = |opcode: Opcode, nodeid: u64, args: &[u8]| {
//!     let len = u32::try_from(abi::InHeader::SIZE + args.len()).unwrap();
//!     let header = abi::InHeader { len, opcode: opcode as u32, nodeid, unique: 2, ..Default::default() };
//!     let request = [&header.encode(), args].concat();
//!     let mut reply = VecSink::new(4096);
//!     let _ = server.handle(&mut &request[..], &mut reply, true);
//!     reply.into_vec().split_off(abi::OutHeader::SIZE)
//! };
//!
//! ask(Opcode::Init, 0, &abi::InitIn { major: 7, minor: 39, ..Default::default() }.encode());
//! let entry = ask(Opcode::Lookup, abi::ROOT_ID, b"greeting\0");
//! let node = abi::EntryOut::decode(entry.first_chunk().unwrap()).nodeid;
//! let open = ask(Opcode::Open, node, &abi::OpenIn::default().encode());
//! let fh = abi::OpenOut::decode(open.first_chunk().unwrap()).fh;
//! assert_eq!(ask(Opcode::Read, node, &abi::ReadIn { fh, size: 100, ..Default::default() }.encode()), b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! In a VMM, the device goes to a transport, and the root directory gets what a guest needs to start:
//!
//! ```
//! # let share = tempfile::tempdir()?;
//! use krun_virtio_fs::{FsDevice, OverlayFs, PassthroughFs, ReadOnly};
//!
//! let share = ReadOnly::new(PassthroughFs::builder(share.path()).build()?);
//! let root = OverlayFs::builder().hidden_file("/init", b"\x7fELF...", 0o755).dir("/proc", 0o555).build(share)?;
//! let device = FsDevice::new("root", root)?;
//! # let driver = krun_virtio::testing::MockDriver::new(device);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What can be relied on
//!
//! - **The guest stays inside.** It is taken to be hostile: [`PassthroughFs`] says what keeps it in. Every length,
//!   number and name of a request is checked after it was copied out of the guest's memory, once.
//! - **Content is copied once**: between the host's page cache and the guest's memory, by the system call itself.
//! - **No request blocks the others.** A read that is not in the page cache, `fsync`, and the like go to a few threads
//!   of their own. A lock that is waited for takes no thread at all.
//! - **Each request is answered**, unless it has no reply or no room for one; then its chain is used with length 0.
//! - **Locks are real**: what `flock` and `fcntl` lock in a guest is locked for other guests and for the host, unless
//!   [the guest is to keep them](Locks::Guest).
//! - **The process is left as it is.** Umask, working directory, user and group are a thread's own here.
//!
//! # What it does not do
//!
//! POSIX ACLs, DAX, and caching of writes in the guest are not offered to the guest, so it works without them. A
//! session cannot be saved: its nodes are open files. `ioctl` answers `ENOTTY`.
//!
//! # Inside
//!
//! `abi.rs` is the wire format and `server/` the protocol: bytes in, bytes out, no system call. `passthrough/` makes
//! the system calls; `overlay/` and `read_only.rs` make none or next to none. `device.rs` is what the registers show,
//! `worker.rs` moves chains between a ring and the server, `pool.rs` has the threads that wait for disks.

#![warn(clippy::indexing_slicing)]

pub mod abi;
mod device;
mod errno;
mod error;
mod filesystem;
mod overlay;
mod passthrough;
mod pool;
mod read_only;
mod server;
mod slab;
mod sys;
mod types;
mod worker;

pub use device::{DEVICE_ID, FsDevice, TAG_LEN};
pub use errno::{Errno, Failure, FsResult};
pub use error::Error;
pub use filesystem::FileSystem;
pub use overlay::{OverlayBuilder, OverlayFs};
pub use passthrough::{Locks, MountPoints, PassthroughBuilder, PassthroughFs, Xattrs};
pub use read_only::ReadOnly;
pub use server::{FuseServer, Handled, MAX_WRITE};
pub use types::{
    Attr, Attributes, CachePolicy, CopyRange, Create, DirEntry, Emit, EmitPlus, Entry, Handle, InitFlags, Lock,
    LockKind, NodeId, OpenFlags, OpenOptions, Opened, Release, Request, SetAttr, SetLock, SetTime, StatFs, Statx,
    Write,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
