//! No threads: for tests, fuzzers and benches.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::event_loop::{EventLoop, Parts};
use super::{Executor, NotStarted, Running};
use crate::device::Task;

/// Runs tasks on whatever thread calls [`Inline::turn`], in the order they were started.
///
/// A task's start and stop run on the thread that starts and stops it. Clones share their tasks.
#[derive(Clone, Default)]
pub struct Inline(Arc<Mutex<Tasks>>);

#[derive(Default)]
struct Tasks {
    next: u64,
    loops: Vec<(u64, EventLoop)>,
}

impl Inline {
    /// Without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Serves what is ready now, kicks and host descriptors alike; answers how many descriptors were.
    pub fn turn(&self) -> usize {
        self.lock().loops.iter_mut().map(|(_, events)| events.turn()).sum()
    }

    /// Turns until nothing is ready, at most `limit` times; answers whether it became quiet.
    pub fn settle(&self, limit: usize) -> bool {
        (0..limit).any(|_| self.turn() == 0)
    }
}

impl fmt::Debug for Inline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inline").field("tasks", &self.lock().loops.len()).finish()
    }
}

impl Executor for Inline {
    fn start(&self, _name: &str, task: Task) -> Result<Box<dyn Running>, NotStarted> {
        let parts = match Parts::new() {
            Ok((parts, _)) => parts,
            Err(source) => return Err(NotStarted { task: Box::new(task), source }),
        };
        let events = EventLoop::start(parts, task);
        let mut tasks = self.lock();
        let id = tasks.next;
        tasks.next += 1;
        tasks.loops.push((id, events));
        Ok(Box::new(Seated { inline: self.clone(), id }))
    }
}

struct Seated {
    inline: Inline,
    id: u64,
}

impl Seated {
    fn leave(&self) -> Option<EventLoop> {
        let mut tasks = self.inline.lock();
        let at = tasks.loops.iter().position(|(id, _)| *id == self.id)?;
        Some(tasks.loops.remove(at).1)
    }
}

impl Running for Seated {
    fn request_stop(&self) {}

    fn stop(self: Box<Self>) -> Option<Task> {
        self.leave()?.finish()
    }

    fn shutdown(self: Box<Self>, _patience: Duration) -> bool {
        drop(self.stop());
        true
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        drop(self.leave());
    }
}
