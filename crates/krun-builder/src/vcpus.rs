//! The vCPUs' threads: run, pause, resume, stop.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use krun_vcpu::{ExitHandler, Stop, Vcpu, VcpuHandle};

use crate::error::Error;

/// Why a vCPU left for good.
pub(crate) type Left = Result<Stop, krun_vcpu::Error>;

/// Threads that run vCPUs, one each. Dropping stops and joins them.
#[derive(Debug)]
pub(crate) struct Vcpus {
    gate: Arc<Gate>,
    handles: Vec<VcpuHandle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Vcpus {
    /// Starts a thread for each vCPU. `report` is told when one leaves for good.
    pub(crate) fn start(
        vcpus: Vec<Vcpu>,
        bus: &Arc<dyn ExitHandler>,
        report: impl Fn(u32, Left) + Send + Clone + 'static,
    ) -> Result<Self, Error> {
        let this = Self {
            gate: Arc::new(Gate::default()),
            handles: vcpus.iter().map(Vcpu::handle).collect(),
            threads: Mutex::new(Vec::with_capacity(vcpus.len())),
        };
        for vcpu in vcpus {
            let name = format!("krun-vcpu{}", vcpu.id());
            let (gate, bus, report) = (Arc::clone(&this.gate), Arc::clone(bus), report.clone());
            gate.lock().alive += 1;
            let spawned = Builder::new().name(name.clone()).spawn(move || work(vcpu, &*bus, &gate, report));
            match spawned {
                Ok(thread) => this.threads().push(thread),
                Err(source) => {
                    this.gate.lock().alive -= 1;
                    return Err(Error::Thread { name, source });
                }
            }
        }
        Ok(this)
    }

    /// Returns when no vCPU runs guest code any more. Pausing twice is pausing once.
    pub(crate) fn pause(&self) {
        let mut gate = self.gate.lock();
        if gate.wanted == Wanted::Run {
            gate.wanted = Wanted::Pause;
        }
        self.kick();
        while gate.wanted == Wanted::Pause && gate.parked < gate.alive {
            gate = self.gate.changed.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the vCPUs go on.
    pub(crate) fn resume(&self) {
        let mut gate = self.gate.lock();
        if gate.wanted == Wanted::Pause {
            gate.wanted = Wanted::Run;
        }
        self.gate.changed.notify_all();
    }

    /// Ends and joins all threads.
    pub(crate) fn stop(&self) {
        self.gate.lock().wanted = Wanted::Quit;
        self.gate.changed.notify_all();
        self.kick();
        for thread in std::mem::take(&mut *self.threads()) {
            if thread.join().is_err() {
                tracing::error!("a vCPU's thread panicked");
            }
        }
    }

    /// How long a kick takes to show does not matter: a vCPU that is about to enter the guest notices it, too.
    fn kick(&self) {
        self.handles.iter().for_each(VcpuHandle::kick);
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

/// What the vCPUs are to do, and how many of them are waiting.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: Wanted,
    alive: usize,
    parked: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Run,
    Pause,
    Quit,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while paused; whether to go on.
    fn pass(&self) -> bool {
        let mut state = self.lock();
        while state.wanted == Wanted::Pause {
            state.parked += 1;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
        }
        state.wanted == Wanted::Run
    }
}

/// Counts a thread out, however it ends.
struct Alive<'a>(&'a Gate);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.lock().alive -= 1;
        self.0.changed.notify_all();
    }
}

fn work(mut vcpu: Vcpu, bus: &dyn ExitHandler, gate: &Gate, report: impl Fn(u32, Left)) {
    let _alive = Alive(gate);
    while gate.pass() {
        match vcpu.run(bus) {
            Ok(Stop::Kicked) => {}
            left => return report(vcpu.id(), left),
        }
    }
}

/// Unused descriptors are an error of the operating system's like any other.
pub(crate) fn descriptor(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Descriptor { what, source }
}
