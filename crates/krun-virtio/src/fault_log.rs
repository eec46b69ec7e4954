//! Guest faults: every one counted, few of them logged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::GuestFault;

/// Lines in a row before the rate applies.
const BURST: u32 = 8;
/// One line per this long, afterwards.
const REFILL: Duration = Duration::from_secs(10);

/// Counts the faults of one device's guest and logs them at a bounded rate, so that no guest can fill the host's disk.
///
/// It outlives resets: a guest that breaks its rings and resets in a loop is as quiet as any other.
#[derive(Debug)]
pub struct FaultLog {
    device: String,
    total: AtomicU64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    lines: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Bucket {
    /// Whether one more line may be written now, and how many were swallowed before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let periods = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if periods > 0 {
            self.lines = self.lines.saturating_add(u32::try_from(periods).unwrap_or(BURST)).min(BURST);
            self.refilled = now;
        }
        if self.lines == 0 {
            self.suppressed += 1;
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl FaultLog {
    /// A log that names `device` in its lines.
    pub fn new(device: impl Into<String>) -> Self {
        let bucket = Bucket { lines: BURST, refilled: Instant::now(), suppressed: 0 };
        Self { device: device.into(), total: AtomicU64::new(0), bucket: Mutex::new(bucket) }
    }

    /// Counts `fault`, and logs it unless there were too many lately.
    pub fn report(&self, fault: &GuestFault) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let taken = self.bucket.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take(Instant::now());
        if let Some(suppressed) = taken {
            tracing::warn!(device = self.device, suppressed, "guest fault: {fault}");
        }
    }

    /// How many faults there were since the device was made.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let start = Instant::now();
        let mut bucket = Bucket { lines: BURST, refilled: start, suppressed: 0 };
        let logged = (0..1000).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!(logged, BURST as usize);
        assert_eq!(bucket.take(start + REFILL), Some(1000 - u64::from(BURST)));
        assert_eq!(bucket.take(start + REFILL), None);
        // A long silence does not save up more than one burst.
        let later = start + REFILL * 1000;
        assert_eq!((0..1000).filter(|_| bucket.take(later).is_some()).count(), BURST as usize);
    }
}
