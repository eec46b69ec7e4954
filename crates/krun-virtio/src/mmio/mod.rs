//! virtio-mmio, version 2 (virtio 1.2 section 4.2), over [`Hosted`](crate::Hosted).

mod interrupt;
mod queues;
mod register_file;
pub mod registers;
mod state;
mod status;
mod transport;

pub use interrupt::InterruptLine;
pub use state::MmioState;
pub use transport::MmioTransport;
