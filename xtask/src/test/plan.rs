//! Which tests run in which machine: found by building the test binaries and asking each for its list.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Message, TargetKind};

use super::Selection;
use super::libtest::{guest_tests, listed};
use crate::machine::image::Make;
use crate::process::output;
use crate::workspace::Workspace;

/// Every integration test of these packages runs on each make of CPU: tiny guests that need no kernel.
const FREESTANDING: [&str; 1] = ["krun-vcpu"];
/// Guest tests in a module of this name run on each make of CPU; all others on AMD's, whose emulation is faster.
const EVERY_MAKE: &str = "every_make::";

/// One test, run as a process of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestTest {
    /// The test binary.
    pub(crate) binary: PathBuf,
    /// The package it belongs to, and the name of its target, for people.
    pub(crate) target: String,
    /// The test's path in the binary.
    pub(crate) name: String,
    /// Whether it runs on each make of CPU.
    pub(crate) on_every_make: bool,
    /// How often it was started in a machine that broke.
    pub(crate) losses: u32,
}

/// All guest tests, and the programs they need beside them.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The tests.
    pub(crate) tests: Vec<GuestTest>,
    /// Programs of the workspace that tests start by their path on this computer.
    pub(crate) programs: Vec<PathBuf>,
}

impl GuestTest {
    /// The name in reports.
    pub(crate) fn title(&self) -> String {
        format!("{}: {}", self.target, self.name)
    }

    /// The words that run it alone.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let options = ["--exact", "--include-ignored", "--nocapture", "--test-threads=1"].map(String::from);
        [self.binary.display().to_string(), self.name.clone()].into_iter().chain(options).collect()
    }
}

impl Plan {
    /// Builds the selected tests and lists those for machines.
    pub(crate) fn make(workspace: &Workspace, selection: &Selection) -> Result<Self> {
        let output = workspace
            .cargo()
            .arg("test")
            .args(selection.packages())
            .args(["--no-run", "--quiet", "--message-format=json-render-diagnostics"])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!("the tests do not build");
        }
        let mut plan = Self::default();
        for message in Message::parse_stream(output.stdout.as_slice()) {
            let Message::CompilerArtifact(artifact) = message.context("cargo's messages are not understood")? else {
                continue;
            };
            let Some(binary) = artifact.executable.map(cargo_metadata::camino::Utf8PathBuf::into_std_path_buf) else {
                continue;
            };
            let package = package_name(&artifact.manifest_path.into_std_path_buf());
            if !artifact.profile.test {
                plan.programs.push(binary);
                continue;
            }
            let is_freestanding =
                FREESTANDING.contains(&package.as_str()) && artifact.target.kind.contains(&TargetKind::Test);
            let target = if artifact.target.name.replace('_', "-") == package {
                package
            } else {
                format!("{package}/{}", artifact.target.name)
            };
            plan.list(binary, &target, is_freestanding)?;
        }
        let filter = selection.filter.as_deref();
        plan.tests.retain(|test| filter.is_none_or(|filter| test.title().contains(filter)));
        Ok(plan)
    }

    fn list(&mut self, binary: PathBuf, target: &str, is_freestanding: bool) -> Result<()> {
        let ask = |arguments: &[&str]| output(Command::new(&binary).args(arguments));
        let ignored = listed(&ask(&["--list", "--format", "terse", "--ignored"])?);
        let mut names = Vec::new();
        if is_freestanding {
            names = listed(&ask(&["--list", "--format", "terse"])?);
            names.retain(|name| !ignored.contains(name));
        }
        if !ignored.is_empty() {
            let mut arguments = vec!["--exact"];
            arguments.extend(ignored.iter().map(String::as_str));
            names.extend(guest_tests(&ask(&arguments)?));
        }
        for name in names {
            self.tests.push(GuestTest {
                binary: binary.clone(),
                target: target.to_owned(),
                on_every_make: is_freestanding || is_for_every_make(&name),
                name,
                losses: 0,
            });
        }
        Ok(())
    }

    /// The tests for one make of CPU.
    pub(crate) fn for_make(&self, make: Make) -> VecDeque<GuestTest> {
        self.tests.iter().filter(|test| make == Make::Amd || test.on_every_make).cloned().collect()
    }
}

fn is_for_every_make(name: &str) -> bool {
    name.starts_with(EVERY_MAKE) || name.contains(&format!("::{EVERY_MAKE}"))
}

/// The directory of a manifest is named after its package, in this workspace.
fn package_name(manifest: &std::path::Path) -> String {
    manifest.parent().and_then(|directory| directory.file_name()).unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, on_every_make: bool) -> GuestTest {
        GuestTest {
            binary: "/t/boot-1".into(),
            target: "krun/boot".into(),
            name: name.into(),
            on_every_make,
            losses: 0,
        }
    }

    #[test]
    fn amd_runs_everything_and_intel_what_is_marked() {
        let plan = Plan { tests: vec![test("slow", false), test("every_make::exits", true)], programs: vec![] };
        assert_eq!(plan.for_make(Make::Amd).len(), 2);
        assert_eq!(plan.for_make(Make::Intel), [test("every_make::exits", true)]);
    }

    #[test]
    fn the_mark_is_a_whole_module_name() {
        assert!(is_for_every_make("every_make::a"));
        assert!(is_for_every_make("guest::every_make::a"));
        assert!(!is_for_every_make("not_every_make::a"));
        assert!(!is_for_every_make("every_make"));
    }

    #[test]
    fn a_test_runs_alone() {
        assert_eq!(
            test("a::b", false).arguments(),
            ["/t/boot-1", "a::b", "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]
        );
    }
}
