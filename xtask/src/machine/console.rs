//! The log of a machine's kernel: where it lies, and what in it says that the machine, not the test, went wrong.

use std::fs;
use std::path::Path;

/// Words of a Linux kernel in trouble. A watchdog's complaint or an oops under emulation says that the machine is lost.
const TROUBLE: [&str; 10] = [
    "soft lockup",
    "hard LOCKUP",
    "Kernel panic",
    "Oops:",
    "BUG: ",
    "general protection fault",
    "rcu_sched self-detected stall",
    "rcu: INFO: rcu_",
    "Unable to handle kernel",
    "blocked for more than",
];

/// The first line of `log` that shows a kernel in trouble.
pub(crate) fn trouble_in(log: &str) -> Option<&str> {
    log.lines().map(str::trim_end).find(|line| TROUBLE.iter().any(|words| line.contains(words)))
}

/// The first line of the file at `path` that shows a kernel in trouble.
pub(crate) fn trouble_in_file(path: &Path) -> Option<String> {
    let log = fs::read(path).unwrap_or_default();
    trouble_in(&String::from_utf8_lossy(&log)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_log_shows_no_trouble() {
        assert_eq!(trouble_in("[    0.1] Linux version 6.1\nmachine: up after 4.51 s\n"), None);
        assert_eq!(trouble_in(""), None);
    }

    #[test]
    fn the_first_line_of_trouble_is_the_evidence() {
        let log = "fine\n[  26.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [vcpu0:77]\r\nKernel panic\n";
        assert_eq!(trouble_in(log).unwrap(), "[  26.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [vcpu0:77]");
        assert!(trouble_in("Oops: 0002 [#1] PREEMPT SMP").is_some());
    }
}
