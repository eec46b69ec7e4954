//! A thread for each worker.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::event_loop::{EventLoop, Parts, signal};
use super::{Executor, NotStarted, Running};
use crate::device::Task;
use crate::sys::without_signals;

type Setup = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// Runs each task on a thread of its own, in an event loop.
///
/// The threads block the process's signals: no handler of the host's runs on one, and no SIGPIPE ends the process for
/// a pipe that a device writes to.
#[derive(Clone, Default)]
pub struct ThreadPerWorker {
    setup: Option<Setup>,
}

impl ThreadPerWorker {
    /// Plain threads.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `setup` called first on each new thread, with the thread's name: the place for priorities, seccomp and
    /// Landlock. If it fails, the worker does not run, and [`Executor::start`] says why.
    pub fn with_setup(setup: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { setup: Some(Arc::new(setup)) }
    }

    /// A thread that is set up and waits for its task.
    fn spawn(&self, name: &str) -> io::Result<(Thread, Sender<Task>)> {
        let (parts, stop) = Parts::new()?;
        let (give, take) = channel();
        let (give_back, outcome) = channel();
        let (report, reported) = channel();
        let setup = self.setup.clone();
        let body = move || {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let ready = setup.map_or(Ok(()), |setup| setup(&name));
            let failed = ready.is_err();
            // The receivers outlive this, or nobody wants to know.
            let _ = report.send(ready);
            if failed {
                return;
            }
            if let Ok(task) = take.recv() {
                let mut events = EventLoop::start(parts, task);
                events.run();
                if let Some(task) = events.finish() {
                    let _ = give_back.send(task);
                }
            }
        };
        let handle = without_signals(|| Builder::new().name(name.to_owned()).spawn(body))?;
        if self.setup.is_some() {
            reported.recv().unwrap_or_else(|_| Err(io::Error::other("the set-up of a thread panicked")))?;
        }
        Ok((Thread { name: name.to_owned(), stop, outcome, handle: Some(handle) }, give))
    }
}

impl fmt::Debug for ThreadPerWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPerWorker").field("setup", &self.setup.is_some()).finish()
    }
}

impl Executor for ThreadPerWorker {
    fn start(&self, name: &str, task: Task) -> Result<Box<dyn Running>, NotStarted> {
        let (thread, give) = match self.spawn(name) {
            Ok(spawned) => spawned,
            Err(source) => return Err(NotStarted { task: Box::new(task), source }),
        };
        match give.send(task) {
            Ok(()) => Ok(Box::new(thread)),
            Err(refused) => {
                let source = io::Error::other("the thread ended before its worker came");
                Err(NotStarted { task: Box::new(refused.0), source })
            }
        }
    }
}

struct Thread {
    name: String,
    stop: EventFd,
    outcome: Receiver<Task>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Waits for the end of a thread that has nothing left to do.
    fn join(&mut self) {
        if self.handle.take().is_some_and(|handle| handle.join().is_err()) {
            tracing::error!(thread = self.name, "a worker's thread panicked");
        }
    }
}

impl Running for Thread {
    fn request_stop(&self) {
        signal(&self.stop);
    }

    fn stop(mut self: Box<Self>) -> Option<Task> {
        self.request_stop();
        let task = self.outcome.recv().ok();
        self.join();
        task
    }

    fn shutdown(mut self: Box<Self>, patience: Duration) -> bool {
        use std::sync::mpsc::RecvTimeoutError;
        self.request_stop();
        match self.outcome.recv_timeout(patience) {
            Ok(task) => {
                self.join();
                drop(task);
                true
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.join();
                true
            }
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(thread = self.name, ?patience, "a worker does not stop; its thread is let go");
                false
            }
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Without effect on one that was stopped; the others do not outlive their owner's interest for long.
        self.request_stop();
    }
}
