//! A virtio-console device.

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
