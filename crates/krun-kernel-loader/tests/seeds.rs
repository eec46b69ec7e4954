//! The fuzzer's seeds are these made-up kernels: written by `cargo test -p krun-kernel-loader --test seeds -- --ignored`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, outside of a test function too")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{BzImage, Elf, Segment, pattern};

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let small = |address| Segment::load(address, pattern(0x40));
    let elf = Elf { entry: 0x10_0000, segments: vec![small(0x10_0000)], ..Elf::kernel() };
    let mut bss = elf.clone();
    bss.segments.push(Segment { memsz: 0x2000, ..small(0x10_1000) });
    let mut pvh = Elf { entry: 0xffff_ffff_8100_0000, ..elf.clone() };
    pvh.segments.push(Segment::notes(common::note(18, b"Xen\0", &0x10_0010u64.to_le_bytes())));
    let bzimage = BzImage {
        setup_sects: 1,
        alignment: 0x1000,
        pref_address: 0x10_0000,
        payload: pattern(0x240),
        ..BzImage::kernel()
    };
    let fixed = BzImage { relocatable: 0, pref_address: 0x20_0000, ..bzimage.clone() };
    vec![
        ("elf", elf.bytes()),
        ("elf-bss", bss.bytes()),
        ("elf-pvh", pvh.bytes()),
        ("bzimage", bzimage.bytes()),
        ("bzimage-fixed", fixed.bytes()),
        ("gzip", b"\x1f\x8b\x08".to_vec()),
    ]
}

fn corpus() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", "kernel_loader_image"].iter().collect()
}

#[test]
#[ignore = "writes into the source tree"]
fn write() {
    for (name, bytes) in seeds() {
        fs::write(corpus().join(name), bytes).unwrap();
    }
}

#[test]
fn seeds_are_kernels() {
    for (name, bytes) in seeds() {
        let kernel = krun_kernel_loader::Kernel::from_image(std::io::Cursor::new(bytes));
        assert_eq!(kernel.is_ok(), name != "gzip", "{name}: {kernel:?}");
    }
}
