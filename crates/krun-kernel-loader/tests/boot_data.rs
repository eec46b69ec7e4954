//! What a kernel is told: initrd, `boot_params`, PVH start information, read back at the offsets that
//! Documentation/arch/x86/boot.rst and Xen's headers give.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, outside of a test function too")]

mod common;

use std::io::Cursor;

use common::{BzImage, Elf, MIB, pattern, peek, ram};
use krun_kernel_loader::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use krun_kernel_loader::{
    BootParams, Cmdline, Error, Initrd, Kernel, LoadedKernel, MachineDescription, RamLayout, load_initrd, words,
    write_boot_params, write_mp_table, write_pvh_start_info,
};
use proptest::prelude::*;

fn u(ram: &GuestMemoryMmap, address: u64, len: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..len].copy_from_slice(&peek(ram, address, len));
    u64::from_le_bytes(bytes)
}

struct Guest {
    ram: GuestMemoryMmap,
    layout: RamLayout,
    kernel: LoadedKernel,
}

impl Guest {
    fn new(kernel: Vec<u8>, size: u64) -> Self {
        let (ram, layout) = ram(size);
        let kernel = Kernel::from_image(Cursor::new(kernel)).unwrap().load(&ram, &layout).unwrap();
        Self { ram, layout, kernel }
    }

    fn params<'a>(&'a self, cmdline: &'a Cmdline, initrd: Option<Initrd>) -> BootParams<'a> {
        BootParams { kernel: &self.kernel, layout: &self.layout, cmdline, initrd, acpi_rsdp: None }
    }
}

/// e820 entries: start, size, type.
fn e820(ram: &GuestMemoryMmap) -> Vec<(u64, u64, u64)> {
    let count = u(ram, 0x7000 + 0x1e8, 1);
    (0..count)
        .map(|n| 0x7000 + 0x2d0 + n * 20)
        .map(|at| (u(ram, at, 8), u(ram, at + 8, 8), u(ram, at + 16, 4)))
        .collect()
}

#[test]
fn boot_params_of_a_kernel_without_a_header() {
    let guest = Guest::new(Elf::kernel().bytes(), 5 << 30);
    let mut cmdline = Cmdline::new();
    cmdline.raw("console=hvc0 quiet").unwrap();
    let params = BootParams { acpi_rsdp: Some(GuestAddress(0xe_0000)), ..guest.params(&cmdline, None) };
    let zero_page = write_boot_params(&guest.ram, &params).unwrap().0;
    assert_eq!(zero_page, 0x7000);
    let at = |offset, len| u(&guest.ram, zero_page + offset, len);
    assert_eq!(at(0x070, 8), 0xe_0000, "acpi_rsdp_addr");
    assert_eq!(at(0x1ef, 1), 0, "sentinel");
    assert_eq!(at(0x1fe, 2), 0xaa55, "boot_flag");
    assert_eq!(at(0x202, 4), 0x5372_6448, "header");
    assert_eq!(at(0x210, 1), 0xff, "type_of_loader");
    assert_eq!(at(0x218, 8), 0, "no initrd");
    assert_eq!(at(0x228, 4), 0x2_0000, "cmd_line_ptr");
    assert_eq!(peek(&guest.ram, 0x2_0000, 19), b"console=hvc0 quiet\0");
    assert_eq!(
        e820(&guest.ram),
        [
            (0, 0x9_fc00, 1),
            (0x9_fc00, 0x400, 2),
            (0xf_0000, 0x1_0000, 2),
            (0x10_0000, 0xcff0_0000, 1),
            (1 << 32, (5 << 30) - 0xd000_0000, 1),
        ]
    );
}

#[test]
fn boot_params_of_a_bzimage_keep_its_header_and_replace_what_is_the_loaders() {
    let file = BzImage::kernel().bytes();
    let guest = Guest::new(file.clone(), 64 * MIB);
    let initrd = load_initrd(&guest.ram, &guest.kernel, Cursor::new(pattern(5000))).unwrap();
    let cmdline = Cmdline::new();
    write_boot_params(&guest.ram, &guest.params(&cmdline, Some(initrd))).unwrap();
    let page = peek(&guest.ram, 0x7000, 0x1000);
    for field in [0x1f1..0x1f2, 0x1f4..0x1f8, 0x1fe..0x210, 0x211..0x212, 0x22c..0x240, 0x258..0x264] {
        assert_eq!(page[field.clone()], file[field.clone()], "{field:x?}");
    }
    assert_eq!(page[0x214..0x218], 0x100_0000u32.to_le_bytes(), "code32_start");
    assert_eq!(page[0x250..0x258], [0; 8], "setup_data");
    let at = |offset: u64, len| u(&guest.ram, 0x7000 + offset, len);
    assert_eq!((at(0x218, 4), at(0x21c, 4)), (initrd.address().0, 5000));
    assert_eq!(u(&guest.ram, 0x2_0000, 1), 0, "an empty command line ends at once");
}

#[test]
fn a_command_line_longer_than_this_kernel_reads_is_refused() {
    let guest = Guest::new(BzImage { cmdline_size: 20, ..BzImage::kernel() }.bytes(), 64 * MIB);
    let mut cmdline = Cmdline::new();
    cmdline.param("k", &"v".repeat(18)).unwrap();
    write_boot_params(&guest.ram, &guest.params(&cmdline, None)).unwrap();
    cmdline.word("x").unwrap();
    for write in [write_boot_params, write_pvh_start_info] {
        let error = write(&guest.ram, &guest.params(&cmdline, None)).unwrap_err();
        assert!(matches!(error, Error::CmdlineTooLong { len: 22, max: 20 }), "{error}");
    }
}

#[test]
fn pvh_start_info_reads_back() {
    let guest = Guest::new(Elf::pvh().bytes(), 5 << 30);
    let initrd = load_initrd(&guest.ram, &guest.kernel, Cursor::new(pattern(100))).unwrap();
    let mut cmdline = Cmdline::new();
    cmdline.word("quiet").unwrap();
    let start_info = write_pvh_start_info(&guest.ram, &guest.params(&cmdline, Some(initrd))).unwrap().0;
    let at = |offset, len| u(&guest.ram, start_info + offset, len);
    assert_eq!((at(0, 4), at(4, 4), at(8, 4)), (0x336e_c578, 1, 0), "magic, version, flags");
    assert_eq!(at(12, 4), 1, "modules");
    let module = at(16, 8);
    assert_eq!((u(&guest.ram, module, 8), u(&guest.ram, module + 8, 8)), (initrd.address().0, 100));
    assert_eq!(peek(&guest.ram, at(24, 8), 6), b"quiet\0");
    assert_eq!(at(32, 8), 0, "no RSDP");
    let (map, entries) = (at(40, 8), at(48, 4));
    let entry = |n: u64| {
        let at = map + n * 24;
        (u(&guest.ram, at, 8), u(&guest.ram, at + 8, 8), u(&guest.ram, at + 16, 4), u(&guest.ram, at + 20, 4))
    };
    assert_eq!(entries, 5);
    assert_eq!(entry(0), (0, 0x9_fc00, 1, 0));
    assert_eq!(entry(1), (0x9_fc00, 0x400, 2, 0));
    assert_eq!(entry(4), (1 << 32, (5 << 30) - 0xd000_0000, 1, 0));
    assert!(map + entries * 24 <= start_info + 0x1000);
}

#[test]
fn the_initrd_lies_as_high_as_the_kernel_takes_it() {
    let place = |kernel: BzImage, mib: u64, len: usize| {
        let guest = Guest::new(kernel.bytes(), mib * MIB);
        let initrd = load_initrd(&guest.ram, &guest.kernel, Cursor::new(pattern(len)));
        initrd.map(|initrd| {
            assert_eq!(peek(&guest.ram, initrd.address().0, len), pattern(len));
            initrd.address().0
        })
    };
    let kernel = BzImage::kernel;
    assert_eq!(place(kernel(), 64, 4096).unwrap(), 64 * MIB - 4096);
    assert_eq!(place(kernel(), 64, 4097).unwrap(), 64 * MIB - 8192);
    assert_eq!(place(kernel(), 64, 1).unwrap(), 64 * MIB - 4096);
    assert_eq!(place(BzImage { initrd_addr_max: 0x1ff_ffff, ..kernel() }, 64, 4096).unwrap(), 0x1ff_f000);
    assert_eq!(place(BzImage { initrd_addr_max: 0x1ff_fffe, ..kernel() }, 64, 4096).unwrap(), 0x1ff_e000);
    assert_eq!(place(kernel(), 3 << 10, 4096).unwrap(), 0x7fff_f000, "above it this kernel cannot read");
    // The whole room behind the kernel, which ends at 16 MiB + 0x5000, and one byte more.
    let room = 0x10_0000 - 0x5000;
    assert_eq!(place(kernel(), 17, room).unwrap(), 0x100_5000);
    let error = place(kernel(), 17, room + 1).unwrap_err();
    assert!(matches!(error, Error::InitrdDoesNotFit { room_start: 0x100_5000, room_end: 0x110_0000, .. }), "{error}");
    assert!(matches!(place(kernel(), 17, 0), Err(Error::EmptyInitrd)));
    let below_the_kernel = BzImage { initrd_addr_max: 0, ..kernel() };
    assert!(matches!(place(below_the_kernel, 64, 1), Err(Error::InitrdDoesNotFit { .. })));
}

#[test]
fn an_initrd_the_host_could_never_hold_is_refused_by_its_length() {
    let guest = Guest::new(Elf::kernel().bytes(), 64 * MIB);
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 40).unwrap();
    let error = load_initrd(&guest.ram, &guest.kernel, file).unwrap_err();
    assert!(matches!(error, Error::InitrdDoesNotFit { size, .. } if size == 1 << 40), "{error}");
}

#[test]
fn memory_that_is_not_the_layouts_is_an_error() {
    let guest = Guest::new(Elf::kernel().bytes(), 64 * MIB);
    let small: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x7800)]).unwrap();
    let cmdline = Cmdline::new();
    let error = write_boot_params(&small, &guest.params(&cmdline, None)).unwrap_err();
    assert!(matches!(error, Error::WriteGuest { address: 0x2_0000, .. }), "{error}");
    let error =
        Kernel::from_image(Cursor::new(Elf::kernel().bytes())).unwrap().load(&small, &guest.layout).unwrap_err();
    assert!(matches!(error, Error::WriteGuest { .. }), "{error}");
    load_initrd(&small, &guest.kernel, Cursor::new(vec![1])).unwrap_err();
}

#[test]
fn recommended_words_depend_on_kernel_and_memory() {
    let words = |size| {
        let kernel = Kernel::from_image(Cursor::new(Elf::kernel().bytes())).unwrap();
        words::recommended(&kernel, &RamLayout::new(size).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(words(3328 * MIB), ["reboot=k,panic_warm", "panic=-1", "no-kvmapf"]);
    assert_eq!(words(3329 * MIB).last(), Some(&"swiotlb=noforce"));
}

#[test]
fn a_panic_is_told_from_a_reboot() {
    let (ram, _) = ram(2 * MIB);
    assert!(!words::guest_panicked(&ram));
    ram.write_obj(0x1234u16, GuestAddress(0x472)).unwrap();
    assert!(words::guest_panicked(&ram));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the sizes: kernel, initrd, tables and what the map calls RAM never overlap.
    #[test]
    fn nothing_overlaps(
        mib in prop_oneof![18u64..80, 3320u64..3340, 4090u64..4110],
        initrd_len in 1usize..(1 << 20),
        cpus in 1u32..=254,
        init_size in 0u32..0x10_0000,
    ) {
        let guest = Guest::new(BzImage { init_size, ..BzImage::kernel() }.bytes(), mib * MIB);
        let initrd = match load_initrd(&guest.ram, &guest.kernel, Cursor::new(vec![0xaa; initrd_len])) {
            Ok(initrd) => Some(initrd),
            Err(error) => {
                prop_assert!(mib == 18, "{}", error);
                None
            }
        };
        let mut cmdline = Cmdline::new();
        cmdline.param("x", &"y".repeat(2000)).unwrap();
        write_mp_table(&guest.ram, &MachineDescription::new(cpus)).unwrap();
        write_boot_params(&guest.ram, &guest.params(&cmdline, initrd)).unwrap();
        let initrd = initrd.map(|initrd| initrd.address().0..initrd.address().0 + initrd.size());
        let mut used = vec![
            0x500..0x7000,
            0x7000..0x8000,
            0x8000..0x2_0000,
            0x2_0000..0x2_0800,
            0x9_fc00..0xa_0000,
            0xf_0000..0x10_0000,
            guest.kernel.range.clone(),
        ];
        used.extend(initrd.clone());
        for pair in used.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start, "{:x?}", pair);
        }
        let map = e820(&guest.ram);
        for range in [Some(guest.kernel.range.clone()), initrd].into_iter().flatten() {
            prop_assert!(map.iter().any(|(start, size, kind)| *kind == 1 && *start <= range.start && range.end <= start + size));
        }
        let ram: u64 = map.iter().filter(|(.., kind)| *kind == 1).map(|(_, size, _)| size).sum();
        prop_assert_eq!(ram, mib * MIB - 0x6_0400);
    }
}
