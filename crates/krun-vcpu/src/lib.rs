//! KVM virtual machines and vCPUs: memory slots, exits, kicks, register state; no virtio, no loader.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("krun-vcpu has no code for this architecture yet; it supports x86_64");

mod abi;
mod control;
mod error;
mod exit;
mod kick;
mod kvm;
mod mapping;
mod memory;
mod pio;
mod plain;
mod probe;
mod sections;
mod sys;
mod vcpu;
mod vm;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use arch::{CpuConfig, Entry, IrqchipState, LongMode, Pvh, RealMode, VcpuState, VmState, build_cpuid};
pub use control::{Controller, Enrolled};
pub use error::{Error, SlotProblem, StateError};
pub use exit::{Exit, ExitHandler, Flow, InternalError, InternalErrorKind, MemoryFault, Stop, SystemEvent};
pub use kick::VcpuHandle;
pub use kvm::Kvm;
pub use memory::{MemoryRange, SlotFlags, SlotId};
pub use pio::PioBatch;
pub use probe::{Evidence, Probe, probe_real_code};
pub use vcpu::Vcpu;
pub use vm::{DataMatch, Irqchip, KvmVm, VmOptions};

// Types of other crates that appear in this one's interface.
pub use kvm_bindings;
pub use kvm_bindings::CpuId;
pub use kvm_ioctls;
pub use kvm_ioctls::{Cap, IoEventAddress};
pub use vm_memory;
pub use vmm_sys_util::eventfd::EventFd;
