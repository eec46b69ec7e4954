//! `cargo xtask machine`: any program of this computer, run in a nested machine.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::assets::Assets;
use crate::machine::image::{Image, Make, inside};
use crate::machine::{Lost, Machine};
use crate::process::find_program;
use crate::run::exit_code_of;
use crate::terminal::run_attached;
use crate::workspace::Workspace;

/// Options of `cargo xtask machine`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The make of CPU to emulate.
    make: Make,
    /// Copy this file or directory into the machine, to the same path. May be repeated.
    #[arg(long, value_name = "PATH")]
    copy: Vec<PathBuf>,
    /// Set a variable in the program's environment. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// End the program after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    limit: u64,
    /// The program and its arguments. A program of this computer is copied in with its libraries.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Boots a machine and runs the program in it.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let assets = Assets::new(workspace);
    let guest = assets.guest()?;
    let scratch = workspace.new_scratch("machine")?;
    let mut image = Image::new(arguments.make, &assets, &guest, scratch.path())?;
    image.stock_kernel()?;
    let mut words = arguments.command.clone();
    if let Some(program) = locate(&words[0])? {
        image.program(&program, &program)?;
        words[0] = program.into();
    }
    for path in &arguments.copy {
        let path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
        image.copy(&path, &path)?;
    }
    let bootable = image.write("machine")?;
    let console = scratch.path().join("console.log");
    let mut machine = Machine::boot(&bootable, &console, arguments.make.boot_limit()).inspect_err(|_| {
        scratch.keep_file(&console);
    })?;
    let mut environment = inside::test_environment();
    environment.extend(arguments.env.iter().map(|pair| pair.clone().into_vec()));
    let limit = Some(Duration::from_secs(arguments.limit));
    let outcome = run_attached(&mut machine, words, environment, limit)?.map_err(|Lost(reason)| {
        let console = scratch.keep_file(&console);
        anyhow!("the machine was lost: {reason}; its console: {}", console.display())
    })?;
    exit_code_of(outcome, limit)
}

/// The program of this computer that `name` means; `None` for one that only the machine has.
fn locate(name: &OsString) -> Result<Option<PathBuf>> {
    let path = Path::new(name);
    if path.components().count() == 1 {
        return Ok(find_program(&name.to_string_lossy()));
    }
    let path = std::path::absolute(path).context("cannot find the current directory")?;
    Ok(path.exists().then_some(path))
}
