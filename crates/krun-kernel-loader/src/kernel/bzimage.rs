//! bzImage, the compressed kernel that distributions ship as `vmlinuz`; Documentation/arch/x86/boot.rst.
//!
//! Only its protected-mode part goes into memory: the boot CPU starts at the 64-bit entry, 0x200 bytes into it, and the
//! kernel unpacks itself.

use std::ops::Range;

use linux_loader::bootparam::{XLF_KERNEL_64, setup_header};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend};

use super::image::{Image, Reader};
use super::{Entry, LoadedKernel, check_range64};
use crate::cmdline::MAX_CMDLINE;
use crate::error::{Error, Result};
use crate::x86_64::boot_params::{BOOT_FLAG, HEADER_MAGIC};
use crate::x86_64::layout::{HIMEM, RamLayout};

/// Where the setup header starts, in the file and in `boot_params`.
const SETUP_HEADER: u64 = 0x1f1;

/// The header ends at this offset plus the byte before it: the target of the jump at 0x200.
const SETUP_HEADER_JUMP: u64 = 0x202;

/// `loadflags`: the protected-mode part belongs at or above 1 MiB. Without it the file is a zImage.
const LOADED_HIGH: u8 = 1;

/// The first protocol that says whether there is a 64-bit entry (Linux 3.8).
const PROTOCOL_2_12: u16 = 0x020c;

/// Where the 64-bit entry is in the protected-mode part.
const ENTRY_64: u64 = 0x200;

const SECTOR: u64 = 512;

/// A bzImage whose header has been read and makes sense.
#[derive(Debug)]
pub struct BzImage<F> {
    pub(super) file: Reader<F>,
    header: setup_header,
    /// The protected-mode part in the file.
    payload: Range<u64>,
    /// The same part in guest memory starts here.
    address: u64,
    /// What the kernel uses until it knows the memory map.
    range: Range<u64>,
}

impl<F: Image> BzImage<F> {
    pub(super) fn new(mut file: Reader<F>) -> Result<Self> {
        let mut header = read_header(&mut file)?;
        let payload = payload(&file, &header)?;
        let payload_size = payload.end - payload.start;
        let (address, range) = placement(&header, payload_size)?;
        // What a loader fills in; whatever the file has there must not reach the kernel.
        header.ramdisk_image = 0;
        header.ramdisk_size = 0;
        header.cmd_line_ptr = 0;
        header.setup_data = 0;
        header.heap_end_ptr = 0;
        #[expect(clippy::cast_possible_truncation, reason = "only the 32-bit entry uses it; loading checks 1 GiB")]
        let code32_start = address as u32;
        header.code32_start = code32_start;
        Ok(Self { file, header, payload, address, range })
    }

    pub(super) fn load<M: GuestMemoryBackend>(&mut self, ram: &M, layout: &RamLayout) -> Result<LoadedKernel> {
        check_range64(&self.range, layout)?;
        let size = self.payload.end - self.payload.start;
        self.file.copy_to(ram, self.address, self.payload.start, size, "the kernel")?;
        Ok(LoadedKernel {
            entry: Entry::Linux64 { rip: GuestAddress(self.address + ENTRY_64) },
            pvh_entry: None,
            range: self.range.clone(),
            max_cmdline: usize::try_from(self.header.cmdline_size).map_or(MAX_CMDLINE, |max| max.min(MAX_CMDLINE)),
            initrd_end: layout.low().end.min(u64::from(self.header.initrd_addr_max) + 1),
            header: Some(self.header),
        })
    }
}

/// Reads as much of the header as this kernel has; later fields stay 0.
fn read_header<F: Image>(file: &mut Reader<F>) -> Result<setup_header> {
    let part = "the setup header";
    let [jump] = file.read::<1>(SETUP_HEADER_JUMP - 1, part)?;
    let mut header = setup_header::default();
    let len = (SETUP_HEADER_JUMP + u64::from(jump) - SETUP_HEADER).min(size_of::<setup_header>() as u64);
    #[expect(clippy::cast_possible_truncation, reason = "at most the size of the struct")]
    let bytes = header.as_mut_slice().get_mut(..len as usize).unwrap_or_default();
    file.read_into(bytes, SETUP_HEADER, part)?;
    let unsupported = |found, remedy| Err(Error::UnsupportedKernel { found, remedy });
    if header.boot_flag != BOOT_FLAG || header.header != HEADER_MAGIC {
        return bad("header", header.header.into(), "it should read HdrS");
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return unsupported("a zImage, which is loaded below 1 MiB", "build a bzImage");
    }
    if header.version < PROTOCOL_2_12 {
        return unsupported("a kernel older than Linux 3.8", "use a newer one");
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return unsupported("a 32-bit kernel: it has no 64-bit entry", "use one for x86_64 (CONFIG_64BIT=y)");
    }
    Ok(header)
}

/// The protected-mode part: behind the setup sectors, `syssize` paragraphs of 16 bytes. A signature may follow it.
fn payload<F: Image>(file: &Reader<F>, header: &setup_header) -> Result<Range<u64>> {
    let setup_sectors = if header.setup_sects == 0 { 4 } else { header.setup_sects };
    let start = (u64::from(setup_sectors) + 1) * SECTOR;
    let size = u64::from(header.syssize) * 16;
    if size <= ENTRY_64 {
        return bad("syssize", header.syssize.into(), "the kernel has to reach past its entry at 0x200");
    }
    file.check(start, size, "the kernel behind its setup sectors")?;
    Ok(start..start + size)
}

/// Where the file's bytes go, and the memory the kernel needs around them.
///
/// That is its preferred address: from lower ones a 64-bit kernel moves itself up there, and higher ones serve nobody.
fn placement(header: &setup_header, payload_size: u64) -> Result<(u64, Range<u64>)> {
    let align = u64::from(header.kernel_alignment);
    if !align.is_power_of_two() {
        return bad("kernel_alignment", align, "it has to be a power of two");
    }
    let relocatable = header.relocatable_kernel != 0;
    let address = match header.pref_address {
        0 if relocatable => HIMEM.next_multiple_of(align),
        address => address,
    };
    // A relocatable kernel rounds up where it finds itself, and runs there.
    let run_at = if relocatable { address.checked_next_multiple_of(align) } else { Some(address) };
    let end = run_at.and_then(|run_at| run_at.checked_add(payload_size.max(header.init_size.into())));
    match end {
        Some(end) => Ok((address, address..end)),
        None => bad("pref_address", address, "the kernel would run past the last address"),
    }
}

fn bad<T>(field: &'static str, value: u64, expected: &'static str) -> Result<T> {
    Err(Error::BadKernel { field, value, expected })
}
