//! KVM virtual machines and their processors: hand it memory and an entry point.
//!
//! With this crate you open `/dev/kvm`, make a VM, show it some memory, make vCPUs and run them; what the guest does to the
//! outside reaches your [`ExitHandler`]. It knows no virtio, loads no kernels and starts no threads: those are other
//! crates' business, or yours.
//!
//! # A VM that adds two numbers
//!
//! ```
//! use std::error::Error;
//! use std::ops::ControlFlow;
//!
//! use krun_vcpu::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
//! use krun_vcpu::{Entry, ExitHandler, Flow, Kvm, RealMode, Stop, VmOptions};
//!
//! /// Ends the run with whatever the guest writes to a port.
//! struct Sum;
//!
//! impl ExitHandler for Sum {
//!     fn port_write(&self, _port: u16, _width: u8, data: &[u8]) -> Flow {
//!         ControlFlow::Break(Stop::Code(i32::from(data[0])))
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//! #   if let Err(error) = Kvm::open() { println!("not run: {error}"); return Ok(()) }
//!     let code = [0xb0, 2, 0x04, 3, 0xe6, 0x10]; // mov al, 2; add al, 3; out 0x10, al
//!     let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x4000)])?;
//!     memory.write_slice(&code, GuestAddress(0x1000))?;
//!
//!     let vm = Kvm::open()?.create_vm(&VmOptions::bare())?;
//!     vm.add_memory(&memory)?;
//!     let mut vcpu = vm.create_vcpu(0)?;
//!     vcpu.set_entry(&memory, &Entry::RealMode(RealMode { cs: 0x100, ip: 0, sp: 0x4000 }))?;
//!     assert_eq!(vcpu.run(&Sum)?, Stop::Code(5));
//!     Ok(())
//! }
//! ```
//!
//! A Linux guest wants more: [`VmOptions::new`] with its number of vCPUs (interrupt controllers and timer are in the kernel
//! then), [`Vcpu::configure`] on every vCPU, and [`Entry::LongMode`] or [`Entry::Pvh`] on the first, which starts the
//! others itself.
//!
//! # The parts
//!
//! | part | for |
//! |---|---|
//! | [`Kvm`] | the host's KVM: opened, all that is missing named at once, limits, and [`Kvm::probe`]: does it run real code? |
//! | [`KvmVm`] | a VM: memory slots, interrupt lines and eventfds, its vCPUs |
//! | [`Vcpu`] | a processor: set up, run, its state saved and restored |
//! | [`ExitHandler`] | your devices. Port and memory accesses have methods of their own; every other exit is an [`Exit`] |
//! | [`VcpuHandle`] | gets a vCPU out of the guest, from any thread |
//! | [`Controller`] | pauses, resumes and stops all vCPUs of a VM |
//! | [`VcpuState`], [`VmState`] | plain data, and versioned bytes |
//!
//! # How a run ends
//!
//! [`Vcpu::run`] returns a [`Stop`] when the guest or the handler ends it, and an [`Error`] when KVM or the processor
//! cannot go on; it does not panic, whatever the guest does. When it returns `Ok`, no access is half done: the state may
//! be saved, and the vCPU run again, on this thread or another.
//!
//! # Signals
//!
//! A kick uses a real-time signal, but nothing of it shows in your process: no handler is installed, other threads never
//! see the signal, and a thread leaves [`Vcpu::run`] with the signal mask it had. The signal is blocked while the thread
//! is there and let in by `KVM_RUN` alone (`KVM_SET_SIGNAL_MASK`), which returns with the signal still pending; then it
//! is taken off.
//!
//! # What it does not do
//!
//! - Threads: `run` uses the caller's.
//! - Other architectures than x86-64; their code has its place beside `x86_64/`.
//! - Confidential VMs, device assignment, the state of a guest's own guests.
//!
//! # Versions
//!
//! The types of kvm-bindings, kvm-ioctls and vm-memory that appear here are re-exported.

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
