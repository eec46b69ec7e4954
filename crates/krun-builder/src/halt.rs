//! A guest that has halted for good.
//!
//! Without ACPI, Linux has no way to switch a machine off: told to, it stops every CPU with interrupts disabled, and no
//! exit ever tells. So a guest whose init may do that is looked at when it has been idle for a while. Only then: for a
//! look its CPUs are taken out of the guest, and a busy one is not disturbed, nor its watchdogs.

use std::time::{Duration, Instant};

use crate::machine::Machine;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// CPU time that all vCPUs together may use between two looks and count as idle: a look itself takes some.
const IDLE: Duration = Duration::from_millis(20);

/// Looks whether a guest has halted.
#[derive(Debug)]
pub(crate) struct HaltWatch {
    next: Instant,
    /// CPU time used until the last look.
    used: Duration,
}

impl HaltWatch {
    pub(crate) fn new() -> Self {
        Self { next: Instant::now() + INTERVAL, used: Duration::ZERO }
    }

    /// When to look next.
    pub(crate) const fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time. Whether nothing will ever happen in the guest again.
    pub(crate) fn look(&mut self, machine: &Machine) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + INTERVAL;
        let used = machine.cpu_time();
        let before = std::mem::replace(&mut self.used, used);
        used.saturating_sub(before) <= IDLE && machine.has_halted()
    }
}
