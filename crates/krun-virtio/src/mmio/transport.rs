//! The register file: decoding only. The life of the device is [`Hosted`]'s.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::interrupt::{InterruptLine, MmioInterrupt};
use super::register_file::RegisterFile;
use super::registers as reg;
use super::state::MmioState;
use crate::device::{SharedMemory, VirtioDevice};
use crate::error::{Error, GuestFault};
use crate::executor::Executor;
use crate::hosted::Hosted;
use crate::interrupt::Interrupt;
use crate::memory::Ram;

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
    registers: Mutex<RegisterFile>,
    interrupt: Arc<MmioInterrupt>,
    /// One for each queue, for as long as the device lives: notifications need no lock.
    kicks: Arc<[EventFd]>,
    name: String,
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
        let queues = hosted.device().queue_sizes().iter();
        let kicks: Arc<[EventFd]> = queues.map(|_| event(&name, "queue kicks")).collect::<Result<_, _>>()?;
        let line = InterruptLine::new().map_err(|source| Error::Event {
            device: name.clone(),
            what: "interrupt line",
            source,
        })?;
        let interrupt = Arc::new(MmioInterrupt::new(&name, line));
        let registers = RegisterFile::new(hosted, ram, interrupt.clone(), kicks.clone());
        Ok(Self { registers: Mutex::new(registers), interrupt, kicks, name })
    }

    /// The same on another interrupt line, which others may share. To be called before the guest runs.
    pub fn with_line(mut self, line: Arc<InterruptLine>) -> Self {
        self.interrupt = Arc::new(MmioInterrupt::new(&self.name, line));
        self.lock().interrupt = self.interrupt.clone();
        self
    }

    /// The same with its shared memory placed: what [`VirtioDevice::shared_memory`] asked for.
    pub fn with_shared_memory(self, shared: SharedMemory) -> Self {
        self.lock().shared = Some(shared);
        self
    }

    fn lock(&self) -> MutexGuard<'_, RegisterFile> {
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
        self.lock().reset();
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
            _ => self.lock().read(offset),
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
                let result = self.lock().write(offset, value);
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
        self.lock().save()
    }

    /// Takes on the state of a device like this one. This one is reset first, and paused afterwards.
    ///
    /// # Errors
    /// If the state is not one of such a device; this one is then reset.
    pub fn restore(&self, state: &MmioState) -> Result<(), Error> {
        let mut registers = self.lock();
        registers.reset();
        registers.hosted.pause();
        let restored = registers.restore(state);
        if restored.is_err() {
            registers.reset();
        }
        restored
    }
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport").field("name", &self.name).finish_non_exhaustive()
    }
}
