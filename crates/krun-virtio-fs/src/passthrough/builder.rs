//! How a directory is shared.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC};
use rustix::process::Resource;

use super::handles::Handles;
use super::inodes::{Inode, Inodes};
use super::locks::LockFiles;
use super::lookup::{identity_of, kind_of, stat_fd};
use super::procfd::ProcFd;
use super::{NoOpenat2, PassthroughFs};
use crate::error::Error;
use crate::types::CachePolicy;

/// What happens where another file system is mounted below the shared directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MountPoints {
    /// The guest does not get there: `EXDEV`. What is mounted may be meant for others.
    #[default]
    Stay,
    /// The guest sees what is mounted, as part of one file system.
    Cross,
    /// The guest sees what is mounted, as a mount of its own with its own device number (if it can: Linux 5.10).
    Announce,
}

/// Which extended attributes pass through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Xattrs {
    /// None: the guest hears that the file system has no such thing.
    None,
    /// `user.*` and `security.capability`: what programs and package managers need.
    #[default]
    Usual,
    /// All that the host's kernel lets this process change, `trusted.*` and labels included.
    All,
}

/// Whom advisory locks (`flock`, `fcntl`) hold back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Locks {
    /// Everybody: this guest, other guests that have the directory, the host.
    #[default]
    Everywhere,
    /// The processes of this guest, whose kernel keeps the locks. Locking needs no request then, and closing a file
    /// neither, unless it was written and lies on a file system that tells errors late (NFS).
    Guest,
}

/// Kinds of file systems (`statfs.f_type`, `linux/magic.h`) whose files close without an error: what was written is in
/// the page cache, or was refused at once. ext2 to ext4, XFS, Btrfs, F2FS, ZFS, bcachefs, tmpfs, ramfs, overlayfs.
const LOCAL: [i64; 9] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e, 0x0102_1994, 0x8584_58f6, 0x794c_7630];

/// Settings of a [`PassthroughFs`].
#[derive(Debug)]
#[must_use]
pub struct PassthroughBuilder {
    root: Root,
    cache: CachePolicy,
    timeout: Option<Duration>,
    negative: Duration,
    mounts: MountPoints,
    device_nodes: bool,
    xattrs: Xattrs,
    locks: Locks,
    max_files: Option<usize>,
}

#[derive(Debug)]
enum Root {
    Path(PathBuf),
    Fd(OwnedFd),
}

impl PassthroughFs {
    /// Shares the directory at `path`.
    pub fn builder(path: impl Into<PathBuf>) -> PassthroughBuilder {
        PassthroughBuilder::new(Root::Path(path.into()))
    }

    /// Shares a directory that is open already.
    pub fn builder_fd(directory: OwnedFd) -> PassthroughBuilder {
        PassthroughBuilder::new(Root::Fd(directory))
    }
}

impl PassthroughBuilder {
    fn new(root: Root) -> Self {
        Self {
            root,
            cache: CachePolicy::default(),
            timeout: None,
            negative: Duration::ZERO,
            mounts: MountPoints::default(),
            device_nodes: false,
            xattrs: Xattrs::default(),
            locks: Locks::default(),
            max_files: None,
        }
    }

    /// How much the guest may keep in its own memory. Default: [`CachePolicy::Auto`].
    pub fn cache(mut self, policy: CachePolicy) -> Self {
        self.cache = policy;
        self
    }

    /// How long names and attributes are valid, if not as long as the policy says.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long the guest may remember that a name does not exist. Default: not at all.
    pub fn negative_timeout(mut self, timeout: Duration) -> Self {
        self.negative = timeout;
        self
    }

    /// What happens at mount points below the directory. Default: [`MountPoints::Stay`].
    pub fn mount_points(mut self, mounts: MountPoints) -> Self {
        self.mounts = mounts;
        self
    }

    /// Whether the guest may make device nodes, if the host's kernel lets this process. They are not opened here, but
    /// other users of the host may. Default: no, but for the whiteouts of overlayfs (character device 0:0).
    pub fn device_nodes(mut self, allow: bool) -> Self {
        self.device_nodes = allow;
        self
    }

    /// Which extended attributes pass through. Default: [`Xattrs::Usual`].
    pub fn xattrs(mut self, xattrs: Xattrs) -> Self {
        self.xattrs = xattrs;
        self
    }

    /// Whom advisory locks hold back. Default: [`Locks::Everywhere`].
    pub fn locks(mut self, locks: Locks) -> Self {
        self.locks = locks;
        self
    }

    /// How many files the guest may know before it gets `ENFILE`; it may have a quarter as many open, and an eighth
    /// locked. Default: 5/8 of this process's limit of open files, which leaves a seventh to the process whatever the
    /// guest does. It knows of no other share: a process with several has to divide its limit among them here.
    pub fn max_files(mut self, limit: usize) -> Self {
        self.max_files = Some(limit);
        self
    }

    /// Opens the directory.
    ///
    /// Build it in the process that serves, not in one that forks before: files are opened by their numbers in
    /// `/proc/self/fd`, which is opened here. A child of this process answers `EIO` to what needs it. Threads that serve
    /// must share the process's table of descriptors (no `unshare(CLONE_FILES)`).
    ///
    /// # Errors
    /// [`Error::OpenRoot`], [`Error::RootOnProc`], [`Error::ProcSelfFd`].
    pub fn build(self) -> Result<PassthroughFs, Error> {
        let proc_fd = ProcFd::open()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (path, opened) = match self.root {
            Root::Path(path) => {
                let opened = rustix::fs::openat(CWD, &path, flags, Mode::empty());
                (path, opened)
            }
            // Opened anew: the owner's descriptor may be readable, ours only pins.
            Root::Fd(fd) => {
                let opened = rustix::fs::openat(&fd, c".", flags, Mode::empty());
                (PathBuf::from(format!("descriptor {}", std::os::fd::AsRawFd::as_raw_fd(&fd))), opened)
            }
        };
        let wrap = |source: std::io::Error| Error::OpenRoot { path: path.clone(), source };
        let fd = opened.map_err(|e| wrap(e.into()))?;
        let stat = stat_fd(fd.as_fd()).map_err(|e| wrap(std::io::Error::from_raw_os_error(e.number())))?;
        let kind = rustix::fs::fstatfs(&fd).map_err(|e| wrap(e.into()))?.f_type;
        if kind == PROC_SUPER_MAGIC {
            return Err(Error::RootOnProc { path });
        }
        let root = Inode::new(fd, identity_of(&stat), kind_of(&stat));
        let limit = self.max_files.unwrap_or_else(|| {
            let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            usize::try_from(files / 8 * 5).unwrap_or(usize::MAX)
        });
        Ok(PassthroughFs {
            proc_fd,
            inodes: Inodes::new(root, limit),
            handles: Handles::new((limit / 4).max(1)),
            lock_files: LockFiles::new((limit / 8).max(1)),
            cache: self.cache,
            timeout: self.timeout.unwrap_or(self.cache.timeout()),
            negative: self.negative,
            mounts: self.mounts,
            device_nodes: self.device_nodes,
            xattrs: self.xattrs,
            locks: self.locks,
            closes_in_silence: LOCAL.contains(&kind),
            no_openat2: NoOpenat2::default(),
            foreign_devices: std::sync::Mutex::default(),
            session: std::sync::atomic::AtomicU64::new(0),
        })
    }
}
