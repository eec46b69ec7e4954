//! How a mock guest is made.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::MockDriver;
use crate::device::{SharedMemory, VirtioDevice};
use crate::executor::{Executor, Inline, ThreadPerWorker};
use crate::memory::Ram;
use crate::mmio::{InterruptLine, MmioTransport, registers as reg};

/// Settings of a [`MockDriver`]. Each has a default that suits most tests.
pub struct MockDriverBuilder {
    device: Box<dyn VirtioDevice>,
    inline: Option<Inline>,
    executor: Arc<dyn Executor>,
    memory: Vec<(u64, usize)>,
    queue_size: u16,
    features: u64,
    shared: Option<SharedMemory>,
    line: Option<Arc<InterruptLine>>,
}

impl MockDriverBuilder {
    pub(super) fn new(device: Box<dyn VirtioDevice>) -> Self {
        let inline = Inline::new();
        Self {
            device,
            executor: Arc::new(inline.clone()),
            inline: Some(inline),
            memory: vec![(0, 64 << 20)],
            queue_size: 256,
            features: u64::MAX,
            shared: None,
            line: None,
        }
    }

    /// Runs the device on threads, as a VMM does.
    pub fn threads(self) -> Self {
        self.executor(Arc::new(ThreadPerWorker::new()))
    }

    /// Runs the device on an executor of your own.
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self.inline = None;
        self
    }

    /// Guest memory: address and length of each region. The first holds the rings and all buffers. Default: 64 MiB
    /// at 0 (untouched pages cost nothing).
    pub fn memory(mut self, regions: &[(u64, usize)]) -> Self {
        self.memory = regions.to_vec();
        self
    }

    /// Largest ring that the driver sets up (a device may have smaller ones). Default: 256.
    pub fn queue_size(mut self, size: u16) -> Self {
        self.queue_size = size;
        self
    }

    /// The features that the driver accepts, if they are offered. Default: all.
    pub fn features(mut self, features: u64) -> Self {
        self.features = features | reg::F_VERSION_1;
        self
    }

    /// Has the driver leave these features out.
    pub fn without(mut self, features: u64) -> Self {
        self.features &= !features;
        self
    }

    /// Places the device's shared memory.
    pub fn shared_memory(mut self, shared: SharedMemory) -> Self {
        self.shared = Some(shared);
        self
    }

    /// Shares an interrupt line.
    pub fn line(mut self, line: Arc<InterruptLine>) -> Self {
        self.line = Some(line);
        self
    }

    /// The guest, its device untouched.
    ///
    /// # Panics
    /// If the device is made wrongly, or the system is out of something.
    pub fn build(self) -> MockDriver {
        let ranges: Vec<_> = self.memory.iter().map(|(base, len)| (GuestAddress(*base), *len)).collect();
        let memory = Arc::new(GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap());
        let ram = Ram::new(memory.clone());
        let mut transport = MmioTransport::new(self.device, self.executor, ram.clone()).unwrap();
        if let Some(line) = self.line {
            transport = transport.with_line(line);
        }
        if let Some(shared) = self.shared {
            transport = transport.with_shared_memory(shared);
        }
        let (base, len) = self.memory.first().copied().unwrap_or_default();
        let heap = (base.max(0x1000), base + len as u64);
        MockDriver::assemble(transport, memory, ram, self.inline, heap, self.queue_size, self.features)
    }

    /// The guest, its device up and running.
    ///
    /// # Panics
    /// As [`MockDriverBuilder::build`] and [`MockDriver::initialise`].
    pub fn start(self) -> MockDriver {
        let mut driver = self.build();
        driver.initialise();
        driver
    }
}

impl std::fmt::Debug for MockDriverBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MockDriverBuilder").field("device", &self.device.name()).finish_non_exhaustive()
    }
}
