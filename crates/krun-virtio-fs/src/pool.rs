//! A few threads for requests that wait for a disk.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use krun_virtio::{Chain, EventFd};

use crate::filesystem::FileSystem;
use crate::server::{FuseServer, Handled};

/// How long a pause, or the end of a pool, waits. Nearly always all requests are done by then; a guest that queued hours
/// of work, or a dead server, holds nobody up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Threads that start when they are needed, and requests that they have done.
#[derive(Debug)]
pub(crate) struct Pool<F: FileSystem + ?Sized + 'static> {
    shared: Arc<Shared<F>>,
    max_threads: usize,
}

#[derive(Debug)]
struct Shared<F: ?Sized> {
    state: Mutex<State>,
    /// There are jobs, or an end.
    work: Condvar,
    /// A job or a thread has ended.
    ended: Condvar,
    /// Readable: there are requests to give back.
    done: EventFd,
    server: Arc<FuseServer<F>>,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Chain>,
    done: Vec<(Chain, Handled)>,
    running: usize,
    threads: usize,
    idle: usize,
    stop: bool,
}

impl<F: ?Sized> Shared<F> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: FileSystem + ?Sized + 'static> Pool<F> {
    pub(crate) fn new(server: Arc<FuseServer<F>>, max_threads: usize) -> io::Result<Self> {
        let done = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), ended: Condvar::new(), done, server };
        Ok(Self { shared: Arc::new(shared), max_threads })
    }

    /// Readable while there is something to [collect](Self::collect).
    pub(crate) fn done(&self) -> BorrowedFd<'_> {
        borrow(&self.shared.done)
    }

    /// Hands a request over. It comes back if there is no thread and none can be started.
    pub(crate) fn submit(&self, chain: Chain) -> Result<(), Chain> {
        let mut state = self.shared.state();
        if state.idle <= state.jobs.len() && state.threads < self.max_threads {
            let shared = self.shared.clone();
            match Builder::new().name("fs-pool".into()).spawn(move || run(&shared)) {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads == 0 => return Err(chain),
                Err(_) => {}
            }
        }
        state.jobs.push_back(chain);
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Takes all requests that are done.
    pub(crate) fn collect(&self, into: &mut Vec<(Chain, Handled)>) {
        // Empty only if nothing was done since.
        let _ = self.shared.done.read();
        into.append(&mut self.shared.state().done);
    }

    /// Waits until no request is under way. Gives back those that were not begun in good time.
    pub(crate) fn finish(&self) -> VecDeque<Chain> {
        let ended = &self.shared.ended;
        let busy = |state: &mut State| state.running > 0 || !state.jobs.is_empty();
        let waited = ended.wait_timeout_while(self.shared.state(), PATIENCE, busy);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let left = std::mem::take(&mut state.jobs);
        drop(ended.wait_while(state, |state| state.running > 0));
        left
    }
}

impl<F: FileSystem + ?Sized + 'static> Drop for Pool<F> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stop = true;
        // Whoever waits for them is gone.
        state.jobs.clear();
        self.shared.work.notify_all();
        drop(self.shared.ended.wait_timeout_while(state, PATIENCE, |state| state.threads > 0));
    }
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    crate::sys::borrow(event, event.as_raw_fd())
}

/// Counts a thread, or a job, as ended: even if it panics.
struct Ended<'a, F: ?Sized>(&'a Shared<F>, fn(&mut State));

impl<F: ?Sized> Drop for Ended<'_, F> {
    fn drop(&mut self) {
        (self.1)(&mut self.0.state());
        self.0.ended.notify_all();
    }
}

fn run<F: FileSystem + ?Sized>(shared: &Shared<F>) {
    let _thread = Ended(shared, |state| state.threads -= 1);
    loop {
        let mut state = shared.state();
        state.idle += 1;
        let mut state = shared
            .work
            .wait_while(state, |state| state.jobs.is_empty() && !state.stop)
            .unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        if state.stop {
            return;
        }
        let Some(mut chain) = state.jobs.pop_front() else { return };
        state.running += 1;
        drop(state);
        let _job = Ended(shared, |state| state.running -= 1);
        chain.rewind();
        let (mut request, mut reply) = chain.split();
        let handled = shared.server.handle(&mut request, &mut reply, true);
        shared.state().done.push((chain, handled));
        // It can only fail when it is full of wake-ups.
        let _ = shared.done.write(1);
    }
}
