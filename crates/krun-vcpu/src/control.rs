//! Pausing, resuming and stopping the vCPUs of a VM together.
//!
//! ```text
//!            enrol            run              pause
//!   (Vcpu) --------> outside -----> running ---------> parked   visit: a closure
//!                                      ^                  |      on each thread
//!                                      `------------------'
//!                                            resume
//!   stop, the first vCPU that ends, or an error: every `run` returns
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::VcpuState;
use crate::error::Error;
use crate::exit::{ExitHandler, Stop};
use crate::kick::VcpuHandle;
use crate::vcpu::Vcpu;

/// Controls the vCPUs enrolled with it, from any thread. Clones control the same ones.
#[derive(Debug, Clone, Default)]
pub struct Controller {
    shared: Arc<Shared>,
}

/// A vCPU under a [`Controller`]. Dropping it takes it out.
#[derive(Debug)]
pub struct Enrolled {
    vcpu: Vcpu,
    key: u64,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when anything in `state` changes that another thread may wait for.
    changed: Condvar,
    /// One visit at a time.
    visit: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    members: BTreeMap<u64, Member>,
    next_key: u64,
    task: Option<Task>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Running,
    Paused,
    Stopped(Stop),
}

#[derive(Debug)]
struct Member {
    handle: VcpuHandle,
    phase: Phase,
    thread: Option<ThreadId>,
    /// Its handler is inside [`Controller::pause`], waiting for the others.
    pausing: bool,
    /// The present task is still to be done.
    owes_task: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not in `run`: no guest code can execute, but the vCPU is its owner's.
    Outside,
    /// In the guest or in a handler.
    Running,
    /// In `run`, waiting.
    Parked,
}

/// What to do on every parked vCPU, given its member's key.
#[derive(Clone)]
struct Task(Arc<Visit>);

type Visit = dyn Fn(u64, &mut Vcpu) + Send + Sync;

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the mode and gets every vCPU to notice.
    fn stop(&self, stop: Stop) -> Stop {
        let mut state = self.lock();
        if let Mode::Stopped(first) = state.mode {
            return first;
        }
        state.mode = Mode::Stopped(stop);
        state.kick_all();
        self.changed.notify_all();
        stop
    }
}

impl State {
    fn kick_all(&self) {
        self.members.values().filter(|member| member.phase == Phase::Running).for_each(|member| member.handle.kick());
    }

    /// Marks the vCPU whose handler this thread is in, and tells whether there is one.
    fn set_pausing(&mut self, thread: ThreadId, pausing: bool) -> bool {
        let member =
            self.members.values_mut().find(|member| member.phase == Phase::Running && member.thread == Some(thread));
        member.map(|member| member.pausing = pausing).is_some()
    }
}

impl Controller {
    /// A controller without vCPUs, which lets them run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a vCPU under control.
    pub fn enrol(&self, vcpu: Vcpu) -> Enrolled {
        let mut state = self.shared.lock();
        let key = state.next_key;
        state.next_key += 1;
        let member =
            Member { handle: vcpu.handle(), phase: Phase::Outside, thread: None, pausing: false, owes_task: false };
        state.members.insert(key, member);
        Enrolled { vcpu, key, shared: Arc::clone(&self.shared) }
    }

    /// Gets all vCPUs out of the guest and keeps them out. When this returns, none executes guest code or a handler, and
    /// those that come to [`Enrolled::run`] later wait.
    ///
    /// Called by a handler, it does not wait for the vCPU it was called on, which parks once the handler returns; nor for
    /// vCPUs whose handlers are in this same call, as they would wait for each other for ever.
    pub fn pause(&self) {
        let me = thread::current().id();
        let mut state = self.shared.lock();
        if state.mode == Mode::Running {
            state.mode = Mode::Paused;
            state.kick_all();
        }
        let in_handler = state.set_pausing(me, true);
        if in_handler {
            // Another handler may be waiting for this one.
            self.shared.changed.notify_all();
        }
        // A thread that is no vCPU's waits for all: they park once their handlers return.
        let awaited = |member: &Member| {
            member.phase == Phase::Running && member.thread != Some(me) && !(in_handler && member.pausing)
        };
        while state.mode == Mode::Paused && state.members.values().any(awaited) {
            state = self.shared.wait(state);
        }
        state.set_pausing(me, false);
    }

    /// Lets the vCPUs run on. Each tells its guest first that it was paused (`KVM_KVMCLOCK_CTRL`), so that its watchdogs
    /// do not bark.
    pub fn resume(&self) {
        let mut state = self.shared.lock();
        if state.mode == Mode::Paused {
            state.mode = Mode::Running;
            self.shared.changed.notify_all();
        }
    }

    /// Makes every [`Enrolled::run`], now and later, return `stop`; if they have been stopped before, that reason stays.
    /// Returns the reason that holds. Does not wait.
    pub fn stop(&self, stop: Stop) -> Stop {
        self.shared.stop(stop)
    }

    /// Whether [`Controller::pause`] holds the vCPUs.
    pub fn is_paused(&self) -> bool {
        self.shared.lock().mode == Mode::Paused
    }

    /// Runs `visit` on every vCPU, each on its own thread, and returns what it said in the order of their ids. Waits for
    /// vCPUs that have yet to come to [`Enrolled::run`].
    ///
    /// # Errors
    ///
    /// The vCPUs are not paused, or no longer; or this is the thread of one of them.
    pub fn visit<T, F>(&self, visit: F) -> Result<Vec<T>, Error>
    where
        T: Send + 'static,
        F: Fn(&mut Vcpu) -> T + Send + Sync + 'static,
    {
        let me = thread::current().id();
        let is_refused = |state: &State| {
            state.mode != Mode::Paused || state.members.values().any(|member| member.thread == Some(me))
        };
        // Before the lock: a visit under way may be waiting for the very handler that asks.
        if is_refused(&self.shared.lock()) {
            return Err(Error::NotPaused);
        }
        let _one_at_a_time = self.shared.visit.lock().unwrap_or_else(PoisonError::into_inner);
        let results = Arc::new(Mutex::new(BTreeMap::new()));
        let sink = Arc::clone(&results);

        let mut state = self.shared.lock();
        if is_refused(&state) {
            return Err(Error::NotPaused);
        }
        state.task = Some(Task(Arc::new(move |key, vcpu| {
            let result = visit(vcpu);
            sink.lock().unwrap_or_else(PoisonError::into_inner).insert((vcpu.id(), key), result);
        })));
        state.members.values_mut().for_each(|member| member.owes_task = true);
        self.shared.changed.notify_all();
        while state.mode == Mode::Paused && state.members.values().any(|member| member.owes_task) {
            state = self.shared.wait(state);
        }
        state.task = None;
        let done = !state.members.values().any(|member| member.owes_task);
        state.members.values_mut().for_each(|member| member.owes_task = false);
        drop(state);

        if !done {
            return Err(Error::NotPaused);
        }
        let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(results.into_values().collect())
    }

    /// The state of every vCPU, in the order of their ids.
    ///
    /// # Errors
    ///
    /// As for [`Controller::visit`] and [`Vcpu::save`].
    pub fn save(&self) -> Result<Vec<VcpuState>, Error> {
        self.visit(|vcpu| vcpu.save())?.into_iter().collect()
    }
}

/// What a vCPU's thread may do next.
enum Gate {
    Run,
    Return(Stop),
}

impl Enrolled {
    /// Runs the guest as [`Vcpu::run`] does, but parks while the controller says pause, and returns when it says stop.
    ///
    /// A vCPU that ends, or fails, stops all: the others return the same [`Stop`], or [`Stop::Kicked`] if it failed. A
    /// kick alone does not make this return.
    ///
    /// # Errors
    ///
    /// As for [`Vcpu::run`].
    pub fn run(&mut self, handler: &dyn ExitHandler) -> Result<Stop, Error> {
        loop {
            if let Gate::Return(stop) = self.gate() {
                self.enter(Phase::Outside);
                return Ok(stop);
            }
            match self.vcpu.run(handler) {
                Ok(Stop::Kicked) => {}
                Ok(stop) => {
                    self.enter(Phase::Outside);
                    return Ok(self.shared.stop(stop));
                }
                Err(error) => {
                    self.enter(Phase::Outside);
                    self.shared.stop(Stop::Kicked);
                    return Err(error);
                }
            }
        }
    }

    /// The vCPU.
    pub fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }

    /// The vCPU, mutably.
    pub fn vcpu_mut(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// Parks as long as the controller wants, doing its tasks meanwhile.
    fn gate(&mut self) -> Gate {
        let shared = Arc::clone(&self.shared);
        let mut parked = false;
        let mut state = shared.lock();
        loop {
            let mode = state.mode;
            let task = state.task.clone();
            // Always there: it is taken out only when `self` is dropped.
            let Some(member) = state.members.get_mut(&self.key) else { return Gate::Return(Stop::Kicked) };
            member.thread = Some(thread::current().id());
            match mode {
                Mode::Stopped(stop) => return Gate::Return(stop),
                Mode::Running => {
                    member.phase = Phase::Running;
                    if parked {
                        // EINVAL: this guest does not use kvm-clock.
                        let _ = self.vcpu.fd().kvmclock_ctrl();
                    }
                    return Gate::Run;
                }
                Mode::Paused => {
                    parked = true;
                    member.phase = Phase::Parked;
                    match task {
                        Some(task) if member.owes_task => {
                            drop(state);
                            (task.0)(self.key, &mut self.vcpu);
                            state = shared.lock();
                            if let Some(member) = state.members.get_mut(&self.key) {
                                member.owes_task = false;
                            }
                            shared.changed.notify_all();
                        }
                        _ => {
                            shared.changed.notify_all();
                            state = shared.wait(state);
                        }
                    }
                }
            }
        }
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.shared.lock();
        if let Some(member) = state.members.get_mut(&self.key) {
            member.phase = phase;
            member.thread = None;
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.shared.lock().members.remove(&self.key);
        self.shared.changed.notify_all();
    }
}
