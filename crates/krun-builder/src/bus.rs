//! What lies behind the guest's ports and registers: the vCPUs' [`ExitHandler`].
//!
//! A register access finds its device by arithmetic: windows lie side by side, so there is no table to search and no
//! lock between two devices. The data path does not come by here at all: queue notifications are ioeventfds.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use krun_vcpu::{DataMatch, ExitHandler, Flow, IoEventAddress, KvmVm, Stop};
use krun_virtio::mmio::registers::QUEUE_NOTIFY;
use krun_virtio::{Executor, InterruptLine, MmioTransport, Ram, ThreadPerWorker, VirtioDevice};

use crate::error::Error;
use crate::layout::Layout;
use crate::log::Log;
use crate::memory::GuestRam;
use crate::serial::Serial;
use crate::vcpus::descriptor;
use crate::window;
use crate::x86_64::address_map::{MMIO_BASE, MMIO_STRIDE, SERIAL_PORTS};

/// Status and command port of the keyboard controller, which on a PC can also pull the reset line.
const I8042_COMMAND: u16 = 0x64;
/// The command that pulls it.
const I8042_RESET: u8 = 0xfe;
/// Index and data port of the CMOS clock.
const CMOS: std::ops::RangeInclusive<u16> = 0x70..=0x71;

/// Everything the guest can reach by ports and memory-mapped registers.
#[derive(Debug)]
pub(crate) struct Bus {
    devices: Vec<MmioTransport>,
    serial: Option<Serial>,
}

impl Bus {
    /// Gives each device its window, its interrupt line and an eventfd for each of its queues' notifications.
    pub(crate) fn connect(
        kvm: &KvmVm,
        ram: &Arc<GuestRam>,
        layout: &Layout,
        devices: Vec<Box<dyn VirtioDevice>>,
        serial: Option<Log>,
    ) -> Result<Self, Error> {
        let ram = Ram::new(Arc::clone(ram));
        let executor: Arc<dyn Executor> = Arc::new(ThreadPerWorker::new());
        let mut lines = Lines { kvm, known: BTreeMap::new() };
        let mut windows = layout.windows.iter();
        let mut transports = Vec::with_capacity(devices.len());
        for (device, slot) in devices.into_iter().zip(&layout.devices) {
            let name = device.name();
            let failed = |source: krun_virtio::Error| Error::Device { device: name.clone(), source: source.into() };
            let window = if device.shared_memory().is_some() { windows.next() } else { None };
            let mut transport = MmioTransport::new(device, Arc::clone(&executor), ram.clone())
                .map_err(failed)?
                .with_line(lines.get(slot.gsi)?);
            if let Some(window) = window {
                transport = transport.with_shared_memory(window::place(kvm, window)?);
            }
            for (queue, kick) in (0..).zip(transport.kicks()) {
                let notify = IoEventAddress::Mmio(slot.base + QUEUE_NOTIFY);
                kvm.register_ioeventfd(kick, notify, DataMatch::U32(queue))?;
            }
            transports.push(transport);
        }
        let serial = match (serial, layout.serial_gsi) {
            (Some(log), Some(gsi)) => Some(Serial::new(lines.get(gsi)?, log)),
            _ => None,
        };
        Ok(Self::new(transports, serial))
    }

    /// `devices` in the order of their windows.
    fn new(devices: Vec<MmioTransport>, serial: Option<Serial>) -> Self {
        Self { devices, serial }
    }

    /// The virtio devices, in the order of their windows.
    pub(crate) fn devices(&self) -> &[MmioTransport] {
        &self.devices
    }

    fn device(&self, address: u64) -> Option<(&MmioTransport, u64)> {
        let offset = address.checked_sub(MMIO_BASE)?;
        let index = usize::try_from(offset / MMIO_STRIDE).ok()?;
        Some((self.devices.get(index)?, offset % MMIO_STRIDE))
    }

    fn serial(&self, port: u16) -> Option<(&Serial, u8)> {
        if !SERIAL_PORTS.contains(&port) {
            return None;
        }
        Some((self.serial.as_ref()?, u8::try_from(port - SERIAL_PORTS.start).ok()?))
    }
}

impl ExitHandler for Bus {
    fn mmio_read(&self, address: u64, data: &mut [u8]) -> Flow {
        match self.device(address) {
            Some((device, offset)) => device.read(offset, data),
            None => nobody(data),
        }
        ControlFlow::Continue(())
    }

    fn mmio_write(&self, address: u64, data: &[u8]) -> Flow {
        if let Some((device, offset)) = self.device(address) {
            device.write(offset, data);
        }
        ControlFlow::Continue(())
    }

    fn port_read(&self, port: u16, width: u8, data: &mut [u8]) -> Flow {
        match self.serial(port) {
            Some((serial, register)) if width == 1 => data.iter_mut().for_each(|byte| *byte = serial.read(register)),
            // The keyboard controller is never busy and has no key; the clock is not being updated. With all ones a
            // kernel would wait for either.
            _ if port == I8042_COMMAND || CMOS.contains(&port) => data.fill(0),
            _ => nobody(data),
        }
        ControlFlow::Continue(())
    }

    fn port_write(&self, port: u16, width: u8, data: &[u8]) -> Flow {
        if let Some((serial, register)) = self.serial(port) {
            if width == 1 {
                data.iter().for_each(|byte| serial.write(register, *byte));
            }
        } else if port == I8042_COMMAND && data.contains(&I8042_RESET) {
            return ControlFlow::Break(Stop::Reset);
        }
        ControlFlow::Continue(())
    }
}

/// Interrupt lines: one irqfd each, however many devices share it. (With two on one edge-triggered line an edge could get
/// lost.)
struct Lines<'a> {
    kvm: &'a KvmVm,
    known: BTreeMap<u32, Arc<InterruptLine>>,
}

impl Lines<'_> {
    fn get(&mut self, gsi: u32) -> Result<Arc<InterruptLine>, Error> {
        if let Some(line) = self.known.get(&gsi) {
            return Ok(Arc::clone(line));
        }
        let line = InterruptLine::new().map_err(descriptor("an interrupt line's eventfd"))?;
        self.kvm.register_irqfd(line.event(), gsi)?;
        self.known.insert(gsi, Arc::clone(&line));
        Ok(line)
    }
}

/// What a bus reads where nobody answers.
fn nobody(data: &mut [u8]) {
    data.fill(0xff);
}

#[cfg(test)]
mod tests {
    use super::*;
    fn bus(log: Option<&Log>) -> Bus {
        let line = || InterruptLine::new().unwrap();
        Bus::new(Vec::new(), log.map(|log| Serial::new(line(), log.clone())))
    }

    fn read(bus: &Bus, port: u16) -> u8 {
        let mut data = [0x5a];
        assert_eq!(bus.port_read(port, 1, &mut data), ControlFlow::Continue(()));
        data[0]
    }

    #[test]
    fn the_keyboard_controller_resets_and_nothing_else_does() {
        let bus = bus(None);
        assert_eq!(bus.port_write(0x64, 1, &[0xfe]), ControlFlow::Break(Stop::Reset));
        assert_eq!(bus.port_write(0x64, 1, &[0xd1]), ControlFlow::Continue(()));
        assert_eq!(bus.port_write(0x60, 1, &[0xfe]), ControlFlow::Continue(()));
        assert_eq!(read(&bus, 0x64), 0);
    }

    #[test]
    fn nobody_reads_as_ones() {
        let bus = bus(None);
        for port in [0x3f8, 0xcfc, 0x60, 0xffff] {
            assert_eq!(read(&bus, port), 0xff);
        }
        for address in [0, MMIO_BASE - 1, MMIO_BASE, MMIO_BASE + 0x1000, u64::MAX] {
            let mut data = [0; 4];
            assert_eq!(bus.mmio_read(address, &mut data), ControlFlow::Continue(()));
            assert_eq!(data, [0xff; 4]);
            assert_eq!(bus.mmio_write(address, &data), ControlFlow::Continue(()));
        }
    }

    #[test]
    fn the_serial_port_writes_to_its_log() {
        let log = Log::new(None);
        let bus = bus(Some(&log));
        assert_eq!(bus.port_write(0x3f8, 1, b"early\n"), ControlFlow::Continue(()));
        assert_eq!(log.text(), "early\n");
        // Line status: transmitter empty.
        assert_eq!(read(&bus, 0x3fd) & 0x60, 0x60);
        // A 16-bit access to 8-bit registers reaches nobody.
        let mut data = [0; 2];
        assert_eq!(bus.port_read(0x3f8, 2, &mut data), ControlFlow::Continue(()));
        assert_eq!(data, [0xff; 2]);
    }
}
