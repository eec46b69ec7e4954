//! The machine as its firmware tables describe it: plain data, made once, from which every table comes.

use crate::cmdline::Cmdline;
use crate::error::{Error, Result};
use crate::x86_64::layout::MMIO_HOLE;

/// One virtio device behind the MMIO transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtioMmio {
    /// Guest physical address of its registers.
    pub base: u64,
    /// Length of its register window in bytes; a page is customary, `0x200` would do.
    pub size: u64,
    /// Its interrupt line: the global system interrupt, which is the I/O APIC's pin.
    pub irq: u32,
}

impl VirtioMmio {
    /// The value of the `virtio_mmio.device=` parameter: `<size>@<base>:<irq>`.
    ///
    /// ```
    /// use krun_kernel_loader::VirtioMmio;
    ///
    /// let device = VirtioMmio { base: 0xd000_0000, size: 0x1000, irq: 5 };
    /// assert_eq!(device.word(), "4K@0xd0000000:5");
    /// ```
    pub fn word(&self) -> String {
        let Self { base, size, irq } = self;
        if size.is_multiple_of(1024) {
            format!("{}K@{base:#x}:{irq}", size / 1024)
        } else {
            format!("{size:#x}@{base:#x}:{irq}")
        }
    }
}

/// The machine: processors, interrupt lines, devices that no bus enumerates.
///
/// Made by [`new`](Self::new) and changed, or written as `MachineDescription { cpus, ..MachineDescription::new(1) }`:
/// more kinds of tables will need more fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDescription {
    /// Number of virtual CPUs. Their APIC ids are 0 to `cpus - 1`; 0 boots.
    pub cpus: u32,
    /// Number of interrupt lines: the pins of the I/O APIC. KVM's in-kernel one has 24.
    pub interrupt_lines: u32,
    /// The virtio devices, in the order in which the guest shall find them.
    pub virtio_mmio: Vec<VirtioMmio>,
}

impl MachineDescription {
    /// Most CPUs that an MP table can list: APIC ids have eight bits, the last one addresses all of them and one
    /// belongs to the I/O APIC.
    pub const MAX_CPUS: u32 = 254;

    /// Most pins that an I/O APIC has (its redirection table ends at register `0xff`).
    pub const MAX_INTERRUPT_LINES: u32 = 120;

    /// A machine with `cpus` processors, the 24 lines of KVM's I/O APIC and no devices yet.
    pub fn new(cpus: u32) -> Self {
        Self { cpus, interrupt_lines: 24, virtio_mmio: Vec::new() }
    }

    /// Checks what no table could express.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] with the first wrong value: no CPU or more than [`MAX_CPUS`](Self::MAX_CPUS); fewer than
    /// 16 or more than [`MAX_INTERRUPT_LINES`](Self::MAX_INTERRUPT_LINES) lines; a device that has no such line,
    /// lies outside the [`MMIO_HOLE`], in the APICs' pages, or over another device.
    pub fn check(&self) -> Result<()> {
        let wrong = |field, value: u64, expected| Err(Error::Machine { field, value, expected });
        if !(1..=Self::MAX_CPUS).contains(&self.cpus) {
            return wrong("cpus", self.cpus.into(), "1 to 254 are possible");
        }
        if !(16..=Self::MAX_INTERRUPT_LINES).contains(&self.interrupt_lines) {
            return wrong("interrupt_lines", self.interrupt_lines.into(), "16 to 120 are possible");
        }
        let mut windows = Vec::with_capacity(self.virtio_mmio.len());
        for device in &self.virtio_mmio {
            let Some(end) = device.base.checked_add(device.size).filter(|_| device.size >= MIN_VIRTIO_WINDOW) else {
                return wrong("virtio_mmio.size", device.size, "a window has 0x200 bytes at least and ends in 64 bits");
            };
            if device.base < MMIO_HOLE.start || end > IO_APIC_BASE {
                return wrong("virtio_mmio.base", device.base, "windows lie from 0xd0000000 up to the I/O APIC");
            }
            if device.irq >= self.interrupt_lines {
                return wrong("virtio_mmio.irq", device.irq.into(), "it is no line of this machine");
            }
            windows.push(device.base..end);
        }
        windows.sort_by_key(|window| window.start);
        for pair in windows.windows(2) {
            if let [a, b] = pair
                && b.start < a.end
            {
                return wrong("virtio_mmio.base", b.start, "another device is there");
            }
        }
        Ok(())
    }

    /// Appends a `virtio_mmio.device=` word for each device, which is how a kernel without ACPI finds them.
    ///
    /// # Errors
    ///
    /// [`Error::CmdlineTooLong`].
    pub fn add_virtio_words(&self, cmdline: &mut Cmdline) -> Result<()> {
        self.virtio_mmio.iter().try_for_each(|device| cmdline.param("virtio_mmio.device", &device.word()).map(drop))
    }
}

/// Where a PC's first I/O APIC is (MP specification 1.4, section 3.6.5).
pub(crate) const IO_APIC_BASE: u64 = 0xfec0_0000;

/// Where each CPU sees its own APIC after reset.
pub(crate) const LOCAL_APIC_BASE: u64 = 0xfee0_0000;

/// Registers up to 0x100 and as much configuration space (virtio 1.2, section 4.2.2).
const MIN_VIRTIO_WINDOW: u64 = 0x200;

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(devices: &[(u64, u64, u32)]) -> MachineDescription {
        let virtio_mmio = devices.iter().map(|&(base, size, irq)| VirtioMmio { base, size, irq }).collect();
        MachineDescription { virtio_mmio, ..MachineDescription::new(1) }
    }

    #[test]
    fn good_machines_pass() {
        machine(&[]).check().unwrap();
        machine(&[(0xd000_1000, 0x1000, 6), (0xd000_0000, 0x1000, 23), (0xd000_2000, 0x200, 6)]).check().unwrap();
        MachineDescription::new(254).check().unwrap();
    }

    #[test]
    fn bad_machines_are_named() {
        let field = |machine: MachineDescription| match machine.check() {
            Err(Error::Machine { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(MachineDescription::new(0)), "cpus");
        assert_eq!(field(MachineDescription::new(255)), "cpus");
        assert_eq!(field(MachineDescription { interrupt_lines: 8, ..machine(&[]) }), "interrupt_lines");
        assert_eq!(field(machine(&[(0xd000_0000, 0x1000, 24)])), "virtio_mmio.irq");
        assert_eq!(field(machine(&[(0xd000_0000, 0x1ff, 5)])), "virtio_mmio.size");
        assert_eq!(field(machine(&[(u64::MAX, 0x1000, 5)])), "virtio_mmio.size");
        assert_eq!(field(machine(&[(0xcfff_f000, 0x1000, 5)])), "virtio_mmio.base");
        assert_eq!(field(machine(&[(0xfebf_f000, 0x2000, 5)])), "virtio_mmio.base");
        assert_eq!(field(machine(&[(0xd000_1000, 0x1000, 5), (0xd000_0000, 0x1001, 6)])), "virtio_mmio.base");
    }

    #[test]
    fn words_are_what_the_kernel_scans() {
        assert_eq!(VirtioMmio { base: 0xd000_3000, size: 0x200, irq: 23 }.word(), "0x200@0xd0003000:23");
        let mut cmdline = Cmdline::new();
        machine(&[(0xd000_0000, 0x1000, 5), (0xd000_1000, 0x1000, 6)]).add_virtio_words(&mut cmdline).unwrap();
        assert_eq!(cmdline.to_string(), "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6");
    }
}
