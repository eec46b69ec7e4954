//! Everything of a VM that runs, in one place, so that it can be paused, and taken apart in the right order.

use std::sync::Arc;
use std::time::Duration;

use krun_vcpu::KvmVm;

use crate::bus::Bus;
use crate::error::Error;
use crate::vcpus::Vcpus;

/// Fields are dropped in order: first the vCPUs' threads end, then the devices', then KVM lets go of the memory.
#[derive(Debug)]
pub(crate) struct Machine {
    vcpus: Vcpus,
    bus: Arc<Bus>,
    _kvm: KvmVm,
}

impl Machine {
    pub(crate) fn new(vcpus: Vcpus, bus: Arc<Bus>, kvm: KvmVm) -> Self {
        Self { vcpus, bus, _kvm: kvm }
    }

    /// Stops the CPUs, then the devices: with nobody left to ask for anything, they come to rest.
    pub(crate) fn pause(&self) {
        self.vcpus.pause();
        self.bus.devices().iter().for_each(|device| device.pause());
    }

    /// The reverse of [`Self::pause`].
    pub(crate) fn resume(&self) -> Result<(), Error> {
        let failed = |source: krun_virtio::Error| Error::Device { device: "virtio".into(), source: source.into() };
        self.bus.devices().iter().try_for_each(|device| device.resume().map_err(failed))?;
        self.vcpus.resume();
        Ok(())
    }

    /// CPU time that the vCPUs have used.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.vcpus.cpu_time()
    }

    /// Whether every vCPU has halted for good.
    pub(crate) fn has_halted(&self) -> bool {
        self.vcpus.have_halted()
    }

    /// No guest code runs after this.
    pub(crate) fn stop_vcpus(&self) {
        self.vcpus.stop();
    }
}
