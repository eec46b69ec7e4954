#![doc = include_str!("../README.md")]
//! ## Where to look
//!
//! - [`Start`] says what to run, [`Host`] speaks with the guest about it, [`Event`] is what comes of it.
//! - [`protocol`] has every byte of the wire.
//! - [`INIT`] is the program itself; its sources are in `guest/`, one subject a file, beginning with `main.rs`.
#![warn(clippy::indexing_slicing)]

pub mod protocol;

mod error;
mod host;
mod start;

pub use error::{Error, GuestFault};
pub use host::{Event, Failure, Host};
pub use start::{Mount, Start, Stdio};

/// PID 1: a static ELF program for the architecture this crate was built for, a few tens of kilobytes.
///
/// Give it to the guest as an executable file and name it by `init=` on the kernel command line. It ends the machine by
/// a restart, so the command line wants `reboot=k panic=-1` (or whatever else makes a restart reach the monitor).
pub const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));
