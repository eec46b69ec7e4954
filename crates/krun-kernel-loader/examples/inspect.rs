//! Loads a kernel into a guest's memory without any guest, and says where everything went.
//!
//! `cargo run -p krun-kernel-loader --example inspect -- KERNEL [MEMORY_MIB]`

use std::error::Error;

use krun_kernel_loader::vm_memory::{GuestAddress, GuestMemoryMmap};
use krun_kernel_loader::{
    BootParams, Cmdline, Kernel, MachineDescription, RamLayout, write_boot_params, write_mp_table,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: inspect KERNEL [MEMORY_MIB]")?;
    let mib: u64 = args.next().map_or(Ok(256), |arg| arg.parse())?;

    let layout = RamLayout::new(mib << 20)?;
    let regions: Vec<_> = layout
        .regions()
        .map(|r| Ok((GuestAddress(r.start), usize::try_from(r.end - r.start)?)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&regions)?;

    let mut kernel = Kernel::open(path)?;
    let loaded = kernel.load(&ram, &layout)?;
    drop(kernel);
    let cmdline = Cmdline::new();
    let zero_page = write_boot_params(
        &ram,
        &BootParams { kernel: &loaded, layout: &layout, cmdline: &cmdline, initrd: None, acpi_rsdp: None },
    )?;
    write_mp_table(&ram, &MachineDescription::new(1))?;

    #[expect(clippy::print_stdout, reason = "a program's output")]
    {
        println!("entry {:x?}, memory {:x?}, boot_params at {:#x}", loaded.entry, loaded.range, zero_page.0);
    }
    Ok(())
}
