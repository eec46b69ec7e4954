//! From `struct kvm_run` to [`Exit`] and back, for the rare exits.
//!
//! The union of exit details consists of integers, so reading any of its views is defined whatever the kernel wrote.

#![expect(unsafe_code, reason = "reads and writes the union of exit details")]

use std::ops::ControlFlow;

use kvm_bindings::*;

use crate::error::Error;
use crate::exit::{Exit, Flow, InternalError, InternalErrorKind, MemoryFault, Stop, SystemEvent};
use crate::mapping::ExitDetails;

/// `-KVM_ENOSYS` (include/uapi/linux/kvm_para.h): no such hypercall.
const HYPERCALL_UNKNOWN: u64 = 1000_u64.wrapping_neg();

/// Whether the description of this exit names the guest's instruction pointer.
pub(crate) fn wants_rip(reason: u32) -> bool {
    matches!(reason, KVM_EXIT_INTERNAL_ERROR | KVM_EXIT_MEMORY_FAULT)
}

/// Describes the exit `reason` whose details are `details`.
pub(crate) fn decode(reason: u32, details: &ExitDetails, rip: u64) -> Exit {
    // SAFETY: every view is made of integers and lies inside the union, which is initialised as a whole.
    unsafe {
        match reason {
            KVM_EXIT_HLT => Exit::Hlt,
            KVM_EXIT_SHUTDOWN => Exit::TripleFault,
            KVM_EXIT_SYSTEM_EVENT => {
                let event = details.system_event;
                let count = (event.ndata as usize).min(event.__bindgen_anon_1.data.len());
                let data = event.__bindgen_anon_1.data.iter().copied().take(count).collect();
                Exit::SystemEvent { kind: system_event(event.type_), data }
            }
            KVM_EXIT_FAIL_ENTRY => Exit::FailEntry {
                reason: details.fail_entry.hardware_entry_failure_reason,
                cpu: details.fail_entry.cpu,
            },
            KVM_EXIT_INTERNAL_ERROR => Exit::InternalError(internal_error(details, rip)),
            KVM_EXIT_MEMORY_FAULT => Exit::MemoryFault(memory_fault(details, rip, false)),
            KVM_EXIT_DEBUG => {
                let arch = details.debug.arch;
                Exit::Debug { exception: arch.exception, pc: arch.pc, dr6_dr7: [arch.dr6, arch.dr7] }
            }
            KVM_EXIT_HYPERCALL => {
                let call = details.hypercall;
                Exit::Hypercall { nr: call.nr, args: call.args, ret: HYPERCALL_UNKNOWN }
            }
            KVM_EXIT_IOAPIC_EOI => Exit::IoapicEoi { vector: details.eoi.vector },
            KVM_EXIT_DIRTY_RING_FULL => Exit::DirtyRingFull,
            KVM_EXIT_X86_RDMSR => Exit::ReadMsr { index: details.msr.index, reason: details.msr.reason, value: None },
            KVM_EXIT_X86_WRMSR => Exit::WriteMsr {
                index: details.msr.index,
                reason: details.msr.reason,
                value: details.msr.data,
                accepted: false,
            },
            KVM_EXIT_NOTIFY => Exit::Notify { context_invalid: details.notify.flags & KVM_NOTIFY_CONTEXT_INVALID != 0 },
            KVM_EXIT_X86_BUS_LOCK => Exit::BusLock,
            KVM_EXIT_XEN => Exit::Xen,
            KVM_EXIT_HYPERV => Exit::Hyperv,
            KVM_EXIT_EXCEPTION => Exit::Exception { vector: details.ex.exception, code: details.ex.error_code },
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindowOpen,
            KVM_EXIT_SET_TPR => Exit::SetTpr,
            KVM_EXIT_TPR_ACCESS => {
                Exit::TprAccess { rip: details.tpr_access.rip, write: details.tpr_access.is_write != 0 }
            }
            reason => Exit::Other { reason, data: details.hw.hardware_exit_reason },
        }
    }
}

/// What happens to an exit the handler leaves alone: see each variant of [`Exit`].
pub(crate) fn default_flow(vcpu: u32, exit: &mut Exit) -> Result<Flow, Error> {
    let stop = match exit {
        Exit::Hlt => Stop::Halted,
        Exit::TripleFault => Stop::TripleFault,
        Exit::SystemEvent { kind: SystemEvent::Shutdown, .. } => Stop::Shutdown,
        Exit::SystemEvent { kind: SystemEvent::Reset, .. } => Stop::Reset,
        Exit::SystemEvent { kind: SystemEvent::Crash, .. } => Stop::Crashed,
        Exit::FailEntry { reason, cpu } => return Err(Error::FailEntry { reason: *reason, cpu: *cpu }),
        Exit::InternalError(error) => return Err(Error::Internal(error.clone())),
        Exit::MemoryFault(fault) => return Err(Error::MemoryFault(*fault)),
        // The fields of these already hold the answer "no", and the others need none.
        Exit::SystemEvent { .. }
        | Exit::Hypercall { .. }
        | Exit::IoapicEoi { .. }
        | Exit::ReadMsr { .. }
        | Exit::WriteMsr { .. }
        | Exit::Notify { context_invalid: false }
        | Exit::BusLock
        | Exit::IrqWindowOpen
        | Exit::SetTpr
        | Exit::TprAccess { .. }
        | Exit::Other { reason: KVM_EXIT_INTR, .. } => return Ok(ControlFlow::Continue(())),
        Exit::Debug { .. }
        | Exit::DirtyRingFull
        | Exit::Notify { .. }
        | Exit::Xen
        | Exit::Hyperv
        | Exit::Exception { .. }
        | Exit::Other { .. } => return Err(Error::Unhandled { vcpu, exit: exit.clone() }),
    };
    Ok(ControlFlow::Break(stop))
}

/// Writes the fields that answer an exit into its details. `false`: this exit has none.
pub(crate) fn encode_answer(exit: &Exit, details: &mut ExitDetails) -> bool {
    match *exit {
        Exit::Hypercall { ret, .. } => details.hypercall.ret = ret,
        Exit::ReadMsr { value, .. } => {
            // SAFETY: as in `decode`.
            let msr = unsafe { &mut details.msr };
            msr.error = u8::from(value.is_none());
            msr.data = value.unwrap_or(0);
        }
        Exit::WriteMsr { accepted, .. } => details.msr.error = u8::from(!accepted),
        _ => return false,
    }
    true
}

/// Describes a fault whose details the kernel gave.
pub(crate) fn memory_fault(details: &ExitDetails, rip: u64, poisoned: bool) -> MemoryFault {
    // SAFETY: as in `decode`.
    let fault = unsafe { details.memory_fault };
    MemoryFault { address: Some(fault.gpa), size: fault.size, flags: fault.flags, rip, poisoned }
}

fn internal_error(details: &ExitDetails, rip: u64) -> InternalError {
    // SAFETY: as in `decode`.
    let (internal, emulation) = unsafe { (details.internal, details.emulation_failure) };
    let kind = match internal.suberror {
        KVM_INTERNAL_ERROR_EMULATION => InternalErrorKind::Emulation,
        KVM_INTERNAL_ERROR_SIMUL_EX => InternalErrorKind::SimultaneousExceptions,
        KVM_INTERNAL_ERROR_DELIVERY_EV => InternalErrorKind::DeliverEvent,
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => InternalErrorKind::UnexpectedExitReason,
        other => InternalErrorKind::Other(other),
    };
    let count = (internal.ndata as usize).min(internal.data.len());
    let mut data: Vec<u64> = internal.data.iter().copied().take(count).collect();
    let mut instruction = Vec::new();
    // Documentation/virt/kvm/api.rst: flags and bytes are valid only if ndata says that they are there (at least 3 words
    // for the bytes); they overlay the first words of `data`.
    if kind == InternalErrorKind::Emulation
        && count >= 3
        && emulation.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0
    {
        // SAFETY: as in `decode`.
        let bytes = unsafe { emulation.__bindgen_anon_1.__bindgen_anon_1 };
        instruction = bytes.insn_bytes.iter().copied().take(usize::from(bytes.insn_size)).collect();
        data.drain(..3);
    }
    InternalError { kind, data, instruction, rip }
}

fn system_event(kind: u32) -> SystemEvent {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => SystemEvent::Shutdown,
        KVM_SYSTEM_EVENT_RESET => SystemEvent::Reset,
        KVM_SYSTEM_EVENT_CRASH | KVM_SYSTEM_EVENT_SEV_TERM => SystemEvent::Crash,
        KVM_SYSTEM_EVENT_WAKEUP => SystemEvent::Wakeup,
        KVM_SYSTEM_EVENT_SUSPEND => SystemEvent::Suspend,
        other => SystemEvent::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn details(bytes: [u8; 256]) -> ExitDetails {
        ExitDetails { padding: bytes.map(|b| i8::from_ne_bytes([b])) }
    }

    #[test]
    fn an_emulation_failure_names_the_instruction() {
        let mut raw = [0; 256];
        raw[0] = 1; // suberror: emulation
        raw[4] = 3; // ndata
        raw[8] = 1; // flags: instruction bytes
        raw[16] = 2; // insn_size
        raw[17..19].copy_from_slice(&[0x0f, 0x0b]);
        let Exit::InternalError(error) = decode(KVM_EXIT_INTERNAL_ERROR, &details(raw), 0x1000) else { panic!() };
        assert_eq!(error.kind, InternalErrorKind::Emulation);
        assert_eq!(error.instruction, [0x0f, 0x0b]);
        assert_eq!(error.to_string(), "it cannot emulate the guest's instruction at 0x1000, bytes 0f 0b");
    }

    #[test]
    fn an_answered_msr_read_has_no_error() {
        let mut d = details([0; 256]);
        let exit = Exit::ReadMsr { index: 0x10, reason: 1, value: Some(7) };
        assert!(encode_answer(&exit, &mut d));
        // SAFETY: integers.
        let msr = unsafe { d.msr };
        assert_eq!((msr.error, msr.data), (0, 7));
        assert!(encode_answer(&Exit::ReadMsr { index: 0x10, reason: 1, value: None }, &mut d));
        // SAFETY: integers.
        assert_eq!(unsafe { d.msr.error }, 1);
    }

    #[test]
    fn a_hypercall_nobody_knows_is_refused_and_the_guest_runs_on() {
        let mut d = details([0; 256]);
        let mut exit = decode(KVM_EXIT_HYPERCALL, &d, 0);
        assert_eq!(default_flow(0, &mut exit).unwrap(), ControlFlow::Continue(()));
        assert!(encode_answer(&exit, &mut d));
        // SAFETY: integers.
        assert_eq!(unsafe { d.hypercall.ret }.cast_signed(), -1000);
    }

    #[test]
    fn endings() {
        let d = details([0; 256]);
        let flow = |reason| default_flow(3, &mut decode(reason, &d, 0));
        assert_eq!(flow(KVM_EXIT_HLT).unwrap(), ControlFlow::Break(Stop::Halted));
        assert_eq!(flow(KVM_EXIT_SHUTDOWN).unwrap(), ControlFlow::Break(Stop::TripleFault));
        assert!(matches!(flow(KVM_EXIT_FAIL_ENTRY), Err(Error::FailEntry { .. })));
        assert!(matches!(flow(KVM_EXIT_UNKNOWN), Err(Error::Unhandled { vcpu: 3, .. })));
        assert!(matches!(flow(4711), Err(Error::Unhandled { exit: Exit::Other { reason: 4711, .. }, .. })));
        let mut raw = [0; 256];
        for (kind, stop) in [(1, Stop::Shutdown), (2, Stop::Reset), (3, Stop::Crashed)] {
            raw[0] = kind;
            let mut exit = decode(KVM_EXIT_SYSTEM_EVENT, &details(raw), 0);
            assert_eq!(default_flow(0, &mut exit).unwrap(), ControlFlow::Break(stop));
        }
    }

    proptest! {
        #[test]
        fn anything_decodes(reason in 0u32..64, bytes in prop::collection::vec(any::<u8>(), 256)) {
            let mut d = details(bytes.try_into().unwrap());
            let mut exit = decode(reason, &d, 0);
            let text = format!("{exit:?}");
            prop_assert!(!text.is_empty());
            if let Err(error) = default_flow(0, &mut exit) {
                prop_assert!(!error.to_string().is_empty());
            }
            encode_answer(&exit, &mut d);
        }
    }
}
