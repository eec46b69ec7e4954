//! What a device is: a face for the registers, workers for the data.

mod queues;
mod ready;
mod task;
mod worker;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use queues::Queues;
pub use ready::Ready;
pub use task::Task;
pub use worker::{Context, Session, Watch, Worker};

/// A shared-memory region that the guest sees (virtio 1.2 section 2.10), from the host's side: what a DAX file system
/// maps files into.
pub trait SharedWindow: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Maps `len` bytes of `fd` at `fd_offset` to `offset` in the window, over what was there.
    ///
    /// # Errors
    /// `InvalidInput` if the range is not within the window or not page-aligned; else the system's.
    fn map(&self, offset: u64, fd: BorrowedFd<'_>, fd_offset: u64, len: u64, writable: bool) -> io::Result<()>;

    /// Makes a range inaccessible, or zero, again.
    ///
    /// # Errors
    /// As [`SharedWindow::map`].
    fn unmap(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// A shared-memory region as its transport places it.
#[derive(Clone)]
pub struct SharedMemory {
    /// Guest address of its first byte.
    pub base: u64,
    /// Its host side.
    pub window: Arc<dyn SharedWindow>,
}

impl std::fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedMemory").field("base", &self.base).field("len", &self.window.len()).finish()
    }
}

/// The face of a device: what its registers show. It is under the transport's mutex and never on the data path.
///
/// State that a worker changes and the config space shows is shared between the two (an `Arc` of atomics or of a
/// mutex); the worker calls [`Interrupt::config`](crate::Interrupt::config) after it changed it.
pub trait VirtioDevice: Send {
    /// Its number in virtio 1.2 chapter 5.
    fn device_type(&self) -> u32;

    /// What it is called in logs and thread names; of these, Linux keeps 15 bytes.
    fn name(&self) -> String {
        format!("virtio-{}", self.device_type())
    }

    /// The features of its own (bits 0 to 23 and 50 to 63). The transport adds those of rings and transport.
    fn features(&self) -> u64;

    /// Largest size of each of its queues: powers of two, up to 32768.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the config space. Bytes beyond its end are left as they are (the transport passes zeros).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the config space. What cannot be written is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Id and length in bytes of the shared-memory region that it wants.
    fn shared_memory(&self) -> Option<(u8, u64)> {
        None
    }

    /// The descriptors that it holds before [`tasks`](Self::tasks) is called and needs for its work: those that a jail
    /// must leave open if it is entered between making the device and running it.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// The workers and the queues that each of them serves: every queue by exactly one. Called once.
    fn tasks(&mut self) -> Vec<Task>;
}

/// Reads a config space that is a plain array of bytes, for [`VirtioDevice::read_config`].
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let config = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    data.iter_mut().zip(config).for_each(|(to, from)| *to = *from);
}
