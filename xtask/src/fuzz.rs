//! `cargo xtask fuzz`: libFuzzer on the stable toolchain.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Message, TargetKind};

use crate::test::{TestReport, step};
use crate::workspace::Workspace;

/// The package with the targets.
const PACKAGE: &str = "krun-fuzz";
/// Builds for this triple are named, so that build scripts are spared the instrumentation, with which they do not link.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What makes LLVM tell libFuzzer which edges were taken.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing";

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The target to run; all of them without one.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Only list the targets.
    #[arg(long)]
    list: bool,
}

/// A built target.
#[derive(Debug)]
struct Target {
    name: String,
    program: PathBuf,
}

/// Runs what the user asked for.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let targets = build(workspace)?;
    if arguments.list {
        for target in &targets {
            crate::progress::say(&target.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = TestReport::new();
    let wanted: Vec<_> =
        targets.iter().filter(|target| arguments.target.as_ref().is_none_or(|name| *name == target.name)).collect();
    if wanted.is_empty() {
        let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
        bail!("there is no such target; there are {}", names.join(", "));
    }
    for target in wanted {
        target.run(workspace, &report, Duration::from_secs(arguments.seconds))?;
    }
    Ok(if report.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every target for `time`.
pub(crate) fn all(workspace: &Workspace, report: &TestReport, time: Duration) -> Result<()> {
    for target in build(workspace)? {
        target.run(workspace, report, time)?;
    }
    Ok(())
}

fn build(workspace: &Workspace) -> Result<Vec<Target>> {
    let output = workspace
        .cargo()
        .args(["build", "--quiet", "--release", "--package", PACKAGE, "--features", "libfuzzer", "--bins"])
        .args(["--target", TRIPLE, "--message-format=json-render-diagnostics"])
        .env("RUSTFLAGS", INSTRUMENTATION)
        // Fast code that still notices an overflow, quickly built.
        .envs([
            ("CARGO_PROFILE_RELEASE_LTO", "off"),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true"),
            ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true"),
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the fuzz targets do not build (libFuzzer itself needs a C++ compiler)");
    }
    let mut targets = Vec::new();
    for message in Message::parse_stream(output.stdout.as_slice()) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo's messages are not understood")?
            && let (Some(program), true) = (artifact.executable, artifact.target.kind.contains(&TargetKind::Bin))
        {
            targets.push(Target { name: artifact.target.name, program: program.into_std_path_buf() });
        }
    }
    targets.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(targets)
}

impl Target {
    /// New inputs go to the target directory; the seeds in the tree are only read.
    fn run(&self, workspace: &Workspace, report: &TestReport, time: Duration) -> Result<()> {
        let home = workspace.target().join("fuzz").join(&self.name);
        let corpus = home.join("corpus");
        fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
        let mut command = Command::new(&self.program);
        command
            .arg(format!("-max_total_time={}", time.as_secs()))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"])
            .arg(format!("-artifact_prefix={}/", home.display()))
            .arg(corpus)
            .arg(workspace.root().join("fuzz/corpus").join(&self.name));
        step(report, "fuzz", &self.name, &mut command);
        Ok(())
    }
}
