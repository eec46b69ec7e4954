//! A guest that has halted for good.
//!
//! Without ACPI, Linux has no way to switch a machine off: told to, it stops every CPU with interrupts disabled, and no
//! exit ever tells. So guests are looked at, but seldom: for a look the CPUs are taken out of the guest. A halted guest
//! uses no CPU time at all, and that can be read without disturbing anybody. An idle Linux still has its ticks, and is
//! left alone for seconds on end; a busy one is never looked at.

use std::time::{Duration, Instant};

use crate::machine::Machine;

/// Time between two readings of the CPU time, and so the least time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// CPU time of all vCPUs in an interval that may be nothing but the host's own doing: a look, or a wake-up in vain.
const LITTLE: Duration = Duration::from_millis(20);
/// After so many intervals with little CPU time in a row there is a look, even if none of them had none.
const PATIENCE: u32 = 8;

/// Looks whether a guest has halted.
#[derive(Debug)]
pub(crate) struct HaltWatch {
    next: Instant,
    /// CPU time used until the last reading.
    used: Duration,
    /// Intervals with little CPU time since the last one with more.
    quiet: u32,
}

impl HaltWatch {
    pub(crate) fn new() -> Self {
        Self { next: Instant::now() + INTERVAL, used: Duration::ZERO, quiet: 0 }
    }

    /// When to look next.
    pub(crate) const fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time and worth it. Whether nothing will ever happen in the guest again.
    pub(crate) fn look(&mut self, machine: &Machine) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + INTERVAL;
        self.is_worth_a_look(machine.cpu_time()) && machine.has_halted()
    }

    /// Takes a reading of the CPU time.
    fn is_worth_a_look(&mut self, used: Duration) -> bool {
        let spent = used.saturating_sub(std::mem::replace(&mut self.used, used));
        self.quiet = if spent <= LITTLE { self.quiet.saturating_add(1) } else { 0 };
        spent.is_zero() || (self.quiet > 0 && self.quiet.is_multiple_of(PATIENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which readings lead to a look.
    fn looks(spent_us: &[u64]) -> Vec<usize> {
        let mut watch = HaltWatch::new();
        let mut used = Duration::ZERO;
        let mut worth = |spent: u64| {
            used += Duration::from_micros(spent);
            watch.is_worth_a_look(used)
        };
        spent_us.iter().enumerate().filter_map(|(index, spent)| worth(*spent).then_some(index)).collect()
    }

    #[test]
    fn only_a_silent_guest_is_looked_at() {
        assert_eq!(looks(&[900_000, 800_000, 700_000]), [0; 0]);
        // Halted after the second reading.
        assert_eq!(looks(&[900_000, 5_000, 0]), [2]);
    }

    #[test]
    fn an_idle_guest_is_looked_at_every_eighth_time() {
        assert_eq!(looks(&[300; 20]), [7, 15]);
        let mut with_work = [300; 20];
        with_work[5] = 50_000;
        assert_eq!(looks(&with_work), [13]);
    }
}
