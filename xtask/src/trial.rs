//! `cargo xtask machine`: any program of this computer, run in a nested machine.

use std::ffi::OsString;
use std::io::{self, Write, stderr, stdout};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::assets::Assets;
use crate::machine::image::{Image, Make, inside};
use crate::machine::protocol::{Command, End};
use crate::machine::{Lost, Machine, Outcome, Streams};
use crate::process::find_program;
use crate::progress::say;
use crate::workspace::Workspace;

/// What a shell adds to a signal's number.
const SIGNAL_BASE: i32 = 128;

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
    let scratch = workspace.scratch().join(format!("trial-{}", std::process::id()));
    let mut image = Image::new(arguments.make, &assets, &guest, &scratch)?;
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
    let started = std::time::Instant::now();
    let bootable = image.write("trial")?;
    say(format!("image written in {:.1} s", started.elapsed().as_secs_f64()));
    let console = scratch.join("console.log");
    let mut machine = Machine::boot(&assets, &bootable, &console, Duration::from_secs(120))?;
    say(format!("machine up after {:.1} s", started.elapsed().as_secs_f64()));
    let mut environment = test_environment();
    environment.extend(arguments.env.iter().map(|pair| pair.clone().into_vec()));
    let command = Command {
        arguments: words.into_iter().map(OsStringExt::into_vec).collect(),
        environment,
        ..Command::default()
    };
    let outcome = machine
        .run(command, Some(Duration::from_secs(arguments.limit)), &mut Inherit)
        .map_err(|Lost(reason)| anyhow!("the machine was lost: {reason}; its console: {}", console.display()))?;
    match outcome {
        Outcome::Ended(End::Code(code)) => Ok(ExitCode::from(u8::try_from(code)?)),
        Outcome::Ended(End::Signal(signal)) => Ok(ExitCode::from(u8::try_from(SIGNAL_BASE + signal)?)),
        Outcome::TimedOut => Err(anyhow!("the program was ended after {} s", arguments.limit)),
        Outcome::NotStarted(reason) => Err(anyhow!("{reason}")),
    }
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

/// The variables by which tests find what they need.
pub(crate) fn test_environment() -> Vec<Vec<u8>> {
    [
        ("PATH", "/bin"),
        ("HOME", "/root"),
        ("RUST_BACKTRACE", "1"),
        ("KRUN_TEST_KVM", "required"),
        ("KRUN_TEST_KERNEL", inside::KERNEL),
        ("KRUN_TEST_ROOT", inside::ROOT),
        ("KRUN_TEST_BZIMAGE", inside::BZIMAGE),
        ("KRUN_TEST_BUSYBOX", inside::BUSYBOX),
    ]
    .map(|(name, value)| format!("{name}={value}").into_bytes())
    .to_vec()
}

/// Hands everything on to our own standard streams.
struct Inherit;

impl Streams for Inherit {
    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        stdout().write_all(bytes)?;
        stdout().flush()
    }

    fn errors(&mut self, bytes: &[u8]) -> io::Result<()> {
        stderr().write_all(bytes)
    }
}
