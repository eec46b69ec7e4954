//! `struct boot_params`, the "zero page" of the x86 boot protocol (Documentation/arch/x86/boot.rst), and the command
//! line it points to.

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::layout::{CMDLINE, RamLayout, ZERO_PAGE};
use super::memory_map::memory_map;
use crate::cmdline::Cmdline;
use crate::error::{Error, Result};
use crate::initrd::Initrd;
use crate::kernel::LoadedKernel;

/// "HdrS", at 0x202 of every kernel since protocol 2.00.
pub(crate) const HEADER_MAGIC: u32 = 0x5372_6448;

/// The last two bytes of a boot sector.
pub(crate) const BOOT_FLAG: u16 = 0xaa55;

/// `type_of_loader` of a loader that has no number of its own.
const UNREGISTERED_LOADER: u8 = 0xff;

/// What the kernel is told before it runs.
#[derive(Debug, Clone, Copy)]
pub struct BootParams<'a> {
    /// The kernel, in its place.
    pub kernel: &'a LoadedKernel,
    /// The guest's RAM.
    pub layout: &'a RamLayout,
    /// The kernel's command line.
    pub cmdline: &'a Cmdline,
    /// The initrd, in its place.
    pub initrd: Option<Initrd>,
    /// Where ACPI's root pointer is, if tables were made.
    pub acpi_rsdp: Option<GuestAddress>,
}

/// Writes the command line to [`CMDLINE`] and `boot_params` to [`ZERO_PAGE`], and returns the latter's address: RSI
/// of the vCPU that starts the kernel at [`Entry::Linux64`](crate::Entry::Linux64).
///
/// # Errors
///
/// [`Error::CmdlineTooLong`] if this kernel reads fewer bytes than the command line has; [`Error::WriteGuest`].
pub fn write_boot_params<M: GuestMemoryBackend>(ram: &M, params: &BootParams<'_>) -> Result<GuestAddress> {
    write_cmdline(ram, params.cmdline, params.kernel)?;
    let page = zero_page(params);
    ram.write_obj(page, ZERO_PAGE).map_err(|source| Error::WriteGuest {
        what: "the boot parameters",
        address: ZERO_PAGE.0,
        source,
    })?;
    Ok(ZERO_PAGE)
}

/// Writes the command line, with its NUL, to where both boot protocols are told it is.
pub(crate) fn write_cmdline<M: GuestMemoryBackend>(ram: &M, cmdline: &Cmdline, kernel: &LoadedKernel) -> Result<()> {
    if cmdline.len() > kernel.max_cmdline {
        return Err(Error::CmdlineTooLong { len: cmdline.len(), max: kernel.max_cmdline });
    }
    let mut bytes = cmdline.to_string().into_bytes();
    bytes.push(0);
    ram.write_slice(&bytes, CMDLINE).map_err(|source| Error::WriteGuest {
        what: "the kernel command line",
        address: CMDLINE.0,
        source,
    })
}

fn zero_page(params: &BootParams<'_>) -> boot_params {
    let mut page = boot_params { hdr: params.kernel.header.unwrap_or_else(plain_header), ..boot_params::default() };
    page.hdr.type_of_loader = UNREGISTERED_LOADER;
    page.hdr.cmd_line_ptr = below_4_gib(CMDLINE.0);
    if let Some(initrd) = params.initrd {
        page.hdr.ramdisk_image = below_4_gib(initrd.address().0);
        page.hdr.ramdisk_size = below_4_gib(initrd.size());
    }
    if let Some(rsdp) = params.acpi_rsdp {
        page.acpi_rsdp_addr = rsdp.0;
    }
    let mut entries = 0;
    for (slot, entry) in page.e820_table.iter_mut().zip(memory_map(params.layout)) {
        let addr = entry.range.start;
        *slot = boot_e820_entry { addr, size: entry.range.end - addr, r#type: entry.kind as u32 };
        entries += 1;
    }
    page.e820_entries = entries;
    page
}

/// The header for a kernel whose file has none (a bundle, an ELF file): what the 64-bit protocol needs, no more.
fn plain_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: 0x020c,
        kernel_alignment: 0x100_0000,
        ..setup_header::default()
    }
}

/// Boot data and initrds are placed below 4 GiB.
#[expect(clippy::cast_possible_truncation, reason = "every caller's address and size lies in RAM below the hole")]
fn below_4_gib(value: u64) -> u32 {
    debug_assert!(u32::try_from(value).is_ok());
    value as u32
}
