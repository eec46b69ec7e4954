//! A virtual machine: its interrupt controllers, its event descriptors, its vCPUs. Memory is in [`crate::memory`].

use std::sync::{Arc, Mutex};

use kvm_bindings::{KvmIrqRouting, kvm_msi};
use kvm_ioctls::{Cap, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::error::Error;
use crate::kvm::Kvm;
use crate::memory::Slots;
use crate::vcpu::Vcpu;
use crate::{IoEventAddress, arch, sys};

/// What is decided when a VM is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmOptions {
    /// How many vCPUs it will have at most; their ids are below this.
    pub vcpus: u32,
    /// Where its interrupt controllers are.
    pub irqchip: Irqchip,
    /// The real-time signal that kicks its vCPUs; `None` takes the last but one, `SIGRTMAX - 1`. It is sent to threads
    /// inside [`Vcpu::run`](crate::Vcpu::run) only and never seen outside.
    pub kick_signal: Option<i32>,
}

impl VmOptions {
    /// A VM of `vcpus` vCPUs as Linux guests want it: interrupt controllers and timer in the kernel.
    pub fn new(vcpus: u32) -> Self {
        Self { vcpus, irqchip: Irqchip::Kernel, kick_signal: None }
    }

    /// A VM for a program without interrupts: one vCPU and no interrupt controller, so that `hlt` is an exit.
    pub fn bare() -> Self {
        Self { vcpus: 1, irqchip: Irqchip::None, kick_signal: None }
    }
}

/// Where a VM's interrupt controllers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Irqchip {
    /// None: `hlt` ends the run ([`Stop::Halted`](crate::Stop::Halted)).
    None,
    /// All in the kernel; on x86-64: local APICs, I/O APIC with 24 pins, two PICs and the PIT.
    Kernel,
    /// x86-64: local APICs in the kernel, everything else is the VMM's business. Interrupts come by [`KvmVm::signal_msi`]
    /// and routed irqfds; ends of level interrupts are [`Exit::IoapicEoi`](crate::Exit::IoapicEoi).
    Split {
        /// Pins of the VMM's I/O APIC whose vectors are watched, at most 24 on older kernels.
        pins: u32,
    },
}

/// A VM. Dropping it ends nothing as long as its vCPUs live.
#[derive(Debug)]
pub struct KvmVm {
    pub(crate) inner: Arc<VmInner>,
}

/// What the VM and its vCPUs share. The memory lives as long as any of them.
#[derive(Debug)]
pub(crate) struct VmInner {
    // Order matters: KVM lets go of the memory before it is unmapped.
    pub(crate) fd: VmFd,
    pub(crate) kvm: Kvm,
    pub(crate) slots: Mutex<Slots>,
    pub(crate) kick_signal: i32,
    pub(crate) vcpus: u32,
    pub(crate) irqchip: Irqchip,
}

impl KvmVm {
    pub(crate) fn new(kvm: &Kvm, options: &VmOptions) -> Result<Self, Error> {
        let max = kvm.max_vcpus();
        if options.vcpus > max {
            return Err(Error::TooManyVcpus { asked: options.vcpus, max });
        }
        if options.vcpus > kvm.recommended_vcpus() {
            tracing::warn!(
                asked = options.vcpus,
                recommended = kvm.recommended_vcpus(),
                "more vCPUs than KVM recommends"
            );
        }
        let kick_signal = options.kick_signal.unwrap_or_else(sys::default_kick_signal);
        if !sys::is_real_time(kick_signal) {
            return Err(Error::KickSignal { signal: kick_signal });
        }
        let fd = create_vm_fd(kvm)?;
        let slots = Mutex::new(Slots::new(kvm.max_slots()));
        let inner =
            VmInner { fd, kvm: kvm.clone(), slots, kick_signal, vcpus: options.vcpus, irqchip: options.irqchip };
        arch::prepare_vm(&inner)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes the vCPU `id`; each id once. Until it is set up it is as after a reset: vCPU 0 would start at the reset
    /// vector, the others wait to be woken by the guest (with an in-kernel interrupt controller).
    ///
    /// # Errors
    ///
    /// The id is not below [`VmOptions::vcpus`], exists already, or KVM refuses.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, Error> {
        let vcpus = self.inner.vcpus;
        if id >= vcpus {
            return Err(Error::VcpuId { id, vcpus });
        }
        let fd = self.inner.fd.create_vcpu(u64::from(id)).map_err(Error::kvm("make a vCPU"))?;
        Vcpu::new(id, fd, Arc::clone(&self.inner))
    }

    /// Lets `event` raise the interrupt line `gsi`: each write to it is one edge.
    ///
    /// # Errors
    ///
    /// There is no in-kernel interrupt controller, or the pair is registered already.
    pub fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), Error> {
        self.inner.fd.register_irqfd(event, gsi).map_err(Error::kvm("connect an eventfd to an interrupt line"))
    }

    /// Lets `event` raise the level-triggered line `gsi`, which falls again when the guest acknowledges it; `resample` is
    /// written then.
    ///
    /// # Errors
    ///
    /// As for [`KvmVm::register_irqfd`].
    pub fn register_level_irqfd(&self, event: &EventFd, resample: &EventFd, gsi: u32) -> Result<(), Error> {
        self.inner
            .fd
            .register_irqfd_with_resample(event, resample, gsi)
            .map_err(Error::kvm("connect an eventfd to a level-triggered interrupt line"))
    }

    /// Takes back what [`KvmVm::register_irqfd`] did.
    ///
    /// # Errors
    ///
    /// The pair is not registered.
    pub fn unregister_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), Error> {
        self.inner.fd.unregister_irqfd(event, gsi).map_err(Error::kvm("disconnect an eventfd from an interrupt line"))
    }

    /// Sets the level of interrupt line `gsi`.
    ///
    /// # Errors
    ///
    /// There is no in-kernel interrupt controller.
    pub fn set_irq_line(&self, gsi: u32, level: bool) -> Result<(), Error> {
        self.inner.fd.set_irq_line(gsi, level).map_err(Error::kvm("set an interrupt line"))
    }

    /// Sends a message-signalled interrupt.
    ///
    /// # Errors
    ///
    /// There are no in-kernel local APICs, or the message is malformed.
    pub fn signal_msi(&self, msi: kvm_msi) -> Result<(), Error> {
        self.inner.fd.signal_msi(msi).map(drop).map_err(Error::kvm("send a message-signalled interrupt"))
    }

    /// Replaces the table that says where each interrupt line leads.
    ///
    /// # Errors
    ///
    /// There is no in-kernel interrupt controller, or an entry is malformed.
    pub fn set_gsi_routing(&self, routing: &KvmIrqRouting) -> Result<(), Error> {
        self.inner.fd.set_gsi_routing(routing).map_err(Error::kvm("set the interrupt routing"))
    }

    /// Lets guest writes to `address` that match `data` write to `event` instead of leaving the guest.
    ///
    /// # Errors
    ///
    /// The same address, width and value is registered already, or KVM's table is full.
    pub fn register_ioeventfd(&self, event: &EventFd, address: IoEventAddress, data: DataMatch) -> Result<(), Error> {
        let fd = &self.inner.fd;
        match data {
            DataMatch::Any => fd.register_ioevent(event, &address, kvm_ioctls::NoDatamatch),
            DataMatch::U8(value) => fd.register_ioevent(event, &address, value),
            DataMatch::U16(value) => fd.register_ioevent(event, &address, value),
            DataMatch::U32(value) => fd.register_ioevent(event, &address, value),
            DataMatch::U64(value) => fd.register_ioevent(event, &address, value),
        }
        .map_err(Error::kvm("connect an eventfd to guest writes"))
    }

    /// Takes back what [`KvmVm::register_ioeventfd`] did; all three arguments must be the same.
    ///
    /// # Errors
    ///
    /// It was not registered so.
    pub fn unregister_ioeventfd(&self, event: &EventFd, address: IoEventAddress, data: DataMatch) -> Result<(), Error> {
        let fd = &self.inner.fd;
        match data {
            DataMatch::Any => fd.unregister_ioevent(event, &address, kvm_ioctls::NoDatamatch),
            DataMatch::U8(value) => fd.unregister_ioevent(event, &address, value),
            DataMatch::U16(value) => fd.unregister_ioevent(event, &address, value),
            DataMatch::U32(value) => fd.unregister_ioevent(event, &address, value),
            DataMatch::U64(value) => fd.unregister_ioevent(event, &address, value),
        }
        .map_err(Error::kvm("disconnect an eventfd from guest writes"))
    }

    /// How many vCPUs it may have.
    pub fn vcpus(&self) -> u32 {
        self.inner.vcpus
    }

    /// Whether KVM has a capability for this VM.
    pub fn has(&self, capability: Cap) -> bool {
        self.inner.fd.check_extension(capability)
    }

    /// kvm-ioctls' view, for every setting this crate has no word for.
    pub fn fd(&self) -> &VmFd {
        &self.inner.fd
    }
}

/// Which writes an ioeventfd takes: width and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataMatch {
    /// Any width and value.
    Any,
    /// Writes of one byte with this value.
    U8(u8),
    /// Writes of two bytes with this value.
    U16(u16),
    /// Writes of four bytes with this value.
    U32(u32),
    /// Writes of eight bytes with this value.
    U64(u64),
}

/// Makes the VM's descriptor. KVM may be interrupted by any signal while it does.
fn create_vm_fd(kvm: &Kvm) -> Result<VmFd, Error> {
    loop {
        match kvm.system.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result.map_err(Error::kvm("make a VM")),
        }
    }
}
