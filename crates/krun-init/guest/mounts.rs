//! The file systems every workload expects.

use core::ffi::CStr;

use crate::failure::{At, Failure};
use crate::protocol::{Mount, Stage};
use crate::sys::{self, Errno, Fd, Result};
use crate::text::Text;

type Options = &'static [(&'static CStr, &'static CStr)];

/// A file system of PID 1's own.
struct Own {
    kind: &'static CStr,
    target: &'static CStr,
    attributes: u32,
    options: Options,
}

const PROC: Own =
    Own { kind: c"proc", target: c"/proc", attributes: sys::NOSUID | sys::NODEV | sys::NOEXEC, options: &[] };
const SYS: Own =
    Own { kind: c"sysfs", target: c"/sys", attributes: sys::NOSUID | sys::NODEV | sys::NOEXEC, options: &[] };
const DEV: Own = Own { kind: c"devtmpfs", target: c"/dev", attributes: sys::NOSUID, options: &[] };

/// Below the three; a kernel without one of these types is a smaller system, not a broken one.
const BELOW: &[Own] = &[
    Own {
        kind: c"devpts",
        target: c"/dev/pts",
        attributes: sys::NOSUID | sys::NOEXEC,
        // Group 5 is `tty` everywhere.
        options: &[(c"mode", c"620"), (c"gid", c"5"), (c"ptmxmode", c"666")],
    },
    Own {
        kind: c"tmpfs",
        target: c"/dev/shm",
        attributes: sys::NOSUID | sys::NODEV | sys::NOEXEC,
        options: &[(c"mode", c"1777")],
    },
    Own {
        kind: c"cgroup2",
        target: c"/sys/fs/cgroup",
        attributes: sys::NOSUID | sys::NODEV | sys::NOEXEC,
        options: &[],
    },
];

/// Directories that must be there and writable: where the root has none, or is read-only, they are kept in memory.
const SCRATCH: &[Own] = &[
    Own { kind: c"tmpfs", target: c"/tmp", attributes: sys::NOSUID | sys::NODEV, options: &[(c"mode", c"1777")] },
    Own { kind: c"tmpfs", target: c"/run", attributes: sys::NOSUID | sys::NODEV, options: &[(c"mode", c"755")] },
];

const LINKS: &[(&CStr, &CStr)] = &[
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// The three file systems PID 1 itself needs, usable before they have a place in the tree and whatever the workload
/// does to that place later.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) proc: Tree,
    pub(crate) sys: Tree,
    pub(crate) dev: Tree,
}

/// A file system by descriptor.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: Fd,
    attached: bool,
}

impl Kernel {
    /// Opens what is mounted already (by the kernel, by an initial RAM disk), and mounts the rest without a place.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { proc: PROC.open()?, sys: SYS.open()?, dev: DEV.open()? })
    }

    /// Gives the three their places in the tree. This starts no program of the kernel's: nothing is mounted whose driver
    /// might have to be loaded.
    pub(crate) fn attach(&self) -> core::result::Result<(), Failure> {
        // What is mounted later is seen by containers that the workload may start.
        match sys::mount(c"", c"/", c"", sys::MS_REC | sys::MS_SHARED, c"") {
            // A root that is only a directory of another mount.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(Failure::new(Stage::Mount, b"/", errno)),
        }
        for (own, tree) in [(PROC, &self.proc), (SYS, &self.sys), (DEV, &self.dev)] {
            if !tree.attached {
                own.attach(&tree.root).at(Stage::Mount, own.target.to_bytes())?;
            }
        }
        for (target, path) in LINKS {
            match sys::make_symlink(target, path) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Failure::new(Stage::Mount, path.to_bytes(), errno)),
            }
        }
        Ok(())
    }
}

/// Mounts what else there usually is.
pub(crate) fn usual() -> core::result::Result<(), Failure> {
    for own in BELOW {
        match own.mount() {
            Ok(()) | Err(Errno::NODEV) => {}
            Err(errno) => return Err(Failure::new(Stage::Mount, own.target.to_bytes(), errno)),
        }
    }
    for own in SCRATCH.iter().filter(|own| !sys::is_writable(own.target)) {
        match own.mount() {
            // A read-only root without the directory, or with a link: there is no place to mount it.
            Ok(()) | Err(Errno::NODEV | Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(Failure::new(Stage::Mount, own.target.to_bytes(), errno)),
        }
    }
    Ok(())
}

impl Own {
    /// What is mounted already, or a new one. Nothing of the root file system can stand in for it: only the kernel or
    /// an initial RAM disk has mounted anything yet, and a symbolic link in its place is not followed.
    fn open(&self) -> Result<Tree> {
        if sys::is_mounted(self.target) {
            Ok(Tree { root: sys::open_tree(self.target)?, attached: true })
        } else {
            Ok(Tree { root: sys::mount_detached(self.kind, self.options, self.attributes)?, attached: false })
        }
    }

    fn attach(&self, mount: &Fd) -> Result<()> {
        match sys::attach(mount, self.target) {
            Err(Errno::NOENT) => {
                // On a read-only root the second attempt says what is wrong: there is no such directory.
                let _ = sys::make_directory(self.target);
                sys::attach(mount, self.target)
            }
            Err(Errno::INVAL) => {
                // A link or a file: opening it says so more clearly.
                sys::open_tree(self.target)?;
                Err(Errno::INVAL)
            }
            answer => answer,
        }
    }

    fn mount(&self) -> Result<()> {
        if sys::is_mounted(self.target) {
            return Ok(());
        }
        self.attach(&sys::mount_detached(self.kind, self.options, self.attributes)?)
    }
}

/// Mounts one file system of the host's list.
pub(crate) fn volume(mount: &Mount<'_>) -> core::result::Result<(), Failure> {
    let attempt = || {
        make_directories(mount.target)?;
        sys::mount(mount.source, mount.target, mount.kind, mount.flags, mount.options)?;
        // A bind mount takes its other flags only in a second step.
        if mount.flags & sys::MS_BIND != 0 && mount.flags & !(sys::MS_BIND | sys::MS_REC) != 0 {
            let flags = mount.flags & !sys::MS_REC | sys::MS_REMOUNT;
            sys::mount(mount.source, mount.target, mount.kind, flags, mount.options)?;
        }
        Ok(())
    };
    attempt().at(Stage::Mount, mount.target.to_bytes())
}

/// Makes the directory `path` and those above it, as far as they are missing.
fn make_directories(path: &CStr) -> Result<()> {
    if sys::exists(path) {
        return Ok(());
    }
    let bytes = path.to_bytes();
    let slashes = bytes.iter().enumerate().skip(1).filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
    for end in slashes.chain([bytes.len()]) {
        let part = Text::<4096>::path_of(&[bytes.get(..end).unwrap_or_default()]);
        match sys::make_directory(part.path()?) {
            Ok(()) | Err(Errno::EXIST) => {}
            // A directory above that is there but cannot be made (read-only, or not ours) does not matter.
            Err(errno) if end == bytes.len() || !sys::exists(part.path()?) => return Err(errno),
            Err(_) => {}
        }
    }
    Ok(())
}
