//! The vCPUs' threads.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use krun_vcpu::{Controller, Enrolled, ExitHandler, Stop, Vcpu};

use crate::error::Error;
use crate::sys;
use crate::x86_64::halt;

/// Why the vCPUs left for good.
pub(crate) type Left = Result<Stop, krun_vcpu::Error>;

/// Threads that run vCPUs, one each. Dropping stops and joins them.
#[derive(Debug)]
pub(crate) struct Vcpus {
    controller: Controller,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Vcpus {
    /// Starts a thread for each vCPU. `report` is told when the guest or an error, and not the host, has ended them.
    pub(crate) fn start(
        vcpus: Vec<Vcpu>,
        bus: &Arc<dyn ExitHandler>,
        report: impl Fn(u32, Left) + Send + Clone + 'static,
    ) -> Result<Self, Error> {
        let this = Self { controller: Controller::new(), threads: Mutex::new(Vec::with_capacity(vcpus.len())) };
        for vcpu in vcpus {
            let id = vcpu.id();
            let name = format!("krun-vcpu{id}");
            let (vcpu, bus, report) = (this.controller.enrol(vcpu), Arc::clone(bus), report.clone());
            let spawned = Builder::new().name(name.clone()).spawn(move || work(vcpu, id, &*bus, report));
            this.threads().push(spawned.map_err(|source| Error::Thread { name, source })?);
        }
        Ok(this)
    }

    /// Returns when no vCPU runs guest code any more. Pausing twice is pausing once.
    pub(crate) fn pause(&self) {
        self.controller.pause();
    }

    /// Lets the vCPUs go on.
    pub(crate) fn resume(&self) {
        self.controller.resume();
    }

    /// CPU time that all of them have used.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.threads().iter().map(sys::cpu_time).sum()
    }

    /// Whether every vCPU has halted for good. Takes them out of the guest for a moment, unless they are paused: then
    /// nothing is known.
    pub(crate) fn have_halted(&self) -> bool {
        if self.controller.is_paused() {
            return false;
        }
        self.controller.pause();
        let halted = self.controller.visit(|vcpu| halt::has_halted(vcpu));
        self.controller.resume();
        halted.is_ok_and(|halted| !halted.is_empty() && halted.into_iter().all(|halted| halted))
    }

    /// Ends and joins all threads.
    pub(crate) fn stop(&self) {
        self.controller.stop(Stop::Kicked);
        for thread in std::mem::take(&mut *self.threads()) {
            if thread.join().is_err() {
                tracing::error!("a vCPU's thread panicked");
            }
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(mut vcpu: Enrolled, id: u32, bus: &dyn ExitHandler, report: impl Fn(u32, Left)) {
    match vcpu.run(bus) {
        // By our own order, or because another vCPU failed: that one reports it.
        Ok(Stop::Kicked) => {}
        left => report(id, left),
    }
}

/// For descriptors that could not be made.
pub(crate) fn descriptor(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Descriptor { what, source }
}
