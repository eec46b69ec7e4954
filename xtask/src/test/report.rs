//! What was run, where, how long it took and how it ended; the last lines of `cargo xtask test`.

use std::io::{Write, stdout};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::process::last_lines;

/// How much of a failed test's output the summary repeats.
const OUTPUT_LINES: usize = 60;

/// How one test or step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should.
    Passed,
    /// Not as it should; carries what it said.
    Failed(String),
    /// It was not run, and why.
    Skipped(String),
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it ran: `host`, `amd-1`, `intel-1`, `lint`, ...
    pub(crate) place: String,
    /// What it was.
    pub(crate) name: String,
    /// How long it took.
    pub(crate) time: Duration,
    /// How it ended.
    pub(crate) verdict: Verdict,
}

/// Collects lines from all threads and prints each as it comes.
pub(crate) struct Report {
    inner: Mutex<Inner>,
    out: Mutex<Box<dyn Write + Send>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Tests that passed and are not worth a line each.
    uncounted: usize,
    lines: Vec<Line>,
    notes: Vec<String>,
}

impl Report {
    /// A report on standard output.
    pub(crate) fn new() -> Self {
        Self::on(Box::new(stdout()))
    }

    fn on(out: Box<dyn Write + Send>) -> Self {
        Self { inner: Mutex::default(), out: Mutex::new(out) }
    }

    /// Prints a line. A reader that went away does not stop the tests.
    pub(crate) fn say(&self, text: &str) {
        let _ = writeln!(self.out.lock().unwrap_or_else(PoisonError::into_inner), "{text}");
    }

    /// Adds a line and prints it.
    pub(crate) fn add(&self, line: Line) {
        self.say(&line.headline());
        self.lock().lines.push(line);
    }

    /// Counts tests that passed, without a line for each.
    pub(crate) fn passed(&self, count: usize) {
        self.lock().uncounted += count;
    }

    /// Remembers something that the reader of the summary must know.
    pub(crate) fn note(&self, note: impl Into<String>) {
        let note = note.into();
        self.say(&format!("note: {note}"));
        self.lock().notes.push(note);
    }

    /// Prints the summary; true if nothing failed.
    pub(crate) fn finish(&self) -> bool {
        let (summary, has_passed) = {
            let inner = self.lock();
            (inner.summary(), inner.count(|verdict| matches!(verdict, Verdict::Failed(_))) == 0)
        };
        self.say(&summary);
        has_passed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn headline(&self) -> String {
        let (word, reason) = match &self.verdict {
            Verdict::Passed => ("ok", String::new()),
            Verdict::Failed(_) => ("FAILED", String::new()),
            Verdict::Skipped(reason) => ("skipped", format!(": {reason}")),
        };
        format!("{:8} {:7} {:6.1} s  {}{reason}", self.place, word, self.time.as_secs_f64(), self.name)
    }
}

impl Inner {
    fn count(&self, wanted: impl Fn(&Verdict) -> bool) -> usize {
        self.lines.iter().filter(|line| wanted(&line.verdict)).count()
    }

    fn summary(&self) -> String {
        let mut text = String::new();
        let mut say = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        for line in &self.lines {
            if let Verdict::Failed(output) = &line.verdict {
                say(&format!("\n---- {} on {} ----", line.name, line.place));
                say(&last_lines(output, OUTPUT_LINES));
            }
        }
        say("");
        for note in &self.notes {
            say(&format!("note: {note}"));
        }
        for line in self.lines.iter().filter(|line| line.verdict != Verdict::Passed) {
            say(&line.headline());
        }
        let passed = self.uncounted + self.count(|verdict| *verdict == Verdict::Passed);
        let failed = self.count(|verdict| matches!(verdict, Verdict::Failed(_)));
        let skipped = self.count(|verdict| matches!(verdict, Verdict::Skipped(_)));
        let mut total = format!("{passed} passed, {failed} failed");
        if skipped > 0 {
            total += &format!(", {skipped} skipped");
        }
        text + &total
    }
}

#[cfg(test)]
impl Report {
    /// A report that nobody reads: the harness of xtask's own tests captures only what `print!` prints.
    pub(crate) fn silent() -> Self {
        Self::on(Box::new(std::io::sink()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, verdict: Verdict) -> Line {
        Line { place: "amd-1".into(), name: name.into(), time: Duration::from_millis(4200), verdict }
    }

    fn inner(lines: Vec<Line>) -> Inner {
        Inner { uncounted: 10, lines, notes: vec!["a machine was lost".into()] }
    }

    #[test]
    fn the_last_line_is_the_count_alone() {
        let summary = inner(vec![line("a", Verdict::Passed), line("b", Verdict::Failed("why".into()))]).summary();
        assert_eq!(summary.lines().last().unwrap(), "11 passed, 1 failed");
        let summary = inner(vec![line("a", Verdict::Skipped("not here".into()))]).summary();
        assert_eq!(summary.lines().last().unwrap(), "10 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn failures_are_named_with_machine_time_and_output() {
        let summary = inner(vec![line("boots", Verdict::Failed("thread panicked\n".into()))]).summary();
        assert!(summary.contains("---- boots on amd-1 ----\nthread panicked\n"), "{summary}");
        assert!(summary.contains("amd-1    FAILED     4.2 s  boots"), "{summary}");
        assert!(summary.contains("note: a machine was lost"), "{summary}");
    }

    #[test]
    fn a_failure_fails_the_whole() {
        let report = Report::silent();
        report.add(line("fine", Verdict::Passed));
        assert!(report.finish());
        report.add(line("broken", Verdict::Failed(String::new())));
        assert!(!report.finish());
    }

    #[test]
    fn what_passed_is_not_repeated() {
        let summary = inner(vec![line("fine", Verdict::Passed)]).summary();
        assert!(!summary.contains("fine"), "{summary}");
    }
}
