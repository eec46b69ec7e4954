//! Taking a vCPU's state out of KVM and putting it back.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry};

use crate::error::{Error, StateError};
use crate::sys;
use crate::vcpu::Vcpu;
use crate::vm::Irqchip;

use super::state::VcpuState;

/// IA32_TSC goes first, because others are relative to it.
const IA32_TSC: u32 = 0x10;
/// IA32_TSC_DEADLINE goes last: it arms a timer, in terms of the TSC and of the local APIC's mode.
const IA32_TSC_DEADLINE: u32 = 0x6e0;

impl Vcpu {
    /// The vCPU's state. It is whole whenever [`Vcpu::run`] has returned `Ok`, or has not been called.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn save(&self) -> Result<VcpuState, Error> {
        let fd = self.fd();
        // First: it makes KVM take a pending INIT or SIPI, which changes registers.
        let mp_state = fd.get_mp_state().map_err(Error::kvm("tell a vCPU's MP state"))?;
        let cpuid =
            fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("tell a vCPU's CPUID leaves"))?.as_slice().to_vec();
        // Before the local APIC: time goes on meanwhile, and KVM may deliver the timer's interrupt to the APIC and clear
        // IA32_TSC_DEADLINE at any moment. In this order a deadline that passes in between is saved as well as its
        // interrupt, and the guest gets at worst one too many; in the other order it would be in neither, and be lost.
        let msrs = self.read_msrs(&self.vm().kvm.msr_indices()?)?;
        let lapic = match self.vm().irqchip {
            Irqchip::None => None,
            _ => Some(fd.get_lapic().map_err(Error::kvm("tell a vCPU's local APIC"))?),
        };
        let xsave = sys::get_xsave(&self.vm().fd, fd)
            .map_err(|source| Error::Kvm { what: "tell a vCPU's XSAVE area", source })?;
        Ok(VcpuState {
            cpuid,
            tsc_khz: fd.get_tsc_khz().ok().filter(|khz| *khz != 0),
            mp_state,
            regs: fd.get_regs().map_err(Error::kvm("tell a vCPU's registers"))?,
            sregs: fd.get_sregs().map_err(Error::kvm("tell a vCPU's system registers"))?,
            xsave,
            xcrs: fd.get_xcrs().map_err(Error::kvm("tell a vCPU's extended control registers"))?,
            debug_regs: fd.get_debug_regs().map_err(Error::kvm("tell a vCPU's debug registers"))?,
            lapic,
            msrs,
            events: fd.get_vcpu_events().map_err(Error::kvm("tell a vCPU's pending events"))?,
        })
    }

    /// Gives the vCPU this state: one just made, or the one it was taken from.
    ///
    /// # Errors
    ///
    /// The state does not fit this host or VM (an XSAVE area that is too large, a local APIC the VM has not), or KVM
    /// refuses a part of it. The vCPU is then of no further use.
    pub fn restore(&self, state: &VcpuState) -> Result<(), Error> {
        state.validate()?;
        let fd = self.fd();
        // The order matters: leaves decide which registers exist, and the local APIC's mode which MSRs do.
        let present = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("tell a vCPU's CPUID leaves"))?;
        if present.as_slice() != state.cpuid {
            self.set_cpuid(&state.cpuid)?;
        }
        if let Some(khz) = state.tsc_khz
            && fd.get_tsc_khz().ok() != Some(khz)
        {
            fd.set_tsc_khz(khz).map_err(Error::kvm("run a vCPU's time stamp counter at the saved frequency"))?;
        }
        fd.set_mp_state(state.mp_state).map_err(Error::kvm("set a vCPU's MP state"))?;
        fd.set_regs(&state.regs).map_err(Error::kvm("set a vCPU's registers"))?;
        fd.set_sregs(&state.sregs).map_err(Error::kvm("set a vCPU's system registers"))?;
        self.restore_xsave(&state.xsave)?;
        fd.set_xcrs(&state.xcrs).map_err(Error::kvm("set a vCPU's extended control registers"))?;
        fd.set_debug_regs(&state.debug_regs).map_err(Error::kvm("set a vCPU's debug registers"))?;
        match (&state.lapic, self.vm().irqchip) {
            (None, Irqchip::None) => {}
            (Some(_), Irqchip::None) => return Err(StateError::Unfit("the VM has no local APICs").into()),
            (None, _) => return Err(StateError::Missing("local APIC").into()),
            (Some(lapic), _) => fd.set_lapic(lapic).map_err(Error::kvm("set a vCPU's local APIC"))?,
        }
        self.restore_msrs(&state.msrs)?;
        fd.set_vcpu_events(&state.events).map_err(Error::kvm("set a vCPU's pending events"))
    }

    fn restore_xsave(&self, saved: &[u8]) -> Result<(), Error> {
        let size = sys::xsave_size(&self.vm().fd);
        if saved.iter().skip(size).any(|byte| *byte != 0) {
            return Err(StateError::Unfit("its XSAVE area is larger than this host's").into());
        }
        sys::set_xsave(&self.vm().fd, self.fd(), saved)
            .map_err(|source| Error::Kvm { what: "set a vCPU's XSAVE area", source })
    }

    /// Reads these registers. Those KVM lists but does not have for this vCPU are left out.
    fn read_msrs(&self, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, Error> {
        let mut found = Vec::with_capacity(indices.len());
        let mut rest = indices;
        while !rest.is_empty() {
            let (now, _) = rest.split_at(rest.len().min(kvm_bindings::KVM_MAX_MSR_ENTRIES));
            let entries: Vec<_> =
                now.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
            let mut table = Msrs::from_entries(&entries).map_err(|_| Error::Kvm {
                what: "take that many MSRs",
                source: std::io::Error::from_raw_os_error(libc::E2BIG),
            })?;
            let done = self.fd().get_msrs(&mut table).map_err(Error::kvm("tell a vCPU's MSRs"))?;
            found.extend(table.as_slice().iter().take(done));
            // It stops at the first it does not have.
            let skip = if done < now.len() { done + 1 } else { done };
            rest = rest.get(skip..).unwrap_or_default();
        }
        Ok(found)
    }

    fn restore_msrs(&self, saved: &[kvm_msr_entry]) -> Result<(), Error> {
        let mut msrs = saved.to_vec();
        msrs.sort_by_key(|msr| match msr.index {
            IA32_TSC => 0,
            IA32_TSC_DEADLINE => 2,
            _ => 1,
        });
        let mut rest = msrs.as_slice();
        loop {
            let Err(error) = self.set_msrs(rest) else { return Ok(()) };
            let Error::Msr { index, value } = error else { return Err(error) };
            // Some can only be read. That is no harm if they are as they were.
            let now = self.read_msrs(&[index])?;
            if !now.iter().any(|msr| msr.data == value) {
                return Err(Error::Msr { index, value });
            }
            let refused = rest.iter().position(|msr| msr.index == index).unwrap_or(rest.len());
            rest = rest.get(refused + 1..).unwrap_or_default();
        }
    }
}
