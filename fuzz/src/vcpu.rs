//! Fuzzes `krun-vcpu`: saved state, which may come from a file that somebody else wrote, and what the kernel's tables and
//! exits are turned into.

use arbitrary::{Arbitrary, Unstructured};
use krun_vcpu::kvm_bindings::kvm_cpuid_entry2;
use krun_vcpu::{CpuConfig, PioBatch, VcpuState, VmState, build_cpuid};

/// What the bytes after the first one are.
const VCPU: u8 = 0;
const VM: u8 = 1;
const PIO: u8 = 2;

/// The first byte says what the others are: a vCPU's state, a VM's state, an exit for port access, a CPUID table.
pub fn state(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match *kind {
        VCPU => {
            if let Ok(state) = VcpuState::from_bytes(data) {
                assert_eq!(VcpuState::from_bytes(&state.to_bytes()), Ok(state));
            }
        }
        VM => {
            if let Ok(state) = VmState::from_bytes(data) {
                assert_eq!(VmState::from_bytes(&state.to_bytes()), Ok(state));
            }
        }
        PIO => {
            let _ = pio(&mut Unstructured::new(data));
        }
        _ => {
            let _ = cpuid(&mut Unstructured::new(data));
        }
    }
}

fn pio(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let (direction, size, port, count, offset) = Arbitrary::arbitrary(input)?;
    const PAGE: usize = 3 * 4096;
    if let Some(batch) = PioBatch::decode(direction, size, port, count, offset, PAGE) {
        assert!(batch.offset() + batch.len() <= PAGE);
        assert_eq!(batch.len() % usize::from(batch.width()), 0);
    }
    Ok(())
}

fn cpuid(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut config = CpuConfig::new(u32::arbitrary(input)?);
    config.nested = bool::arbitrary(input)?;
    config.tsc_khz = Arbitrary::arbitrary(input)?;
    let id = u32::arbitrary(input)?;
    let mut leaves = Vec::new();
    while !input.is_empty() && leaves.len() < 512 {
        let (function, index, [eax, ebx, ecx, edx]) = Arbitrary::arbitrary(input)?;
        leaves.push(kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() });
    }
    assert!(build_cpuid(&leaves, &config, id).len() <= 256);
    Ok(())
}
