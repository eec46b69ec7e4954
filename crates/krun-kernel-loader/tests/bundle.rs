//! Kernel bundles: real shared libraries, loaded by the real dynamic linker.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, outside of a test function too")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Library, MIB, peek, ram};
use krun_kernel_loader::vm_memory::GuestAddress;
use krun_kernel_loader::{Entry, Error, Kernel};
use tempfile::TempDir;

fn file(dir: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("libkrunfw.so.5");
    fs::write(&path, bytes).unwrap();
    path
}

fn open(library: &Library) -> Result<Kernel, Error> {
    let dir = TempDir::new().unwrap();
    Kernel::bundle(file(&dir, &library.bytes()))
}

#[test]
fn a_bundle_is_copied_to_where_it_belongs() {
    let dir = TempDir::new().unwrap();
    let library = Library::bundle();
    let path = file(&dir, &library.bytes());
    let mut kernel = Kernel::open(&path).unwrap();
    assert!(matches!(&kernel, Kernel::Bundle(bundle) if bundle.image() == library.image));

    let (ram, layout) = ram(64 * MIB);
    let loaded = kernel.load(&ram, &layout).unwrap();
    drop(kernel);
    assert_eq!(loaded.entry, Entry::Linux64 { rip: GuestAddress(0x100_0123) });
    assert_eq!(loaded.pvh_entry, None);
    assert_eq!(peek(&ram, 0x100_0000, 0x3000), library.image);
    assert!(peek(&ram, 0x0ff_f000, 0x1000).iter().chain(&peek(&ram, 0x100_3000, 0x1000)).all(|byte| *byte == 0));
    // Room for uninitialised data behind the image is the kernel's too.
    assert!(loaded.range.start == 0x100_0000 && loaded.range.end > 0x100_3000);
}

#[test]
fn the_library_is_gone_after_the_copy() {
    let mapped = |name: &str| fs::read_to_string("/proc/self/maps").unwrap().contains(name);
    let dir = TempDir::new().unwrap();
    let path = file(&dir, &Library::bundle().bytes());
    let kernel = Kernel::bundle(&path).unwrap();
    assert!(mapped(path.to_str().unwrap()));
    drop(kernel);
    assert!(!mapped(path.to_str().unwrap()));
}

#[test]
fn a_bare_file_name_is_a_file_for_open() {
    // `dlopen` would search the linker's path for it; the test runs in the package's directory.
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = file(&dir, &Library::bundle().bytes());
    let link = PathBuf::from(format!("{}.so", dir.path().file_name().unwrap().to_str().unwrap()));
    fs::rename(path, &link).unwrap();
    let opened = Kernel::open(&link);
    fs::remove_file(&link).unwrap();
    assert!(matches!(opened.unwrap(), Kernel::Bundle(_)));
}

#[test]
fn another_abi_is_refused() {
    for abi in [4, 6, 0, -1] {
        let error = open(&Library { abi, ..Library::bundle() }).unwrap_err();
        assert!(matches!(error, Error::BundleAbi { found, .. } if found == abi), "{error}");
    }
}

#[test]
fn values_that_cannot_be_are_named() {
    let bundle = Library::bundle;
    for (library, named) in [
        (Library { address: 0, ..bundle() }, "the load address"),
        (Library { address: 0x100_0001, ..bundle() }, "the load address"),
        (Library { address: 0xf_f000, ..bundle() }, "the load address"),
        (Library { address: 1 << 40, ..bundle() }, "the load address"),
        (Library { address: !0xfff, ..bundle() }, "the load address"),
        (Library { address: 0x3fff_f000, ..bundle() }, "the size"),
        (Library { size: 0, ..bundle() }, "the size"),
        (Library { entry: 0x0ff_ffff, ..bundle() }, "the entry address"),
        (Library { entry: 0x100_3000, ..bundle() }, "the entry address"),
        // More than the library has would be read from whatever is mapped behind it.
        (Library { size: 0x10_0000, ..bundle() }, "the image's size"),
        (Library { size: u64::MAX, ..bundle() }, "the image's size"),
    ] {
        match open(&library).unwrap_err() {
            Error::BundleImage { field, .. } => assert_eq!(field, named, "{library:x?}"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_library_without_a_kernel_is_not_run() {
    let library = Library { get_kernel: "other_function", ..Library::bundle() };
    let dir = TempDir::new().unwrap();
    let path = file(&dir, &library.bytes());
    assert!(matches!(Kernel::open(&path), Err(Error::UnsupportedKernel { .. })));
    // Asked for by name, the linker's words say what is missing.
    let error = Kernel::bundle(&path).unwrap_err();
    assert!(matches!(error, Error::LoadBundle { .. }) && error.to_string().contains("krunfw_get_kernel"), "{error}");
}

#[test]
fn a_bundle_as_an_image_is_not_run() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, &Library::bundle().bytes());
    let opened = Kernel::from_image(fs::File::open(&path).unwrap());
    assert!(matches!(opened, Err(Error::UnsupportedKernel { .. })));
}

#[test]
fn no_library_is_the_linkers_error() {
    let error = Kernel::bundle("libkrunfw-that-nobody-has.so.5").unwrap_err();
    assert!(error.to_string().contains("libkrunfw-that-nobody-has.so.5"), "{error}");
}

#[test]
fn ram_that_is_too_small_is_said_with_the_needed_addresses() {
    let (ram, layout) = ram(17 * MIB);
    let error = open(&Library::bundle()).unwrap().load(&ram, &layout).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("at least 33 MiB") && text.contains("0x1000000"), "{text}");
}

#[test]
fn truncated_libraries_are_errors() {
    let bytes = Library::bundle().bytes();
    let dir = TempDir::new().unwrap();
    // Past the headers the linker maps what is there and would fault on the rest: it is up to the linker to refuse.
    for len in [0, 3, 4, 16, 63, 64, 100, 64 + 3 * 56 - 1] {
        let path = file(&dir, &bytes[..len]);
        Kernel::open(&path).unwrap_err();
        Kernel::bundle(&path).unwrap_err();
    }
}
