//! InterruptStatus, and the line behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::registers::{INTERRUPT_CONFIG, INTERRUPT_QUEUE};
use crate::error::GuestFault;
use crate::fault_log::FaultLog;
use crate::interrupt::Interrupt;

/// One interrupt line: one event descriptor, to be made one irqfd of one GSI.
///
/// Devices that share a line share this. Two irqfds on one edge-triggered GSI are two sources that KVM joins by OR:
/// the second edge is lost while the first is up. With one descriptor every signal is an edge of its own, and the
/// guest's handler looks at each device's InterruptStatus.
#[derive(Debug)]
pub struct InterruptLine {
    event: EventFd,
}

impl InterruptLine {
    /// A line that nothing is connected to yet.
    ///
    /// # Errors
    /// If the descriptor cannot be made.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self { event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)? }))
    }

    /// The descriptor, for `KVM_IRQFD`. Its counter is how many interrupts there were since it was read.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    fn raise(&self) {
        // It fails only when the counter is full, and then it is signalled.
        let _ = self.event.write(1);
    }
}

/// One device's interrupt: what its registers say, and the line it shares or has for itself.
#[derive(Debug)]
pub(super) struct MmioInterrupt {
    line: Arc<InterruptLine>,
    faults: FaultLog,
    status: AtomicU32,
    /// Status bits that stay: see [`Interrupt::call_fd`].
    sticky: AtomicU32,
    generation: AtomicU32,
    needs_reset: AtomicBool,
    /// DRIVER_OK was set. Section 3.1.1: before that, the device sends nothing.
    live: AtomicBool,
}

impl MmioInterrupt {
    pub(super) fn new(device: &str, line: Arc<InterruptLine>) -> Self {
        Self {
            line,
            faults: FaultLog::new(device),
            status: AtomicU32::new(0),
            sticky: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            live: AtomicBool::new(false),
        }
    }

    pub(super) fn line(&self) -> &Arc<InterruptLine> {
        &self.line
    }

    pub(super) fn faults(&self) -> &FaultLog {
        &self.faults
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst) | self.sticky.load(Ordering::Relaxed)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    pub(super) fn broken(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// DRIVER_OK: from now on the guest hears of things.
    pub(super) fn set_live(&self) {
        self.live.store(true, Ordering::SeqCst);
    }

    /// The workers stand still.
    pub(super) fn reset(&self) {
        self.live.store(false, Ordering::SeqCst);
        self.status.store(0, Ordering::SeqCst);
        self.sticky.store(0, Ordering::SeqCst);
        self.needs_reset.store(false, Ordering::SeqCst);
    }

    /// Takes on what was saved. An interrupt that was pending is sent once more: a surplus one does no harm.
    pub(super) fn restore(&self, status: u32, generation: u32, needs_reset: bool, live: bool) {
        self.status.store(status & (INTERRUPT_QUEUE | INTERRUPT_CONFIG), Ordering::SeqCst);
        self.generation.store(generation, Ordering::SeqCst);
        self.needs_reset.store(needs_reset, Ordering::SeqCst);
        self.live.store(live, Ordering::SeqCst);
        if live && self.status() != 0 {
            self.line.raise();
        }
    }

    fn raise(&self, bit: u32) {
        if self.live.load(Ordering::SeqCst) {
            // The bit first: the guest's handler looks at it.
            self.status.fetch_or(bit, Ordering::SeqCst);
            self.line.raise();
        }
    }
}

impl Interrupt for MmioInterrupt {
    fn queue(&self, _index: u16) {
        self.raise(INTERRUPT_QUEUE);
    }

    fn config(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.raise(INTERRUPT_CONFIG);
    }

    fn needs_reset(&self) {
        if !self.needs_reset.swap(true, Ordering::SeqCst) {
            // Section 2.1.2: after DRIVER_OK, the driver is told by a config change.
            self.raise(INTERRUPT_CONFIG);
        }
    }

    fn report(&self, fault: &GuestFault) {
        self.faults.report(fault);
    }

    fn call_fd(&self, _index: u16) -> Option<EventFd> {
        let event = self.line.event.try_clone().ok()?;
        // Whoever writes it cannot set the status bit: from now on it reads as set.
        self.sticky.fetch_or(INTERRUPT_QUEUE, Ordering::SeqCst);
        Some(event)
    }
}
