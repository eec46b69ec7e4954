//! What a guest does that its VMM must answer, and how a vCPU's run ends.

use std::fmt;
use std::ops::ControlFlow;

/// Why [`Vcpu::run`](crate::Vcpu::run) returned without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// The guest switched its machine off.
    Shutdown,
    /// The guest asked for a reset of its machine.
    Reset,
    /// The guest's processor gave up: a fault while delivering a double fault. Kernels also use it to reboot.
    TripleFault,
    /// The guest reported its own crash (a system event).
    Crashed,
    /// `hlt` in a VM without an in-kernel interrupt controller: nothing KVM knows of could ever wake this vCPU.
    Halted,
    /// [`VcpuHandle::kick`](crate::VcpuHandle::kick) asked the vCPU to leave the guest. It may run on.
    Kicked,
    /// The handler's own reason.
    Code(i32),
}

/// What a handler says after an exit: go on, or stop and why.
pub type Flow = ControlFlow<Stop>;

/// The VMM behind a vCPU: its devices, as seen through exits.
///
/// All vCPUs of a VM share one handler and call it at the same time, hence `&self`. The data are borrowed from the page
/// shared with the kernel: no copy is made.
///
/// What a handler does not implement behaves as an empty bus: reads are answered with ones, writes go nowhere.
///
/// A handler that stops the vCPU inside a read has still answered it: the data go to the guest when its state is saved or
/// it runs on.
pub trait ExitHandler: Send + Sync {
    /// The guest reads `data.len()` bytes (1 to 8) at a guest-physical address that no memory slot holds. Fill all of
    /// `data`.
    fn mmio_read(&self, _address: u64, data: &mut [u8]) -> Flow {
        data.fill(0xff);
        Flow::Continue(())
    }

    /// The guest writes `data` (1 to 8 bytes) where no memory slot is, or into a read-only slot.
    fn mmio_write(&self, _address: u64, _data: &[u8]) -> Flow {
        Flow::Continue(())
    }

    /// The guest reads a port. `width` is the size of one access (1, 2, 4); `data` holds one or, for `rep ins`, several.
    fn port_read(&self, _port: u16, _width: u8, data: &mut [u8]) -> Flow {
        data.fill(0xff);
        Flow::Continue(())
    }

    /// The guest writes to a port. `width` is the size of one access (1, 2, 4); `data` holds one or, for `rep outs`,
    /// several.
    fn port_write(&self, _port: u16, _width: u8, _data: &[u8]) -> Flow {
        Flow::Continue(())
    }

    /// Every other exit. `None` leaves it to what [`Exit`] documents for it; `Some` says that it has been dealt with,
    /// answers included (some exits have fields to fill).
    fn exit(&self, _vcpu: u32, _exit: &mut Exit) -> Option<Flow> {
        None
    }
}

/// The exits that are neither port nor memory accesses. Each says what happens when the handler leaves it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// `hlt` without an in-kernel interrupt controller. Default: [`Stop::Halted`].
    Hlt,
    /// A triple fault. Default: [`Stop::TripleFault`].
    TripleFault,
    /// The guest, or the kernel in its name, asks for something that concerns the whole machine. Default: the [`Stop`] of
    /// the same name for the kinds that have one, otherwise the vCPU runs on.
    SystemEvent {
        /// What is asked.
        kind: SystemEvent,
        /// Details; their meaning depends on kind and architecture.
        data: Vec<u64>,
    },
    /// The processor refused the guest's state. Default: an error.
    FailEntry {
        /// The processor's reason: VMX's instruction error or exit reason, SVM's exit code.
        reason: u64,
        /// The host CPU where it happened.
        cpu: u32,
    },
    /// KVM met something it cannot handle. Default: an error.
    InternalError(InternalError),
    /// Guest memory has no page on the host: a file behind a slot was truncated, or a page is poisoned. Default: an
    /// error. A handler that repairs the mapping lets the vCPU run on; the access is tried again.
    MemoryFault(MemoryFault),
    /// A debug event that the owner asked for by `KVM_SET_GUEST_DEBUG`. Default: an error.
    Debug {
        /// The exception: 1 (debug) or 3 (breakpoint).
        exception: u32,
        /// The linear address of the instruction.
        pc: u64,
        /// DR6 and DR7 as the guest would see them.
        dr6_dr7: [u64; 2],
    },
    /// A hypercall that was forwarded (`KVM_CAP_EXIT_HYPERCALL`). Default: answered with `-KVM_ENOSYS`.
    Hypercall {
        /// The call's number.
        nr: u64,
        /// Its arguments.
        args: [u64; 6],
        /// The answer.
        ret: u64,
    },
    /// A guest acknowledged a level interrupt of a user-space I/O APIC. Default: ignored.
    IoapicEoi {
        /// The vector.
        vector: u8,
    },
    /// The ring of dirty pages is full; collect and reset it. Default: an error, because the vCPU could not move on.
    DirtyRingFull,
    /// A read of a model-specific register that was forwarded (`KVM_CAP_X86_USER_SPACE_MSR`). Default: #GP for the guest.
    ReadMsr {
        /// The register.
        index: u32,
        /// Why KVM asks: `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
        /// The answer; `None` is #GP.
        value: Option<u64>,
    },
    /// A write of a model-specific register that was forwarded. Default: #GP for the guest.
    WriteMsr {
        /// The register.
        index: u32,
        /// Why KVM asks: `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
        /// What the guest writes.
        value: u64,
        /// Whether the write is accepted; otherwise #GP.
        accepted: bool,
    },
    /// The guest kept the processor from taking interrupts for too long (`KVM_CAP_X86_NOTIFY_VMEXIT`). Default: runs on,
    /// or an error when its context is lost.
    Notify {
        /// Whether the vCPU's context was lost.
        context_invalid: bool,
    },
    /// A locked access across cache lines (`KVM_CAP_X86_BUS_LOCK_EXIT`). Default: ignored.
    BusLock,
    /// A hypercall of a Xen guest (`KVM_CAP_XEN_HVM`). Default: an error.
    Xen,
    /// A Hyper-V hypercall or message port. Default: an error.
    Hyperv,
    /// An exception that KVM does not handle itself. Default: an error.
    Exception {
        /// Its vector.
        vector: u32,
        /// Its error code.
        code: u32,
    },
    /// The guest can take an interrupt now (`request_interrupt_window`). Default: ignored.
    IrqWindowOpen,
    /// The guest changed its task priority register, without an in-kernel local APIC. Default: ignored.
    SetTpr,
    /// An access to the task priority register that was asked to be reported. Default: ignored.
    TprAccess {
        /// Where the instruction lies.
        rip: u64,
        /// Whether it writes.
        write: bool,
    },
    /// A reason this list does not know, with its number (`KVM_EXIT_*`) and the first word of its data, which for
    /// `KVM_EXIT_UNKNOWN` is the hardware's own exit reason. Default: an error.
    Other {
        /// The exit reason.
        reason: u32,
        /// The first 8 bytes of its data.
        data: u64,
    },
}

/// What a [`Exit::SystemEvent`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SystemEvent {
    /// Power off.
    Shutdown,
    /// Reset.
    Reset,
    /// The guest says that it crashed, or a confidential guest gave up.
    Crash,
    /// The vCPU is to be woken.
    Wakeup,
    /// The machine is to be suspended.
    Suspend,
    /// A kind this list does not know: `KVM_SYSTEM_EVENT_*`.
    Other(u32),
}

/// The guest touched memory that the host cannot provide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemoryFault {
    /// The guest-physical address, where the host kernel reports it (`KVM_CAP_MEMORY_FAULT_INFO`, and only since it does
    /// so for this kind of fault).
    pub address: Option<u64>,
    /// How many bytes from there are concerned; 0 when the address is not known.
    pub size: u64,
    /// `KVM_MEMORY_EXIT_FLAG_*`.
    pub flags: u64,
    /// Where the instruction lies that touched it.
    pub rip: u64,
    /// Whether the host's memory is broken (a poisoned page) rather than absent.
    pub poisoned: bool,
}

impl fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "guest memory at {address:#x}")?,
            None => f.write_str("guest memory at an address the host kernel does not tell")?,
        }
        let state = if self.poisoned { "is poisoned" } else { "has no page on the host" };
        write!(f, " {state} (touched by the instruction at {:#x})", self.rip)
    }
}

/// What `KVM_EXIT_INTERNAL_ERROR` says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InternalError {
    /// What went wrong.
    pub kind: InternalErrorKind,
    /// Details; their meaning depends on the kind and the host kernel.
    pub data: Vec<u64>,
    /// The bytes at the instruction pointer, for an emulation failure on kernels that tell.
    pub instruction: Vec<u8>,
    /// The guest's instruction pointer.
    pub rip: u64,
}

/// The kinds of [`InternalError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InternalErrorKind {
    /// KVM had to emulate an instruction and cannot.
    Emulation,
    /// Exceptions while delivering exceptions.
    SimultaneousExceptions,
    /// An exit while delivering an event.
    DeliverEvent,
    /// The processor exited for a reason KVM does not know.
    UnexpectedExitReason,
    /// A kind this list does not know.
    Other(u32),
}

impl fmt::Display for InternalErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Emulation => f.write_str("it cannot emulate the guest's instruction"),
            Self::SimultaneousExceptions => f.write_str("simultaneous exceptions"),
            Self::DeliverEvent => f.write_str("an exit while delivering an event"),
            Self::UnexpectedExitReason => f.write_str("an exit of a kind unknown to it"),
            Self::Other(number) => write!(f, "error {number}"),
        }
    }
}

impl fmt::Display for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}", self.kind, self.rip)?;
        if !self.instruction.is_empty() {
            f.write_str(", bytes")?;
            for byte in &self.instruction {
                write!(f, " {byte:02x}")?;
            }
        }
        if !self.data.is_empty() {
            write!(f, ", data {:x?}", self.data)?;
        }
        Ok(())
    }
}
