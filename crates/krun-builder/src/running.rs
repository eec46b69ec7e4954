//! A VM that runs.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::Error;
use crate::handle::VmHandle;
use crate::machine::Machine;
use crate::shared::Shared;
use crate::status::ExitStatus;
use crate::sys::borrow;

/// A running VM. It ends when its command has ended, when the guest restarts, powers off or halts, or when this value is dropped: then it is
/// stopped, and its threads have ended when the drop returns.
///
/// As a file descriptor ([`AsFd`]) it becomes readable when the VM has ended, for any event loop; [`RunningVm::try_wait`]
/// then has the status.
#[derive(Debug)]
pub struct RunningVm {
    shared: Arc<Shared>,
    machine: Arc<Mutex<Option<Machine>>>,
    handle: VmHandle,
    thread: Option<JoinHandle<()>>,
}

impl RunningVm {
    pub(crate) fn new(shared: Arc<Shared>, machine: Arc<Mutex<Option<Machine>>>, thread: JoinHandle<()>) -> Self {
        let handle = VmHandle::new(Arc::clone(&shared));
        Self { shared, machine, handle, thread: Some(thread) }
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> VmHandle {
        self.handle.clone()
    }

    /// Waits for the end of the VM. When this returns, all output of the command is where it was sent to, and no thread
    /// of the VM is left.
    ///
    /// # Errors
    ///
    /// None that a guest could cause: [`Error::Thread`] if the VM's own thread met a defect.
    pub fn wait(mut self) -> Result<ExitStatus, Error> {
        let status = self.shared.wait();
        self.join()?;
        Ok(status)
    }

    /// How the VM ended, or `None` while it has not.
    #[must_use]
    pub fn try_wait(&self) -> Option<ExitStatus> {
        self.shared.status()
    }

    /// Stops the CPUs and the devices. When this returns, no guest code runs, and no device touches guest memory.
    /// Pausing a paused VM, or one that has ended, does nothing.
    pub fn pause(&self) {
        if let Some(machine) = &*self.machine() {
            machine.pause();
        }
    }

    /// Lets a paused VM go on.
    ///
    /// # Errors
    ///
    /// A device could not be started again; the VM stays paused.
    pub fn resume(&self) -> Result<(), Error> {
        self.machine().as_ref().map_or(Ok(()), Machine::resume)
    }

    /// Asks the command to end, by `SIGTERM`; see [`VmHandle::shutdown`].
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] before the command has started and after it has ended.
    pub fn shutdown(&self) -> Result<(), Error> {
        self.handle.shutdown()
    }

    /// Stops the VM at once; see [`VmHandle::kill`].
    pub fn kill(&self) {
        self.handle.kill();
    }

    fn machine(&self) -> MutexGuard<'_, Option<Machine>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&mut self) -> Result<(), Error> {
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(_)) => {
                let source = std::io::Error::other("it panicked: this is a defect of krun-builder, please report it");
                Err(Error::Thread { name: crate::vm::THREAD_NAME.into(), source })
            }
        }
    }
}

impl AsFd for RunningVm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.shared.done)
    }
}

impl Drop for RunningVm {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.handle.kill();
            let _ = self.join();
        }
    }
}
