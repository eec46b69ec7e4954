//! `krun`: runs a command in a microVM whose root is a directory.
//!
//! ```text
//! krun run --root DIR [--cpus N] [--memory SIZE] [--volume SRC:DST[:ro]] -- COMMAND [ARGS]
//! ```
//!
//! Standard input, output and error are the command's own, byte for byte, and so is the exit code: 128 + n after
//! signal n, 127 and 126 for a command that is not found or not executable. 125 means that `krun` itself failed; one
//! line on standard error says why. With `--become-init` the command is the guest's first process: the guest ends when
//! that restarts it, and the code is 0.

mod args;
mod failure;
mod kernel;
mod run;
mod signals;
mod sys;
mod terminal;

use std::process::ExitCode;

use crate::args::Command;

fn main() -> ExitCode {
    let command = match args::parse() {
        Ok(command) => command,
        Err(ended) => return ended,
    };
    let Command::Run(options) = command;
    start_log(options.log.as_deref());
    match run::run(*options) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

/// Log lines go to standard error, and only if somebody asked for them.
fn start_log(filter: Option<&str>) {
    let filter =
        filter.map_or_else(tracing_subscriber::EnvFilter::from_default_env, tracing_subscriber::EnvFilter::new);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
