//! The Intel MultiProcessor tables (specification 1.4): how a kernel without ACPI learns of CPUs and interrupts.
//!
//! The 16-byte floating pointer lies in the EBDA, where kernels look early. The configuration table it points to
//! lies in the BIOS area: the EBDA's 1 KiB would end at about 37 CPUs, 64 KiB hold any number that has an APIC id.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::layout::{BIOS_AREA, EBDA};
use crate::error::{Error, Result};
use crate::machine::{IO_APIC_BASE, LOCAL_APIC_BASE, MachineDescription};

/// Writes the tables for `machine`.
///
/// Interrupt line *n* is pin *n* of the I/O APIC, edge-triggered and active high. Line 2 is not listed: on a PC it
/// joins the two PICs and no device has it.
///
/// # Errors
///
/// [`Error::Machine`] for a machine that [`MachineDescription::check`] refuses; [`Error::WriteGuest`].
pub fn write_mp_table<M: GuestMemoryBackend>(ram: &M, machine: &MachineDescription) -> Result<()> {
    machine.check()?;
    let write = |bytes: &[u8], at: u64, what| {
        ram.write_slice(bytes, GuestAddress(at)).map_err(|source| Error::WriteGuest { what, address: at, source })
    };
    write(&configuration(machine), BIOS_AREA.start, "the MP configuration table")?;
    write(&floating_pointer(), EBDA.start, "the MP floating pointer")
}

const SPECIFICATION_1_4: u8 = 4;

/// Entry types, section 4.3.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Section 4.3.1: the entry may be used; this processor boots.
const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;

/// The version of an APIC that is part of its processor, and of a discrete I/O APIC.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;

/// Interrupt types, table 4-10.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Polarity and trigger mode, table 4-10.
const ACTIVE_HIGH_EDGE: u16 = 0b01_01;
const CONFORMS: u16 = 0;

const ISA_BUS: u8 = 0;
const ALL_LOCAL_APICS: u8 = 0xff;
const PIC_CASCADE: u8 = 2;

fn floating_pointer() -> [u8; 16] {
    let mut pointer = [0; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    #[expect(clippy::cast_possible_truncation, reason = "the BIOS area lies in the first MiB")]
    pointer[4..8].copy_from_slice(&(BIOS_AREA.start as u32).to_le_bytes());
    pointer[8] = 1; // length in units of 16 bytes
    pointer[9] = SPECIFICATION_1_4;
    pointer[10] = checksum(&pointer);
    pointer
}

fn configuration(machine: &MachineDescription) -> Vec<u8> {
    let entries = Entries::of(machine);
    let mut table = Vec::with_capacity(HEADER_SIZE + entries.bytes.len());
    table.extend(b"PCMP");
    #[expect(clippy::cast_possible_truncation, reason = "at most 254 CPUs, 120 lines: below 64 KiB (tested)")]
    table.extend(((HEADER_SIZE + entries.bytes.len()) as u16).to_le_bytes());
    table.push(SPECIFICATION_1_4);
    table.push(0); // checksum
    table.extend(b"KRUN    ");
    table.extend(b"MICROVM     ");
    table.extend([0; 6]); // no OEM table
    table.extend(entries.count.to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "a constant below 4 GiB")]
    table.extend((LOCAL_APIC_BASE as u32).to_le_bytes());
    table.extend([0; 4]); // no extended table
    table.extend(entries.bytes);
    let sum = checksum(&table);
    if let Some(byte) = table.get_mut(7) {
        *byte = sum;
    }
    table
}

/// Size of the header, table 4-2.
const HEADER_SIZE: usize = 44;

/// The entries behind the header, sorted by type as section 4.3 asks.
#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    /// `machine` has passed its check: every number below fits a byte.
    fn of(machine: &MachineDescription) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "checked: at most 254 CPUs and 120 lines")]
        let (cpus, lines) = (machine.cpus as u8, machine.interrupt_lines as u8);
        // The first id that no CPU has.
        let io_apic_id = cpus;
        let mut entries = Self::default();
        for id in 0..cpus {
            let boots = if id == 0 { BOOT_PROCESSOR } else { 0 };
            // Signature and features are what CPUID says; kernels for x86_64 do not look here.
            entries.push(&[PROCESSOR, id, LOCAL_APIC_VERSION, ENABLED | boots]);
            entries.bytes.extend([0; 16]);
        }
        entries.push(&[BUS, ISA_BUS]);
        entries.bytes.extend(b"ISA   ");
        entries.push(&[IO_APIC, io_apic_id, IO_APIC_VERSION, ENABLED]);
        #[expect(clippy::cast_possible_truncation, reason = "a constant below 4 GiB")]
        entries.bytes.extend((IO_APIC_BASE as u32).to_le_bytes());
        for line in (0..lines).filter(|line| *line != PIC_CASCADE) {
            entries.push_interrupt(IO_INTERRUPT, INT, ACTIVE_HIGH_EDGE, line, io_apic_id, line);
        }
        entries.push_interrupt(LOCAL_INTERRUPT, EXT_INT, CONFORMS, 0, 0, 0);
        entries.push_interrupt(LOCAL_INTERRUPT, NMI, CONFORMS, 0, ALL_LOCAL_APICS, 1);
        entries
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.count += 1;
    }

    /// The two interrupt entries have one shape (tables 4-9 and 4-11).
    fn push_interrupt(&mut self, entry: u8, kind: u8, flags: u16, source_line: u8, apic: u8, pin: u8) {
        let [low, high] = flags.to_le_bytes();
        self.push(&[entry, kind, low, high, ISA_BUS, source_line, apic, pin]);
    }
}

/// The byte that makes all bytes add up to 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    /// What a kernel reads: follows the pointer and walks the entries, as `mpparse.c` does.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Seen {
        cpus: Vec<(u8, bool)>,
        io_apics: Vec<(u8, u32)>,
        lines: Vec<(u8, u8, u8)>,
        local: Vec<(u8, u8, u8)>,
    }

    fn read_back(ram: &GuestMemoryMmap) -> Seen {
        let mut pointer = [0u8; 16];
        ram.read_slice(&mut pointer, GuestAddress(0x9_fc00)).unwrap();
        assert_eq!(&pointer[..4], b"_MP_");
        assert_eq!(pointer.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
        assert_eq!((pointer[8], pointer[9], pointer[11]), (1, 4, 0));
        let at = u64::from(u32::from_le_bytes(pointer[4..8].try_into().unwrap()));
        let len: u16 = ram.read_obj(GuestAddress(at + 4)).unwrap();
        let mut table = vec![0u8; len.into()];
        ram.read_slice(&mut table, GuestAddress(at)).unwrap();
        assert!(at + u64::from(len) <= 0x10_0000, "runs into the kernel");
        assert_eq!(&table[..4], b"PCMP");
        assert_eq!(table.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
        assert_eq!(table[36..40], 0xfee0_0000u32.to_le_bytes());

        let mut seen = Seen::default();
        let (mut rest, mut count) = (&table[44..], 0);
        while let Some(kind) = rest.first() {
            let (entry, next) = rest.split_at(if *kind == 0 { 20 } else { 8 });
            match kind {
                0 => seen.cpus.push((entry[1], entry[3] == 3)),
                1 => assert_eq!(entry, b"\x01\0ISA   "),
                2 => seen.io_apics.push((entry[1], u32::from_le_bytes(entry[4..8].try_into().unwrap()))),
                3 => {
                    assert_eq!(entry[1..5], [0, 5, 0, 0], "vectored, active high, edge, ISA");
                    seen.lines.push((entry[5], entry[6], entry[7]));
                }
                4 => seen.local.push((entry[1], entry[6], entry[7])),
                other => panic!("entry type {other}"),
            }
            rest = next;
            count += 1;
        }
        assert_eq!(table[34..36], u16::to_le_bytes(count));
        seen
    }

    #[test]
    fn any_number_of_cpus_reads_back() {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        for cpus in 1..=MachineDescription::MAX_CPUS {
            for interrupt_lines in [16, 24, MachineDescription::MAX_INTERRUPT_LINES] {
                let machine = MachineDescription { interrupt_lines, ..MachineDescription::new(cpus) };
                write_mp_table(&ram, &machine).unwrap();
                let seen = read_back(&ram);
                let expected = Seen {
                    cpus: (0..cpus).map(|id| (u8::try_from(id).unwrap(), id == 0)).collect(),
                    io_apics: vec![(u8::try_from(cpus).unwrap(), 0xfec0_0000)],
                    lines: (0..u8::try_from(interrupt_lines).unwrap())
                        .filter(|line| *line != 2)
                        .map(|line| (line, u8::try_from(cpus).unwrap(), line))
                        .collect(),
                    local: vec![(3, 0, 0), (1, 0xff, 1)],
                };
                assert_eq!(seen, expected);
            }
        }
    }

    #[test]
    fn a_machine_no_table_can_describe_is_refused_and_nothing_is_written() {
        let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        assert!(matches!(write_mp_table(&ram, &MachineDescription::new(255)), Err(Error::Machine { .. })));
        assert_eq!(ram.read_obj::<u32>(GuestAddress(0x9_fc00)).unwrap(), 0);
    }

    #[test]
    fn ram_that_ends_too_early_is_an_error() {
        let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0xf_0000)]).unwrap();
        let error = write_mp_table(&ram, &MachineDescription::new(1)).unwrap_err();
        assert!(matches!(error, Error::WriteGuest { address: 0xf_0000, .. }), "{error}");
    }
}
