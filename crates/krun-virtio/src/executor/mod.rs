//! On which threads workers run.

mod event_loop;
mod inline;
mod threads;

use std::io;
use std::time::Duration;

pub use inline::Inline;
pub use threads::ThreadPerWorker;

use crate::device::Task;

/// Decides on which thread a task runs; the one place for thread names, seccomp and Landlock.
pub trait Executor: Send + Sync {
    /// Puts `task` to work under `name`.
    ///
    /// # Errors
    /// The task comes back with the system's reason, unharmed.
    fn start(&self, name: &str, task: Task) -> Result<Box<dyn Running>, NotStarted>;
}

/// A task that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("starting a worker")]
pub struct NotStarted {
    /// The task.
    pub task: Box<Task>,
    /// Why.
    pub source: io::Error,
}

/// A task at work.
pub trait Running: Send {
    /// Asks it to stop, without waiting: to stop many at once, ask all before [`Running::stop`] waits for each.
    fn request_stop(&self);

    /// Stops it and gives it back. Waits as long as the system calls under way take.
    /// `None` if its thread has died.
    fn stop(self: Box<Self>) -> Option<Task>;

    /// Stops and drops it, unless that takes longer than `patience`: then its thread is let go. Answers whether it
    /// stopped. A thread that was let go ends when its system call does; its chains keep their memory mapped.
    fn shutdown(self: Box<Self>, patience: Duration) -> bool;
}
