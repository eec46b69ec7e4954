//! The host's KVM: opened, checked, asked what it can do.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Cap;

use crate::arch;
use crate::error::Error;
use crate::vm::{KvmVm, VmOptions};
use crate::{CpuId, sys};

/// An open `/dev/kvm` that can do all this crate needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kvm {
    pub(crate) system: Arc<kvm_ioctls::Kvm>,
}

/// Capabilities every architecture needs, with their names in the KVM documentation.
const REQUIRED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "USER_MEMORY"),
    (Cap::DestroyMemoryRegionWorks, "DESTROY_MEMORY_REGION_WORKS"),
    (Cap::JoinMemoryRegionsWorks, "JOIN_MEMORY_REGIONS_WORKS"),
    (Cap::SyncMmu, "SYNC_MMU"),
    (Cap::Irqchip, "IRQCHIP"),
    (Cap::Irqfd, "IRQFD"),
    (Cap::Ioeventfd, "IOEVENTFD"),
    (Cap::MpState, "MP_STATE"),
    (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
];

impl Kvm {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    ///
    /// As for [`Kvm::open_path`].
    pub fn open() -> Result<Self, Error> {
        Self::open_path("/dev/kvm")
    }

    /// Opens a KVM device.
    ///
    /// # Errors
    ///
    /// It cannot be opened, is no KVM device, or lacks capabilities: all that are missing are named at once.
    pub fn open_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Self::from_fd(device.into())
    }

    /// Takes a KVM device that somebody else opened: a broker, or a process before it locked itself in.
    ///
    /// # Errors
    ///
    /// As for [`Kvm::open_path`].
    pub fn from_fd(device: OwnedFd) -> Result<Self, Error> {
        let system = sys::kvm_from_fd(device);
        let found = system.get_api_version();
        if u32::try_from(found) != Ok(KVM_API_VERSION) {
            return Err(Error::ApiVersion { found });
        }
        let missing = missing(|cap| system.check_extension(cap));
        if !missing.is_empty() {
            return Err(Error::Capabilities { missing });
        }
        Ok(Self { system: Arc::new(system) })
    }

    /// Makes a VM without memory and vCPUs.
    ///
    /// # Errors
    ///
    /// More vCPUs asked for than [`Kvm::max_vcpus`], a signal that cannot kick, or KVM refuses.
    pub fn create_vm(&self, options: &VmOptions) -> Result<KvmVm, Error> {
        KvmVm::new(self, options)
    }

    /// The most vCPUs a VM can have (`KVM_CAP_MAX_VCPUS`).
    pub fn max_vcpus(&self) -> u32 {
        u32::try_from(self.system.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    /// The most vCPUs a VM should have (`KVM_CAP_NR_VCPUS`): usually the host's CPUs.
    pub fn recommended_vcpus(&self) -> u32 {
        u32::try_from(self.system.get_nr_vcpus()).unwrap_or(u32::MAX)
    }

    /// The most memory slots a VM can have (`KVM_CAP_NR_MEMSLOTS`).
    pub fn max_slots(&self) -> u32 {
        u32::try_from(self.system.get_nr_memslots()).unwrap_or(u32::MAX)
    }

    /// Whether KVM has a capability.
    pub fn has(&self, capability: Cap) -> bool {
        self.system.check_extension(capability)
    }

    /// The CPUID leaves KVM can show a guest on this host (`KVM_GET_SUPPORTED_CPUID`).
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.system
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::kvm("tell which CPUID leaves it supports"))
    }

    /// The model-specific registers that make up a vCPU's state (`KVM_GET_MSR_INDEX_LIST`).
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn msr_indices(&self) -> Result<Vec<u32>, Error> {
        let list = self.system.get_msr_index_list().map_err(Error::kvm("list the MSRs of a vCPU"))?;
        Ok(list.as_slice().to_vec())
    }

    /// kvm-ioctls' view.
    pub fn fd(&self) -> &kvm_ioctls::Kvm {
        &self.system
    }
}

fn missing(has: impl Fn(Cap) -> bool) -> Vec<&'static str> {
    REQUIRED.iter().chain(arch::REQUIRED).filter(|(cap, _)| !has(*cap)).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_missing_is_named_at_once() {
        let missing = missing(|cap| !matches!(cap, Cap::Irqfd | Cap::SetTssAddr | Cap::ImmediateExit));
        assert_eq!(missing, ["IRQFD", "IMMEDIATE_EXIT", "SET_TSS_ADDR"]);
        let text = Error::Capabilities { missing }.to_string();
        assert!(text.contains("IRQFD, IMMEDIATE_EXIT, SET_TSS_ADDR"), "{text}");
    }

    #[test]
    fn what_is_no_kvm_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(Kvm::from_fd(null.into()), Err(Error::ApiVersion { .. })));
        let error = Kvm::open_path("/nonexistent/kvm").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/kvm"), "{error}");
    }
}
