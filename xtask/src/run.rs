//! `cargo xtask run`: a command in a microVM, on this computer's KVM or in a nested machine that has one.

mod nested;
mod options;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use self::options::Options;
use crate::assets::Assets;
use crate::kvm;
use crate::machine::Outcome;
use crate::machine::image::Make;
use crate::machine::protocol::End;
use crate::progress::say;
use crate::workspace::Workspace;

/// What a shell adds to the number of the signal that ended a program.
const SIGNAL_BASE: i32 = 128;

/// Options of `cargo xtask run`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "cargo xtask run [--machine host|amd|intel] [OPTIONS OF krun run] -- COMMAND [ARGS]")]
pub(crate) struct Arguments {
    /// `--machine host|amd|intel`, any option of `krun run`, then `--`, the command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "WORDS")]
    words: Vec<OsString>,
}

/// Where the microVM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this computer's own KVM.
    Host,
    /// In a nested machine.
    Nested(Make),
}

/// Builds `krun`, fetches what it needs, and runs it at the right place.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let options = Options::parse(&arguments.words)?;
    let place = options.place.unwrap_or_else(choose);
    let assets = Assets::new(workspace);
    let guest = assets.guest()?;
    let krun = build(workspace)?;
    match place {
        Place::Host => on_host(&krun, options.complete(&guest)),
        Place::Nested(make) => nested::run(workspace, &assets, &guest, make, &krun, options),
    }
}

fn choose() -> Place {
    match kvm::unusable() {
        None => Place::Host,
        Some(reason) => {
            say(format!("{reason}: the microVM runs in an emulated AMD machine"));
            Place::Nested(Make::Amd)
        }
    }
}

/// Builds the `krun` program and answers its path.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let output = workspace
        .cargo()
        .args(["build", "--quiet", "--release", "--package", "krun", "--bin", "krun"])
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`krun` does not build");
    }
    Message::parse_stream(output.stdout.as_slice())
        .filter_map(|message| match message {
            Ok(Message::CompilerArtifact(artifact)) if artifact.target.name == "krun" => artifact.executable,
            _ => None,
        })
        .last()
        .map(cargo_metadata::camino::Utf8PathBuf::into_std_path_buf)
        .context("cargo built `krun` but did not say where it is")
}

/// `krun` takes this process's place: signals and the terminal are its own.
fn on_host(krun: &PathBuf, words: Vec<OsString>) -> Result<ExitCode> {
    Err(Command::new(krun).arg("run").args(words).exec()).context("cannot start krun")
}

/// Our own exit code for a program that ended like this.
pub(crate) fn exit_code(end: End) -> Result<ExitCode> {
    let code = match end {
        End::Code(code) => code,
        End::Signal(signal) => SIGNAL_BASE + signal,
    };
    Ok(ExitCode::from(u8::try_from(code).with_context(|| format!("{code} is no exit code"))?))
}

/// Our own exit code for a command in a machine.
pub(crate) fn exit_code_of(outcome: Outcome, limit: Option<Duration>) -> Result<ExitCode> {
    match outcome {
        Outcome::Ended(end) => exit_code(end),
        Outcome::TimedOut => bail!("the program was ended after {} s", limit.unwrap_or_default().as_secs()),
        Outcome::NotStarted(reason) => bail!("{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_become_codes_as_in_a_shell() {
        assert_eq!(format!("{:?}", exit_code(End::Signal(9)).unwrap()), format!("{:?}", ExitCode::from(137)));
        assert_eq!(format!("{:?}", exit_code(End::Code(42)).unwrap()), format!("{:?}", ExitCode::from(42)));
        assert!(exit_code(End::Code(300)).is_err());
    }
}
