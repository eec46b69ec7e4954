//! What can go wrong before a guest is there.

use std::io;
use std::path::PathBuf;

/// Errors of setting a file system or a device up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory to share cannot be opened.
    #[error("cannot open the shared directory {path:?}: give an existing directory that this process may enter")]
    OpenRoot {
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The directory to share is part of procfs, whose files reach into this very process.
    #[error("{path:?} is on procfs, which gives a guest access to the host's processes: share another directory")]
    RootOnProc {
        /// What was to be shared.
        path: PathBuf,
    },
    /// `/proc/self/fd` cannot be used to re-open files.
    #[error("cannot use /proc/self/fd to re-open files: mount procfs on /proc in this process's mount namespace")]
    ProcSelfFd {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The name of a virtual file or directory is no absolute path of plain components.
    #[error("virtual path {path:?}: give an absolute path without empty, `.` or `..` components and without NUL")]
    VirtualPath {
        /// What was given.
        path: String,
    },
    /// Two virtual entries contradict each other.
    #[error("virtual path {path:?} is given twice, or is a file and a directory at once: leave one out")]
    VirtualConflict {
        /// Where they meet.
        path: String,
    },
    /// The content of a virtual file cannot be stored.
    #[error("cannot create an anonymous memory file for the virtual file {path:?}")]
    VirtualContent {
        /// Whose content.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The tag of the device does not fit.
    #[error("file system tag {tag:?}: give 1 to 36 bytes without NUL")]
    Tag {
        /// What was given.
        tag: String,
    },
    /// Too many or too few queues.
    #[error("{count} request queues: give 1 to {max}")]
    RequestQueues {
        /// What was given.
        count: u32,
        /// The most there can be.
        max: u32,
    },
}
