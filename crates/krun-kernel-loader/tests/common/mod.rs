//! Small kernel files, made up field by field, and memory to load them into.
#![allow(dead_code, unreachable_pub, reason = "a module of several programs, each of which needs another part of it")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code, outside of a test function")]

use krun_kernel_loader::RamLayout;
use krun_kernel_loader::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub const MIB: u64 = 1 << 20;

/// Fresh RAM of the given size, and its layout.
pub fn ram(size: u64) -> (GuestMemoryMmap, RamLayout) {
    let layout = RamLayout::new(size).unwrap();
    let regions: Vec<_> = layout
        .regions()
        .map(|region| (GuestAddress(region.start), usize::try_from(region.end - region.start).unwrap()))
        .collect();
    (GuestMemoryMmap::from_ranges(&regions).unwrap(), layout)
}

/// Reads guest memory.
pub fn peek(ram: &GuestMemoryMmap, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 251) % 255 + 1).unwrap()).collect()
}

/// Overwrites a field of a file.
pub fn patch(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// An ELF file: a 64-byte header, program headers, then the contents.
#[derive(Debug, Clone)]
pub struct Elf {
    pub kind: u16,
    pub entry: u64,
    pub segments: Vec<Segment>,
}

#[derive(Debug, Clone)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub paddr: u64,
    pub data: Vec<u8>,
    pub memsz: u64,
    pub align: u64,
}

pub const PT_LOAD: u32 = 1;
pub const PT_DYNAMIC: u32 = 2;
pub const PT_INTERP: u32 = 3;
pub const PT_NOTE: u32 = 4;
pub const PT_GNU_STACK: u32 = 0x6474_e551;
pub const EHDR: usize = 64;
pub const PHDR: usize = 56;

impl Segment {
    pub fn load(paddr: u64, data: Vec<u8>) -> Self {
        Self { kind: PT_LOAD, flags: 7, paddr, memsz: data.len() as u64, data, align: 0x1000 }
    }

    pub fn notes(data: Vec<u8>) -> Self {
        Self { kind: PT_NOTE, align: 4, ..Self::load(0, data) }
    }
}

/// One note.
pub fn note(kind: u32, name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for value in [name.len(), content.len()] {
        note.extend(u32::try_from(value).unwrap().to_le_bytes());
    }
    note.extend(kind.to_le_bytes());
    for part in [name, content] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

impl Elf {
    /// A kernel of one segment at 16 MiB that starts at its second page.
    pub fn kernel() -> Self {
        Self { kind: 2, entry: 0x100_1000, segments: vec![Segment::load(0x100_0000, pattern(0x2100))] }
    }

    /// The same with a PVH entry among other notes.
    pub fn pvh() -> Self {
        let mut kernel = Self::kernel();
        let entry = 0x100_0040u64.to_le_bytes();
        let notes = [note(6, b"Xen\0", b"linux\0"), note(18, b"GNU\0", b"none"), note(18, b"Xen\0", &entry)].concat();
        kernel.segments.push(Segment::notes(notes));
        kernel
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(self.kind.to_le_bytes());
        file.extend(62u16.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(self.entry.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend(0u32.to_le_bytes());
        for value in [64, 56, u16::try_from(self.segments.len()).unwrap(), 0, 0, 0] {
            file.extend(u16::to_le_bytes(value));
        }
        let mut offset = (EHDR + PHDR * self.segments.len()) as u64;
        for segment in &self.segments {
            file.extend(segment.kind.to_le_bytes());
            file.extend(segment.flags.to_le_bytes());
            let size = segment.data.len() as u64;
            for value in [offset, segment.paddr, segment.paddr, size, segment.memsz, segment.align] {
                file.extend(value.to_le_bytes());
            }
            offset += size;
        }
        for segment in &self.segments {
            file.extend(&segment.data);
        }
        file
    }
}

/// A bzImage: boot sector with setup header, setup sectors, protected-mode part.
#[derive(Debug, Clone)]
pub struct BzImage {
    pub setup_sects: u8,
    pub version: u16,
    pub loadflags: u8,
    pub xloadflags: u16,
    pub relocatable: u8,
    pub alignment: u32,
    pub pref_address: u64,
    pub init_size: u32,
    pub cmdline_size: u32,
    pub initrd_addr_max: u32,
    /// A multiple of 16.
    pub payload: Vec<u8>,
}

impl BzImage {
    pub fn kernel() -> Self {
        Self {
            setup_sects: 2,
            version: 0x020f,
            loadflags: 1,
            xloadflags: 0x7f,
            relocatable: 1,
            alignment: 0x20_0000,
            pref_address: 0x100_0000,
            init_size: 0x5000,
            cmdline_size: 2047,
            initrd_addr_max: 0x7fff_ffff,
            payload: pattern(0x1230),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let sectors = if self.setup_sects == 0 { 4 } else { usize::from(self.setup_sects) };
        let mut file = vec![0; 512 * (sectors + 1)];
        file[0x1f1] = self.setup_sects;
        patch(&mut file, 0x1f4, &u32::try_from(self.payload.len() / 16).unwrap().to_le_bytes());
        patch(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        patch(&mut file, 0x202, b"HdrS");
        patch(&mut file, 0x206, &self.version.to_le_bytes());
        file[0x211] = self.loadflags;
        patch(&mut file, 0x218, &[0xee; 8]); // ramdisk fields, the loader's
        patch(&mut file, 0x22c, &self.initrd_addr_max.to_le_bytes());
        patch(&mut file, 0x230, &self.alignment.to_le_bytes());
        file[0x234] = self.relocatable;
        patch(&mut file, 0x236, &self.xloadflags.to_le_bytes());
        patch(&mut file, 0x238, &self.cmdline_size.to_le_bytes());
        patch(&mut file, 0x250, &[0xee; 8]); // setup_data, the loader's
        patch(&mut file, 0x258, &self.pref_address.to_le_bytes());
        patch(&mut file, 0x260, &self.init_size.to_le_bytes());
        file.extend(&self.payload);
        file
    }
}

/// A shared library as libkrunfw packs a kernel: two functions in machine code, and an image.
#[derive(Debug, Clone)]
pub struct Library {
    pub abi: i32,
    pub address: u64,
    pub entry: u64,
    /// What the library claims.
    pub size: u64,
    pub image: Vec<u8>,
    pub get_kernel: &'static str,
}

impl Library {
    pub fn bundle() -> Self {
        let image = pattern(0x3000);
        Self { abi: 5, address: 0x100_0000, entry: 0x100_0123, size: 0x3000, image, get_kernel: "krunfw_get_kernel" }
    }

    /// One segment at address 0 holds the whole file, so that file offsets are addresses.
    pub fn bytes(&self) -> Vec<u8> {
        const DYNAMIC: usize = 0x200;
        const HASH: usize = 0x300;
        const SYMBOLS: usize = 0x340;
        const NAMES: usize = 0x400;
        const CODE: usize = 0x500;
        const IMAGE: usize = 0x1000;

        let mut names = vec![0];
        names.extend(b"krunfw_get_version\0");
        let get_kernel_name = names.len() as u64;
        names.extend(self.get_kernel.as_bytes());
        names.push(0);

        // mov eax, abi; ret
        let mut code = vec![0xb8];
        code.extend(self.abi.to_le_bytes());
        code.push(0xc3);
        let get_kernel = CODE + code.len();
        // For each of rdi, rsi, rdx: mov rax, value; mov [pointer], rax. Then lea rax, [rip + image]; ret
        for (value, modrm) in [(self.address, 0x07), (self.entry, 0x06), (self.size, 0x02)] {
            code.extend([0x48, 0xb8]);
            code.extend(value.to_le_bytes());
            code.extend([0x48, 0x89, modrm]);
        }
        code.extend([0x48, 0x8d, 0x05]);
        let next = CODE + code.len() + 4;
        code.extend(u32::try_from(IMAGE - next).unwrap().to_le_bytes());
        code.push(0xc3);

        let symbol = |name: u64, value: usize| {
            // st_name and st_info (global function), in a section that is not undefined.
            let head = name | 0x12 << 32 | 1 << 48;
            [head.to_le_bytes(), (value as u64).to_le_bytes(), 16u64.to_le_bytes()].concat()
        };
        let symbols = [vec![0; 24], symbol(1, CODE), symbol(get_kernel_name, get_kernel)].concat();
        // One bucket that chains both symbols.
        let hash: Vec<u8> = [1u32, 3, 1, 0, 2, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let tags = [(4, HASH), (5, NAMES), (6, SYMBOLS), (10, names.len()), (11, 24), (0, 0)];
        let dynamic: Vec<u8> =
            tags.iter().flat_map(|(tag, value)| [*tag, *value as u64]).flat_map(u64::to_le_bytes).collect();

        let mut body = vec![0; IMAGE];
        for (at, part) in [(DYNAMIC, &dynamic), (HASH, &hash), (SYMBOLS, &symbols), (NAMES, &names), (CODE, &code)] {
            patch(&mut body, at, part);
        }
        body.extend(&self.image);

        let segment = |kind, size: usize, flags, align| Segment {
            kind,
            flags,
            memsz: size as u64,
            align,
            ..Segment::load(0, Vec::new())
        };
        let headers = Elf {
            kind: 3,
            entry: 0,
            segments: vec![
                segment(PT_LOAD, body.len(), 7, 0x1000),
                segment(PT_DYNAMIC, dynamic.len(), 6, 8),
                segment(PT_GNU_STACK, 0, 6, 16),
            ],
        };
        patch(&mut body, 0, &headers.bytes());
        // Offset, addresses and file size of the two segments that have contents.
        for (index, at, size) in [(0, 0, body.len()), (1, DYNAMIC, dynamic.len())] {
            for (field, value) in [(8, at), (16, at), (24, at), (32, size)] {
                patch(&mut body, EHDR + PHDR * index + field, &(value as u64).to_le_bytes());
            }
        }
        body
    }
}
