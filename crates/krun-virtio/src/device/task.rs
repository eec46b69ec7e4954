//! A worker with its queues: what an executor runs, and a host starts, stops and saves.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Context, Queues, Ready, Session, Watch, Worker};
use crate::queue::VirtQueue;
use crate::sys;

/// Tokens from here on are kicks: the queue's number is in the low half.
const KICK: u32 = 1 << 31;

/// A worker and the queues it serves.
pub struct Task {
    worker: Box<dyn Worker>,
    queues: Queues,
    session: Option<Session>,
    /// It panicked or could not start: left alone until the next reset.
    failed: bool,
}

/// Keeps a worker's tokens apart from those of kicks.
struct Tokens<'a>(&'a mut dyn Watch);

impl Watch for Tokens<'_> {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u32, ready: Ready) -> io::Result<()> {
        if token >= KICK {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.0.add(fd, token, ready)
    }

    fn change(&mut self, token: u32, ready: Ready) -> io::Result<()> {
        if token >= KICK {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.0.change(token, ready)
    }

    fn remove(&mut self, token: u32) -> io::Result<()> {
        if token >= KICK {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.0.remove(token)
    }
}

impl Task {
    /// `worker`, to serve the queues numbered `queues`.
    pub fn new(queues: Range<u16>, worker: impl Worker + 'static) -> Self {
        Self { worker: Box::new(worker), queues: Queues::new(queues), session: None, failed: false }
    }

    /// The numbers of its queues.
    pub fn range(&self) -> Range<u16> {
        self.queues.range()
    }

    /// Whether a panic or an error has put it out of service until the next reset.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Puts it out of service until the next reset, and tells the driver.
    pub(crate) fn fail(&mut self, what: &str) {
        self.failed = true;
        tracing::error!(queues = ?self.queues.range(), "worker {what}; the device needs a reset");
        if let Some(session) = &self.session {
            session.interrupt.needs_reset();
        }
        let worker = &mut *self.worker;
        if catch_unwind(AssertUnwindSafe(|| worker.failed())).is_err() {
            tracing::error!(queues = ?self.queues.range(), "worker panicked in its last word");
        }
    }

    /// Calls the worker, if it is in service. A panic ends here.
    fn call(&mut self, watch: &mut dyn Watch, call: impl FnOnce(&mut dyn Worker, &mut Context<'_>)) {
        let Some(session) = self.session.as_ref().filter(|_| !self.failed) else { return };
        let (worker, queues) = (&mut *self.worker, &mut self.queues);
        let called = catch_unwind(AssertUnwindSafe(|| {
            call(worker, &mut Context { queues, session, watch: &mut Tokens(watch) });
        }));
        if called.is_err() {
            self.fail("panicked");
        }
    }

    // For executors:

    /// Registers the kicks and the worker's own descriptors; serves what already waits.
    pub fn start(&mut self, watch: &mut dyn Watch) {
        if self.failed {
            // It panicked in its reset, or before a pause: the driver of now must know.
            return self.fail("is out of service");
        }
        let registered = self
            .queues
            .iter()
            .try_for_each(|queue| watch.add(sys::borrow(queue.kick()), KICK | u32::from(queue.index()), Ready::IN));
        if let Err(error) = registered {
            return self.fail(&format!("cannot wait for kicks: {error}"));
        }
        let mut started = Ok(());
        self.call(watch, |worker, cx| started = worker.start(cx));
        if let Err(error) = started {
            return self.fail(&format!("cannot start: {error}"));
        }
        for index in self.queues.range() {
            if self.queues.get(index).is_some() {
                self.call(watch, |worker, cx| worker.queue_event(index, cx));
            }
        }
    }

    /// A registered descriptor is ready.
    pub fn event(&mut self, token: u32, ready: Ready, watch: &mut dyn Watch) {
        if token < KICK {
            return self.call(watch, |worker, cx| worker.io_event(token, ready, cx));
        }
        let index = (token & 0xffff) as u16;
        if let Some(queue) = self.queues.get(index) {
            // Non-blocking; an empty counter means that somebody else has read it, and nothing is lost by looking.
            let _ = queue.kick().read();
            self.call(watch, |worker, cx| worker.queue_event(index, cx));
        }
    }

    /// Has every chain given back. It may go to another thread then, or to none.
    pub fn stop(&mut self, watch: &mut dyn Watch) {
        self.call(watch, |worker, cx| worker.quiesce(cx));
        for queue in self.queues.iter() {
            queue.flush();
            if queue.in_flight() > 0 && queue.fault().is_none() {
                let (queue, chains) = (queue.index(), queue.in_flight());
                tracing::error!(queue, chains, "a worker has kept chains beyond its quiesce");
            }
        }
    }

    // For hosts, while it is on no thread:

    pub(crate) fn attach(&mut self, session: &Session, queue: VirtQueue) -> bool {
        self.session = Some(session.clone());
        self.queues.put(queue)
    }

    pub(crate) fn detach(&mut self, index: u16) -> Option<VirtQueue> {
        self.queues.take(index)
    }

    pub(crate) fn reset(&mut self) {
        self.queues.clear();
        self.session = None;
        let worker = &mut *self.worker;
        self.failed = false;
        if catch_unwind(AssertUnwindSafe(|| worker.reset())).is_err() {
            self.fail("panicked in reset");
        }
    }

    /// Whether it has nothing to do. One whose driver has taken all its queues away still has a session, and answers
    /// its host until the reset.
    pub(crate) fn idle(&self) -> bool {
        self.session.is_none()
    }

    pub(crate) fn queue_state(&mut self, index: u16) -> Option<virtio_queue::QueueState> {
        self.queues.get(index).map(|queue| queue.state())
    }

    pub(crate) fn save(&self) -> Option<Vec<u8>> {
        self.worker.save()
    }

    pub(crate) fn restore(&mut self, state: &[u8]) -> io::Result<()> {
        self.worker.restore(state)
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("queues", &self.queues).field("failed", &self.failed).finish_non_exhaustive()
    }
}
