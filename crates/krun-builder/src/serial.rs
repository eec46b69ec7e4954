//! The 16550 serial port: vm-superio's registers, our log behind them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use krun_virtio::InterruptLine;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, Trigger};

use crate::log::Log;

/// COM1. Output only: nothing is ever received.
pub(crate) struct Serial {
    // Two vCPUs may print at once; the lock is as coarse as the port is slow.
    uart: Mutex<Uart<Line, NoEvents, Log>>,
}

impl Serial {
    /// `line` is the port's interrupt line; what is sent goes to `log`.
    pub(crate) fn new(line: Arc<InterruptLine>, log: Log) -> Self {
        Self { uart: Mutex::new(Uart::new(Line(line), log)) }
    }

    pub(crate) fn read(&self, register: u8) -> u8 {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner).read(register)
    }

    pub(crate) fn write(&self, register: u8, value: u8) {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = uart.write(register, value) {
            tracing::debug!(%error, register, "a write to the serial port had no effect");
        }
    }
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serial").finish_non_exhaustive()
    }
}

/// The port's interrupt line.
struct Line(Arc<InterruptLine>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.event().write(1)
    }
}
