//! What needs no guest: style, lints, documentation, and all ordinary tests.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::Selection;
use super::libtest::{Follower, Kind};
use super::report::{Line, Report, Verdict};
use crate::workspace::Workspace;

/// Formatting, clippy and rustdoc, each with warnings as errors.
pub(crate) fn lints(workspace: &Workspace, report: &Report) {
    let steps: [(&str, &[&str]); 3] = [
        ("cargo fmt", &["fmt", "--all", "--check"]),
        ("cargo clippy", &["clippy", "--workspace", "--all-targets", "--all-features", "--quiet", "--", "-Dwarnings"]),
        ("cargo doc", &["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]),
    ];
    for (name, arguments) in steps {
        let mut command = workspace.cargo();
        command.args(arguments).env("RUSTDOCFLAGS", "-Dwarnings");
        step(report, "lint", name, &mut command);
    }
}

/// Runs one program that passes by ending well.
pub(crate) fn step(report: &Report, place: &str, name: &str, command: &mut Command) {
    let start = Instant::now();
    let verdict = match follow(command, |_| {}) {
        Ok((true, _)) => Verdict::Passed,
        Ok((false, output)) => Verdict::Failed(output),
        Err(error) => Verdict::Failed(format!("{error:#}")),
    };
    report.add(Line { place: place.into(), name: name.into(), time: start.elapsed(), verdict });
}

/// Unit tests, property tests, doc tests, architecture tests, fuzz corpora, tiny guests.
pub(crate) fn tests(workspace: &Workspace, report: &Report, selection: &Selection) {
    let start = Instant::now();
    let mut follower = Follower::default();
    let mut command = workspace.cargo();
    command.args(["test", "--no-fail-fast"]).args(selection.packages()).args(&selection.filter);
    let ended = follow(&mut command, |line| {
        if follower.line(line) == Kind::Noteworthy {
            report.say(line);
        }
    });
    let line = |name: &str, verdict| Line { place: "host".into(), name: name.into(), time: start.elapsed(), verdict };
    report.passed(follower.passed);
    for (name, reason) in &follower.ignored {
        report.add(line(name, Verdict::Skipped(reason.clone())));
    }
    for name in &follower.failed {
        report.add(line(name, Verdict::Failed("its output is above".into())));
    }
    match ended {
        Ok((true, _)) => report.say(&format!("host     ok      {} tests", follower.passed)),
        // The failures have been named one by one.
        Ok((false, _)) if !follower.failed.is_empty() => {}
        Ok((false, output)) => report.add(line("cargo test", Verdict::Failed(output))),
        Err(error) => report.add(line("cargo test", Verdict::Failed(format!("{error:#}")))),
    }
}

/// Runs `command`, hands each line it prints, on either stream, to `line`. Answers whether it ended well, and all lines.
fn follow(command: &mut Command, mut line: impl FnMut(&str)) -> Result<(bool, String)> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start `{program}`"))?;
    // `command` holds the pipe's other end, and with it the end of file.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut output = String::new();
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        line(text.trim_end_matches('\n'));
        output.push_str(&text);
        bytes.clear();
    }
    Ok((child.wait()?.success(), output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_are_followed_to_the_end() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; printf three; exit 1"]);
        let (ended_well, output) = follow(&mut command, |line| lines.push(line.to_owned())).unwrap();
        assert!(!ended_well);
        assert_eq!(lines, ["one", "two", "three"]);
        assert_eq!(output, "one\ntwo\nthree");
    }

    #[test]
    fn a_step_s_output_is_kept_when_it_fails() {
        let report = Report::silent();
        step(&report, "lint", "failing", Command::new("sh").args(["-c", "echo reason; exit 1"]));
        assert!(!report.finish());
        let report = Report::silent();
        step(&report, "lint", "passing", Command::new("sh").args(["-c", "exit 0"]));
        assert!(report.finish());
    }
}
