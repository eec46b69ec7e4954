//! Where and in which state a guest begins.
//!
//! [`Entry`] is data: it can be made and its tables written without a vCPU.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use crate::error::Error;

/// How a guest begins.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// 64-bit code with paging: the Linux 64-bit boot protocol.
    LongMode(LongMode),
    /// 32-bit code without paging: the PVH boot protocol.
    Pvh(Pvh),
    /// 16-bit code, as after a reset.
    RealMode(RealMode),
}

/// The Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): paging is on, memory is
/// mapped one to one, `rsi` points to the boot parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongMode {
    /// The first instruction.
    pub entry: GuestAddress,
    /// What `rsi` holds: for Linux, the address of `struct boot_params`.
    pub boot_params: GuestAddress,
    /// The stack's first address above its top.
    pub stack: GuestAddress,
    /// Where the descriptor table is written: 32 bytes, and 8 zero bytes of an interrupt descriptor table behind it.
    pub gdt: GuestAddress,
    /// Where the page tables are written: a multiple of 4096, and [`LongMode::page_table_bytes`] bytes.
    pub page_tables: GuestAddress,
    /// How many GiB are mapped one to one, from address 0, in pages of 2 MiB: 1 to 512.
    pub identity_gib: u16,
}

impl LongMode {
    /// Tables at the usual addresses: descriptors at 0x500, stack below 0x8ff0, page tables from 0x9000 to 0xefff, which
    /// map 4 GiB.
    pub fn new(entry: GuestAddress, boot_params: GuestAddress) -> Self {
        Self {
            entry,
            boot_params,
            stack: GuestAddress(0x8ff0),
            gdt: GuestAddress(GDT_ADDRESS),
            page_tables: GuestAddress(0x9000),
            identity_gib: 4,
        }
    }

    /// How much memory the page tables take.
    pub fn page_table_bytes(&self) -> u64 {
        (2 + u64::from(self.identity_gib)) * PAGE
    }
}

/// The PVH boot protocol (Xen's docs/misc/pvh.pandoc): protected mode, flat segments, `ebx` points to the start info.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pvh {
    /// The first instruction, below 4 GiB.
    pub entry: GuestAddress,
    /// What `ebx` holds: the address of `struct hvm_start_info`, below 4 GiB.
    pub start_info: GuestAddress,
    /// Where the descriptor table is written: as in [`LongMode::gdt`].
    pub gdt: GuestAddress,
}

impl Pvh {
    /// Descriptors at 0x500.
    pub fn new(entry: GuestAddress, start_info: GuestAddress) -> Self {
        Self { entry, start_info, gdt: GuestAddress(GDT_ADDRESS) }
    }
}

/// Real mode. No tables are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealMode {
    /// Code segment; its base is 16 times this. All other segments are 0.
    pub cs: u16,
    /// The first instruction, in that segment.
    pub ip: u16,
    /// Stack pointer, in segment 0.
    pub sp: u16,
}

const PAGE: u64 = 4096;
const GDT_ADDRESS: u64 = 0x500;

/// Control register and EFER bits (Intel SDM volume 3A, sections 2.5 and 2.2.1).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS bit 1 is always set.
const RFLAGS: u64 = 1 << 1;

/// Page table entry bits: present, writable, and in the last level, a 2 MiB page.
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
/// Entries of a page table.
const ENTRIES: u64 = 512;

/// A descriptor's bits 55:52 and 47:40 as one number, which is how they read in a table: granularity, size, long mode,
/// then present, privilege, kind and type.
mod flags {
    pub(super) const CODE_64: u16 = 0xa09b;
    pub(super) const CODE_32: u16 = 0xc09b;
    pub(super) const DATA: u16 = 0xc093;
    pub(super) const TSS: u16 = 0x808b;
    pub(super) const TSS_32: u16 = 0x008b;
}

/// A flat segment: base 0, limit 0xfffff in the units `flags` say.
fn descriptor(flags: u16, limit: u64) -> u64 {
    let flags = u64::from(flags);
    limit & 0xffff | (flags & 0xff) << 40 | (limit >> 16 & 0xf) << 48 | (flags >> 12 & 0xf) << 52
}

/// What KVM caches of a descriptor.
fn segment(index: u16, flags: u16, limit: u32) -> kvm_segment {
    let bit = |n: u16| u8::from(flags >> n & 1 != 0);
    kvm_segment {
        base: 0,
        limit: if bit(15) == 1 { limit << 12 | 0xfff } else { limit },
        selector: index * 8,
        type_: u8::try_from(flags & 0xf).unwrap_or(0),
        s: bit(4),
        dpl: u8::try_from(flags >> 5 & 3).unwrap_or(0),
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        ..Default::default()
    }
}

/// Descriptors of a mode: null, code, data, task state.
struct Descriptors {
    code: u16,
    tss: (u16, u32),
}

const FLAT_LIMIT: u32 = 0xf_ffff;
const LONG: Descriptors = Descriptors { code: flags::CODE_64, tss: (flags::TSS, FLAT_LIMIT) };
/// PVH asks for a 32-bit TSS of limit 0x67.
const PROTECTED: Descriptors = Descriptors { code: flags::CODE_32, tss: (flags::TSS_32, 0x67) };

impl Descriptors {
    fn table(&self) -> [u64; 4] {
        let flat = u64::from(FLAT_LIMIT);
        [0, descriptor(self.code, flat), descriptor(flags::DATA, flat), descriptor(self.tss.0, u64::from(self.tss.1))]
    }

    fn write<M: GuestMemoryBackend>(&self, memory: &M, gdt: GuestAddress) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(40);
        for entry in self.table() {
            bytes.extend_from_slice(&entry.to_le_bytes());
        }
        // The interrupt descriptor table: no entry at all.
        bytes.extend_from_slice(&[0; 8]);
        write(memory, "descriptor table", gdt, &bytes)
    }

    fn load(&self, sregs: &mut kvm_sregs, gdt: GuestAddress) {
        sregs.cs = segment(1, self.code, FLAT_LIMIT);
        let data = segment(2, flags::DATA, FLAT_LIMIT);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = segment(3, self.tss.0, self.tss.1);
        sregs.gdt = kvm_dtable { base: gdt.raw_value(), limit: 31, ..Default::default() };
        sregs.idt = kvm_dtable { base: gdt.raw_value() + 32, limit: 7, ..Default::default() };
    }
}

impl Entry {
    /// Writes descriptor and page tables into guest memory.
    ///
    /// # Errors
    ///
    /// The entry makes no sense, or the tables do not fit into `memory`.
    pub fn write_tables<M: GuestMemoryBackend>(&self, memory: &M) -> Result<(), Error> {
        self.check()?;
        match self {
            Self::LongMode(entry) => {
                LONG.write(memory, entry.gdt)?;
                write(memory, "page tables", entry.page_tables, &identity_map(entry))
            }
            Self::Pvh(entry) => PROTECTED.write(memory, entry.gdt),
            Self::RealMode(_) => Ok(()),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let refuse =
            |what, address: GuestAddress, problem| Err(Error::Entry { what, address: address.raw_value(), problem });
        match self {
            Self::LongMode(entry) => {
                if entry.page_tables.raw_value() % PAGE != 0 {
                    return refuse("page tables", entry.page_tables, "the address must be a multiple of 4096");
                }
                if !(1..=512).contains(&entry.identity_gib) {
                    return refuse("page tables", entry.page_tables, "1 to 512 GiB can be mapped");
                }
                if entry.entry.raw_value() >> 30 >= u64::from(entry.identity_gib) {
                    return refuse("entry point", entry.entry, "it lies outside the memory that is mapped one to one");
                }
                if entry.gdt.raw_value() >> 48 != 0 {
                    return refuse("descriptor table", entry.gdt, "it lies outside the address space");
                }
            }
            Self::Pvh(entry) => {
                for (what, address) in
                    [("entry point", entry.entry), ("start info", entry.start_info), ("descriptor table", entry.gdt)]
                {
                    if address.raw_value() > u64::from(u32::MAX) - 40 {
                        return refuse(what, address, "it must lie below 4 GiB");
                    }
                }
            }
            Self::RealMode(_) => {}
        }
        Ok(())
    }

    /// Puts the segments, control registers and tables of this entry into `sregs`.
    pub(super) fn set_system_registers(&self, sregs: &mut kvm_sregs) {
        match self {
            Self::LongMode(entry) => {
                LONG.load(sregs, entry.gdt);
                sregs.cr3 = entry.page_tables.raw_value();
                sregs.cr4 = CR4_PAE;
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                sregs.efer = EFER_LME | EFER_LMA;
            }
            Self::Pvh(entry) => {
                PROTECTED.load(sregs, entry.gdt);
                sregs.cr0 = CR0_PE | CR0_ET;
                sregs.cr4 = 0;
                sregs.efer = 0;
            }
            Self::RealMode(entry) => {
                sregs.cs.selector = entry.cs;
                sregs.cs.base = u64::from(entry.cs) << 4;
            }
        }
    }

    /// The general registers.
    pub(super) fn registers(&self) -> kvm_regs {
        match self {
            Self::LongMode(entry) => kvm_regs {
                rip: entry.entry.raw_value(),
                rsi: entry.boot_params.raw_value(),
                rsp: entry.stack.raw_value(),
                rbp: entry.stack.raw_value(),
                rflags: RFLAGS,
                ..Default::default()
            },
            Self::Pvh(entry) => kvm_regs {
                rip: entry.entry.raw_value(),
                rbx: entry.start_info.raw_value(),
                rflags: RFLAGS,
                ..Default::default()
            },
            Self::RealMode(entry) => {
                kvm_regs { rip: u64::from(entry.ip), rsp: u64::from(entry.sp), rflags: RFLAGS, ..Default::default() }
            }
        }
    }
}

/// One table of the fourth level, one of the third, and one of the second per GiB, in this order.
fn identity_map(entry: &LongMode) -> Vec<u8> {
    let gib = u64::from(entry.identity_gib);
    let base = entry.page_tables.raw_value();
    let mut bytes = Vec::new();
    let mut table = |used: u64, value: &dyn Fn(u64) -> u64| {
        for index in 0..ENTRIES {
            let entry = if index < used { value(index) } else { 0 };
            bytes.extend_from_slice(&entry.to_le_bytes());
        }
    };
    table(1, &|_| base.wrapping_add(PAGE) | PRESENT_WRITABLE);
    table(gib, &|index| base.wrapping_add((2 + index) * PAGE) | PRESENT_WRITABLE);
    for n in 0..gib {
        table(ENTRIES, &|index| (n * ENTRIES + index) << 21 | PRESENT_WRITABLE | LARGE);
    }
    bytes
}

fn write<M: GuestMemoryBackend>(memory: &M, what: &'static str, at: GuestAddress, bytes: &[u8]) -> Result<(), Error> {
    memory.write_slice(bytes, at).map_err(|source| Error::GuestMemory { what, address: at.raw_value(), source })
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn word(memory: &GuestMemoryMmap, at: u64) -> u64 {
        memory.read_obj(GuestAddress(at)).unwrap()
    }

    #[test]
    fn long_mode_tables() {
        let memory = memory();
        let entry = LongMode::new(GuestAddress(0x100_0000), GuestAddress(0x7000));
        Entry::LongMode(entry).write_tables(&memory).unwrap();
        let gdt: Vec<u64> = (0..5).map(|n| word(&memory, 0x500 + n * 8)).collect();
        assert_eq!(gdt, [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff, 0]);
        assert_eq!(word(&memory, 0x9000), 0xa003);
        assert_eq!(word(&memory, 0x9008), 0);
        assert_eq!(
            (0..5).map(|n| word(&memory, 0xa000 + n * 8)).collect::<Vec<_>>(),
            [0xb003, 0xc003, 0xd003, 0xe003, 0]
        );
        assert_eq!(word(&memory, 0xb000), 0x83);
        assert_eq!(word(&memory, 0xb008), 0x20_0083);
        assert_eq!(word(&memory, 0xeff8), 0xffe0_0083);
        assert_eq!(word(&memory, 0xf000), 0);
    }

    #[test]
    fn cached_segments_agree_with_the_table() {
        let code = segment(1, flags::CODE_64, FLAT_LIMIT);
        assert_eq!((code.selector, code.limit, code.type_), (8, 0xffff_ffff, 0xb));
        assert_eq!((code.present, code.s, code.l, code.db, code.g, code.dpl), (1, 1, 1, 0, 1, 0));
        let tss = segment(3, flags::TSS_32, 0x67);
        assert_eq!((tss.limit, tss.type_, tss.s, tss.g), (0x67, 0xb, 0, 0));
    }

    #[test]
    fn refused() {
        let memory = memory();
        let good = LongMode::new(GuestAddress(0x1000), GuestAddress(0));
        for bad in [
            LongMode { page_tables: GuestAddress(0x9008), ..good.clone() },
            LongMode { identity_gib: 0, ..good.clone() },
            LongMode { identity_gib: 513, ..good.clone() },
            LongMode { entry: GuestAddress(1 << 32), ..good.clone() },
            LongMode { gdt: GuestAddress(u64::MAX), ..good.clone() },
            LongMode { page_tables: GuestAddress(0xf000), ..good.clone() },
        ] {
            let error = Entry::LongMode(bad.clone()).write_tables(&memory).unwrap_err();
            assert!(!error.to_string().is_empty(), "{bad:?}");
        }
        let above = Pvh::new(GuestAddress(1 << 32), GuestAddress(0));
        assert!(matches!(Entry::Pvh(above).write_tables(&memory), Err(Error::Entry { what: "entry point", .. })));
    }
}
