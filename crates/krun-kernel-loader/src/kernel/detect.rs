//! What kind of file is it? Told by its first bytes, so that a wrong file gets an answer that helps.

use super::elf;
use super::image::{Image, Reader};
use crate::error::{Error, Result};

/// The kinds of kernel that are loaded from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Elf,
    /// An ELF shared object: if it is a kernel, then a bundle.
    SharedObject,
    BzImage,
}

/// How much of a file is looked at.
const HEAD: usize = 0x240;

/// Where a bzImage says "HdrS".
const BZIMAGE_MAGIC: usize = 0x202;

/// Where an arm64 or RISC-V Image has its magic.
const IMAGE_MAGIC: usize = 0x38;

/// Formats that are recognised to be explained: (offset, magic, what it is, what to do).
const EXPLAINED: &[(usize, &[u8], &str, &str)] = &[
    (0, b"\x1f\x8b", "compressed with gzip", "unpack it first: gzip -dc FILE > vmlinux"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unpack it first: xz -dc FILE > vmlinux"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: zstd -dc FILE > vmlinux"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first: lz4 -dc FILE > vmlinux"),
    (0, b"\x02\x21\x4c\x18", "compressed with lz4", "unpack it first: lz4 -dc FILE > vmlinux"),
    (0, b"BZh", "compressed with bzip2", "unpack it first: bzip2 -dc FILE > vmlinux"),
    (0, b"\x5d\0\0", "compressed with lzma", "unpack it first: xz --format=lzma -dc FILE > vmlinux"),
    (0, b"\x89LZO", "compressed with lzop", "unpack it first: lzop -dc FILE > vmlinux"),
    (IMAGE_MAGIC, b"ARM\x64", "an arm64 Image", "this machine runs x86_64 kernels: bzImage or vmlinux"),
    (IMAGE_MAGIC, b"RSC\x05", "a RISC-V Image", "this machine runs x86_64 kernels: bzImage or vmlinux"),
    (4, b"zimg", "a kernel compressed for EFI (zboot)", "name the bzImage or vmlinux it was made from"),
    (0, b"MZ", "an EFI program (PE) without a Linux boot header", "name the bzImage or vmlinux inside of it"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image", "name the kernel it was made from"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or FIT image", "name the bzImage or vmlinux"),
    (0, b"070701", "an initrd (cpio archive)", "name the kernel here and this file as its initrd"),
    (0, b"#!", "a script", "name a bzImage, a vmlinux or a libkrunfw.so.5"),
];

/// Finds out what the file is.
pub(super) fn detect<F: Image>(file: &mut Reader<F>) -> Result<Format> {
    let head = file.read_up_to(HEAD, 0, "the first bytes")?;
    let has = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    // Before the PE test: a bzImage with EFI stub is both.
    if has(BZIMAGE_MAGIC, b"HdrS") {
        return Ok(Format::BzImage);
    }
    if has(0, b"\x7fELF") {
        let shared = elf::header(file)?.e_type == elf::ET_DYN;
        return Ok(if shared { Format::SharedObject } else { Format::Elf });
    }
    let explained = EXPLAINED.iter().find(|(offset, magic, ..)| has(*offset, magic));
    let (found, remedy) = match explained {
        Some((.., found, remedy)) => (*found, *remedy),
        None if head.is_empty() => ("an empty file", "copy or build it again"),
        None => ("of no known format", "name a bzImage, a vmlinux or a libkrunfw.so.5"),
    };
    Err(Error::UnsupportedKernel { found, remedy })
}
