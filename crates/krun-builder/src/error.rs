//! What can go wrong, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// One thing that is wrong with a configuration.
#[derive(Debug)]
#[non_exhaustive]
pub struct Problem {
    /// The setting.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// The error behind it, if there is one.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Problem {
    pub(crate) fn new(
        field: &'static str,
        value: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { field, value: value.into(), reason: reason.into(), remedy: remedy.into(), source: None }
    }

    /// A resource that could not be had; the reason is the error and everything behind it.
    pub(crate) fn caused_by(
        field: &'static str,
        value: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
        remedy: impl Into<String>,
    ) -> Self {
        let mut reason = source.to_string();
        let mut cause = source.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors already end with the text of their source.
            if !reason.ends_with(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = error.source();
        }
        Self { source: Some(Box::new(source)), ..Self::new(field, value, reason, remedy) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, reason, remedy, .. } = self;
        write!(f, "{field}")?;
        if !value.is_empty() {
            write!(f, " {value}")?;
        }
        write!(f, ": {reason}; {remedy}")
    }
}

/// Everything that is wrong with a configuration, in one go.
#[derive(Debug)]
pub struct BuildError {
    problems: Vec<Problem>,
}

impl BuildError {
    /// `Ok` without problems.
    pub(crate) fn of(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// The problems: never none.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for BuildError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = self.problems.as_slice() {
            return write!(f, "cannot build the VM: {problem}");
        }
        write!(f, "cannot build the VM, for {} reasons", self.problems.len())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl StdError for BuildError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.problems.iter().find_map(|problem| problem.source.as_deref())?;
        Some(source)
    }
}

/// What can go wrong with a VM that was configured rightly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong, or something it names is not there.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The host gives no memory for the guest.
    #[error("cannot {action} {size} bytes of guest memory: {source}; ask for less, or give the host more")]
    Memory {
        /// What was attempted.
        action: &'static str,
        /// How many bytes the guest was to have.
        size: u64,
        /// The host's answer.
        source: io::Error,
    },
    /// The guest's memory map makes no sense to vm-memory. A defect of this crate.
    #[error("the guest's memory map is not one: this is a defect of krun-builder, please report it")]
    MemoryView,
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`: {source}; raise the limit on processes (ulimit -u)")]
    Thread {
        /// The thread's name.
        name: String,
        /// The host's answer.
        source: io::Error,
    },
    /// A file descriptor could not be made or duplicated.
    #[error("cannot create {what}: {source}; raise the limit on open files (ulimit -n)")]
    Descriptor {
        /// What it was for.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
    /// KVM refused.
    #[error("cannot set up the virtual machine: {0}")]
    Vcpu(#[from] krun_vcpu::Error),
    /// The kernel cannot be brought into memory.
    #[error("cannot load the guest's kernel: {0}")]
    Kernel(#[from] krun_kernel_loader::Error),
    /// A device could not be set up.
    #[error("cannot set up the {device} device: {source}")]
    Device {
        /// Which device.
        device: String,
        /// The device's answer.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Linux has no such signal.
    #[error("cannot send signal {signal}: signals are numbered 1 to 64")]
    Signal {
        /// The number asked for.
        signal: i32,
    },
    /// There is no command (yet, or any more) that could take it, or it is the guest's init and cannot be reached.
    #[error("the guest's command is not running, or is its init: cannot {action}")]
    NotRunning {
        /// What was attempted.
        action: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_in_the_message() {
        let problems =
            vec![Problem::new("vcpus", "0", "too few", "use 1"), Problem::new("kernel", "", "not set", "set it")];
        let text = BuildError::of(problems).unwrap_err().to_string();
        assert_eq!(text, "cannot build the VM, for 2 reasons\n  vcpus 0: too few; use 1\n  kernel: not set; set it");
    }

    #[test]
    fn a_cause_is_told_with_its_own() {
        let source = io::Error::other("disk on fire");
        let problem = Problem::caused_by("root", "/r", source, "put it out");
        assert_eq!(problem.to_string(), "root /r: disk on fire; put it out");
        assert!(BuildError::from(problem).source().is_some());
    }
}
