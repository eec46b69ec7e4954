//! Virtio devices without a VMM around them.
//!
//! With this crate a device is its protocol and little else: it says what its registers show, and a worker moves
//! requests. Guest memory, split rings, notifications both ways, threads, reset, pause, snapshots and the virtio-mmio
//! registers are here, and the same device runs under a VMM, in a unit test, in a fuzzer and in a benchmark.
//!
//! # A device
//!
//! ```
//! use krun_virtio::testing::MockDriver;
//! use krun_virtio::{Context, Sink, Source, Step, Task, VirtioDevice, Worker};
//!
//! /// The data path: answers each request with its bytes in upper case.
//! struct Shout;
//!
//! impl Worker for Shout {
//!     fn queue_event(&mut self, index: u16, cx: &mut Context<'_>) {
//!         let Some(queue) = cx.queues.get(index) else { return };
//!         queue.drain(|mut chain| {
//!             let (mut from, mut to) = chain.split();
//!             let mut bytes = [0; 64];
//!             let len = from.remaining().min(to.remaining()).min(64);
//!             from.read(&mut bytes[..len]).expect("so many bytes remain");
//!             bytes.make_ascii_uppercase();
//!             to.write(&bytes[..len]).expect("so much room remains");
//!             Step::Done(chain)
//!         });
//!     }
//! }
//!
//! /// The face: what the registers show.
//! struct ShoutDevice;
//!
//! impl VirtioDevice for ShoutDevice {
//!     fn device_type(&self) -> u32 {
//!         42
//!     }
//!     fn features(&self) -> u64 {
//!         0
//!     }
//!     fn queue_sizes(&self) -> &[u16] {
//!         &[128]
//!     }
//!     fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
//!     fn tasks(&mut self) -> Vec<Task> {
//!         vec![Task::new(0..1, Shout)]
//!     }
//! }
//!
//! // A driver sets it up through the real registers, and posts a request on a real ring.
//! let mut driver = MockDriver::new(ShoutDevice);
//! assert_eq!(driver.request(0, b"hello", 64), b"HELLO");
//! ```
//!
//! In a VMM, [`MmioTransport`] takes the same device: vCPU threads call its `read` and `write`, its
//! [`kicks`](MmioTransport::kicks) become ioeventfds, its [`InterruptLine`] an irqfd.
//!
//! # What is where
//!
//! - **Bytes.** [`Source`] and [`Sink`] are the two halves of a request, over any split of it into descriptors.
//!   Protocol cores take them as trait objects and are fed byte slices in tests. They copy bytes, or lend the memory to
//!   one system call (`pread`, `pwrite`, `send`, `recv`...), with no copy in between.
//! - **Memory.** [`Ram`] is guest memory with its type erased; it may be replaced while devices run.
//! - **Rings.** [`VirtQueue`] gives out owned, `Send` [`Chain`]s, takes them back in any order, publishes in batches
//!   and honours every wish for silence. [`scatter`] and [`gather`] serve many chains by one system call.
//! - **Devices.** [`VirtioDevice`] is the face, [`Worker`] the data path, [`Task`] a worker and its queues.
//! - **Life.** [`Hosted`] attaches, detaches, pauses, resets, saves and restores, under any transport; an [`Executor`]
//!   decides about threads: [`ThreadPerWorker`], or [`Inline`] for none at all.
//! - **Transport.** [`MmioTransport`]: virtio-mmio version 2, complete to virtio 1.2 section 4.2.
//! - **Tests.** [`testing::MockDriver`] (feature `testing`).
//!
//! # The guest is not trusted
//!
//! Every ring index, descriptor and address is checked on one copy of it; no guest can make a device panic, spin,
//! allocate without bound or touch memory that is not the guest's. The first fault of a ring is latched: the device
//! says DEVICE_NEEDS_RESET, the ring is silent from then on, the log gets one line at a bounded rate
//! ([`GuestFault`], [`FaultLog`]). A worker that panics costs the guest this device until its reset, and the process
//! nothing.
//!
//! # What is not here
//!
//! Packed rings, PCI, the legacy interface, and any device: those are crates of their own.
#![warn(clippy::indexing_slicing)]
#![cfg_attr(docsrs, feature(doc_cfg))]

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

pub use bytes::{Call, IOV_MAX, Iov, IovMut, Reader, Received, Short, Sink, Source, VecSink, Writer};
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

// Types of these crates are in the API above: no second line in a manifest has to match.
pub use virtio_queue::QueueState;
pub use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
pub use {virtio_bindings, virtio_queue, vm_memory, vmm_sys_util};

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
