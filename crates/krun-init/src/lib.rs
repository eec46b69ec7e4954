//! PID 1 of a microVM as an embedded static binary, and the control protocol between it and the host.

pub mod protocol;

mod error;
mod host;
mod start;

pub use error::{Error, GuestFault};
pub use host::{Event, Failure, Host};
pub use start::{Mount, Start, Stdio};

/// PID 1: a static ELF program for the architecture this crate was built for, a few tens of kilobytes.
///
/// Give it to the guest as an executable file and name it by `init=` on the kernel command line.
pub const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));
