//! A virtual processor and its run loop.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kvm_bindings::{KVM_EXIT_IO, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO};
use kvm_ioctls::VcpuFd;

use crate::error::Error;
use crate::exit::{Exit, ExitHandler, Flow, MemoryFault, Stop};
use crate::kick::{Kicks, Stay, VcpuHandle, interrupted};
use crate::mapping::{ImmediateExit, RunPage};
use crate::vm::VmInner;
use crate::{abi, sys};

/// Linux 6.12 and 6.13 answer ENOMEM to a VM's first `KVM_RUN` when a signal is pending while they start a thread of
/// their own. It passes.
const ENOMEM_TRIES: u32 = 20;
const ENOMEM_PAUSE: Duration = Duration::from_millis(5);

/// One vCPU. It runs on whichever thread calls [`Vcpu::run`]; `Send`, so that it can be made in one place and run in
/// another.
#[derive(Debug)]
pub struct Vcpu {
    id: u32,
    // Order matters: the vCPU is closed before the VM's memory may go.
    fd: VcpuFd,
    page: RunPage,
    immediate_exit: ImmediateExit,
    kicks: Arc<Kicks>,
    vm: Arc<VmInner>,
}

impl Vcpu {
    pub(crate) fn new(id: u32, fd: VcpuFd, vm: Arc<VmInner>) -> Result<Self, Error> {
        let page = RunPage::map(sys::borrow(&fd), vm.fd.run_size())
            .map_err(|source| Error::Kvm { what: "map a vCPU's run page", source })?;
        let immediate_exit = page.immediate_exit();
        let kicks = Kicks::new(vm.kick_signal, page.immediate_exit());
        Ok(Self { id, fd, page, immediate_exit, kicks, vm })
    }

    /// The id it was made with: its number, and on x86-64 its APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What lets other threads get this vCPU out of the guest.
    pub fn handle(&self) -> VcpuHandle {
        self.kicks.handle(self.id)
    }

    /// kvm-ioctls' view, for every register and setting this crate has no word for.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    pub(crate) fn vm(&self) -> &VmInner {
        &self.vm
    }

    /// Runs the guest on this thread until the handler stops it, it is kicked, or it ends.
    ///
    /// When this returns `Ok`, no access is half done: the answers of the last exit are in the vCPU's registers, so its
    /// state may be saved, and `run` called again.
    ///
    /// While it runs, one real-time signal ([`VmOptions::kick_signal`](crate::VmOptions)) is blocked in this thread;
    /// afterwards the thread's mask is as before.
    ///
    /// For a seccomp filter: this makes the calls `ioctl`, `rt_sigprocmask`, `rt_sigtimedwait`, `gettid`, `futex` and, when
    /// KVM asks for patience, `nanosleep`; a kick makes `tgkill`, `getpid` and `futex`. The handler's own come on top.
    ///
    /// # Errors
    ///
    /// The processor or KVM cannot go on ([`Error::FailEntry`], [`Error::Internal`]), guest memory is not there
    /// ([`Error::MemoryFault`]), or the vCPU left the guest in a way that neither the handler nor a default deals with.
    pub fn run(&mut self, handler: &dyn ExitHandler) -> Result<Stop, Error> {
        let kicks = Arc::clone(&self.kicks);
        let _stay = Stay::take(&kicks, sys::borrow(&self.fd))?;
        let mut patience = ENOMEM_TRIES;
        loop {
            match self.enter() {
                Ok(()) => {}
                Err(Left::Interrupted) => {
                    if kicks.take(&self.immediate_exit) {
                        return Ok(Stop::Kicked);
                    }
                    continue;
                }
                Err(Left::NoMemory) if patience > 0 => {
                    patience -= 1;
                    thread::sleep(ENOMEM_PAUSE);
                    continue;
                }
                Err(left @ (Left::NoMemory | Left::Failed(_))) => return Err(left.into_error()),
                Err(Left::Fault(fault)) => match self.memory_fault(handler, fault)? {
                    ControlFlow::Continue(()) => continue,
                    ControlFlow::Break(stop) => return Ok(stop),
                },
            }
            if let ControlFlow::Break(stop) = self.dispatch(handler)? {
                return self.settle(handler, stop);
            }
        }
    }

    /// One `KVM_RUN`.
    #[inline]
    fn enter(&mut self) -> Result<(), Left> {
        let Err(error) = sys::kvm_run(sys::borrow(&self.fd)) else { return Ok(()) };
        if interrupted(&error) {
            return Err(Left::Interrupted);
        }
        match error.raw_os_error() {
            // A vCPU that waits for its INIT was woken (KVM_MP_STATE_UNINITIALIZED); nothing has happened.
            Some(libc::EAGAIN) => Err(Left::Interrupted),
            Some(errno @ (libc::EFAULT | libc::EHWPOISON)) => Err(Left::Fault(self.describe_fault(errno))),
            Some(libc::ENOMEM) => Err(Left::NoMemory),
            _ => Err(Left::Failed(error)),
        }
    }

    /// Answers the exit that `KVM_RUN` returned with.
    #[inline]
    fn dispatch(&mut self, handler: &dyn ExitHandler) -> Result<Flow, Error> {
        match self.page.exit_reason() {
            KVM_EXIT_MMIO => {
                let access = self.page.mmio();
                Ok(if access.write {
                    handler.mmio_write(access.address, access.data)
                } else {
                    handler.mmio_read(access.address, access.data)
                })
            }
            KVM_EXIT_IO => {
                let (batch, data) = self.page.pio().ok_or(Error::PortData)?;
                Ok(if batch.is_write() {
                    handler.port_write(batch.port(), batch.width(), data)
                } else {
                    handler.port_read(batch.port(), batch.width(), data)
                })
            }
            _ => self.dispatch_rare(handler),
        }
    }

    #[cold]
    fn dispatch_rare(&mut self, handler: &dyn ExitHandler) -> Result<Flow, Error> {
        let mut details = self.page.details();
        let number = self.page.exit_reason();
        let rip = if abi::wants_rip(number) { self.instruction_pointer() } else { 0 };
        let mut exit = abi::decode(number, &details, rip);
        let flow = match handler.exit(self.id, &mut exit) {
            Some(flow) => flow,
            None => abi::default_flow(self.id, &mut exit)?,
        };
        if abi::encode_answer(&exit, &mut details) {
            self.page.answer(details);
        }
        Ok(flow)
    }

    #[cold]
    fn memory_fault(&self, handler: &dyn ExitHandler, fault: MemoryFault) -> Result<Flow, Error> {
        match handler.exit(self.id, &mut Exit::MemoryFault(fault)) {
            Some(flow) => Ok(flow),
            None => Err(Error::MemoryFault(fault)),
        }
    }

    #[cold]
    fn describe_fault(&mut self, errno: i32) -> MemoryFault {
        let rip = self.instruction_pointer();
        let poisoned = errno == libc::EHWPOISON;
        // Kernels that annotate the fault say so by the exit reason, although KVM_RUN failed. Others leave an older
        // reason there, so it is cleared lest the next fault be taken for this one.
        if self.page.exit_reason() == KVM_EXIT_MEMORY_FAULT {
            self.page.clear_exit_reason();
            return abi::memory_fault(&self.page.details(), rip, poisoned);
        }
        MemoryFault { address: None, size: 0, flags: 0, rip, poisoned }
    }

    /// Lets the kernel take over the answers of the last exit without running the guest any further.
    ///
    /// One exit may be the first of several parts (an access across a page's end): the others are answered too.
    fn settle(&mut self, handler: &dyn ExitHandler, stop: Stop) -> Result<Stop, Error> {
        // Far more than the largest access has parts; a kernel that ignores `immediate_exit` must not keep us here.
        const MOST_PARTS: usize = 64;
        self.immediate_exit.set(true);
        let mut outcome = Ok(());
        for _ in 0..MOST_PARTS {
            match self.enter() {
                Ok(()) => {
                    outcome = self.dispatch(handler).map(drop);
                }
                // A memory fault cannot come from here, and if it did, the next run would meet it again.
                Err(Left::Interrupted | Left::Fault(_)) => break,
                Err(left @ (Left::NoMemory | Left::Failed(_))) => outcome = Err(left.into_error()),
            }
            if outcome.is_err() {
                break;
            }
        }
        self.kicks.restore(&self.immediate_exit);
        outcome.map(|()| stop)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.kicks.retire();
    }
}

/// How `KVM_RUN` came back if not with an exit.
enum Left {
    Interrupted,
    Fault(MemoryFault),
    NoMemory,
    Failed(io::Error),
}

impl Left {
    fn into_error(self) -> Error {
        let source = match self {
            Self::Interrupted => io::Error::from_raw_os_error(libc::EINTR),
            Self::Fault(fault) => return Error::MemoryFault(fault),
            Self::NoMemory => io::Error::from_raw_os_error(libc::ENOMEM),
            Self::Failed(error) => error,
        };
        Error::Kvm { what: "run a vCPU", source }
    }
}
