//! Moves requests between a ring and the server.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use krun_virtio::{Chain, Context, Ready, VirtQueue, Worker};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::filesystem::FileSystem;
use crate::pool::Pool;
use crate::server::{FuseServer, Handled};

/// Replies that may wait for company before the driver is told.
const BATCH: usize = 16;
/// How long a reply may wait for company: less than a guest thread takes to fall asleep and wake up.
const BATCH_TIME: Duration = Duration::from_micros(50);
/// How often a lock is tried that somebody outside the guest may hold. (What the guest unlocks is seen at once.)
const LOCK_RETRY: Duration = Duration::from_millis(10);

const POOL_DONE: u32 = 0;
const LOCK_TIMER: u32 = 1;

/// Serves one queue of a file system device.
pub(crate) struct FsWorker<F: FileSystem + ?Sized + 'static> {
    server: Arc<FuseServer<F>>,
    pool_threads: usize,
    /// Made when the worker is first put on a thread.
    outside: Option<Outside<F>>,
    /// Requests that wait for a lock.
    waiting: Vec<Chain>,
    timer_runs: bool,
    collected: Vec<(Chain, Handled)>,
}

/// What a worker needs of the system.
struct Outside<F: FileSystem + ?Sized + 'static> {
    pool: Pool<F>,
    timer: OwnedFd,
}

/// Publishes replies in batches that are bounded in number and time. A reply that is alone costs no look at the clock.
#[derive(Default)]
struct Batch {
    replies: usize,
    /// When the first reply began to wait for another.
    since: Option<Instant>,
}

impl Batch {
    /// One more request is handled, while replies may be waiting.
    fn more(&mut self) {
        if self.replies > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    fn complete(&mut self, queue: &mut VirtQueue, chain: Chain) {
        queue.complete(chain);
        self.replies += 1;
        if self.replies >= BATCH || self.since.is_some_and(|since| since.elapsed() >= BATCH_TIME) {
            queue.flush();
            *self = Self::default();
        }
    }
}

impl<F: FileSystem + ?Sized + 'static> FsWorker<F> {
    pub(crate) fn new(server: Arc<FuseServer<F>>, pool_threads: usize) -> Self {
        Self { server, pool_threads, outside: None, waiting: Vec::new(), timer_runs: false, collected: Vec::new() }
    }

    fn serve(&mut self, mut chain: Chain, queue: &mut VirtQueue, batch: &mut Batch) {
        batch.more();
        let (mut request, mut reply) = chain.split();
        let handled = self.server.handle(&mut request, &mut reply, false);
        self.settle(chain, handled, queue, batch);
    }

    fn settle(&mut self, mut chain: Chain, handled: Handled, queue: &mut VirtQueue, batch: &mut Batch) {
        match handled {
            Handled::Replied => batch.complete(queue, chain),
            Handled::Wait => self.waiting.push(chain),
            Handled::Again => {
                let refused = match &self.outside {
                    Some(outside) => outside.pool.submit(chain).err(),
                    None => Some(chain),
                };
                // No thread to be had: then the queue's own has to wait.
                if let Some(back) = refused {
                    chain = back;
                    chain.rewind();
                    let (mut request, mut reply) = chain.split();
                    match self.server.handle(&mut request, &mut reply, true) {
                        Handled::Wait => self.waiting.push(chain),
                        Handled::Replied | Handled::Again => batch.complete(queue, chain),
                    }
                }
            }
        }
    }

    /// Tries all locks that are waited for once more.
    fn retry(&mut self, queue: &mut VirtQueue, batch: &mut Batch) {
        for mut chain in std::mem::take(&mut self.waiting) {
            chain.rewind();
            self.serve(chain, queue, batch);
        }
    }

    /// The timer runs while there is something to wait for.
    fn set_timer(&mut self) {
        let run = !self.waiting.is_empty();
        let Some(outside) = self.outside.as_ref().filter(|_| run != self.timer_runs) else { return };
        let period = if run { LOCK_RETRY } else { Duration::ZERO };
        let period = Timespec { tv_sec: 0, tv_nsec: period.subsec_nanos().into() };
        let setting = Itimerspec { it_interval: period, it_value: period };
        if rustix::time::timerfd_settime(&outside.timer, TimerfdTimerFlags::empty(), &setting).is_ok() {
            self.timer_runs = run;
        }
    }
}

impl<F: FileSystem + ?Sized + 'static> Worker for FsWorker<F> {
    fn start(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.outside.is_none() {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
            self.outside = Some(Outside { pool: Pool::new(self.server.clone(), self.pool_threads)?, timer });
        }
        if let Some(outside) = &self.outside {
            cx.watch.add(outside.pool.done(), POOL_DONE, Ready::IN)?;
            cx.watch.add(outside.timer.as_fd(), LOCK_TIMER, Ready::IN)?;
        }
        Ok(())
    }

    fn queue_event(&mut self, index: u16, cx: &mut Context<'_>) {
        let Some(queue) = cx.queues.get(index) else { return };
        let mut batch = Batch::default();
        // No driver keeps this thread from its other work for ever.
        let mut budget = 4 * u32::from(queue.size());
        loop {
            queue.arm(false);
            while budget > 0
                && let Some(chain) = queue.pop()
            {
                self.serve(chain, queue, &mut batch);
                budget -= 1;
            }
            if budget == 0 {
                let _ = queue.kick().write(1);
                break;
            }
            if !queue.arm(true) {
                break;
            }
        }
        if !self.waiting.is_empty() {
            // One of these requests may have ended a lock.
            self.retry(queue, &mut batch);
        }
        queue.flush();
        self.set_timer();
    }

    fn io_event(&mut self, token: u32, _ready: Ready, cx: &mut Context<'_>) {
        let Some(queue) = cx.queues.iter().next() else { return };
        let mut batch = Batch::default();
        match (token, &self.outside) {
            (POOL_DONE, Some(outside)) => {
                outside.pool.collect(&mut self.collected);
                let mut collected = std::mem::take(&mut self.collected);
                for (chain, handled) in collected.drain(..) {
                    self.settle(chain, handled, queue, &mut batch);
                }
                self.collected = collected;
            }
            (LOCK_TIMER, Some(outside)) => {
                let mut expirations = [0; 8];
                let _ = rustix::io::read(&outside.timer, &mut expirations);
                self.retry(queue, &mut batch);
            }
            _ => {}
        }
        queue.flush();
        self.set_timer();
    }

    fn quiesce(&mut self, cx: &mut Context<'_>) {
        let Some(queue) = cx.queues.iter().next() else { return };
        if let Some(outside) = &self.outside {
            self.waiting.extend(outside.pool.finish());
            outside.pool.collect(&mut self.collected);
        }
        for (chain, handled) in self.collected.drain(..) {
            match handled {
                Handled::Wait => self.waiting.push(chain),
                Handled::Replied | Handled::Again => queue.complete(chain),
            }
        }
        // Nobody can say when a lock is free, nor when a disk has caught up with a long queue. The callers are told that
        // they were interrupted, and may ask again: none of these requests has had any effect.
        for mut chain in self.waiting.drain(..) {
            chain.rewind();
            let (mut request, mut reply) = chain.split();
            self.server.cancel(&mut request, &mut reply);
            queue.complete(chain);
        }
        self.set_timer();
    }

    fn reset(&mut self) {
        self.server.reset();
    }

    fn save(&self) -> Option<Vec<u8>> {
        // Nodes and handles are open files of this process.
        None
    }
}
