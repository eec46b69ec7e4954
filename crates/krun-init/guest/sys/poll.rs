//! Waiting.

use super::{Errno, Fd, Result, call};

pub(crate) const IN: u16 = 0x1;
pub(crate) const OUT: u16 = 0x4;
pub(crate) const ERR: u16 = 0x8;
pub(crate) const HUP: u16 = 0x10;

/// A descriptor to wait for: `struct pollfd`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    fd: i32,
    events: u16,
    answer: u16,
}

impl Wait {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self { fd: -1, events: 0, answer: 0 };

    /// Errors and hang-ups of `fd`, and `events`.
    pub(crate) const fn new(fd: &Fd, events: u16) -> Self {
        Self { fd: fd.number(), events, answer: 0 }
    }

    /// What has happened.
    pub(crate) const fn happened(&self, events: u16) -> bool {
        self.answer & events != 0
    }
}

#[repr(C)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

impl TimeSpec {
    fn milliseconds(count: u32) -> Self {
        Self { seconds: i64::from(count / 1000), nanoseconds: i64::from(count % 1000) * 1_000_000 }
    }
}

/// Waits until one of `waits` is ready, or for so many milliseconds.
pub(crate) fn poll(waits: &mut [Wait], milliseconds: Option<u32>) -> Result<()> {
    let time = TimeSpec::milliseconds(milliseconds.unwrap_or(0));
    let time: *const TimeSpec = if milliseconds.is_some() { &time } else { core::ptr::null() };
    match call!(PPOLL, waits.as_mut_ptr(), waits.len(), time, 0_usize, 0_usize) {
        Ok(_) => Ok(()),
        Err(Errno::INTR) => {
            waits.iter_mut().for_each(|wait| wait.answer = 0);
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

const MONOTONIC: u32 = 1;

/// A moment after which something is not waited for any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(i64);

impl Deadline {
    /// The moment in so many milliseconds.
    pub(crate) fn after(milliseconds: u32) -> Self {
        Self(now().saturating_add(milliseconds.into()))
    }

    pub(crate) fn is_over(self) -> bool {
        now() >= self.0
    }
}

/// Milliseconds of the clock that nobody sets.
fn now() -> i64 {
    let mut time = TimeSpec::milliseconds(0);
    let time_at: *mut TimeSpec = &mut time;
    // Cannot fail: the clock exists.
    let _ = call!(CLOCK_GETTIME, MONOTONIC, time_at);
    time.seconds * 1000 + time.nanoseconds / 1_000_000
}

pub(crate) fn sleep(milliseconds: u32) {
    let time: *const TimeSpec = &TimeSpec::milliseconds(milliseconds);
    // An early end does no harm: whoever sleeps here looks again.
    let _ = call!(CLOCK_NANOSLEEP, MONOTONIC, 0_usize, time, 0_usize);
}
