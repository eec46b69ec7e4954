//! What is particular to x86-64.
//!
//! Each architecture's module offers the same to the rest of the crate: `REQUIRED` capabilities, `prepare_vm`, the instruction pointer of
//! a vCPU; and to users: `CpuConfig`, `Entry`, `VcpuState`, `VmState`.

mod cpuid;
mod entry;
mod msr;
pub(crate) mod probe_guest;
mod save;
mod setup;
mod state;
mod vm_state;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_PIT_SPEAKER_DUMMY, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap, kvm_pit_config,
};
use kvm_ioctls::Cap;

pub use cpuid::{CpuConfig, build_cpuid};
pub use entry::{Entry, LongMode, Pvh, RealMode};
pub use state::VcpuState;
pub use vm_state::{IrqchipState, VmState};

use crate::error::Error;
use crate::vcpu::Vcpu;
use crate::vm::{Irqchip, VmInner};

/// Capabilities needed on this architecture besides the common ones.
pub(crate) const REQUIRED: &[(Cap, &str)] = &[
    (Cap::SetTssAddr, "SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "EXT_CPUID"),
    (Cap::Pit2, "PIT2"),
    (Cap::PitState2, "PIT_STATE2"),
    (Cap::AdjustClock, "ADJUST_CLOCK"),
    (Cap::VcpuEvents, "VCPU_EVENTS"),
    (Cap::Debugregs, "DEBUGREGS"),
    (Cap::Xsave, "XSAVE"),
    (Cap::Xcrs, "XCRS"),
];

/// Where KVM on Intel keeps a page table and a task state segment of its own for guests in real mode, on processors that
/// cannot run real mode themselves: 4 pages nobody else uses, below the BIOS at the top of 4 GiB.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// The three pages behind it.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// APIC ids from this on need the 32-bit format; 0xff is the broadcast of the 8-bit one.
const FIRST_LONG_APIC_ID: u32 = 0xff;

/// Settings that must be made before the first vCPU.
pub(crate) fn prepare_vm(vm: &VmInner) -> Result<(), Error> {
    vm.fd.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(Error::kvm("set the identity map's address"))?;
    vm.fd.set_tss_address(TSS_ADDRESS).map_err(Error::kvm("set the task state segment's address"))?;
    match vm.irqchip {
        Irqchip::None => return Ok(()),
        Irqchip::Kernel => {
            vm.fd.create_irq_chip().map_err(Error::kvm("make the interrupt controllers"))?;
            // The dummy speaker is port 0x61, whose bits kernels poll to calibrate their clocks.
            let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
            vm.fd.create_pit2(pit).map_err(Error::kvm("make the timer (PIT)"))?;
        }
        Irqchip::Split { pins } => {
            enable(vm, KVM_CAP_SPLIT_IRQCHIP, u64::from(pins), "make the local interrupt controllers")?;
        }
    }
    if vm.vcpus > FIRST_LONG_APIC_ID {
        let flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        enable(vm, KVM_CAP_X2APIC_API, u64::from(flags), "use 32-bit APIC ids")?;
    }
    Ok(())
}

fn enable(vm: &VmInner, cap: u32, argument: u64, what: &'static str) -> Result<(), Error> {
    let cap = kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() };
    vm.fd.enable_cap(&cap).map_err(Error::kvm(what))
}

impl Vcpu {
    /// The guest's instruction pointer, for error messages; 0 if KVM does not tell.
    pub(crate) fn instruction_pointer(&self) -> u64 {
        self.fd().get_regs().map(|regs| regs.rip).unwrap_or_default()
    }
}
