//! Setting a vCPU up: CPUID, model-specific registers, FPU, local APIC, and where it starts.

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry};
use vm_memory::GuestMemoryBackend;

use crate::error::Error;
use crate::kvm::Kvm;
use crate::vcpu::Vcpu;
use crate::vm::{Irqchip, KvmVm};
use crate::{Cap, CpuId};

use super::cpuid::{CpuConfig, build_cpuid, has_kvm_leaves};
use super::entry::Entry;
use super::msr::boot_msrs;

/// Local APIC registers (Intel SDM volume 3A, table 12-1).
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
/// Delivery modes of a local vector table entry, bits 10:8.
const DELIVERY_NMI: u32 = 4;
const DELIVERY_EXTINT: u32 = 7;

/// The x87 control word after `fninit`: all exceptions masked, extended precision.
const FCW_DEFAULT: u16 = 0x37f;
/// MXCSR after reset: all exceptions masked.
const MXCSR_DEFAULT: u32 = 0x1f80;

impl KvmVm {
    /// Processors for this VM as this host can make them: as many as [`VmOptions::vcpus`](crate::VmOptions::vcpus), no
    /// nested virtualization.
    pub fn cpu_config(&self) -> CpuConfig {
        let tsc_deadline = self.inner.irqchip != Irqchip::None && self.has(Cap::TscDeadlineTimer);
        CpuConfig { tsc_deadline, ..CpuConfig::new(self.vcpus()) }
    }
}

impl Vcpu {
    /// Makes this one of the processors `config` describes: CPUID, model-specific registers, FPU and, with an in-kernel
    /// interrupt controller, the local APIC's pins (LINT0 takes the PICs' interrupts, LINT1 is NMI). To be called once,
    /// before the vCPU first runs.
    ///
    /// # Errors
    ///
    /// KVM refuses one of them.
    pub fn configure(&self, config: &CpuConfig) -> Result<(), Error> {
        let supported = self.kvm().supported_cpuid()?;
        if !has_kvm_leaves(supported.as_slice()) {
            tracing::warn!("KVM shows guests no leaves of its own: they will take seconds to calibrate their clocks");
        }
        let tsc_khz = config.tsc_khz.or_else(|| self.fd().get_tsc_khz().ok().filter(|khz| *khz != 0));
        let config = CpuConfig { tsc_khz, ..config.clone() };
        self.set_cpuid(&build_cpuid(supported.as_slice(), &config, self.id()))?;
        self.set_msrs(&boot_msrs())?;
        let fpu = kvm_fpu { fcw: FCW_DEFAULT, mxcsr: MXCSR_DEFAULT, ..Default::default() };
        self.fd().set_fpu(&fpu).map_err(Error::kvm("set a vCPU's FPU"))?;
        if self.vm().irqchip != Irqchip::None {
            self.connect_local_interrupts()?;
        }
        Ok(())
    }

    /// Sets the CPUID leaves the guest sees.
    ///
    /// # Errors
    ///
    /// There are more than KVM takes (256), or the vCPU has run.
    pub fn set_cpuid(&self, leaves: &[kvm_bindings::kvm_cpuid_entry2]) -> Result<(), Error> {
        let table = CpuId::from_entries(leaves).map_err(|_| Error::Kvm {
            what: "take that many CPUID leaves",
            source: std::io::Error::from_raw_os_error(libc::E2BIG),
        })?;
        self.fd().set_cpuid2(&table).map_err(Error::kvm("set a vCPU's CPUID leaves"))
    }

    /// Sets model-specific registers.
    ///
    /// # Errors
    ///
    /// KVM does not take one of them; those before it are set.
    pub fn set_msrs(&self, msrs: &[kvm_msr_entry]) -> Result<(), Error> {
        for chunk in msrs.chunks(kvm_bindings::KVM_MAX_MSR_ENTRIES) {
            let table = Msrs::from_entries(chunk).map_err(|_| Error::Kvm {
                what: "take that many MSRs",
                source: std::io::Error::from_raw_os_error(libc::E2BIG),
            })?;
            let done = self.fd().set_msrs(&table).map_err(Error::kvm("set a vCPU's MSRs"))?;
            if let Some(refused) = chunk.get(done) {
                return Err(Error::Msr { index: refused.index, value: refused.data });
            }
        }
        Ok(())
    }

    /// Makes the guest start at `entry` on this vCPU, and writes the tables it needs there into guest memory. For the
    /// first vCPU only; the guest starts the others itself.
    ///
    /// # Errors
    ///
    /// The entry makes no sense, its tables do not fit into `memory`, or KVM refuses the registers.
    pub fn set_entry<M: GuestMemoryBackend>(&self, memory: &M, entry: &Entry) -> Result<(), Error> {
        entry.write_tables(memory)?;
        let mut sregs = self.fd().get_sregs().map_err(Error::kvm("tell a vCPU's system registers"))?;
        entry.set_system_registers(&mut sregs);
        self.fd().set_sregs(&sregs).map_err(Error::kvm("set a vCPU's system registers"))?;
        self.fd().set_regs(&entry.registers()).map_err(Error::kvm("set a vCPU's registers"))
    }

    fn connect_local_interrupts(&self) -> Result<(), Error> {
        let mut lapic = self.fd().get_lapic().map_err(Error::kvm("tell a vCPU's local APIC"))?;
        set_delivery_mode(&mut lapic, APIC_LVT_LINT0, DELIVERY_EXTINT);
        set_delivery_mode(&mut lapic, APIC_LVT_LINT1, DELIVERY_NMI);
        self.fd().set_lapic(&lapic).map_err(Error::kvm("set a vCPU's local APIC"))
    }

    fn kvm(&self) -> &Kvm {
        &self.vm().kvm
    }
}

/// Sets bits 10:8 of the little-endian register at `offset` and unmasks it.
fn set_delivery_mode(lapic: &mut kvm_lapic_state, offset: usize, mode: u32) {
    const MASKED: u32 = 1 << 16;
    if let Some(bytes) = lapic.regs.get_mut(offset..offset + 4) {
        let mut register = [0; 4];
        for (to, from) in register.iter_mut().zip(bytes.iter()) {
            *to = from.to_ne_bytes()[0];
        }
        let value = u32::from_le_bytes(register) & !(7 << 8 | MASKED) | mode << 8;
        for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
            *to = i8::from_ne_bytes([from]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_interrupt_pins() {
        let mut lapic = kvm_lapic_state::default();
        for (offset, byte) in [(0x350, 0x34u8), (0x351, 0xf0), (0x352, 0x01)] {
            lapic.regs[offset] = i8::from_ne_bytes([byte]);
        }
        set_delivery_mode(&mut lapic, APIC_LVT_LINT0, DELIVERY_EXTINT);
        let bytes: Vec<u8> = lapic.regs[0x350..0x354].iter().map(|b| b.to_ne_bytes()[0]).collect();
        assert_eq!(u32::from_le_bytes(bytes.try_into().unwrap()), 0xf734);
    }
}
