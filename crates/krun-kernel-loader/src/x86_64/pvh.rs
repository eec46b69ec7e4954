//! `struct hvm_start_info`, what a kernel that starts by PVH is told (Xen's public `arch-x86/hvm/start_info.h`).

use linux_loader::start_info::{XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend};

use super::boot_params::{BootParams, write_cmdline};
use super::layout::{CMDLINE, PVH_START_INFO};
use super::memory_map::memory_map;
use crate::error::{Error, Result};

/// The version with a memory map.
const VERSION: u32 = 1;

/// The module list follows the structure, the memory map the list.
const MODULES: u64 = PVH_START_INFO.0 + 0x40;
const MEMORY_MAP: u64 = PVH_START_INFO.0 + 0x80;

/// Writes the command line to [`CMDLINE`] and `hvm_start_info`, with the memory map and the initrd as its first
/// module, to [`PVH_START_INFO`]; returns the latter's address: EBX of the vCPU that starts the kernel at
/// [`LoadedKernel::pvh_entry`](crate::LoadedKernel::pvh_entry).
///
/// # Errors
///
/// [`Error::CmdlineTooLong`] if this kernel reads fewer bytes than the command line has; [`Error::WriteGuest`].
pub fn write_pvh_start_info<M: GuestMemoryBackend>(ram: &M, params: &BootParams<'_>) -> Result<GuestAddress> {
    write_cmdline(ram, params.cmdline, params.kernel)?;
    if let Some(initrd) = params.initrd {
        let module =
            hvm_modlist_entry { paddr: initrd.address().0, size: initrd.size(), ..hvm_modlist_entry::default() };
        write(ram, module, MODULES)?;
    }
    let mut at = MEMORY_MAP;
    let mut entries = 0;
    for entry in memory_map(params.layout) {
        let addr = entry.range.start;
        let type_ = entry.kind as u32;
        write(ram, hvm_memmap_table_entry { addr, size: entry.range.end - addr, type_, reserved: 0 }, at)?;
        at += size_of::<hvm_memmap_table_entry>() as u64;
        entries += 1;
    }
    let modules = u32::from(params.initrd.is_some());
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: modules,
        modlist_paddr: if modules == 0 { 0 } else { MODULES },
        cmdline_paddr: CMDLINE.0,
        rsdp_paddr: params.acpi_rsdp.map_or(0, |rsdp| rsdp.0),
        memmap_paddr: MEMORY_MAP,
        memmap_entries: entries,
        ..hvm_start_info::default()
    };
    write(ram, info, PVH_START_INFO.0)?;
    Ok(PVH_START_INFO)
}

fn write<M: GuestMemoryBackend, T: ByteValued>(ram: &M, value: T, address: u64) -> Result<()> {
    let what = "the PVH start information";
    ram.write_obj(value, GuestAddress(address)).map_err(|source| Error::WriteGuest { what, address, source })
}
