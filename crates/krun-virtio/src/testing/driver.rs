//! The driver.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::heap::Heap;
use super::{MockDriverBuilder, Ring};
use crate::device::VirtioDevice;
use crate::executor::Inline;
use crate::memory::Ram;
use crate::mmio::{MmioTransport, registers as reg};
use crate::sys;

/// A guest's driver for one device. See the [module](super).
#[derive(Debug)]
pub struct MockDriver {
    transport: Arc<MmioTransport>,
    pub(super) memory: Arc<GuestMemoryMmap>,
    ram: Ram,
    pub(super) inline: Option<Inline>,
    pub(super) heap: Heap,
    queue_size: u16,
    wanted: u64,
    features: u64,
    rings: Vec<Ring>,
    interrupts: u64,
    /// Wakes [`MockDriver::wait`].
    pub(super) epoll: Epoll,
}

impl MockDriver {
    /// `device`, up and running, without threads.
    ///
    /// # Panics
    /// As [`MockDriverBuilder::start`].
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::builder(device).start()
    }

    /// `device`, up and running, on threads.
    ///
    /// # Panics
    /// As [`MockDriverBuilder::start`].
    pub fn threaded(device: impl VirtioDevice + 'static) -> Self {
        Self::builder(device).threads().start()
    }

    /// Settings for `device`.
    pub fn builder(device: impl VirtioDevice + 'static) -> MockDriverBuilder {
        MockDriverBuilder::new(Box::new(device))
    }

    pub(super) fn assemble(
        transport: MmioTransport,
        memory: Arc<GuestMemoryMmap>,
        ram: Ram,
        inline: Option<Inline>,
        heap: (u64, u64),
        queue_size: u16,
        wanted: u64,
    ) -> Self {
        let mut heap = Heap::new(heap.0, heap.1);
        let sizes: Vec<u16> = transport.with_hosted(|hosted| hosted.device().queue_sizes().to_vec());
        let rings = sizes.iter().map(|size| Ring::new(queue_size.min(*size), &mut heap)).collect();
        let epoll = Epoll::new().unwrap();
        let line = sys::borrow(transport.line().event());
        let raw = std::os::fd::AsRawFd::as_raw_fd(&line);
        epoll.ctl(ControlOperation::Add, raw, EpollEvent::new(EventSet::IN, 0)).unwrap();
        Self {
            transport: Arc::new(transport),
            memory,
            ram,
            inline,
            heap,
            queue_size,
            wanted,
            features: 0,
            rings,
            interrupts: 0,
            epoll,
        }
    }

    // What it is made of.

    /// The transport, to be called as vCPUs call it.
    pub fn transport(&self) -> &Arc<MmioTransport> {
        &self.transport
    }

    /// Guest memory.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Guest memory as the device sees it.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// A ring's addresses and state.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn ring(&self, queue: u16) -> &Ring {
        self.rings.get(usize::from(queue)).unwrap_or_else(|| panic!("the device has no queue {queue}"))
    }

    pub(super) fn ring_mut(&mut self, queue: u16) -> (&mut Ring, &GuestMemoryMmap, &mut Heap) {
        let ring = self.rings.get_mut(usize::from(queue));
        (ring.unwrap_or_else(|| panic!("the device has no queue {queue}")), &self.memory, &mut self.heap)
    }

    // Registers.

    /// Reads a register of [`crate::mmio::registers`].
    pub fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register of [`crate::mmio::registers`].
    pub fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// Reads `N` bytes of the config space by one access.
    pub fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport.read(reg::CONFIG + offset, &mut data);
        data
    }

    /// Writes to the config space by one access.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.transport.write(reg::CONFIG + offset, data);
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.read(reg::STATUS)
    }

    /// Whether the device says that it needs a reset.
    pub fn needs_reset(&self) -> bool {
        self.status() & reg::NEEDS_RESET != 0
    }

    /// The features negotiated.
    pub fn features(&self) -> u64 {
        self.features
    }

    // The device's life.

    /// Resets the device and forgets everything that was posted.
    pub fn reset(&mut self) {
        self.write(reg::STATUS, 0);
        self.rings.iter_mut().for_each(|ring| ring.reset(&self.memory, &mut self.heap));
    }

    /// Resets the device and agrees on features with it, up to FEATURES_OK.
    ///
    /// # Panics
    /// If the device does not set FEATURES_OK.
    pub fn negotiate(&mut self) -> u64 {
        self.reset();
        self.write(reg::STATUS, reg::ACKNOWLEDGE);
        self.write(reg::STATUS, reg::ACKNOWLEDGE | reg::DRIVER);
        let half = |select| {
            self.write(reg::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(reg::DEVICE_FEATURES))
        };
        let features = (half(0) | half(1) << 32) & self.wanted;
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(reg::DRIVER_FEATURES_SEL, select);
            self.write(reg::DRIVER_FEATURES, u32::try_from(half).unwrap());
        }
        let ok = reg::ACKNOWLEDGE | reg::DRIVER | reg::FEATURES_OK;
        self.write(reg::STATUS, ok);
        assert_eq!(self.status(), ok, "the device refused features {features:#x}");
        self.features = features;
        features
    }

    /// Writes a queue's registers and makes it ready. Its ring is empty then.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn set_up(&mut self, queue: u16) {
        let event_idx = self.features & reg::F_EVENT_IDX != 0;
        let (ring, memory, heap) = self.ring_mut(queue);
        ring.reset(memory, heap);
        ring.event_idx = event_idx;
        let (size, descriptors, available, used) = (ring.size, ring.descriptors, ring.available, ring.used);
        self.write(reg::QUEUE_SEL, u32::from(queue));
        self.write(reg::QUEUE_SIZE, u32::from(size));
        for (low, high, address) in [
            (reg::QUEUE_DESC_LOW, reg::QUEUE_DESC_HIGH, descriptors),
            (reg::QUEUE_DRIVER_LOW, reg::QUEUE_DRIVER_HIGH, available),
            (reg::QUEUE_DEVICE_LOW, reg::QUEUE_DEVICE_HIGH, used),
        ] {
            self.write(low, (address & 0xffff_ffff) as u32);
            self.write(high, (address >> 32) as u32);
        }
        self.write(reg::QUEUE_READY, 1);
    }

    /// Sets DRIVER_OK.
    pub fn go(&self) {
        self.write(reg::STATUS, reg::ACKNOWLEDGE | reg::DRIVER | reg::FEATURES_OK | reg::DRIVER_OK);
    }

    /// The whole way up, with all queues: [`negotiate`](Self::negotiate), [`set_up`](Self::set_up), [`go`](Self::go).
    /// May be repeated; answers the features negotiated.
    ///
    /// # Panics
    /// As [`MockDriver::negotiate`].
    pub fn initialise(&mut self) -> u64 {
        let features = self.negotiate();
        (0u16..).take(self.rings.len()).for_each(|queue| self.set_up(queue));
        self.go();
        features
    }

    // Interrupts.

    /// How often the line was raised so far.
    pub fn interrupts(&mut self) -> u64 {
        self.interrupts += self.transport.line().event().read().unwrap_or(0);
        self.interrupts
    }

    /// Reads InterruptStatus and acknowledges what it says, as a handler does.
    pub fn acknowledge(&self) -> u32 {
        let status = self.read(reg::INTERRUPT_STATUS);
        self.write(reg::INTERRUPT_ACK, status);
        status
    }

    /// Asks for no interrupts of a queue (without EVENT_IDX).
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn set_no_interrupt(&self, queue: u16, on: bool) {
        self.ring(queue).set_no_interrupt(&self.memory, on);
    }

    /// Asks for an interrupt when the used index passes `index` (with EVENT_IDX).
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn set_used_event(&self, queue: u16, index: u16) {
        self.ring(queue).set_used_event(&self.memory, index);
    }

    /// The largest ring that it sets up.
    pub fn queue_size(&self) -> u16 {
        self.queue_size
    }
}
