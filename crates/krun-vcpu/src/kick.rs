//! Getting a vCPU out of its guest, from any thread, without touching what belongs to the process.
//!
//! A kick does two things. It sets `immediate_exit`, so a `KVM_RUN` that has yet to begin returns at once; and it sends a
//! signal to the thread that is inside `KVM_RUN`, so that returns too. The signal is blocked in that thread as long as it
//! is in [`Vcpu::run`](crate::Vcpu::run), and open only inside `KVM_RUN` itself (`KVM_SET_SIGNAL_MASK`), which then
//! returns EINTR with the signal still pending; it is taken off by `sigtimedwait`. So it never reaches a handler, none is
//! installed, and the thread leaves `run` with the signal mask it had.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::Error;
use crate::mapping::ImmediateExit;
use crate::sys::{self, SignalSet};

/// How often a signal is tried that the kernel has no room for, and the pause between: two seconds in all.
const SIGNAL_TRIES: u32 = 2000;
const SIGNAL_PAUSE: Duration = Duration::from_millis(1);

/// Asks one vCPU to leave the guest. Cheap to clone, and good for longer than its vCPU: a kick then does nothing.
#[derive(Debug, Clone)]
pub struct VcpuHandle {
    id: u32,
    kicks: Arc<Kicks>,
}

impl VcpuHandle {
    /// The vCPU's id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Makes [`Vcpu::run`](crate::Vcpu::run) return [`Stop::Kicked`](crate::Stop::Kicked): the one going on, or else the
    /// next one, which then does not enter the guest. Kicks before that happens count as one.
    ///
    /// Returns at once; it does not wait for the vCPU.
    pub fn kick(&self) {
        self.kicks.kick();
    }
}

/// What the kickers and the vCPU's owner share.
#[derive(Debug)]
pub(crate) struct Kicks {
    signal: i32,
    /// A kick has not been answered yet.
    kicked: AtomicBool,
    target: Mutex<Target>,
}

#[derive(Debug)]
struct Target {
    /// The vCPU's `immediate_exit`; gone with the vCPU, so that a forgotten handle keeps no VM alive.
    immediate_exit: Option<ImmediateExit>,
    /// The thread inside `run`. It cannot end while this is set and the lock is held: it needs the lock to clear it.
    thread: Option<libc::pid_t>,
}

impl Kicks {
    pub(crate) fn new(signal: i32, immediate_exit: ImmediateExit) -> Arc<Self> {
        let target = Mutex::new(Target { immediate_exit: Some(immediate_exit), thread: None });
        Arc::new(Self { signal, kicked: AtomicBool::new(false), target })
    }

    pub(crate) fn handle(self: &Arc<Self>, id: u32) -> VcpuHandle {
        VcpuHandle { id, kicks: Arc::clone(self) }
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kick(&self) {
        if self.kicked.swap(true, Ordering::SeqCst) {
            return; // The first kick is under way and does for both: a storm queues one signal, not thousands.
        }
        for _ in 0..SIGNAL_TRIES {
            match self.signal() {
                // The user's queue of real-time signals is full (RLIMIT_SIGPENDING). It drains; so may the vCPU leave by
                // itself meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(SIGNAL_PAUSE),
                Err(error) => {
                    // Only a seccomp filter can refuse it. The vCPU still leaves at its next exit.
                    tracing::error!(%error, "cannot signal a vCPU's thread");
                    return;
                }
                Ok(()) => return,
            }
            if !self.kicked.load(Ordering::SeqCst) {
                return;
            }
        }
        tracing::error!("cannot signal a vCPU's thread: the queue of real-time signals stays full");
    }

    /// Tells the vCPU and the thread it is on, if any. The lock is held throughout: see [`Target::thread`].
    fn signal(&self) -> io::Result<()> {
        let target = self.target();
        if let Some(immediate_exit) = &target.immediate_exit {
            immediate_exit.set(true);
        }
        match target.thread {
            Some(thread) => sys::signal_thread(thread, self.signal),
            None => Ok(()),
        }
    }

    /// Takes a kick, if there is one. Called after `KVM_RUN` said EINTR.
    ///
    /// `immediate_exit` goes first: a kick that comes between the two steps is taken and leaves the byte set, which costs
    /// one empty round; the other order could lose it.
    pub(crate) fn take(&self, immediate_exit: &ImmediateExit) -> bool {
        sys::consume_signals(sys::signal_set(self.signal));
        immediate_exit.set(false);
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// Ends a use of `immediate_exit` that was no kick, without losing one that came meanwhile.
    pub(crate) fn restore(&self, immediate_exit: &ImmediateExit) {
        immediate_exit.set(false);
        if self.kicked.load(Ordering::SeqCst) {
            immediate_exit.set(true);
        }
    }

    /// The vCPU is gone.
    pub(crate) fn retire(&self) {
        self.target().immediate_exit = None;
    }
}

/// The calling thread's stay inside `run`: signals reach it, and its signal mask is put back at the end.
#[derive(Debug)]
pub(crate) struct Stay<'a> {
    kicks: &'a Kicks,
    before: SignalSet,
}

impl<'a> Stay<'a> {
    /// Blocks the kick signal in this thread, opens it inside `KVM_RUN` of `vcpu`, and tells the kickers who is here.
    pub(crate) fn take(kicks: &'a Kicks, vcpu: BorrowedFd<'_>) -> Result<Self, Error> {
        let signal = sys::signal_set(kicks.signal);
        let before = sys::block_signals(signal).map_err(|source| Error::SignalMask { source })?;
        let stay = Self { kicks, before };
        sys::kvm_set_signal_mask(vcpu, before & !signal)
            .map_err(|source| Error::Kvm { what: "set the signal mask of a vCPU", source })?;
        kicks.target().thread = Some(sys::thread_id());
        Ok(stay)
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.kicks.target().thread = None;
        // From here on no signal is sent; one that was sent must not be left to the process's handling.
        sys::consume_signals(sys::signal_set(self.kicks.signal));
        if let Err(error) = sys::set_blocked_signals(self.before) {
            tracing::error!(%error, "cannot restore the signal mask of a vCPU's thread");
        }
    }
}

/// Whether `KVM_RUN` returned because of a signal or `immediate_exit`.
pub(crate) fn interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}
