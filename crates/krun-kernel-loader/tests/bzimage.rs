//! bzImage kernels: good ones, wrong ones, broken ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, outside of a test function too")]

mod common;

use std::io::Cursor;

use common::{BzImage, MIB, patch, pattern, peek, ram};
use krun_kernel_loader::vm_memory::GuestAddress;
use krun_kernel_loader::{Entry, Error, Kernel, LoadedKernel};
use proptest::prelude::*;

fn load(bytes: Vec<u8>, mib: u64) -> Result<LoadedKernel, Error> {
    let (ram, layout) = ram(mib * MIB);
    Kernel::from_image(Cursor::new(bytes))?.load(&ram, &layout)
}

#[test]
fn the_protected_mode_part_goes_to_the_preferred_address() {
    for setup_sects in [0, 1, 2, 39, 255] {
        let mut file = BzImage { setup_sects, ..BzImage::kernel() }.bytes();
        // A signature behind the kernel is none of it.
        file.extend([0x5a; 1000]);
        let (ram, layout) = ram(32 * MIB);
        let loaded = Kernel::from_image(Cursor::new(file)).unwrap().load(&ram, &layout).unwrap();
        assert_eq!(loaded.entry, Entry::Linux64 { rip: GuestAddress(0x100_0200) });
        assert_eq!(loaded.pvh_entry, None);
        assert_eq!(loaded.range, 0x100_0000..0x100_5000);
        assert_eq!((loaded.max_cmdline, loaded.initrd_end), (2047, 32 * MIB));
        assert_eq!(peek(&ram, 0x100_0000, 0x1230), pattern(0x1230));
        assert!(peek(&ram, 0x100_1230, 0x4000).iter().all(|byte| *byte == 0));
        assert!(peek(&ram, 0, 0x10_0000).iter().all(|byte| *byte == 0));
    }
}

#[test]
fn init_size_counts_from_where_the_kernel_will_run() {
    let range = |kernel: BzImage| load(kernel.bytes(), 64).map(|loaded| loaded.range);
    let kernel = BzImage::kernel;
    // A relocatable kernel rounds an odd address up by itself, a fixed one stays.
    let odd = BzImage { pref_address: 0x100_1000, ..kernel() };
    assert_eq!(range(odd.clone()).unwrap(), 0x100_1000..0x120_5000);
    assert_eq!(range(BzImage { relocatable: 0, ..odd }).unwrap(), 0x100_1000..0x100_6000);
    // Without a preference.
    assert_eq!(range(BzImage { pref_address: 0, ..kernel() }).unwrap(), 0x20_0000..0x20_5000);
    let nowhere = range(BzImage { pref_address: 0, relocatable: 0, ..kernel() }).unwrap_err();
    assert!(matches!(nowhere, Error::KernelDoesNotFit { .. }), "{nowhere}");
    // A size that cannot be true gives way to the file's.
    assert_eq!(range(BzImage { init_size: 0, ..kernel() }).unwrap(), 0x100_0000..0x100_1230);
}

#[test]
fn ram_has_to_hold_the_unpacked_kernel() {
    let kernel = BzImage { init_size: 0x100_0000, ..BzImage::kernel() };
    load(kernel.bytes(), 32).unwrap();
    let error = load(kernel.bytes(), 31).unwrap_err();
    assert!(matches!(error, Error::KernelDoesNotFit { end: 0x200_0000, .. }), "{error}");
    assert!(error.to_string().contains("at least 32 MiB"), "{error}");
    let error = load(BzImage { init_size: u32::MAX, ..kernel }.bytes(), 31).unwrap_err();
    assert!(matches!(error, Error::KernelDoesNotFit { .. }), "{error}");
}

#[test]
fn limits_of_the_kernel_are_handed_on() {
    let kernel = BzImage { cmdline_size: 255, initrd_addr_max: 0x1ff_ffff, ..BzImage::kernel() };
    let loaded = load(kernel.bytes(), 64).unwrap();
    assert_eq!((loaded.max_cmdline, loaded.initrd_end), (255, 0x200_0000));
    let kernel = BzImage { cmdline_size: u32::MAX, initrd_addr_max: u32::MAX, ..kernel };
    let loaded = load(kernel.bytes(), 64).unwrap();
    assert_eq!((loaded.max_cmdline, loaded.initrd_end), (2047, 64 * MIB));
}

#[test]
fn kernels_for_something_else_are_named() {
    let found = |kernel: BzImage| match load(kernel.bytes(), 32) {
        Err(Error::UnsupportedKernel { found, .. }) => found,
        other => panic!("{other:?}"),
    };
    let kernel = BzImage::kernel;
    assert!(found(BzImage { xloadflags: 0x7e, ..kernel() }).contains("32-bit"));
    assert!(found(BzImage { loadflags: 0, ..kernel() }).contains("zImage"));
    assert!(found(BzImage { version: 0x020b, ..kernel() }).contains("older"));
}

#[test]
fn headers_that_do_not_add_up_are_named() {
    let field = |kernel: BzImage| match load(kernel.bytes(), 32) {
        Err(Error::BadKernel { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let kernel = BzImage::kernel;
    assert_eq!(field(BzImage { payload: Vec::new(), ..kernel() }), "syssize");
    assert_eq!(field(BzImage { payload: vec![0; 0x200], ..kernel() }), "syssize");
    assert_eq!(field(BzImage { alignment: 0, ..kernel() }), "kernel_alignment");
    assert_eq!(field(BzImage { alignment: 3, ..kernel() }), "kernel_alignment");
    assert_eq!(field(BzImage { pref_address: u64::MAX, ..kernel() }), "pref_address");
    assert_eq!(field(BzImage { pref_address: u64::MAX - 0xfff, relocatable: 0, ..kernel() }), "pref_address");
    let mut file = kernel().bytes();
    patch(&mut file, 0x1fe, &[0]);
    assert!(matches!(load(file, 32), Err(Error::BadKernel { field: "header", .. })));
}

#[test]
fn a_header_shorter_than_its_fields_leaves_them_out() {
    // The jump at 0x200 ends the header before `init_size`, at 0x260.
    let mut file = BzImage::kernel().bytes();
    file[0x201] = 0x60 - 2;
    assert_eq!(load(file.clone(), 32).unwrap().range, 0x100_0000..0x100_1230);
    // Before the flags that say there is a 64-bit entry.
    file[0x201] = 0x30;
    assert!(matches!(load(file.clone(), 32), Err(Error::UnsupportedKernel { .. })));
    file[0x201] = 0;
    load(file.clone(), 32).unwrap_err();
    // Longer than the fields that are known.
    file[0x201] = 0xff;
    load(file, 32).unwrap();
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = BzImage::kernel().bytes();
    for len in (0..0x300).chain(0x5f0..0x610).chain(bytes.len() - 40..bytes.len()) {
        let error = load(bytes[..len].to_vec(), 32).unwrap_err();
        let expected = matches!(error, Error::Truncated { .. } | Error::UnsupportedKernel { .. });
        assert!(expected, "{len}: {error}");
    }
    load(bytes, 32).unwrap();
}

/// The header that Debian's `vmlinuz-6.1.0-*-cloud-amd64` has: 39 setup sectors, 51 MiB to unpack into.
#[test]
fn a_distributions_header() {
    let kernel = BzImage {
        setup_sects: 39,
        version: 0x020f,
        xloadflags: 0x7f,
        init_size: 0x0337_8000,
        payload: pattern(0x4_0000),
        ..BzImage::kernel()
    };
    let loaded = load(kernel.bytes(), 68).unwrap();
    assert_eq!(loaded.range, 0x100_0000..0x437_8000);
    load(kernel.bytes(), 67).unwrap_err();
}

proptest! {
    /// Any header: an error or a kernel within the rules, and no byte outside of its range.
    #[test]
    fn mutated_headers_never_break_out(
        patches in prop::collection::vec((0x1f0usize..0x270, any::<u8>()), 1..6),
        pref_address in prop_oneof![Just(0x100_0000), any::<u64>(), 0u64..0x200_0000],
        init_size in prop_oneof![Just(0x5000), any::<u32>(), 0u32..0x200_0000],
    ) {
        let mut file = BzImage { pref_address, init_size, ..BzImage::kernel() }.bytes();
        for (at, byte) in patches {
            file[at] = byte;
        }
        let (ram, layout) = ram(32 * MIB);
        let Ok(mut kernel) = Kernel::from_image(Cursor::new(file)) else { return Ok(()) };
        match kernel.load(&ram, &layout) {
            Ok(loaded) => {
                prop_assert!(loaded.range.start >= MIB && loaded.range.end <= 32 * MIB);
                let Entry::Linux64 { rip } = loaded.entry else { panic!("{loaded:?}") };
                prop_assert!(loaded.range.contains(&rip.0));
                prop_assert!(loaded.initrd_end <= 32 * MIB && loaded.max_cmdline <= 2047);
                prop_assert!(peek(&ram, 0, 0x10_0000).iter().all(|byte| *byte == 0));
            }
            Err(Error::KernelDoesNotFit { .. }) => {}
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
