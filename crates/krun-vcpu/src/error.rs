//! Everything that can go wrong on the host's side.

use std::io;
use std::path::PathBuf;

use crate::exit::{Exit, InternalError, MemoryFault};

/// What failed, on what, and why. What the guest does wrong is a [`Stop`](crate::Stop) or an answer to the guest, unless
/// it cannot go on at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The KVM device cannot be opened.
    #[error("cannot open {}: {source}; {}", path.display(), open_remedy(source))]
    Open {
        /// The device.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The descriptor is not KVM's, or speaks another version of its interface.
    #[error("KVM's interface has version {found}, this crate needs 12; is this descriptor /dev/kvm?")]
    ApiVersion {
        /// What `KVM_GET_API_VERSION` answered; -1 when it failed.
        found: i32,
    },
    /// The host's KVM lacks capabilities. All of them are named.
    #[error("KVM on this host lacks {}; a newer host kernel is needed", missing.join(", "))]
    Capabilities {
        /// Their names in the KVM documentation, `KVM_CAP_` left out.
        missing: Vec<&'static str>,
    },
    /// More vCPUs than the host's KVM takes.
    #[error("{asked} vCPUs asked for, this host allows {max} in a VM")]
    TooManyVcpus {
        /// How many were asked for.
        asked: u32,
        /// The most a VM can have.
        max: u32,
    },
    /// A vCPU id the VM was not made for.
    #[error("vCPU {id} asked for in a VM of {vcpus}")]
    VcpuId {
        /// The id.
        id: u32,
        /// How many vCPUs [`VmOptions`](crate::VmOptions) named.
        vcpus: u32,
    },
    /// A KVM call failed.
    #[error("KVM cannot {what}: {source}")]
    Kvm {
        /// What was attempted.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
    /// A memory slot that cannot be.
    #[error("memory slot of {size:#x} bytes at {address:#x}: {problem}")]
    Slot {
        /// Its guest-physical address.
        address: u64,
        /// Its size in bytes.
        size: u64,
        /// What is wrong with it.
        problem: SlotProblem,
    },
    /// Tables for the guest's entry do not fit into its memory.
    #[error("cannot write the {what} to guest memory at {address:#x}: {source}")]
    GuestMemory {
        /// Which table.
        what: &'static str,
        /// Where.
        address: u64,
        /// Why not.
        source: vm_memory::GuestMemoryError,
    },
    /// An entry state that makes no sense.
    #[error("{what} at {address:#x}: {problem}")]
    Entry {
        /// Which part of it.
        what: &'static str,
        /// Its address.
        address: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// KVM did not take one of the model-specific registers.
    #[error("KVM does not accept {value:#x} in MSR {index:#x}")]
    Msr {
        /// The register.
        index: u32,
        /// The value.
        value: u64,
    },
    /// The signal that kicks vCPUs is not a real-time signal.
    #[error("signal {signal} cannot kick vCPUs: it must be a real-time signal (SIGRTMIN..=SIGRTMAX)")]
    KickSignal {
        /// The signal.
        signal: i32,
    },
    /// A thread's signal mask cannot be changed.
    #[error("cannot change the signal mask of the vCPU's thread: {source}")]
    SignalMask {
        /// The error.
        source: io::Error,
    },
    /// The processor refused to enter the guest.
    #[error("the processor refused to enter the guest: hardware reason {reason:#x} on host CPU {cpu}")]
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The host CPU.
        cpu: u32,
    },
    /// KVM met something it cannot handle.
    #[error("KVM failed inside the guest: {0}")]
    Internal(InternalError),
    /// Guest memory without a page on the host.
    #[error("{0}")]
    MemoryFault(MemoryFault),
    /// The guest's port access lies outside the page KVM shares with us.
    #[error("KVM describes a port access outside its run page")]
    PortData,
    /// An exit nobody asked for, or of a kind not known.
    #[error("vCPU {vcpu} left the guest in a way nobody handles: {exit:?}")]
    Unhandled {
        /// The vCPU.
        vcpu: u32,
        /// The exit.
        exit: Exit,
    },
    /// The vCPUs must be paused for this.
    #[error("the vCPUs must be paused first")]
    NotPaused,
    /// Saved state that cannot be used.
    #[error("saved state: {0}")]
    State(#[from] StateError),
}

/// What is wrong with a memory slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotProblem {
    /// Addresses and size must be multiples of the page size.
    #[error("addresses and size must be multiples of 4096")]
    Alignment,
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// It runs past the end of the address space.
    #[error("it reaches past the end of the address space")]
    Wraps,
    /// It lies over another slot.
    #[error("it overlaps the slot at {0:#x}")]
    Overlaps(u64),
    /// The host's KVM takes no more slots.
    #[error("the VM has all the {0} slots this host allows")]
    TooMany(u32),
    /// A slot of this number does not exist.
    #[error("there is no slot {0}")]
    Unknown(u32),
}

/// Why saved state was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The bytes do not begin as state does.
    #[error("these bytes are no {0} state")]
    Magic(&'static str),
    /// A version this crate does not read.
    #[error("version {found}, this crate reads version {known}")]
    Version {
        /// The version found.
        found: u32,
        /// The version known.
        known: u32,
    },
    /// The bytes end early, or go on after the end.
    #[error("{0} bytes are missing or left over in section {1}")]
    Length(u64, &'static str),
    /// A section is absent.
    #[error("section {0} is absent")]
    Missing(&'static str),
    /// A section occurs twice.
    #[error("section {0} occurs twice")]
    Twice(&'static str),
    /// A section this crate does not know.
    #[error("unknown section {0}")]
    Unknown(u32),
    /// It is of a machine unlike this one.
    #[error("it does not fit: {0}")]
    Unfit(&'static str),
    /// A value is out of its range.
    #[error("{what} is {value}, at most {max} is possible")]
    Range {
        /// The value's name.
        what: &'static str,
        /// The value.
        value: u64,
        /// The largest possible.
        max: u64,
    },
}

impl Error {
    /// Adapts kvm-ioctls' errors: `.map_err(Error::kvm("..."))`.
    pub(crate) fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { what, source: io::Error::from_raw_os_error(error.errno()) }
    }
}

/// What helps when the device does not open.
fn open_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "is the kvm module loaded, and virtualization enabled in the firmware?",
        io::ErrorKind::PermissionDenied => "the user must be in the group that owns it, usually `kvm`",
        _ => "is virtualization enabled in the firmware, and in use by no other hypervisor?",
    }
}
