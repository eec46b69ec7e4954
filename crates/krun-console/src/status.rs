//! What the host can know about a port.

use std::io;
use std::sync::Arc;

/// The state of one direction of a port, on the host.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Side {
    /// The port has no input, or throws its output away.
    #[default]
    Absent,
    /// In use.
    Open,
    /// The input has ended, or the host has closed the direction.
    Ended,
    /// The operating system refused to go on: nobody reads the pipe (`BrokenPipe`), the disk is full (`StorageFull`).
    Failed(Arc<io::Error>),
}

impl Side {
    /// The error that ended the direction, if it was one.
    pub fn error(&self) -> Option<&io::Error> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// The state of a port.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PortStatus {
    /// The driver has set the port up.
    pub ready: bool,
    /// Somebody in the guest has the port open.
    pub guest_open: bool,
    /// The bytes for the guest.
    pub input: Side,
    /// The bytes from the guest.
    pub output: Side,
    /// Bytes from the guest that were thrown away although an output was given: because it failed, or because a
    /// console's reader had stalled.
    pub lost: u64,
}

/// Something happened to a port.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PortEvent {
    /// Somebody in the guest has opened the port.
    GuestOpened,
    /// Nobody in the guest has the port open any more.
    GuestClosed,
    /// The input has ended; the error is there if it was not a plain end.
    InputEnded(Option<Arc<io::Error>>),
    /// Writing the output failed: what the guest sends from now on is thrown away.
    OutputFailed(Arc<io::Error>),
    /// A console's reader has stalled: what finds no room is thrown away until it goes on.
    OutputStalled,
}
