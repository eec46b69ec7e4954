//! Virtio device model for Rust VMMs.
#![warn(clippy::indexing_slicing)]

mod bytes;
mod device;
mod error;
mod executor;
mod fault_log;
mod hosted;
mod interrupt;
mod memory;
pub mod mmio;
mod queue;
mod sys;
#[cfg(feature = "testing")]
pub mod testing;

pub use bytes::{Call, IOV_MAX, Iov, Reader, Received, Short, Sink, Source, VecSink, Writer};
pub use device::{
    Context, Queues, Ready, Session, SharedMemory, SharedWindow, Task, VirtioDevice, Watch, Worker, read_config_bytes,
};
pub use error::{Error, GuestFault};
pub use executor::{Executor, Inline, NotStarted, Running, ThreadPerWorker};
pub use fault_log::FaultLog;
pub use hosted::Hosted;
pub use interrupt::Interrupt;
pub use memory::{BadAddress, Ram, Regions};
pub use mmio::{InterruptLine, MmioState, MmioTransport};
pub use queue::{Chain, End, RingFault, Step, VirtQueue, gather, scatter};

pub use virtio_queue::QueueState;
pub use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
pub use {virtio_bindings, virtio_queue, vm_memory};
