//! An uncompressed `vmlinux`, or any other ELF file that starts by the 64-bit Linux protocol or by PVH.

use std::ops::Range;

use linux_loader::elf::{self, Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend};

use super::image::{Image, Reader};
use super::{Entry, LoadedKernel, check_range_pvh, check_range64};
use crate::cmdline::MAX_CMDLINE;
use crate::error::{Error, Result};
use crate::x86_64::layout::RamLayout;

/// The ELF file types and machines that are looked at (ELF specification, "ELF header").
const ET_EXEC: u16 = 2;
pub(super) const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;

/// Segments that only programs have: the path of their dynamic linker, and thread-local storage.
const PT_INTERP: u32 = 3;
const PT_TLS: u32 = 7;

/// More program headers than any kernel has.
const MAX_SEGMENTS: u16 = 64;

/// More bytes of notes than any kernel has.
const MAX_NOTES: u64 = 64 << 10;

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the physical address of the PVH entry point (Xen's public `elfnote.h`).
const PVH_ENTRY_NOTE: u32 = 18;

/// An ELF kernel whose headers have been read and make sense.
#[derive(Debug)]
pub struct ElfKernel<F> {
    pub(super) file: Reader<F>,
    segments: Vec<Segment>,
    range: Range<u64>,
    entry: Entry,
    pvh_entry: Option<GuestAddress>,
}

/// What of the file goes where.
#[derive(Debug)]
struct Segment {
    offset: u64,
    size: u64,
    address: u64,
}

impl<F: Image> ElfKernel<F> {
    pub(super) fn new(mut file: Reader<F>) -> Result<Self> {
        let headers = program_headers(&mut file)?;
        if headers.iter().any(|header| matches!(header.p_type, PT_INTERP | PT_TLS)) {
            return Err(Error::UnsupportedKernel {
                found: "a program that runs under an operating system",
                remedy: "name a bzImage, a vmlinux or a libkrunfw.so.5; programs go into the guest's root or initrd",
            });
        }
        let header = header(&mut file)?;
        let mut segments = Vec::new();
        let mut memory = Vec::new();
        for segment in headers.iter().filter(|header| header.p_type == elf::PT_LOAD && header.p_memsz > 0) {
            memory.push(segment_memory(&file, segment)?);
            segments.push(Segment { offset: segment.p_offset, size: segment.p_filesz, address: segment.p_paddr });
        }
        memory.sort_by_key(|range| range.start);
        for pair in memory.windows(2) {
            if let [a, b] = pair
                && b.start < a.end
            {
                return bad("p_paddr", b.start, "two segments overlap there");
            }
        }
        let (Some(first), Some(last)) = (memory.first(), memory.last()) else {
            return bad("e_phnum", header.e_phnum.into(), "no segment of it can be loaded");
        };
        let range = first.start..last.end;
        let starts_in = |entry: u64| memory.iter().any(|range| range.contains(&entry));
        let pvh_entry = pvh_entry(&mut file, &headers)?;
        if let Some(entry) = pvh_entry
            && !starts_in(entry)
        {
            return bad("the PVH entry", entry, "it does not lie in a segment");
        }
        let pvh_entry = pvh_entry.map(GuestAddress);
        let entry = match pvh_entry {
            _ if starts_in(header.e_entry) => Entry::Linux64 { rip: GuestAddress(header.e_entry) },
            // Kernels of other systems have a virtual address there.
            Some(eip) => Entry::Pvh { eip },
            None => return bad("e_entry", header.e_entry, "it does not lie in a segment, and there is no PVH entry"),
        };
        Ok(Self { file, segments, range, entry, pvh_entry })
    }

    pub(super) fn load<M: GuestMemoryBackend>(&mut self, ram: &M, layout: &RamLayout) -> Result<LoadedKernel> {
        match self.entry {
            Entry::Linux64 { .. } => check_range64(&self.range, layout)?,
            Entry::Pvh { .. } => check_range_pvh(&self.range, layout)?,
        }
        for segment in &self.segments {
            self.file.copy_to(ram, segment.address, segment.offset, segment.size, "a segment of the kernel")?;
        }
        Ok(LoadedKernel {
            entry: self.entry,
            pvh_entry: self.pvh_entry,
            range: self.range.clone(),
            max_cmdline: MAX_CMDLINE,
            initrd_end: layout.low().end,
            header: None,
        })
    }
}

/// Reads the ELF header of a kernel for this architecture.
pub(super) fn header<F: Image>(file: &mut Reader<F>) -> Result<Elf64_Ehdr> {
    let mut header = Elf64_Ehdr::default();
    file.read_into(header.as_mut_slice(), 0, "the ELF header")?;
    let [.., class, data, _version, _, _, _, _, _, _, _, _, _] = header.e_ident;
    let unsupported = |found, remedy| Err(Error::UnsupportedKernel { found, remedy });
    if class != 2 || data != 1 {
        return unsupported("an ELF file of another class than 64-bit little-endian", "build the kernel for x86_64");
    }
    if header.e_machine != EM_X86_64 {
        return unsupported("an ELF file for another processor", "this machine runs x86_64 kernels");
    }
    match header.e_type {
        ET_EXEC | ET_DYN => Ok(header),
        _ => unsupported("an ELF object or core file", "name the linked kernel, usually called vmlinux"),
    }
}

/// Reads the program headers.
pub(super) fn program_headers<F: Image>(file: &mut Reader<F>) -> Result<Vec<Elf64_Phdr>> {
    let header = header(file)?;
    if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() {
        return bad("e_phentsize", header.e_phentsize.into(), "a program header has 56 bytes");
    }
    if !(1..=MAX_SEGMENTS).contains(&header.e_phnum) {
        return bad("e_phnum", header.e_phnum.into(), "a kernel has 1 to 64 program headers");
    }
    let mut headers = vec![Elf64_Phdr::default(); header.e_phnum.into()];
    let mut offset = header.e_phoff;
    for header in &mut headers {
        file.read_into(header.as_mut_slice(), offset, "a program header")?;
        offset = offset.saturating_add(size_of::<Elf64_Phdr>() as u64);
    }
    Ok(headers)
}

/// The guest memory of a segment, its zero-filled rest included.
fn segment_memory<F: Image>(file: &Reader<F>, header: &Elf64_Phdr) -> Result<Range<u64>> {
    file.check(header.p_offset, header.p_filesz, "a segment")?;
    if header.p_filesz > header.p_memsz {
        return bad("p_filesz", header.p_filesz, "a segment cannot have more bytes in the file than in memory");
    }
    match header.p_paddr.checked_add(header.p_memsz) {
        Some(end) => Ok(header.p_paddr..end),
        None => bad("p_memsz", header.p_memsz, "the segment runs past the last address"),
    }
}

/// The physical address of the PVH entry point, where a note gives one.
fn pvh_entry<F: Image>(file: &mut Reader<F>, headers: &[Elf64_Phdr]) -> Result<Option<u64>> {
    for header in headers.iter().filter(|header| header.p_type == elf::PT_NOTE) {
        file.check(header.p_offset, header.p_filesz, "the notes")?;
        if header.p_filesz > MAX_NOTES {
            return bad("p_filesz", header.p_filesz, "a kernel has at most 64 KiB of notes");
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 64 KiB, see above")]
        let notes = file.read_up_to(header.p_filesz as usize, header.p_offset, "the notes")?;
        // Padding is to four bytes; only GNU property notes, in segments of their own, use eight.
        let align = if header.p_align == 8 { 8 } else { 4 };
        if let Some(entry) = find_pvh_note(&notes, align)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

fn find_pvh_note(mut notes: &[u8], align: usize) -> Result<Option<u64>> {
    let mut header = Elf64_Nhdr::default();
    let header_size = size_of::<Elf64_Nhdr>();
    // Less than a header is padding.
    while let Some(bytes) = notes.get(..header_size) {
        header.as_mut_slice().copy_from_slice(bytes);
        let (name_size, size) = (header.n_namesz as usize, header.n_descsz as usize);
        let start = (header_size + name_size).next_multiple_of(align);
        let name = notes.get(header_size..header_size + name_size);
        let (Some(name), Some(content)) = (name, notes.get(start..start.saturating_add(size))) else {
            return bad("n_descsz", size as u64, "the note runs past the end of the notes");
        };
        if header.n_type == PVH_ENTRY_NOTE && name == b"Xen\0" {
            // 32 bits by definition; kernels for x86_64 store 64.
            let entry = match *content {
                [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => u32::from_le_bytes([a, b, c, d]),
                _ => return bad("n_descsz", size as u64, "the PVH entry is an address below 4 GiB"),
            };
            return Ok(Some(entry.into()));
        }
        notes = notes.get((start + size).next_multiple_of(align)..).unwrap_or_default();
    }
    Ok(None)
}

fn bad<T>(field: &'static str, value: u64, expected: &'static str) -> Result<T> {
    Err(Error::BadKernel { field, value, expected })
}
