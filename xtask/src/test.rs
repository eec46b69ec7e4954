//! `cargo xtask test`: every test there is, each at the place where it can run.

mod guest;
mod host;
mod libtest;
mod plan;
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

pub(crate) use self::host::step;
use self::plan::Plan;
pub(crate) use self::report::Report as TestReport;
use self::report::{Line, Report, Verdict};
use crate::machine::image::Make;
use crate::workspace::Workspace;
use crate::{fuzz, kvm};

/// How long each fuzz target runs.
const FUZZ_TIME: Duration = Duration::from_secs(5);

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only these parts. May be repeated.
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    #[command(flatten)]
    selection: Selection,
}

/// Which tests are wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Run only the tests of this package. May be repeated.
    #[arg(long, short, value_name = "NAME")]
    package: Vec<String>,
    /// Run only tests whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

impl Selection {
    /// Whether these are all tests.
    fn is_everything(&self) -> bool {
        self.package.is_empty() && self.filter.is_none()
    }

    /// Cargo's words for the packages.
    fn packages(&self) -> Vec<&str> {
        if self.package.is_empty() {
            return vec!["--workspace"];
        }
        self.package.iter().flat_map(|name| ["--package", name]).collect()
    }
}

/// A part of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Formatting, clippy, rustdoc.
    Lint,
    /// Everything that needs no guest kernel.
    Host,
    /// Each fuzz target for a few seconds.
    Fuzz,
    /// Guest tests on this computer's KVM, or on both emulated makes where it will not do.
    Guest,
    /// Guest tests on emulated AMD.
    Amd,
    /// Guest tests on emulated Intel.
    Intel,
}

/// Runs the parts one after the other; a failure in one does not keep the others from running.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let selection = &arguments.selection;
    let wants = |part| {
        // A selection names tests: lints and fuzzers have no such names.
        let is_tests = !matches!(part, Part::Lint | Part::Fuzz);
        if arguments.only.is_empty() { is_tests || selection.is_everything() } else { arguments.only.contains(&part) }
    };
    let report = Report::new();
    if wants(Part::Lint) {
        host::lints(workspace, &report);
    }
    if wants(Part::Host) {
        host::tests(workspace, &report, selection);
    }
    if wants(Part::Fuzz) {
        attempt(&report, "fuzz", "fuzz targets", || fuzz::all(workspace, &report, FUZZ_TIME));
    }
    let places = Places::choose(&arguments.only, kvm::unusable().is_none());
    if places != Places::default() {
        attempt(&report, "guest", "guest tests", || {
            let plan = Plan::make(workspace, selection)?;
            if places.host {
                guest::on_host(workspace, &report, &plan)?;
            }
            if !places.nested.is_empty() {
                guest::nested(workspace, &report, &plan, &places.nested)?;
            }
            Ok(())
        });
    }
    Ok(if report.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where guest tests run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    host: bool,
    nested: Vec<Make>,
}

impl Places {
    fn choose(only: &[Part], has_kvm: bool) -> Self {
        let guest = only.is_empty() || only.contains(&Part::Guest);
        let nested = [(Part::Amd, Make::Amd), (Part::Intel, Make::Intel)]
            .into_iter()
            .filter(|(part, _)| only.contains(part) || (guest && !has_kvm))
            .map(|(_, make)| make)
            .collect();
        Self { host: guest && has_kvm, nested }
    }
}

/// Runs a part; if it cannot even begin, that is a failure of its own.
fn attempt(report: &Report, place: &str, name: &str, part: impl FnOnce() -> Result<()>) {
    let start = Instant::now();
    if let Err(error) = part() {
        let verdict = Verdict::Failed(format!("{error:#}"));
        report.add(Line { place: place.into(), name: name.into(), time: start.elapsed(), verdict });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_choice_the_whole_workspace_is_tested() {
        let all = Selection { package: vec![], filter: None };
        assert!(all.is_everything());
        assert_eq!(all.packages(), ["--workspace"]);
        let some = Selection { package: vec!["a".into(), "b".into()], filter: None };
        assert!(!some.is_everything());
        assert_eq!(some.packages(), ["--package", "a", "--package", "b"]);
    }

    #[test]
    fn guests_run_on_kvm_where_there_is_one_and_on_both_makes_elsewhere() {
        assert_eq!(Places::choose(&[], true), Places { host: true, nested: vec![] });
        assert_eq!(Places::choose(&[], false), Places { host: false, nested: vec![Make::Amd, Make::Intel] });
        assert_eq!(Places::choose(&[Part::Guest], false), Places::choose(&[], false));
    }

    #[test]
    fn a_make_can_be_asked_for_anywhere() {
        for has_kvm in [true, false] {
            assert_eq!(Places::choose(&[Part::Intel], has_kvm), Places { host: false, nested: vec![Make::Intel] });
            assert_eq!(Places::choose(&[Part::Lint], has_kvm), Places::default());
        }
    }
}
