//! A virtio-console device with any number of ports.
//!
//! A console device (virtio 1.2, section 5.3) gives a guest byte streams: a terminal (`/dev/hvc0`), and generic ports
//! that programs find by name (`/dev/vport0p1`). This crate is the device's side. The host's ends of the streams are
//! descriptors of any kind, or objects of the program.
//!
//! ```
//! use krun_console::{Console, Port};
//! use krun_virtio::testing::{MockDriver, Request};
//! use std::io::Read;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The guest's terminal, and a port that it finds by name. `pipe` gives the caller the other end.
//! let (terminal, mut screen) = Port::console().size(80, 25).pipe()?;
//! let (agent, _host_end) = Port::named("org.example.agent").pipe()?;
//! let console = Console::new(vec![terminal, agent])?;
//! let handle = console.handle();
//!
//! // A VMM gives `console` to its transport. Here, a driver of a few lines stands in for the guest.
//! let mut guest = MockDriver::threaded(console);
//! guest.post(1, &Request::new().readable(b"login: "));
//! guest.kick(1);
//!
//! // Whatever the guest has sent before `flush` can be read after it.
//! handle.flush(None)?;
//! let mut words = [0; 7];
//! screen.read_exact(&mut words)?;
//! assert_eq!(&words, b"login: ");
//!
//! // The terminal's window was made larger.
//! handle.resize(0, 132, 43)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What can be relied on
//!
//! - **No byte is lost or out of order**, whatever the chains look like, whoever is slow, and however often the device
//!   is paused. A port whose reader is slow keeps that port's writers in the guest waiting, and nobody else. The one
//!   exception is a console, whose driver in Linux would take a virtual CPU out of service meanwhile: [`Port`] says
//!   what happens there, and how to choose.
//! - **Descriptors stay as they are.** `O_NONBLOCK` is never set on a description that others share ([`HostFd`]).
//!   `SIGPIPE` never ends the program, whether it ignores the signal or not.
//! - **Ends are told.** The end of an input is the end of file in the guest, after the last byte. Where an output fails
//!   (nobody reads the pipe, the disk is full), the guest's writers get an error, and the host finds it in
//!   [`PortStatus`].
//! - **Input is not read early.** As long as nobody in the guest has a port open, its input stays in the descriptor.
//! - **Nothing to do costs nothing.** Data that the guest has no room for, or the reader no time for, is not polled.
//! - **The whole handshake is one interrupt** ([`Handshake`]).
//!
//! # Inside
//!
//! [`protocol`] is the control protocol as a state machine, without rings or descriptors; [`control`] is its wire format.
//! `transmit.rs` and `receive.rs` move bytes between rings and endpoints, `worker.rs` ties the ports together on one
//! thread, `device.rs` is what the registers show, `handle.rs` what the host holds.
#![warn(clippy::indexing_slicing)]

mod backlog;
pub mod config;
pub mod control;
mod device;
mod endpoint;
mod error;
mod handle;
mod host_fd;
mod interest;
mod port;
mod port_io;
pub mod protocol;
mod receive;
mod stall;
mod state;
mod status;
mod sys;
mod tail;
mod transmit;
mod worker;

pub use control::ResizeOrder;
pub use device::Console;
pub use endpoint::{Input, Output};
pub use error::Error;
pub use handle::ConsoleHandle;
pub use host_fd::HostFd;
pub use port::Port;
pub use protocol::Handshake;
pub use status::{PortEvent, PortStatus, Side};
