//! Consoles whose reader does not keep up, and since when.

use rustix::event::Timespec;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
struct Stall {
    port: usize,
    /// What the reader had taken when the clock was started.
    progress: u64,
    /// `None` if it is beyond the end of time.
    deadline: Option<Instant>,
    patience: Duration,
}

/// The consoles that keep a driver waiting, with one timer for all of them.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    held: Vec<Stall>,
    timer: Option<OwnedFd>,
}

impl Stalls {
    /// The timer's descriptor, if one is `wanted`.
    pub(crate) fn start(&mut self, wanted: bool) -> io::Result<Option<BorrowedFd<'_>>> {
        if wanted && self.timer.is_none() {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            self.timer = Some(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        }
        self.set_timer();
        Ok(self.timer.as_ref().map(AsFd::as_fd))
    }

    /// A port keeps its driver waiting.
    pub(crate) fn held(&mut self, port: usize, progress: u64, patience: Duration) {
        if self.held.iter().all(|stall| stall.port != port) {
            self.held.push(Stall { port, progress, deadline: Instant::now().checked_add(patience), patience });
            self.set_timer();
        }
    }

    /// A port does not keep its driver waiting.
    pub(crate) fn released(&mut self, port: usize) {
        if let Some(at) = self.held.iter().position(|stall| stall.port == port) {
            self.held.swap_remove(at);
            self.set_timer();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.set_timer();
    }

    /// The ports whose reader has taken nothing for as long as it was given. The others get the time once more.
    pub(crate) fn due(&mut self, progress: impl Fn(usize) -> u64) -> Vec<usize> {
        if let Some(timer) = &self.timer {
            let _ = rustix::io::read(timer, &mut [0; 8]);
        }
        let now = Instant::now();
        let mut due = Vec::new();
        self.held.retain_mut(|stall| {
            if stall.deadline.is_none_or(|deadline| now < deadline) {
                return true;
            }
            let taken = progress(stall.port);
            let moved = taken != stall.progress;
            if moved {
                (stall.progress, stall.deadline) = (taken, now.checked_add(stall.patience));
            } else {
                due.push(stall.port);
            }
            moved
        });
        self.set_timer();
        due
    }

    /// Lets the timer go off at the first deadline.
    fn set_timer(&self) {
        let Some(timer) = &self.timer else { return };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let first = self.held.iter().filter_map(|stall| stall.deadline).min();
        // A delay of zero would stop the timer.
        let delay = first.map(|first| first.saturating_duration_since(Instant::now()).max(Duration::from_micros(1)));
        let it_value = delay.and_then(|delay| delay.try_into().ok()).unwrap_or(zero);
        let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value });
    }
}
