//! From a kernel's file to the first instruction.

use std::fs::File;

use krun_kernel_loader::{
    BootParams, Cmdline, Entry as KernelEntry, Kernel, LoadedKernel, MachineDescription, VirtioMmio, load_initrd,
    words, write_boot_params, write_mp_table, write_pvh_start_info,
};
use krun_vcpu::{Entry, LongMode, Pvh};

use crate::config::Config;
use crate::error::{Error, Problem};
use crate::layout::Layout;
use crate::memory::GuestRam;

/// Path of the guest's init in the root: a virtual file, see [`crate::devices`].
pub(crate) const INIT_PATH: &str = "/init.krun";

/// The machine as the kernel's tables describe it.
pub(crate) fn machine(config: &Config, layout: &Layout) -> MachineDescription {
    let window =
        |slot: &crate::layout::MmioSlot| VirtioMmio { base: slot.base, size: Layout::MMIO_WINDOW, irq: slot.gsi };
    MachineDescription {
        virtio_mmio: layout.devices.iter().map(window).collect(),
        ..MachineDescription::new(config.vcpus)
    }
}

/// The kernel's command line: what this machine needs, the user's words, the devices.
pub(crate) fn cmdline(
    config: &Config,
    kernel: &Kernel,
    layout: &Layout,
    machine: &MachineDescription,
) -> Result<Cmdline, Problem> {
    let mut line = Cmdline::new();
    fill(&mut line, config, kernel, layout).map_err(|error| {
        Problem::caused_by(
            "kernel_cmdline",
            config.cmdline.join(" "),
            error,
            "write the words as the kernel reads them",
        )
    })?;
    machine.add_virtio_words(&mut line).map_err(|error| {
        let value = format!("with {} virtio devices", layout.devices.len());
        let remedy = "a device takes 36 bytes of it: use fewer volumes and devices, or fewer words of your own";
        Problem::caused_by("kernel_cmdline", value, error, remedy)
    })?;
    Ok(line)
}

fn fill(line: &mut Cmdline, config: &Config, kernel: &Kernel, layout: &Layout) -> krun_kernel_loader::Result<()> {
    for word in words::recommended(kernel, &layout.ram) {
        line.raw(word)?;
    }
    // The last console is the one that init gets.
    if config.serial.is_some() {
        line.raw(words::CONSOLE_SERIAL)?;
    }
    if config.has_console() {
        line.raw(words::CONSOLE_VIRTIO)?;
    }
    if let Some(root) = &config.root {
        // Unknown words before `init=` are forgotten, so that init gets none of them.
        line.raw(words::ROOT_VIRTIOFS)?.word(if root.read_only { "ro" } else { "rw" })?.word("quiet")?;
        line.param("init", INIT_PATH)?;
    }
    config.cmdline.iter().try_for_each(|words| line.raw(words).map(drop))
}

/// Brings the kernel and everything it is told into guest memory, and says where the first vCPU starts.
pub(crate) fn load(
    kernel: &mut Kernel,
    initrd: Option<&File>,
    ram: &GuestRam,
    layout: &Layout,
    line: &Cmdline,
    machine: &MachineDescription,
) -> Result<Entry, Error> {
    let loaded = kernel.load(ram, &layout.ram)?;
    let initrd = match initrd {
        Some(file) => Some(load_initrd(ram, &loaded, file.try_clone().map_err(duplicate_initrd)?)?),
        None => None,
    };
    write_mp_table(ram, machine)?;
    let params = BootParams { kernel: &loaded, layout: &layout.ram, cmdline: line, initrd, acpi_rsdp: None };
    entry(ram, &loaded, &params)
}

fn entry(ram: &GuestRam, loaded: &LoadedKernel, params: &BootParams<'_>) -> Result<Entry, Error> {
    match loaded.entry {
        KernelEntry::Linux64 { rip } => Ok(Entry::LongMode(LongMode::new(rip, write_boot_params(ram, params)?))),
        KernelEntry::Pvh { eip } => Ok(Entry::Pvh(Pvh::new(eip, write_pvh_start_info(ram, params)?))),
        _ => Err(Error::MemoryView),
    }
}

fn duplicate_initrd(source: std::io::Error) -> Error {
    Error::Descriptor { what: "a duplicate of the initrd's file", source }
}
