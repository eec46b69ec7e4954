//! How a VM ended.

use std::fmt;

use krun_init::Failure;

/// How a VM ended. Only [`ExitStatus::Exited`] and [`ExitStatus::Signaled`] say that the command ran to its end; both
/// come from the guest's init over its private channel, never from anything a program in the guest can write. For a
/// command that is the guest's init itself, the ordinary end is [`ExitStatus::ShutDown`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// The command ended with this exit code.
    Exited(u8),
    /// The command was killed by this signal (Linux numbering).
    Signaled(i32),
    /// The command could not be started: what the guest's init says about it.
    InitFailed(Failure),
    /// The guest's kernel panicked.
    Panicked {
        /// The last lines of the kernel's console, as far as they were captured.
        console: String,
    },
    /// A CPU of the guest met a triple fault.
    TripleFault {
        /// The last lines of the kernel's console, as far as they were captured.
        console: String,
    },
    /// The guest restarted, powered off or halted before its command ended (or there was none). A guest that switches
    /// itself off without ACPI can only halt its CPUs; that is noticed within a few seconds.
    Rebooted,
    /// The guest restarted, powered off or halted, and that was its command's to decide:
    /// [`Command::as_init`](crate::Command::as_init). This is the ordinary end of such a VM.
    ShutDown,
    /// The host stopped the VM: [`RunningVm::kill`](crate::RunningVm::kill), or it was dropped.
    Stopped,
    /// The host could not go on running the guest.
    Failed {
        /// What went wrong.
        reason: String,
        /// The last lines of the kernel's console, as far as they were captured.
        console: String,
    },
}

impl ExitStatus {
    /// Whether all is well: the command ended with exit code 0, or was the guest's init and shut it down.
    #[must_use]
    pub fn success(&self) -> bool {
        matches!(self, Self::Exited(0) | Self::ShutDown)
    }

    /// The code a shell would report for the command: its own, 128 + n for a signal, 127 and 126 for a command that was
    /// not found or not executable; 0 for a guest that was shut down by its own init. `None` when no such thing can be
    /// said.
    #[must_use]
    pub fn shell_code(&self) -> Option<u8> {
        match self {
            Self::Exited(code) => Some(*code),
            Self::ShutDown => Some(0),
            Self::Signaled(signal) => u8::try_from(128 + (signal & 0x7f)).ok(),
            // 125 is ours to use for everything that is not about the command itself.
            Self::InitFailed(failure) => Some(failure.status()).filter(|status| *status != 125),
            _ => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "the command exited with code {code}"),
            Self::Signaled(signal) => write!(f, "the command was killed by signal {signal}"),
            Self::InitFailed(failure) => failure.fmt(f),
            Self::Panicked { console } => with_console(f, "the guest's kernel panicked", console),
            Self::TripleFault { console } => with_console(f, "a CPU of the guest met a triple fault", console),
            Self::Rebooted => f.write_str("the guest restarted, powered off or halted before a command had ended"),
            Self::ShutDown => f.write_str("the guest was shut down by its own init"),
            Self::Stopped => f.write_str("the VM was stopped by its host"),
            Self::Failed { reason, console } => with_console(f, &format!("the VM could not go on: {reason}"), console),
        }
    }
}

fn with_console(f: &mut fmt::Formatter<'_>, what: &str, console: &str) -> fmt::Result {
    f.write_str(what)?;
    if console.is_empty() { Ok(()) } else { write!(f, "; its console ended with:\n{}", console.trim_end()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use krun_init::protocol::Stage;

    fn exec_failed(errno: i32) -> ExitStatus {
        ExitStatus::InitFailed(Failure { stage: Stage::Exec, errno: errno.unsigned_abs(), detail: b"/bin/x".to_vec() })
    }

    #[test]
    fn codes_are_a_shells() {
        assert_eq!(ExitStatus::Exited(42).shell_code(), Some(42));
        assert_eq!(ExitStatus::Signaled(libc::SIGKILL).shell_code(), Some(137));
        assert_eq!(exec_failed(libc::ENOENT).shell_code(), Some(127));
        assert_eq!(exec_failed(libc::EACCES).shell_code(), Some(126));
        assert_eq!(ExitStatus::Rebooted.shell_code(), None);
        assert_eq!(ExitStatus::ShutDown.shell_code(), Some(0));
        assert!(!ExitStatus::Rebooted.success() && ExitStatus::ShutDown.success());
        assert!(ExitStatus::Exited(0).success() && !ExitStatus::Exited(1).success());
    }

    #[test]
    fn a_panic_shows_the_console() {
        let status = ExitStatus::Panicked { console: "Kernel panic - not syncing: x\n".into() };
        assert!(status.to_string().ends_with("Kernel panic - not syncing: x"));
        assert!(exec_failed(libc::ENOENT).to_string().contains("/bin/x: No such file"));
    }
}
