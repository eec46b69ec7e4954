//! ELF kernels: good ones, wrong ones, broken ones.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, outside of a test function too"
)]

mod common;

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use common::{EHDR, Elf, MIB, PHDR, Segment, note, patch, pattern, peek, ram};
use krun_kernel_loader::vm_memory::bitmap::BitmapSlice;
use krun_kernel_loader::vm_memory::{GuestAddress, ReadVolatile, VolatileMemoryError, VolatileSlice};
use krun_kernel_loader::{Entry, Error, Kernel, LoadedKernel};
use proptest::prelude::*;

fn load(bytes: Vec<u8>, mib: u64) -> Result<(LoadedKernel, Vec<u8>), Error> {
    let (ram, layout) = ram(mib * MIB);
    let loaded = Kernel::from_image(Cursor::new(bytes))?.load(&ram, &layout)?;
    let len = usize::try_from(loaded.range.end - loaded.range.start).unwrap();
    let memory = peek(&ram, loaded.range.start, len);
    Ok((loaded, memory))
}

fn error(bytes: Vec<u8>) -> Error {
    load(bytes, 32).map(|(loaded, _)| loaded).unwrap_err()
}

#[test]
fn segments_go_to_their_physical_addresses() {
    let mut elf = Elf::kernel();
    let data = elf.segments[0].data.clone();
    elf.segments.push(Segment { memsz: 0x5000, ..Segment::load(0x110_0000, vec![7; 0x10]) });
    // Neither of these has anything to load.
    elf.segments.push(Segment { memsz: 0, ..Segment::load(u64::MAX, Vec::new()) });
    elf.segments.push(Segment { kind: 0x6474_e551, ..Segment::load(0, Vec::new()) });
    let (loaded, memory) = load(elf.bytes(), 32).unwrap();
    assert_eq!(loaded.entry, Entry::Linux64 { rip: GuestAddress(0x100_1000) });
    assert_eq!(loaded.pvh_entry, None);
    assert_eq!(loaded.range, 0x100_0000..0x110_5000, "uninitialised data belongs to it");
    assert_eq!(memory[..data.len()], data);
    assert!(memory[data.len()..0x10_0000].iter().all(|byte| *byte == 0));
    assert_eq!(memory[0x10_0000..0x10_0010], [7; 0x10]);
}

#[test]
fn a_segment_may_have_nothing_in_the_file() {
    let mut elf = Elf::kernel();
    elf.segments.push(Segment { memsz: 0x1000, ..Segment::load(0x110_0000, Vec::new()) });
    assert_eq!(load(elf.bytes(), 32).unwrap().0.range, 0x100_0000..0x110_1000);
}

/// A file that answers every read with at most 100 bytes, as it may.
struct Dribble(Cursor<Vec<u8>>);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(100);
        self.0.read(&mut buffer[..len])
    }
}

impl Seek for Dribble {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

impl ReadVolatile for Dribble {
    fn read_volatile<B: BitmapSlice>(&mut self, buffer: &mut VolatileSlice<B>) -> Result<usize, VolatileMemoryError> {
        let len = buffer.len().min(100);
        self.0.read_volatile(&mut buffer.subslice(0, len)?)
    }
}

#[test]
fn short_reads_are_continued() {
    let (ram, layout) = ram(32 * MIB);
    let mut kernel = Kernel::from_image(Dribble(Cursor::new(Elf::pvh().bytes()))).unwrap();
    kernel.load(&ram, &layout).unwrap();
    assert_eq!(peek(&ram, 0x100_0000, 0x2100), pattern(0x2100));
}

#[test]
fn a_kernel_may_be_loaded_again_and_again() {
    let mut kernel = Kernel::from_image(Cursor::new(Elf::kernel().bytes())).unwrap();
    for _ in 0..3 {
        let (ram, layout) = ram(32 * MIB);
        kernel.load(&ram, &layout).unwrap();
        assert_eq!(peek(&ram, 0x100_0000, 0x2100), pattern(0x2100));
    }
}

#[test]
fn both_entries_of_a_linux_kernel_are_offered() {
    let (loaded, _) = load(Elf::pvh().bytes(), 32).unwrap();
    assert_eq!(loaded.entry, Entry::Linux64 { rip: GuestAddress(0x100_1000) });
    assert_eq!(loaded.pvh_entry, Some(GuestAddress(0x100_0040)));
}

#[test]
fn a_virtual_entry_address_leaves_pvh() {
    let elf = Elf { entry: 0xffff_ffff_8100_0000, ..Elf::pvh() };
    let (loaded, _) = load(elf.bytes(), 32).unwrap();
    assert_eq!(loaded.entry, Entry::Pvh { eip: GuestAddress(0x100_0040) });
    let elf = Elf { entry: 0xffff_ffff_8100_0000, ..Elf::kernel() };
    assert!(matches!(error(elf.bytes()), Error::BadKernel { field: "e_entry", .. }));
}

#[test]
fn notes_are_walked_with_their_padding() {
    let entry = 0x100_0040u32.to_le_bytes();
    let with = |notes: Vec<u8>, align| {
        let mut elf = Elf::kernel();
        elf.segments.push(Segment { align, ..Segment::notes(notes) });
        load(elf.bytes(), 32).map(|(loaded, _)| loaded.pvh_entry)
    };
    let found = Some(GuestAddress(0x100_0040));
    // Odd sizes before it, 32-bit descriptor, trailing padding.
    let notes = [note(1, b"ab\0", b"c"), note(18, b"Xen\0", &entry), vec![0; 8]].concat();
    assert_eq!(with(notes, 4).unwrap(), found);
    // A property note is padded to eight bytes.
    let property =
        [&5u32.to_le_bytes()[..], &4u32.to_le_bytes(), &5u32.to_le_bytes(), b"GNU!\0\0\0\0\0\0\0\0xxxx\0\0\0\0"];
    assert_eq!(with([property.concat(), note(18, b"Xen\0", &entry)].concat(), 8).unwrap(), found);
    // None of these is the note.
    assert_eq!(with([note(18, b"Xem\0", &entry), note(17, b"Xen\0", &entry)].concat(), 4).unwrap(), None);
    assert_eq!(with(vec![0xff; 11], 4).unwrap(), None);
    assert_eq!(with(Vec::new(), 4).unwrap(), None);

    let field = |notes| match with(notes, 4) {
        Err(Error::BadKernel { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(note(18, b"Xen\0", b"123")), "n_descsz");
    assert_eq!(field(note(18, b"Xen\0", &u64::MAX.to_le_bytes())), "n_descsz");
    assert_eq!(field(note(18, b"Xen\0", &0x200_0000u32.to_le_bytes())), "the PVH entry");
    assert_eq!(field(vec![0xff; 12]), "n_descsz");
    assert_eq!(field(vec![0; 0x1_0001]), "p_filesz");
}

#[test]
fn files_for_something_else_are_named() {
    let text = |bytes: Vec<u8>| match error(bytes) {
        Error::UnsupportedKernel { found, .. } => found,
        other => panic!("{other}"),
    };
    let patched = |offset, value: u8| {
        let mut bytes = Elf::kernel().bytes();
        bytes[offset] = value;
        bytes
    };
    assert!(text(patched(4, 1)).contains("64-bit"));
    assert!(text(patched(5, 2)).contains("little-endian"));
    assert!(text(patched(18, 183)).contains("processor"));
    assert!(text(patched(16, 1)).contains("object"));
    assert!(text(patched(16, 4)).contains("core"));
    assert!(text(patched(16, 3)).contains("shared library"));
    let mut program = Elf::kernel();
    program.segments.push(Segment { kind: common::PT_INTERP, ..Segment::load(0, b"/lib/ld.so\0".to_vec()) });
    assert!(text(program.bytes()).contains("operating system"));
}

/// Offsets of fields in the file, from the ELF specification.
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
const P_OFFSET: usize = EHDR + 8;
const P_PADDR: usize = EHDR + 24;
const P_FILESZ: usize = EHDR + 32;
const P_MEMSZ: usize = EHDR + 40;

#[test]
fn headers_that_do_not_add_up_are_named() {
    let field = |offset, value: &[u8]| {
        let mut bytes = Elf::kernel().bytes();
        patch(&mut bytes, offset, value);
        match error(bytes) {
            Error::BadKernel { field, .. } => field,
            Error::Truncated { what, .. } => what,
            Error::KernelDoesNotFit { .. } => "fit",
            other => panic!("{other}"),
        }
    };
    let max = u64::MAX.to_le_bytes();
    assert_eq!(field(E_PHENTSIZE, &[32, 0]), "e_phentsize");
    assert_eq!(field(E_PHNUM, &[0, 0]), "e_phnum");
    assert_eq!(field(E_PHNUM, &[0xff, 0xff]), "e_phnum");
    assert_eq!(field(E_PHOFF, &max), "a program header");
    assert_eq!(field(EHDR, &[0; 4]), "e_phnum");
    assert_eq!(field(P_OFFSET, &max), "a segment");
    assert_eq!(field(P_FILESZ, &max), "a segment");
    assert_eq!(field(P_FILESZ, &0x2101u64.to_le_bytes()), "a segment");
    assert_eq!(field(P_MEMSZ, &0x20ffu64.to_le_bytes()), "p_filesz");
    assert_eq!(field(P_MEMSZ, &max), "p_memsz");
    assert_eq!(field(P_PADDR, &(u64::MAX - 0x2100 + 1).to_le_bytes()), "p_memsz");
    // The entry is no longer in it.
    assert_eq!(field(P_PADDR, &0x200_0000u64.to_le_bytes()), "e_entry");
    // Uninitialised data longer than RAM: nothing is allocated for it.
    assert_eq!(field(P_MEMSZ, &(1u64 << 40).to_le_bytes()), "fit");
}

#[test]
fn overlapping_segments_are_refused() {
    let mut elf = Elf::kernel();
    elf.segments.push(Segment::load(0x0ff_fff0, vec![1; 0x11]));
    assert!(matches!(error(elf.bytes()), Error::BadKernel { field: "p_paddr", .. }));
    elf.segments[1].data.pop();
    elf.segments[1].memsz -= 1;
    load(elf.bytes(), 32).unwrap();
}

#[test]
fn kernels_stay_in_usable_memory() {
    let at = |paddr, entry| Elf { entry, segments: vec![Segment::load(paddr, pattern(0x1000))], ..Elf::kernel() };
    let fits = |elf: Elf, mib| match load(elf.bytes(), mib) {
        Ok(_) => None,
        Err(Error::KernelDoesNotFit { remedy, .. }) => {
            Some(if remedy.contains("not linked") { "linked" } else { "memory" })
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(fits(at(0x10_0000, 0x10_0000), 2), None);
    assert_eq!(fits(at(0x1f_f000, 0x1f_f000), 2), None, "the last page");
    assert_eq!(fits(at(0x1f_f001, 0x1f_f001), 2), Some("memory"));
    // Boot data lies below 1 MiB, and the vCPU maps one GiB.
    let not_linked = Some("linked");
    assert_eq!(fits(at(0x7000, 0x7000), 2), not_linked);
    assert_eq!(fits(at(0xf_ffff, 0xf_ffff), 2), not_linked);
    assert_eq!(fits(at((1 << 30) - 0xfff, 1 << 30), 2048), not_linked);
    assert_eq!(fits(at((1 << 30) - 0x1000, (1 << 30) - 1), 2048), None);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = Elf::pvh().bytes();
    let headers = EHDR + 2 * PHDR;
    for len in (0..headers + 64).chain(bytes.len() - 200..bytes.len()) {
        let error = error(bytes[..len].to_vec());
        let expected = matches!(error, Error::Truncated { .. } | Error::UnsupportedKernel { .. });
        assert!(expected, "{len}: {error}");
    }
    load(bytes, 32).unwrap();
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut &file, &Elf::kernel().bytes()).unwrap();
    let mut kernel = Kernel::from_image(file.try_clone().unwrap()).unwrap();
    file.set_len(0x200).unwrap();
    let (ram, layout) = ram(32 * MIB);
    let error = kernel.load(&ram, &layout).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
}

proptest! {
    /// Any header: an error or a kernel within the rules, and no byte outside of its range.
    #[test]
    fn mutated_headers_never_break_out(
        patches in prop::collection::vec((0usize..EHDR + 2 * PHDR + 80, any::<u8>()), 1..6),
        words in prop::collection::vec((0usize..(EHDR + 2 * PHDR) / 8, prop_oneof![
            any::<u64>(), Just(u64::MAX), Just(0), 0u64..0x4000, 0xf_0000u64..0x20_0000, 0x100_0000u64..0x200_0000,
        ]), 0..3),
    ) {
        let mut bytes = Elf::pvh().bytes();
        for (at, byte) in patches {
            bytes[at] = byte;
        }
        for (at, word) in words {
            patch(&mut bytes, at * 8, &word.to_le_bytes());
        }
        let (ram, layout) = ram(32 * MIB);
        let Ok(mut kernel) = Kernel::from_image(Cursor::new(bytes)) else { return Ok(()) };
        match kernel.load(&ram, &layout) {
            Ok(loaded) => {
                prop_assert!(loaded.range.start >= MIB && loaded.range.end <= 32 * MIB);
                let entry = match loaded.entry {
                    Entry::Linux64 { rip } => rip,
                    Entry::Pvh { eip } => eip,
                    other => panic!("{other:?}"),
                };
                for entry in [Some(entry), loaded.pvh_entry].into_iter().flatten() {
                    prop_assert!(loaded.range.contains(&entry.0));
                }
                prop_assert!(peek(&ram, 0, 0x10_0000).iter().all(|byte| *byte == 0));
            }
            Err(Error::KernelDoesNotFit { .. }) => {
                // Refused before the first byte was written.
                prop_assert!(peek(&ram, 0x100_0000, 0x3000).iter().all(|byte| *byte == 0));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
