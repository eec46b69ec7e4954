//! The state of a vCPU, and the same as bytes.

use std::mem::size_of;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

use crate::error::StateError;
use crate::plain::{self, Plain};
use crate::sections::{Format, Sections, Writer};

/// Everything KVM knows of a vCPU: plain data, of the kernel's own types.
///
/// Not included: the state of a guest's own guests.
#[derive(Debug, Clone, PartialEq)]
pub struct VcpuState {
    /// The CPUID leaves the guest sees.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// The frequency of its time stamp counter in kHz, where KVM tells.
    pub tsc_khz: Option<u32>,
    /// Running, halted, waiting for INIT or SIPI.
    pub mp_state: kvm_mp_state,
    /// General registers.
    pub regs: kvm_regs,
    /// Segments, control registers, tables.
    pub sregs: kvm_sregs,
    /// x87, SSE, AVX and what else XSAVE holds: at least 4096 bytes.
    pub xsave: Vec<u8>,
    /// Extended control registers.
    pub xcrs: kvm_xcrs,
    /// Debug registers.
    pub debug_regs: kvm_debugregs,
    /// The local APIC, if it is in the kernel.
    pub lapic: Option<kvm_lapic_state>,
    /// Model-specific registers, as many as KVM lists.
    pub msrs: Vec<kvm_msr_entry>,
    /// Pending exceptions, interrupts, NMI and SMI.
    pub events: kvm_vcpu_events,
}

const FORMAT: Format = Format {
    name: "vCPU",
    magic: *b"krunvcpu",
    version: 1,
    sections: &[
        "CPUID",
        "TSC frequency",
        "MP state",
        "registers",
        "system registers",
        "XSAVE",
        "XCR",
        "debug registers",
        "local APIC",
        "MSR",
        "events",
    ],
};

/// Numbers of the sections: places in [`FORMAT`].
mod section {
    pub(super) const CPUID: u32 = 0;
    pub(super) const TSC_KHZ: u32 = 1;
    pub(super) const MP_STATE: u32 = 2;
    pub(super) const REGS: u32 = 3;
    pub(super) const SREGS: u32 = 4;
    pub(super) const XSAVE: u32 = 5;
    pub(super) const XCRS: u32 = 6;
    pub(super) const DEBUG_REGS: u32 = 7;
    pub(super) const LAPIC: u32 = 8;
    pub(super) const MSRS: u32 = 9;
    pub(super) const EVENTS: u32 = 10;
}

/// The least an XSAVE area takes (`struct kvm_xsave`).
pub(super) const XSAVE_MIN: usize = 4096;
/// The most this crate believes: the largest processors' areas have 11 KiB.
pub(super) const XSAVE_MAX: usize = 1 << 16;
/// The most model-specific registers this crate believes.
pub(super) const MSRS_MAX: usize = 4096;

impl VcpuState {
    /// The state as bytes, for a file or a wire. They begin with a version.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(&FORMAT);
        out.section(section::CPUID, &list(&self.cpuid));
        if let Some(khz) = self.tsc_khz {
            out.section(section::TSC_KHZ, &khz.to_le_bytes());
        }
        out.section(section::MP_STATE, plain::bytes(&self.mp_state));
        out.section(section::REGS, plain::bytes(&self.regs));
        out.section(section::SREGS, plain::bytes(&self.sregs));
        out.section(section::XSAVE, &self.xsave);
        out.section(section::XCRS, plain::bytes(&self.xcrs));
        out.section(section::DEBUG_REGS, plain::bytes(&self.debug_regs));
        if let Some(lapic) = &self.lapic {
            out.section(section::LAPIC, plain::bytes(lapic));
        }
        out.section(section::MSRS, &list(&self.msrs));
        out.section(section::EVENTS, plain::bytes(&self.events));
        out.finish()
    }

    /// The state these bytes hold. Their form and the ranges of counts are checked; whether the values make sense to a
    /// processor is for KVM to say when they are restored.
    ///
    /// # Errors
    ///
    /// The bytes are not what [`VcpuState::to_bytes`] makes, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let sections = Sections::read(&FORMAT, bytes)?;
        let state = Self {
            cpuid: read_list(&sections, section::CPUID, KVM_MAX_CPUID_ENTRIES)?,
            tsc_khz: sections.get(section::TSC_KHZ).map(read_u32).transpose()?,
            mp_state: read_required(&sections, section::MP_STATE)?,
            regs: read_required(&sections, section::REGS)?,
            sregs: read_required(&sections, section::SREGS)?,
            xsave: sections.require(section::XSAVE)?.to_vec(),
            xcrs: read_required(&sections, section::XCRS)?,
            debug_regs: read_required(&sections, section::DEBUG_REGS)?,
            lapic: sections.get(section::LAPIC).map(|_| read_required(&sections, section::LAPIC)).transpose()?,
            msrs: read_list(&sections, section::MSRS, MSRS_MAX)?,
            events: read_required(&sections, section::EVENTS)?,
        };
        state.validate()?;
        Ok(state)
    }

    /// Checks what KVM would otherwise take as a length.
    pub(super) fn validate(&self) -> Result<(), StateError> {
        range("number of CPUID leaves", self.cpuid.len(), KVM_MAX_CPUID_ENTRIES)?;
        range("number of MSRs", self.msrs.len(), MSRS_MAX)?;
        range("number of XCRs", self.xcrs.nr_xcrs as usize, self.xcrs.xcrs.len())?;
        range("size of the XSAVE area", self.xsave.len(), XSAVE_MAX)?;
        if self.xsave.len() < XSAVE_MIN {
            let missing = XSAVE_MIN - self.xsave.len();
            return Err(StateError::Length(missing as u64, "XSAVE"));
        }
        Ok(())
    }
}

fn range(what: &'static str, value: usize, max: usize) -> Result<(), StateError> {
    if value > max {
        return Err(StateError::Range { what, value: value as u64, max: max as u64 });
    }
    Ok(())
}

fn list<T: Plain>(values: &[T]) -> Vec<u8> {
    values.iter().flat_map(|value| plain::bytes(value).iter().copied()).collect()
}

fn read_list<T: Plain>(sections: &Sections<'_>, number: u32, max: usize) -> Result<Vec<T>, StateError> {
    let bytes = sections.require(number)?;
    range(sections.name(number), bytes.len() / size_of::<T>(), max)?;
    let chunks = bytes.chunks_exact(size_of::<T>());
    let rest = chunks.remainder().len();
    if rest != 0 {
        return Err(StateError::Length(rest as u64, sections.name(number)));
    }
    Ok(chunks.filter_map(plain::value).collect())
}

pub(super) fn read_required<T: Plain>(sections: &Sections<'_>, number: u32) -> Result<T, StateError> {
    let bytes = sections.require(number)?;
    plain::value(bytes)
        .ok_or_else(|| StateError::Length(bytes.len().abs_diff(size_of::<T>()) as u64, sections.name(number)))
}

fn read_u32(bytes: &[u8]) -> Result<u32, StateError> {
    let bytes = bytes.try_into().map_err(|_| StateError::Length(bytes.len().abs_diff(4) as u64, "TSC frequency"))?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(msrs: u32, lapic: bool, tsc_khz: Option<u32>) -> VcpuState {
        VcpuState {
            cpuid: vec![kvm_cpuid_entry2 { function: 1, eax: 2, ..Default::default() }; 3],
            tsc_khz,
            mp_state: kvm_mp_state { mp_state: 1 },
            regs: kvm_regs { rip: 0xfff0, ..Default::default() },
            sregs: kvm_sregs { cr0: 0x11, ..Default::default() },
            xsave: vec![7; XSAVE_MIN],
            xcrs: kvm_xcrs { nr_xcrs: 1, ..Default::default() },
            debug_regs: kvm_debugregs { dr7: 0x400, ..Default::default() },
            lapic: lapic.then(kvm_lapic_state::default),
            msrs: (0..msrs).map(|index| kvm_msr_entry { index, data: 5, ..Default::default() }).collect(),
            events: kvm_vcpu_events { flags: 1, ..Default::default() },
        }
    }

    #[test]
    fn refused() {
        let good = state(2, true, None).to_bytes();
        assert_eq!(VcpuState::from_bytes(&[]), Err(StateError::Magic("vCPU")));
        assert_eq!(VcpuState::from_bytes(&good[1..]), Err(StateError::Magic("vCPU")));
        let mut other = good.clone();
        other[8] = 2;
        assert_eq!(VcpuState::from_bytes(&other), Err(StateError::Version { found: 2, known: 1 }));
        let mut unknown = good.clone();
        unknown.extend_from_slice(&[99, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(VcpuState::from_bytes(&unknown), Err(StateError::Unknown(99)));
        let mut twice = good.clone();
        twice.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(VcpuState::from_bytes(&twice), Err(StateError::Twice("MP state")));
        assert_eq!(VcpuState::from_bytes(&good[..12]), Err(StateError::Missing("CPUID")));
        for end in 0..good.len() {
            assert!(VcpuState::from_bytes(&good[..end]).is_err(), "cut at {end}");
        }
        let many = VcpuState { xcrs: kvm_xcrs { nr_xcrs: 17, ..Default::default() }, ..state(0, false, None) };
        assert!(matches!(VcpuState::from_bytes(&many.to_bytes()), Err(StateError::Range { value: 17, .. })));
        let short = VcpuState { xsave: vec![0; 10], ..state(0, false, None) };
        assert_eq!(VcpuState::from_bytes(&short.to_bytes()), Err(StateError::Length(4086, "XSAVE")));
    }

    proptest! {
        #[test]
        fn there_and_back(msrs in 0u32..300, lapic: bool, tsc_khz: Option<u32>) {
            let state = state(msrs, lapic, tsc_khz);
            prop_assert_eq!(VcpuState::from_bytes(&state.to_bytes()), Ok(state));
        }

        #[test]
        fn damaged_bytes_are_refused_or_another_state(
            at in any::<prop::sample::Index>(), with: u8, cut in any::<prop::sample::Index>(), do_cut: bool,
        ) {
            let mut bytes = state(3, true, Some(1)).to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = with;
            if do_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(state) = VcpuState::from_bytes(&bytes) {
                prop_assert_eq!(VcpuState::from_bytes(&state.to_bytes()), Ok(state));
            }
        }

        #[test]
        fn random_sections_never_panic(body in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = b"krunvcpu\x01\0\0\0".to_vec();
            bytes.extend(body);
            let _ = VcpuState::from_bytes(&bytes);
        }
    }
}
