//! Words for a guest's command line, each with what it is good for.
//!
//! There is a lot of folklore about words that make guests boot faster. Measured with a libkrunfw 6.12 kernel, these do
//! nothing where the hypervisor's CPUID leaves are passed on: `lpj=`, `tsc=reliable`, `no_timer_check`,
//! `tsc_early_khz=`, `mitigations=off`, `noreplace-smp`, `random.trust_cpu`, `rcupdate.*`, `8250.*`, `i8042.*`,
//! `pci=off`, `acpi=off`, `hpet=disable`, `quiet`.

use vm_memory::{Bytes, GuestMemoryBackend};

use crate::kernel::Kernel;
use crate::x86_64::layout::{RamLayout, WARM_BOOT, WARM_BOOT_FLAG};

/// Reboot through the keyboard controller: it ends in a write of `0xfe` to port `0x64`, which a VMM sees, instead of a
/// triple fault after several other attempts. A panic reboots "warm", so that [`guest_panicked`] can tell it.
pub const REBOOT: &str = "reboot=k,panic_warm";

/// Reboot at once after a panic, instead of hanging forever: the VM ends.
pub const PANIC: &str = "panic=-1";

/// No self-test of the jitter random generator: it is half of what a libkrunfw kernel executes at boot. The kernel's
/// random generator then seeds from RDRAND. Needs a kernel with `CONFIG_KALLSYMS`, otherwise it does nothing.
pub const NO_JITTER_SELF_TEST: &str = "initcall_blacklist=jent_mod_init";

/// No bounce buffers: with RAM above 4 GiB a kernel clears 64 MiB of them, for devices with 32-bit addresses. Virtio
/// devices have 64.
pub const NO_BOUNCE_BUFFERS: &str = "swiotlb=noforce";

/// No asynchronous page faults: a vCPU whose page the host has to fetch waits for it, instead of being interrupted to
/// run another task meanwhile. It costs nothing where the host does not swap, and keeps the guest's memory faults out
/// of its interrupts.
pub const NO_ASYNC_PAGE_FAULTS: &str = "no-kvmapf";

/// The console on virtio-console's first port.
pub const CONSOLE_VIRTIO: &str = "console=hvc0";

/// The console on the first 16550, at port `0x3f8`, line 4. Distributions' kernels have it built in.
pub const CONSOLE_SERIAL: &str = "console=ttyS0";

/// The root file system is a virtiofs share; its tag is `root=`, or `/dev/root` without that word.
pub const ROOT_VIRTIOFS: &str = "rootfstype=virtiofs";

/// The words that any guest without firmware is better off with, for this kernel and this much RAM.
pub fn recommended<F>(kernel: &Kernel<F>, layout: &RamLayout) -> impl Iterator<Item = &'static str> + use<F> {
    let bundle = matches!(kernel, Kernel::Bundle(_)).then_some(NO_JITTER_SELF_TEST);
    let large = layout.high().map(|_| NO_BOUNCE_BUFFERS);
    [REBOOT, PANIC, NO_ASYNC_PAGE_FAULTS].into_iter().chain(bundle).chain(large)
}

/// Whether a kernel that was given [`REBOOT`] asked for its last reboot because it panicked.
///
/// The answer is the guest's word: whoever is root in it can write there too. `false` if `ram` has no such address.
pub fn guest_panicked<M: GuestMemoryBackend>(ram: &M) -> bool {
    ram.read_obj::<u16>(WARM_BOOT_FLAG).is_ok_and(|flag| flag == WARM_BOOT)
}
