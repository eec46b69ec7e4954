//! Wrong files get an answer that helps.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, outside of a test function too")]

mod common;

use std::fs;
use std::io::Cursor;

use common::patch;
use krun_kernel_loader::{Error, Kernel};
use tempfile::TempDir;

fn refusal(bytes: &[u8]) -> String {
    match Kernel::from_image(Cursor::new(bytes)) {
        Err(error @ Error::UnsupportedKernel { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn compressed_and_foreign_kernels_are_recognised() {
    for (magic, named) in [
        (&b"\x1f\x8b\x08"[..], "gzip -dc"),
        (b"\xfd7zXZ\0", "xz -dc"),
        (b"\x28\xb5\x2f\xfd", "zstd -dc"),
        (b"\x02\x21\x4c\x18", "lz4 -dc"),
        (b"BZh9", "bzip2 -dc"),
        (b"MZ\0\0zimg", "zboot"),
        (b"MZ\x90\0", "EFI program"),
        (b"\x27\x05\x19\x56", "U-Boot"),
        (b"070701", "initrd"),
        (b"#!/bin/sh", "script"),
        (b"", "empty"),
        (b"hello", "no known format"),
    ] {
        let mut file = magic.to_vec();
        for _ in 0..2 {
            let text = refusal(&file);
            assert!(text.contains(named), "{magic:x?}: {text}");
            if !magic.is_empty() {
                // The rest of the file does not matter.
                file.resize(0x1000, 0xa5);
            }
        }
    }
    let mut image = vec![0; 0x1000];
    patch(&mut image, 0x38, b"ARM\x64");
    assert!(refusal(&image).contains("arm64"));
    patch(&mut image, 0, b"MZ");
    assert!(refusal(&image).contains("arm64"), "with EFI stub too");
    patch(&mut image, 0x38, b"RSC\x05");
    assert!(refusal(&image).contains("RISC-V"));
}

#[test]
fn what_cannot_be_opened_names_the_path() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("vmlinux");
    for path in [missing.as_path(), dir.path(), "/dev/null".as_ref()] {
        let error = Kernel::open(path).unwrap_err();
        assert!(matches!(error, Error::OpenKernel { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn open_finds_out_what_a_file_is() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("kernel");
    fs::write(&path, common::Elf::kernel().bytes()).unwrap();
    assert!(matches!(Kernel::open(&path).unwrap(), Kernel::Elf(_)));
    fs::write(&path, common::BzImage::kernel().bytes()).unwrap();
    assert!(matches!(Kernel::open(&path).unwrap(), Kernel::BzImage(_)));
}
