//! A vCPU that has stopped for good.

use krun_vcpu::Vcpu;
use krun_vcpu::kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};

/// RFLAGS.IF (Intel SDM volume 1, section 3.4.3.3).
const INTERRUPTS_ENABLED: u64 = 1 << 9;

/// Whether this vCPU halts with interrupts disabled, or waits for another one to start it: nothing a device does wakes
/// it.
pub(crate) fn has_halted(vcpu: &Vcpu) -> bool {
    let (Ok(state), Ok(registers)) = (vcpu.fd().get_mp_state(), vcpu.fd().get_regs()) else { return false };
    match state.mp_state {
        KVM_MP_STATE_HALTED => registers.rflags & INTERRUPTS_ENABLED == 0,
        KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_UNINITIALIZED => true,
        _ => false,
    }
}
