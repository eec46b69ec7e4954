//! What can go wrong on the host's side.

use crate::protocol::Malformed;

/// A request that the host cannot make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no program to run.
    #[error("no program to run: the list of arguments is empty; its first entry names the program")]
    NoProgram,
    /// A string contains a NUL byte, which Linux cannot pass on.
    #[error("{what} contains a NUL byte ({value}); remove it")]
    Nul {
        /// Which setting.
        what: &'static str,
        /// The string, escaped.
        value: String,
    },
    /// The name of an environment variable is empty or contains `=`.
    #[error("{0:?} cannot be the name of an environment variable: it must not be empty nor contain '='")]
    VariableName(String),
    /// A port name is too long.
    #[error("the port name {0:?} is longer than {max} bytes", max = crate::protocol::MAX_PORT_NAME)]
    PortName(String),
    /// The program is to be PID 1, but not root.
    #[error("the guest's init cannot run as user {0}: only root may be PID 1; use user 0, or run it as a child")]
    InitUser(u32),
    /// Arguments, environment and everything else do not fit into one frame.
    #[error("arguments, environment and mounts take {length} bytes, at most {limit} can be passed to the guest")]
    TooLong {
        /// Bytes they take.
        length: usize,
        /// Bytes that fit.
        limit: u32,
    },
    /// Linux has no such signal.
    #[error("{0} is not a signal: they are numbered 1 to 64")]
    NoSuchSignal(u8),
    /// The workload does not run: it was not started yet, or has ended. Or it is PID 1, and cannot be reached.
    #[error("the workload does not run, or is PID 1 itself and cannot be reached")]
    NotRunning,
    /// The guest does not take what was sent before.
    #[error("the guest has not taken {0} bytes of earlier requests")]
    Backlog(usize),
}

/// What a guest did wrong. It ends the conversation, not the host's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestFault {
    /// The bytes are not a frame.
    #[error("the guest's init does not speak the control protocol: {0}")]
    Malformed(#[from] Malformed),
    /// The frame is one, but not now.
    #[error("the guest's init sent {frame} while the host waited for {expected}")]
    OutOfOrder {
        /// What came.
        frame: &'static str,
        /// What may come.
        expected: &'static str,
    },
    /// Bytes after the last frame, or after the channel was closed.
    #[error("the guest went on sending on a control channel that had ended")]
    AfterEnd,
}
