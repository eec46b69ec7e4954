//! What can go wrong when a console is put together or spoken to.

use std::io;
use std::time::Duration;

/// Errors of this crate. What a guest does wrong is never one of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A console without a port.
    #[error("a console needs at least one port; add Port::console() as the first one")]
    NoPorts,

    /// More ports than a device can have queues for.
    #[error("a console has at most {max} ports, and {asked} were given; leave some out or add a second console device")]
    TooManyPorts {
        /// How many were given.
        asked: usize,
        /// How many there may be.
        max: usize,
    },

    /// A port name that a guest could not make a device file's attribute of.
    #[error("the port name {name:?} is not usable: {reason}; choose 1 to 255 bytes of text without control characters")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// Two ports of one name.
    #[error("two ports are named {name:?}; a guest finds ports by their names, so choose different ones")]
    DuplicateName {
        /// The name.
        name: String,
    },

    /// A descriptor was given for a direction that it was not opened for.
    #[error("descriptor {fd} cannot be {direction} of a port: it was not opened for that; open it for {needed}")]
    AccessMode {
        /// The number of the descriptor.
        fd: i32,
        /// `the input` or `the output`.
        direction: &'static str,
        /// `reading` or `writing`.
        needed: &'static str,
    },

    /// A descriptor could not be examined.
    #[error("looking at descriptor {fd} of a port failed; is it open?")]
    Descriptor {
        /// The number of the descriptor.
        fd: i32,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },

    /// A descriptor for the device's own use could not be made.
    #[error("creating {what} for the console failed; see the limit on open files (ulimit -n)")]
    Create {
        /// What was to be made.
        what: &'static str,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },

    /// A port number that the device does not have.
    #[error("the console has no port {port}; its ports are 0 to {last}")]
    NoSuchPort {
        /// The number asked for.
        port: usize,
        /// The highest number there is.
        last: usize,
    },

    /// Output was still waiting when the time was over.
    #[error("output of port {port} was not all taken within {waited:?}; whoever reads it may have stopped reading")]
    FlushTimeout {
        /// The first port that still has output.
        port: usize,
        /// How long was waited.
        waited: Duration,
    },

    /// The console device was dropped, or has failed and waits for its driver's reset.
    #[error("the console device is gone or has failed; its output can no longer be waited for")]
    Gone,
}
