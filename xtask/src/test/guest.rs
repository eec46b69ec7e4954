//! Guest tests, on this computer's KVM or shared out over nested machines that run side by side.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::plan::{GuestTest, Plan};
use super::report::{Line, Report, Verdict};
use crate::assets::{Assets, GuestAssets};
use crate::machine::console::{trouble_in, trouble_in_file};
use crate::machine::image::{Bootable, Image, Make, inside};
use crate::machine::protocol::{Command, End};
use crate::machine::{Lost, Machine, Outcome, Streams};
use crate::workspace::{Scratch, Workspace};

/// How often a test may be repeated because the machine it ran in broke.
const REPEATS: u32 = 2;
/// A test's output is kept up to here.
const MAX_OUTPUT: usize = 1 << 20;

/// What the threads share.
struct Session<'a> {
    report: &'a Report,
    scratch: Scratch,
    amd: Pool,
    intel: Pool,
}

/// One make's image and the tests that wait for a machine.
#[derive(Default)]
struct Pool {
    image: Option<Bootable>,
    waiting: Mutex<VecDeque<GuestTest>>,
}

/// Runs the plan's tests in nested machines of these makes.
///
/// Two threads: the first has an AMD machine, the second an Intel machine and, when that has done its short list, an
/// AMD machine too. Each takes the next waiting test, so both end at about the same time.
pub(crate) fn nested(workspace: &Workspace, report: &Report, plan: &Plan, makes: &[Make]) -> Result<()> {
    let assets = Assets::new(workspace);
    let guest = assets.guest()?;
    let scratch = workspace.new_scratch("test")?;
    let pool = |make| {
        if makes.contains(&make) { Pool::new(&assets, &guest, scratch.path(), plan, make) } else { Ok(Pool::default()) }
    };
    let (amd, intel) = (pool(Make::Amd)?, pool(Make::Intel)?);
    let session = Session { report, scratch, amd, intel };
    report.say(&format!(
        "guest tests: {} on emulated AMD, {} on emulated Intel",
        session.amd.count(),
        session.intel.count()
    ));
    thread::scope(|scope| {
        for (number, lane) in [[Make::Amd].as_slice(), &[Make::Intel, Make::Amd]].into_iter().enumerate() {
            let session = &session;
            thread::Builder::new()
                .name(format!("lane-{number}"))
                .spawn_scoped(scope, move || lane.iter().for_each(|&make| session.work_off(make, number + 1)))
                .context("cannot start a thread")?;
        }
        Ok(())
    })
}

impl Pool {
    fn new(assets: &Assets, guest: &GuestAssets, scratch: &Path, plan: &Plan, make: Make) -> Result<Self> {
        let waiting = plan.for_make(make);
        if waiting.is_empty() {
            return Ok(Self::default());
        }
        let mut image = Image::new(make, assets, guest, &scratch.join(make.name()))?;
        image.stock_kernel()?;
        let mut binaries: Vec<_> = waiting.iter().map(|test| &test.binary).chain(&plan.programs).collect();
        binaries.sort();
        binaries.dedup();
        for binary in binaries {
            image.program(binary, binary)?;
        }
        Ok(Self { image: Some(image.write(make.name())?), waiting: Mutex::new(waiting) })
    }

    fn count(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self) -> Option<GuestTest> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn put_back(&self, test: GuestTest) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_front(test);
    }
}

impl Session<'_> {
    /// Boots machines of this make until no test waits for one.
    fn work_off(&self, make: Make, lane: usize) {
        let pool = match make {
            Make::Amd => &self.amd,
            Make::Intel => &self.intel,
        };
        let Some(image) = &pool.image else { return };
        let place = format!("{}-{lane}", make.name());
        let mut machines = 0;
        while pool.count() > 0 {
            machines += 1;
            let console = self.scratch.path().join(format!("{place}-{machines}-console.log"));
            let start = Instant::now();
            match Machine::boot(image, &console, make.boot_limit()) {
                Ok(machine) => {
                    self.report.say(&format!("{place:8} up after {:.1} s", start.elapsed().as_secs_f64()));
                    self.work_in(machine, make, &place, pool);
                }
                Err(error) => {
                    let console = self.scratch.keep_file(&console);
                    while let Some(test) = pool.take() {
                        let reason =
                            format!("no machine to run it in: {error:#}; console kept as {}", console.display());
                        self.add(&place, &test, Duration::ZERO, Verdict::Failed(reason));
                    }
                }
            }
        }
    }

    /// Runs tests in one machine until none waits or the machine breaks.
    fn work_in(&self, mut machine: Machine, make: Make, place: &str, pool: &Pool) {
        while let Some(test) = pool.take() {
            let start = Instant::now();
            let mut output = Captured::default();
            let outcome = machine.run(command(&test), Some(make.test_limit()), &mut output);
            let output = String::from_utf8_lossy(&output.0).into_owned();
            match judge(outcome, &output, trouble_in_file(machine.console())) {
                Judgement::Settled(verdict) => self.add(place, &test, start.elapsed(), verdict),
                Judgement::MachineLost(reason) => {
                    let console = self.scratch.keep_file(machine.console());
                    let note = format!("{place}: the machine was lost during {}: {reason}", test.title());
                    self.report.note(format!("{note}; its console: {}", console.display()));
                    if test.losses < REPEATS {
                        pool.put_back(GuestTest { losses: test.losses + 1, ..test });
                    } else {
                        let verdict = Verdict::Failed(format!("lost {} machines: {reason}\n{output}", REPEATS + 1));
                        self.add(place, &test, start.elapsed(), verdict);
                    }
                    return;
                }
            }
        }
    }

    fn add(&self, place: &str, test: &GuestTest, time: Duration, verdict: Verdict) {
        let name = match test.losses {
            0 => test.title(),
            losses => format!("{} (machine lost {losses} time(s) before)", test.title()),
        };
        self.report.add(Line { place: place.to_owned(), name, time, verdict });
    }
}

/// What a test's end means.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// It is the test's own.
    Settled(Verdict),
    /// There is evidence that the machine broke; the test is not to blame.
    MachineLost(String),
}

/// Only a failure with evidence in the machine's or the guest's kernel log is blamed on the machine.
fn judge(outcome: Result<Outcome, Lost>, output: &str, console_trouble: Option<String>) -> Judgement {
    let failure = match outcome {
        Ok(Outcome::Ended(End::Code(0))) => return Judgement::Settled(Verdict::Passed),
        Err(Lost(reason)) => return Judgement::MachineLost(reason),
        Ok(Outcome::Ended(End::Code(code))) => format!("exit code {code}"),
        Ok(Outcome::Ended(End::Signal(signal))) => format!("killed by signal {signal}"),
        Ok(Outcome::TimedOut) => "killed at its time limit".to_owned(),
        Ok(Outcome::NotStarted(reason)) => return Judgement::Settled(Verdict::Failed(reason)),
    };
    let guest_trouble = || trouble_in(output).filter(|line| line.contains("soft lockup") || line.contains("Oops"));
    match console_trouble.or_else(|| guest_trouble().map(str::to_owned)) {
        Some(line) => Judgement::MachineLost(format!("{failure}, and a kernel said: {line}")),
        None => Judgement::Settled(Verdict::Failed(format!("{output}\n{failure}"))),
    }
}

fn command(test: &GuestTest) -> Command {
    let arguments = test.arguments().into_iter().map(String::into_bytes).collect();
    Command { arguments, environment: inside::test_environment(), ..Command::default() }
}

/// Keeps what a test writes, both streams in order.
#[derive(Default)]
struct Captured(Vec<u8>);

impl Streams for Captured {
    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = MAX_OUTPUT.saturating_sub(self.0.len());
        self.0.extend(&bytes[..bytes.len().min(room)]);
        Ok(())
    }

    fn errors(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output(bytes)
    }
}

/// Runs the plan's tests on this computer's KVM.
pub(crate) fn on_host(workspace: &Workspace, report: &Report, plan: &Plan) -> Result<()> {
    let assets = Assets::new(workspace);
    let guest = assets.guest()?;
    let stock = assets.cloud_kernel();
    if let Err(error) = &stock {
        report.note(format!("without a stock kernel, tests that boot one fail: {error:#}"));
    }
    for test in &plan.tests {
        let start = Instant::now();
        let arguments = test.arguments();
        let mut process = std::process::Command::new(&arguments[0]);
        process
            .args(&arguments[1..])
            .env("KRUN_TEST_KVM", "required")
            .env("KRUN_TEST_KERNEL", &guest.kernel)
            .env("KRUN_TEST_ROOT", &guest.root)
            .env("KRUN_TEST_BUSYBOX", &guest.busybox)
            .stdin(Stdio::null());
        if let Ok(stock) = &stock {
            process.env("KRUN_TEST_BZIMAGE", &stock.image);
        }
        let verdict = match process.output() {
            Ok(output) if output.status.success() => Verdict::Passed,
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                Verdict::Failed(format!("{}\n{}", String::from_utf8_lossy(&text), output.status))
            }
            Err(error) => Verdict::Failed(error.to_string()),
        };
        report.add(Line { place: "kvm".into(), name: test.title(), time: start.elapsed(), verdict });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Result<Outcome, Lost> = Ok(Outcome::Ended(End::Code(101)));

    fn is_lost(judgement: &Judgement) -> bool {
        matches!(judgement, Judgement::MachineLost(_))
    }

    #[test]
    fn a_pass_is_a_pass_whatever_the_logs_say() {
        let judgement = judge(Ok(Outcome::Ended(End::Code(0))), "Kernel panic, as wanted", Some("soft lockup".into()));
        assert_eq!(judgement, Judgement::Settled(Verdict::Passed));
    }

    #[test]
    fn a_failure_without_evidence_is_ours() {
        for outcome in [FAILED, Ok(Outcome::TimedOut), Ok(Outcome::Ended(End::Signal(11)))] {
            assert!(!is_lost(&judge(outcome, "assertion failed", None)));
        }
        // A guest that panics on purpose, and a test about it that fails for its own reason.
        assert!(!is_lost(&judge(FAILED, "Kernel panic - not syncing: sysrq", None)));
        assert!(!is_lost(&judge(Ok(Outcome::NotStarted("no such file".into())), "", None)));
    }

    #[test]
    fn evidence_in_either_kernel_s_log_blames_the_machine() {
        assert!(is_lost(&judge(FAILED, "", Some("watchdog: BUG: soft lockup - CPU#0".into()))));
        assert!(is_lost(&judge(FAILED, "[ 9.1] watchdog: BUG: soft lockup - CPU#1 stuck", None)));
        assert!(is_lost(&judge(Ok(Outcome::TimedOut), "Oops: 0000 [#1]", None)));
        assert!(is_lost(&judge(Err(Lost("it ended without saying so".into())), "", None)));
    }
}
