//! What went wrong on our side of the VM: exit code 125 and a line that names the thing.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

/// The exit code of `krun` itself when it fails, as in other programs that run programs.
pub(crate) const EXIT_FAILURE: u8 = 125;

/// A failure of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The VM cannot be built: a line for each reason.
    #[error(transparent)]
    Build(#[from] krun_builder::BuildError),
    /// The VM cannot be started, or ran into trouble.
    #[error(transparent)]
    Vm(#[from] krun_builder::Error),
    /// The VM ended without a word from the command.
    #[error("{0}")]
    Ended(krun_builder::ExitStatus),
    /// Something of the host did not work.
    #[error("cannot {action}: {source}")]
    Host { action: &'static str, source: std::io::Error },
}

impl Failure {
    /// Says what happened on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Build(error) | Self::Vm(krun_builder::Error::Build(error)) => {
                error.problems().iter().for_each(|problem| say(problem))
            }
            other => say(other),
        }
        ExitCode::from(EXIT_FAILURE)
    }
}

/// One line on standard error; there is nobody to tell if that fails.
pub(crate) fn say(what: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "krun: {what}");
}
