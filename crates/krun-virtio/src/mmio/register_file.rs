//! The registers behind the transport's lock.

use std::sync::Arc;

use virtio_queue::QueueState;
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::MmioInterrupt;
use super::queues::QueueRegisters;
use super::registers as reg;
use super::state::MmioState;
use super::status::{Status, StatusError, Step};
use crate::device::{Session, SharedMemory};
use crate::error::{Error, GuestFault};
use crate::hosted::Hosted;
use crate::interrupt::Interrupt;
use crate::memory::Ram;
use crate::queue::VirtQueue;

/// What a driver sees and sets, and the device that it is done to. Writes that the specification does not allow
/// answer what is wrong with them, and have no effect.
pub(super) struct RegisterFile {
    pub(super) hosted: Hosted,
    pub(super) shared: Option<SharedMemory>,
    pub(super) status: Status,
    pub(super) interrupt: Arc<MmioInterrupt>,
    ram: Ram,
    kicks: Arc<[EventFd]>,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    shm_sel: u32,
    queues: Vec<QueueRegisters>,
}

impl RegisterFile {
    pub(super) fn new(hosted: Hosted, ram: Ram, interrupt: Arc<MmioInterrupt>, kicks: Arc<[EventFd]>) -> Self {
        let queues = hosted.device().queue_sizes().iter().map(|size| QueueRegisters::new(*size)).collect();
        Self {
            hosted,
            shared: None,
            status: Status::default(),
            interrupt,
            ram,
            kicks,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            shm_sel: 0,
            queues,
        }
    }

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

    pub(super) fn read(&mut self, offset: u64) -> u32 {
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
            reg::STATUS if self.status.bits() != 0 && self.interrupt.broken() => self.status.bits() | reg::NEEDS_RESET,
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

    pub(super) fn write(&mut self, offset: u64, value: u32) -> Result<(), &'static str> {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::SHM_SEL => self.shm_sel = value,
            reg::DRIVER_FEATURES => self.write_features(value)?,
            reg::STATUS => self.write_status(value)?,
            reg::QUEUE_READY if value & 1 == 1 => self.start_queue()?,
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

    fn write_status(&mut self, value: u32) -> Result<(), &'static str> {
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
            self.activate();
        }
        match written {
            Ok(()) if refused => Err("features that were not offered, or without VERSION_1"),
            Ok(()) => Ok(()),
            Err(error) => {
                if error == StatusError::Order(Step::DriverOk) {
                    // Such a driver would wait for ever.
                    self.interrupt.needs_reset();
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
    fn start_queue(&mut self) -> Result<(), &'static str> {
        if self.queue().is_some_and(|queue| queue.state.ready) {
            return Ok(());
        }
        self.unlocked_queue()?.state.ready = true;
        if self.status.has(reg::DRIVER_OK) {
            let selected = u16::try_from(self.queue_sel).unwrap_or(u16::MAX);
            self.attach(|index| index == selected);
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
    fn activate(&mut self) {
        self.interrupt.set_live();
        self.attach(|_| true);
    }

    fn session(&self) -> Session {
        Session {
            features: self.driver_features,
            ram: self.ram.clone(),
            interrupt: self.interrupt.clone(),
            shared: self.shared.as_ref().map(|shared| shared.window.clone()),
        }
    }

    /// Attaches those ready queues that are `wanted`.
    fn attach(&mut self, wanted: impl Fn(u16) -> bool) {
        let mut queues = Vec::new();
        for ((index, registers), kick) in (0u16..).zip(&self.queues).zip(&*self.kicks) {
            if !registers.state.ready || !wanted(index) {
                continue;
            }
            let event_idx_enabled = self.driver_features & reg::F_EVENT_IDX != 0;
            let state = QueueState { event_idx_enabled, ..registers.state };
            match self.queue_from(index, state, kick) {
                Ok(queue) => queues.push(queue),
                Err(Error::Queue { source: fault, .. }) => {
                    self.interrupt.report(&GuestFault::Ring { queue: index, fault });
                    self.interrupt.needs_reset();
                }
                Err(error) => {
                    tracing::error!(device = self.hosted.name(), queue = index, "{error}");
                    self.interrupt.needs_reset();
                }
            }
        }
        let session = self.session();
        if let Err(error) = self.hosted.attach(&session, queues) {
            tracing::error!(device = self.hosted.name(), error = &error as &dyn std::error::Error, "{error}");
            self.interrupt.needs_reset();
        }
    }

    fn queue_from(&self, index: u16, state: QueueState, kick: &EventFd) -> Result<VirtQueue, Error> {
        let device = self.hosted.name().to_owned();
        let kick =
            kick.try_clone().map_err(|source| Error::Event { device: device.clone(), what: "queue kicks", source })?;
        VirtQueue::new(index, state, self.ram.clone(), kick, self.interrupt.clone()).map_err(|source| Error::Queue {
            device,
            queue: index,
            source,
        })
    }

    pub(super) fn reset(&mut self) {
        self.hosted.reset();
        self.interrupt.reset();
        self.status = Status::default();
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.shm_sel = 0;
        self.queues.iter_mut().for_each(QueueRegisters::reset);
    }

    pub(super) fn save(&mut self) -> Result<MmioState, Error> {
        let workers = self.hosted.save()?;
        let hosted = &mut self.hosted;
        let queues = (0u16..).zip(&self.queues).map(|(index, queue)| {
            // The indices are with the queue, if it is attached.
            hosted.queue_state(index).unwrap_or(queue.state)
        });
        Ok(MmioState {
            queues: queues.collect(),
            workers,
            status: self.status.bits(),
            needs_reset: self.interrupt.broken(),
            interrupt_status: self.interrupt.status(),
            config_generation: self.interrupt.generation(),
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            shm_sel: self.shm_sel,
        })
    }

    pub(super) fn restore(&mut self, state: &MmioState) -> Result<(), Error> {
        let device = self.hosted.name().to_owned();
        let (got, expected) = (state.queues.len(), self.queues.len());
        if got != expected {
            return Err(Error::StateShape { device, what: "queues", got, expected });
        }
        let Some(status) = Status::from_bits(state.status) else {
            return Err(Error::StateContent { device, what: "status bits that no driver can have set" });
        };
        self.status = status;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.driver_features = state.driver_features;
        self.queue_sel = state.queue_sel;
        self.shm_sel = state.shm_sel;
        if status.has(reg::FEATURES_OK) && !self.features_fit() {
            return Err(Error::StateContent { device, what: "features that this device does not have" });
        }
        let mut attached = Vec::new();
        for ((index, registers), (saved, kick)) in (0u16..).zip(&self.queues).zip(state.queues.iter().zip(&*self.kicks))
        {
            let max_size = registers.state.max_size;
            if status.has(reg::DRIVER_OK) && saved.ready {
                let saved = QueueState { max_size, ..*saved };
                match self.queue_from(index, saved, kick) {
                    Ok(queue) => attached.push(queue),
                    // The guest had set it up wrongly, and knows: that is no reason not to restore it.
                    Err(Error::Queue { .. }) if state.needs_reset => {}
                    Err(error) => return Err(error),
                }
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
            let session = self.session();
            self.hosted.attach(&session, attached)?;
        }
        self.interrupt.restore(state.interrupt_status, state.config_generation, state.needs_reset, live);
        Ok(())
    }
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}
