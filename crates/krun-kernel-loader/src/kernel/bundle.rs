//! A kernel that comes as a shared library, as libkrunfw packs it.
//!
//! The library is loaded only to be asked where its image is and where it belongs. The image is then **copied** into
//! the guest's own memory, never mapped into it: a kernel patches its own text at boot, on nearly every page, so that
//! mapped pages are copied one by one at twice the price, and all VMs of a process would write to the same ones.

use std::path::Path;

use linux_loader::elf::{PT_DYNAMIC, PT_LOAD};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::image::{Image, Reader};
use super::{Entry, LoadedKernel, check_range64, elf};
use crate::cmdline::MAX_CMDLINE;
use crate::error::{Error, Result};
use crate::sys::BundleLibrary;
use crate::x86_64::layout::{HIMEM, IDENTITY_MAP_END, PAGE_SIZE, RamLayout};

/// The version of libkrunfw's interface that this crate speaks.
pub const BUNDLE_ABI: i32 = 5;

/// The name under which an installed bundle of this ABI is found by the dynamic linker.
pub const BUNDLE_NAME: &str = "libkrunfw.so.5";

/// The image ends before the kernel's uninitialised data, and the library does not say how long that is. It is a few
/// MiB; so much is kept free for it.
const BSS_ROOM: u64 = 16 << 20;

/// An open kernel bundle. The library is unloaded when it is dropped.
#[derive(Debug)]
pub struct Bundle {
    library: BundleLibrary,
}

impl Bundle {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let library = BundleLibrary::open(path)?;
        let bundle = Self { library };
        let wrong = |field, value, expected| Err(Error::BundleImage { path: path.into(), field, value, expected });
        let (address, size, entry) = (bundle.address(), bundle.size(), bundle.entry());
        if !address.is_multiple_of(PAGE_SIZE) || !(HIMEM..IDENTITY_MAP_END).contains(&address) {
            return wrong("the load address", address, "a page between 1 MiB and 1 GiB is expected");
        }
        if size == 0 || size > IDENTITY_MAP_END - address {
            return wrong("the size", size, "the image has to end in the first GiB");
        }
        if !(address..address + size).contains(&entry) {
            return wrong("the entry address", entry, "it has to lie in the image");
        }
        tracing::debug!(path = %path.display(), address, size, entry, "opened a kernel bundle");
        Ok(bundle)
    }

    /// The guest physical address the image belongs to.
    pub fn address(&self) -> u64 {
        self.library.address
    }

    /// The image's size in bytes.
    pub fn size(&self) -> u64 {
        self.image().len() as u64
    }

    /// The guest physical address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.library.entry
    }

    /// The image, in the library's own pages.
    pub fn image(&self) -> &[u8] {
        self.library.image()
    }

    pub(super) fn load<M: GuestMemoryBackend>(&self, ram: &M, layout: &RamLayout) -> Result<LoadedKernel> {
        let address = self.address();
        let range = address..address + self.size() + BSS_ROOM;
        check_range64(&range, layout)?;
        ram.write_slice(self.image(), GuestAddress(address)).map_err(|source| Error::WriteGuest {
            what: "the kernel",
            address,
            source,
        })?;
        Ok(LoadedKernel {
            entry: Entry::Linux64 { rip: GuestAddress(self.entry()) },
            pvh_entry: None,
            range,
            max_cmdline: MAX_CMDLINE,
            initrd_end: layout.low().end,
            header: None,
        })
    }
}

/// Whether a shared object names the function that a bundle is asked by. Nothing of the file runs for that.
pub(super) fn exports_kernel<F: Image>(file: &mut Reader<F>) -> Result<bool> {
    const NAME: &[u8] = b"\0krunfw_get_kernel\0";
    /// Bounds on what is read: bundles have a dozen dynamic entries and as many names.
    const MAX_ENTRIES: u64 = 256;
    const MAX_NAMES: u64 = 1 << 20;
    /// Tags of the dynamic section: address and size of the names.
    const DT_STRTAB: u64 = 5;
    const DT_STRSZ: u64 = 10;

    let headers = elf::program_headers(file)?;
    let Some(dynamic) = headers.iter().find(|header| header.p_type == PT_DYNAMIC) else { return Ok(false) };
    let (mut names, mut names_size) = (0, 0);
    for entry in 0..MAX_ENTRIES.min(dynamic.p_filesz / 16) {
        let at = dynamic.p_offset.saturating_add(entry * 16);
        let part = "the dynamic section";
        let (tag, value) = (file.read::<8>(at, part)?, file.read::<8>(at.saturating_add(8), part)?);
        match u64::from_le_bytes(tag) {
            0 => break,
            DT_STRTAB => names = u64::from_le_bytes(value),
            DT_STRSZ => names_size = u64::from_le_bytes(value),
            _ => {}
        }
    }
    let in_file = |address: u64| {
        let load = headers.iter().find(|header| {
            header.p_type == PT_LOAD && address.checked_sub(header.p_vaddr).is_some_and(|at| at < header.p_filesz)
        })?;
        load.p_offset.checked_add(address - load.p_vaddr)
    };
    let Some(offset) = in_file(names) else { return Ok(false) };
    let names = file.read_up_to(names_size.min(MAX_NAMES) as usize, offset, "the names of symbols")?;
    Ok(names.windows(NAME.len()).any(|window| window == NAME))
}
