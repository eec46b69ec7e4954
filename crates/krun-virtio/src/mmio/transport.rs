//! The register file: decoding only. The life of the device is [`Hosted`]'s.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use virtio_queue::QueueState;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::interrupt::{InterruptLine, MmioInterrupt};
use super::queues::QueueRegisters;
use super::registers as reg;
use super::state::MmioState;
use super::status::{Status, StatusError, Step};
use crate::device::{Session, SharedMemory, VirtioDevice};
use crate::error::{Error, GuestFault};
use crate::executor::Executor;
use crate::hosted::Hosted;
use crate::interrupt::Interrupt;
use crate::memory::Ram;
use crate::queue::VirtQueue;

/// A virtio-mmio device: version 2 of the interface, complete to virtio 1.2 section 4.2.
///
/// [`read`](Self::read) and [`write`](Self::write) take what vCPUs do in its window; both may be called from any
/// thread. What the specification does not allow has no effect, reads as zero, and is counted
/// ([`faults`](Self::faults)).
///
/// For KVM, [`kicks`](Self::kicks) are the ioeventfds of [`registers::QUEUE_NOTIFY`](reg::QUEUE_NOTIFY) and
/// [`line`](Self::line) is the irqfd. Without them all works the same: a notification is a register write like any
/// other, and the line's descriptor can be waited for.
pub struct MmioTransport {
    registers: Mutex<Registers>,
    interrupt: Arc<MmioInterrupt>,
    /// One for each queue, for as long as the device lives: notifications need no lock.
    kicks: Vec<EventFd>,
    name: String,
}

struct Registers {
    hosted: Hosted,
    ram: Ram,
    shared: Option<SharedMemory>,
    status: Status,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    shm_sel: u32,
    queues: Vec<QueueRegisters>,
}

fn event(device: &str, what: &'static str) -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| Error::Event { device: device.to_owned(), what, source })
}

impl MmioTransport {
    /// `device`, its workers run by `executor`, with an interrupt line of its own.
    ///
    /// # Errors
    /// If the device is made wrongly, or no event descriptors can be made.
    pub fn new(device: Box<dyn VirtioDevice>, executor: Arc<dyn Executor>, ram: Ram) -> Result<Self, Error> {
        let hosted = Hosted::new(device, executor)?;
        let name = hosted.name().to_owned();
        let sizes = hosted.device().queue_sizes();
        let queues = sizes.iter().map(|size| QueueRegisters::new(*size)).collect();
        let kicks = sizes.iter().map(|_| event(&name, "queue kicks")).collect::<Result<_, _>>()?;
        let line = InterruptLine::new().map_err(|source| Error::Event {
            device: name.clone(),
            what: "interrupt line",
            source,
        })?;
        let registers = Mutex::new(Registers {
            hosted,
            ram,
            shared: None,
            status: Status::default(),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            shm_sel: 0,
            queues,
        });
        Ok(Self { registers, interrupt: Arc::new(MmioInterrupt::new(&name, line)), kicks, name })
    }

    /// The same on another interrupt line, which others may share. To be called before the guest runs.
    pub fn with_line(mut self, line: Arc<InterruptLine>) -> Self {
        match Arc::get_mut(&mut self.interrupt) {
            Some(interrupt) => interrupt.set_line(line),
            // Somebody has a session already: it keeps its line, a new interrupt takes the new one.
            None => self.interrupt = Arc::new(MmioInterrupt::new(&self.name, line)),
        }
        self
    }

    /// The same with its shared memory placed: what [`VirtioDevice::shared_memory`] asked for.
    pub fn with_shared_memory(self, shared: SharedMemory) -> Self {
        self.lock().shared = Some(shared);
        self
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What the device is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its interrupt line.
    pub fn line(&self) -> &Arc<InterruptLine> {
        self.interrupt.line()
    }

    /// The kick of each queue, in order: for `KVM_IOEVENTFD` at [`reg::QUEUE_NOTIFY`] in the device's window, four
    /// bytes wide, with the queue's number as data to match.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The way to the driver, for whoever changes the config space from outside.
    pub fn interrupt(&self) -> Arc<dyn Interrupt> {
        self.interrupt.clone()
    }

    /// How many faults of the guest there were.
    pub fn faults(&self) -> u64 {
        self.interrupt.faults().total()
    }

    /// Access to the device's host, under the transport's lock.
    pub fn with_hosted<R>(&self, f: impl FnOnce(&mut Hosted) -> R) -> R {
        f(&mut self.lock().hosted)
    }

    /// Stops the workers, every chain given back. Kicks are kept for later.
    pub fn pause(&self) {
        self.lock().hosted.pause();
    }

    /// Goes on after [`MmioTransport::pause`].
    ///
    /// # Errors
    /// If a worker cannot be started.
    pub fn resume(&self) -> Result<(), Error> {
        self.lock().hosted.resume()
    }

    /// Resets the device, as a driver does by writing 0 to its status.
    pub fn reset(&self) {
        self.lock().reset(&self.interrupt);
    }

    fn fault(&self, offset: u64, what: &'static str) {
        self.interrupt.report(&GuestFault::Register { offset, what });
    }

    /// A vCPU reads `data.len()` bytes at `offset` of the device's window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            return self.lock().hosted.device().read_config(offset, data);
        }
        // Section 4.2.2.2: the driver uses aligned 32-bit accesses for all that is not config space.
        let Ok(word) = <&mut [u8; 4]>::try_from(data) else {
            return self.fault(offset, "read of a width other than 4");
        };
        *word = self.read_register(offset).to_le_bytes();
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            // The one that every interrupt handler reads needs no lock.
            reg::INTERRUPT_STATUS => self.interrupt.status(),
            reg::CONFIG_GENERATION => self.interrupt.generation(),
            _ => self.lock().read(offset, &self.interrupt),
        }
    }

    /// A vCPU writes `data` at `offset` of the device's window.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(config) = offset.checked_sub(reg::CONFIG) {
            let mut registers = self.lock();
            return match registers.status.has(reg::DRIVER) {
                true => registers.hosted.device_mut().write_config(config, data),
                false => self.fault(offset, "config space written before DRIVER"),
            };
        }
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return self.fault(offset, "write of a width other than 4");
        };
        match offset {
            reg::QUEUE_NOTIFY => self.notify(value),
            reg::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::STATUS if value == 0 => self.reset(),
            _ => {
                let result = self.lock().write(offset, value, &self.interrupt, &self.kicks);
                if let Err(what) = result {
                    self.fault(offset, what);
                }
            }
        }
    }

    /// Without NOTIFICATION_DATA the value is the queue's number.
    fn notify(&self, queue: u32) {
        match usize::try_from(queue).ok().and_then(|queue| self.kicks.get(queue)) {
            // It fails only when the counter is full, and then the queue is kicked.
            Some(kick) => drop(kick.write(1)),
            None => self.fault(reg::QUEUE_NOTIFY, "notification of a queue that does not exist"),
        }
    }

    /// Takes the state of a paused device.
    ///
    /// # Errors
    /// If it is not paused, or holds something that cannot be saved.
    pub fn save(&self) -> Result<MmioState, Error> {
        let mut registers = self.lock();
        let workers = registers.hosted.save()?;
        let Registers { hosted, queues, .. } = &mut *registers;
        let queues = (0u16..).zip(queues.iter()).map(|(index, queue)| {
            // The indices are with the queue, if it is attached.
            hosted.queue_state(index).unwrap_or(queue.state)
        });
        Ok(MmioState {
            queues: queues.collect(),
            workers,
            status: registers.status.bits(),
            needs_reset: self.interrupt.broken(),
            interrupt_status: self.interrupt.status(),
            config_generation: self.interrupt.generation(),
            device_features_sel: registers.device_features_sel,
            driver_features_sel: registers.driver_features_sel,
            driver_features: registers.driver_features,
            queue_sel: registers.queue_sel,
            shm_sel: registers.shm_sel,
        })
    }

    /// Takes on the state of a device like this one. This one is reset first, and paused afterwards.
    ///
    /// # Errors
    /// If the state is not one of such a device; this one is then reset.
    pub fn restore(&self, state: &MmioState) -> Result<(), Error> {
        let mut registers = self.lock();
        registers.reset(&self.interrupt);
        registers.hosted.pause();
        let restored = registers.restore(state, &self.interrupt, &self.kicks);
        if restored.is_err() {
            registers.reset(&self.interrupt);
        }
        restored
    }
}

impl Registers {
    fn features(&self) -> u64 {
        self.hosted.device().features() | reg::TRANSPORT_FEATURES
    }

    fn queue(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    fn shared(&self) -> Option<(u64, u64)> {
        let (id, _) = self.hosted.device().shared_memory()?;
        let shared = self.shared.as_ref().filter(|_| u32::from(id) == self.shm_sel)?;
        Some((shared.base, shared.window.len()))
    }

    fn read(&mut self, offset: u64, interrupt: &MmioInterrupt) -> u32 {
        match offset {
            reg::MAGIC_VALUE => reg::MAGIC,
            reg::VERSION_ID => reg::VERSION,
            reg::DEVICE_ID => self.hosted.device().device_type(),
            reg::VENDOR_ID => reg::VENDOR,
            reg::DEVICE_FEATURES => match self.device_features_sel {
                0 => low(self.features()),
                1 => high(self.features()),
                _ => 0,
            },
            reg::QUEUE_SIZE_MAX => self.queue().map_or(0, |queue| u32::from(queue.state.max_size)),
            reg::QUEUE_READY => self.queue().map_or(0, |queue| u32::from(queue.state.ready)),
            reg::STATUS if self.status.bits() != 0 && interrupt.broken() => self.status.bits() | reg::NEEDS_RESET,
            reg::STATUS => self.status.bits(),
            // Section 4.2.2: all ones for a region that does not exist.
            reg::SHM_LEN_LOW => low(self.shared().map_or(u64::MAX, |(_, len)| len)),
            reg::SHM_LEN_HIGH => high(self.shared().map_or(u64::MAX, |(_, len)| len)),
            reg::SHM_BASE_LOW => low(self.shared().map_or(u64::MAX, |(base, _)| base)),
            reg::SHM_BASE_HIGH => high(self.shared().map_or(u64::MAX, |(base, _)| base)),
            // QueueReset reads 0: a reset is over when its write is.
            _ => 0,
        }
    }

    fn write(
        &mut self,
        offset: u64,
        value: u32,
        interrupt: &Arc<MmioInterrupt>,
        kicks: &[EventFd],
    ) -> Result<(), &'static str> {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::SHM_SEL => self.shm_sel = value,
            reg::DRIVER_FEATURES => self.write_features(value)?,
            reg::STATUS => self.write_status(value, interrupt, kicks)?,
            reg::QUEUE_READY if value & 1 == 1 => self.start_queue(interrupt, kicks)?,
            reg::QUEUE_READY => self.stop_queue()?,
            reg::QUEUE_RESET if value & 1 == 1 => {
                if self.driver_features & reg::F_RING_RESET == 0 || !self.status.has(reg::DRIVER_OK) {
                    return Err("queue reset without RING_RESET or before DRIVER_OK");
                }
                self.stop_queue()?;
            }
            reg::QUEUE_SIZE
            | reg::QUEUE_DESC_LOW
            | reg::QUEUE_DESC_HIGH
            | reg::QUEUE_DRIVER_LOW
            | reg::QUEUE_DRIVER_HIGH
            | reg::QUEUE_DEVICE_LOW
            | reg::QUEUE_DEVICE_HIGH => self.unlocked_queue()?.write(offset, value),
            _ => return Err("write to a register that cannot be written"),
        }
        Ok(())
    }

    fn write_features(&mut self, value: u32) -> Result<(), &'static str> {
        if !self.status.has(reg::DRIVER) || self.status.has(reg::FEATURES_OK) {
            return Err("features written before DRIVER or after FEATURES_OK");
        }
        let shift = match self.driver_features_sel {
            0 => 0,
            1 => 32,
            // No feature is up there; saying so is no mistake.
            _ if value == 0 => return Ok(()),
            _ => return Err("features that do not exist"),
        };
        self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(value) << shift;
        Ok(())
    }

    /// Whether the driver's features are ones that this device can be driven with.
    fn features_fit(&self) -> bool {
        self.driver_features & !self.features() == 0 && self.driver_features & reg::F_VERSION_1 != 0
    }

    fn write_status(
        &mut self,
        value: u32,
        interrupt: &Arc<MmioInterrupt>,
        kicks: &[EventFd],
    ) -> Result<(), &'static str> {
        let mut status = self.status;
        let mut activate = false;
        let mut refused = false;
        let written = status.write(value, |step| match step {
            Step::FeaturesOk => {
                refused = !self.features_fit();
                !refused
            }
            Step::DriverOk => {
                activate = true;
                true
            }
            _ => true,
        });
        self.status = status;
        if activate {
            self.activate(interrupt, kicks);
        }
        match written {
            Ok(()) if refused => Err("features that were not offered, or without VERSION_1"),
            Ok(()) => Ok(()),
            Err(error) => {
                if error == StatusError::Order(Step::DriverOk) {
                    // Such a driver would wait for ever.
                    interrupt.needs_reset();
                }
                Err(error.describe())
            }
        }
    }

    /// The selected queue, if its registers may be written: section 4.2.2.2. After DRIVER_OK that takes RING_RESET.
    fn unlocked_queue(&mut self) -> Result<&mut QueueRegisters, &'static str> {
        if !self.status.has(reg::FEATURES_OK) {
            return Err("queue set up before FEATURES_OK");
        }
        if self.status.has(reg::DRIVER_OK) && self.driver_features & reg::F_RING_RESET == 0 {
            return Err("queue set up after DRIVER_OK without RING_RESET");
        }
        match self.queue() {
            Some(queue) if queue.state.ready => Err("queue set up while it is ready"),
            Some(queue) => Ok(queue),
            None => Err("set-up of a queue that does not exist"),
        }
    }

    /// QueueReady becomes 1.
    fn start_queue(&mut self, interrupt: &Arc<MmioInterrupt>, kicks: &[EventFd]) -> Result<(), &'static str> {
        if self.queue().is_some_and(|queue| queue.state.ready) {
            return Ok(());
        }
        self.unlocked_queue()?.state.ready = true;
        if self.status.has(reg::DRIVER_OK) {
            let selected = u16::try_from(self.queue_sel).unwrap_or(u16::MAX);
            self.attach(interrupt, kicks, |index| index == selected);
        }
        Ok(())
    }

    /// QueueReady becomes 0, or the queue is reset. When this returns, the device does not touch it any more.
    fn stop_queue(&mut self) -> Result<(), &'static str> {
        let selected = u16::try_from(self.queue_sel).map_err(|_| "a queue that does not exist")?;
        let queue = self.queue().ok_or("a queue that does not exist")?;
        if !queue.state.ready {
            return Ok(());
        }
        queue.reset();
        if self.status.has(reg::DRIVER_OK)
            && let Err(error) = self.hosted.detach(selected)
        {
            tracing::error!(device = self.hosted.name(), queue = selected, "stopping a queue: {error}");
        }
        Ok(())
    }

    /// DRIVER_OK.
    fn activate(&mut self, interrupt: &Arc<MmioInterrupt>, kicks: &[EventFd]) {
        interrupt.set_live();
        self.attach(interrupt, kicks, |_| true);
    }

    fn session(&self, interrupt: &Arc<MmioInterrupt>) -> Session {
        Session {
            features: self.driver_features,
            ram: self.ram.clone(),
            interrupt: interrupt.clone(),
            shared: self.shared.as_ref().map(|shared| shared.window.clone()),
        }
    }

    /// Attaches those ready queues that are `wanted`.
    fn attach(&mut self, interrupt: &Arc<MmioInterrupt>, kicks: &[EventFd], wanted: impl Fn(u16) -> bool) {
        let mut queues = Vec::new();
        for ((index, registers), kick) in (0u16..).zip(&self.queues).zip(kicks) {
            if !registers.state.ready || !wanted(index) {
                continue;
            }
            let event_idx_enabled = self.driver_features & reg::F_EVENT_IDX != 0;
            let state = QueueState { event_idx_enabled, ..registers.state };
            match self.queue_from(index, state, kick, interrupt) {
                Ok(queue) => queues.push(queue),
                Err(Error::Queue { source: fault, .. }) => {
                    interrupt.report(&GuestFault::Ring { queue: index, fault });
                    interrupt.needs_reset();
                }
                Err(error) => {
                    tracing::error!(device = self.hosted.name(), queue = index, "{error}");
                    interrupt.needs_reset();
                }
            }
        }
        let session = self.session(interrupt);
        if let Err(error) = self.hosted.attach(&session, queues) {
            tracing::error!(device = self.hosted.name(), error = &error as &dyn std::error::Error, "{error}");
            interrupt.needs_reset();
        }
    }

    fn queue_from(
        &self,
        index: u16,
        state: QueueState,
        kick: &EventFd,
        interrupt: &Arc<MmioInterrupt>,
    ) -> Result<VirtQueue, Error> {
        let device = self.hosted.name().to_owned();
        let kick =
            kick.try_clone().map_err(|source| Error::Event { device: device.clone(), what: "queue kicks", source })?;
        VirtQueue::new(index, state, self.ram.clone(), kick, interrupt.clone()).map_err(|source| Error::Queue {
            device,
            queue: index,
            source,
        })
    }

    fn reset(&mut self, interrupt: &MmioInterrupt) {
        self.hosted.reset();
        interrupt.reset();
        self.status = Status::default();
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.shm_sel = 0;
        self.queues.iter_mut().for_each(QueueRegisters::reset);
    }

    fn restore(&mut self, state: &MmioState, interrupt: &Arc<MmioInterrupt>, kicks: &[EventFd]) -> Result<(), Error> {
        let device = self.hosted.name().to_owned();
        let (got, expected) = (state.queues.len(), self.queues.len());
        if got != expected {
            return Err(Error::StateShape { device, what: "queues", got, expected });
        }
        let Some(status) = Status::from_bits(state.status) else {
            return Err(Error::StateShape { device, what: "status bits", got: state.status as usize, expected: 0xf });
        };
        self.status = status;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.driver_features = state.driver_features;
        self.queue_sel = state.queue_sel;
        self.shm_sel = state.shm_sel;
        let mut attached = Vec::new();
        for ((index, registers), (saved, kick)) in (0u16..).zip(&self.queues).zip(state.queues.iter().zip(kicks)) {
            let max_size = registers.state.max_size;
            if status.has(reg::DRIVER_OK) && saved.ready {
                let saved = QueueState { max_size, ..*saved };
                attached.push(self.queue_from(index, saved, kick, interrupt)?);
            }
        }
        for (registers, saved) in self.queues.iter_mut().zip(&state.queues) {
            let max_size = registers.state.max_size;
            // The indices live in the attached queue; here they are those to begin with.
            registers.state = QueueState { max_size, next_avail: 0, next_used: 0, ..*saved };
        }
        self.hosted.restore(&state.workers)?;
        let live = status.has(reg::DRIVER_OK);
        if live {
            let session = self.session(interrupt);
            self.hosted.attach(&session, attached)?;
        }
        interrupt.restore(state.interrupt_status, state.config_generation, state.needs_reset, live);
        Ok(())
    }
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport").field("name", &self.name).finish_non_exhaustive()
    }
}
