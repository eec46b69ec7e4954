//! One split ring (virtio 1.2 section 2.7), seen from the device.

mod chain;
mod fault;
mod raw;
mod scatter;
mod virtqueue;
mod walk;

pub use chain::Chain;
pub use fault::RingFault;
pub use scatter::{gather, scatter};
pub use virtqueue::{End, Step, VirtQueue};
