//! Tasks of the workspace: `cargo xtask run`, `test`, `fuzz`, `assets`, `machine`.
mod assets;
mod fuzz;
mod kvm;
mod machine;
mod process;
mod progress;
mod run;
mod sys;
mod terminal;
mod test;
mod trial;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Tasks of the workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boot a microVM from a directory and run a command in it.
    Run(run::Arguments),
    /// Run every test.
    Test(test::Arguments),
    /// Run fuzz targets.
    Fuzz(fuzz::Arguments),
    /// Fetch everything that guests and nested machines are made of, before it is needed.
    Assets,
    /// Run any program of this computer in a nested machine that has a working /dev/kvm.
    Machine(trial::Arguments),
    /// The half that runs in a nested machine.
    #[command(hide = true)]
    Agent {
        /// The device that leads to the host.
        device: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            progress::say(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Run(arguments) => run::run(&Workspace::locate()?, &arguments),
        Task::Test(arguments) => test::run(&Workspace::locate()?, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&Workspace::locate()?, &arguments),
        Task::Assets => assets::Assets::new(&Workspace::locate()?).all().map(|()| ExitCode::SUCCESS),
        Task::Machine(arguments) => trial::run(&Workspace::locate()?, &arguments),
        Task::Agent { device } => machine::agent::serve(&device).map(|()| ExitCode::SUCCESS),
    }
}
