//! Reading what cargo and Rust's test harness print.

/// The reason that guest tests give for being ignored. They are run by `cargo xtask test` where they can be.
pub(crate) const GUEST_TEST_REASON: &str = "needs a KVM that runs real code: cargo xtask test";

/// Follows the output of `cargo test`, line by line.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    binary: String,
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed, with the binary they are in.
    pub(crate) failed: Vec<String>,
    /// Tests that are ignored for another reason than being guest tests.
    pub(crate) ignored: Vec<(String, String)>,
}

/// What a line is, for whoever decides what to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of the many lines about a test that is as it should be.
    Routine,
    /// Anything else.
    Noteworthy,
}

impl Follower {
    /// Takes the next line.
    pub(crate) fn line(&mut self, line: &str) -> Kind {
        let trimmed = line.trim();
        if let Some(rest) = trimmed.strip_prefix("Running ") {
            self.binary = binary_name(rest);
        } else if let Some(package) = trimmed.strip_prefix("Doc-tests ") {
            self.binary = format!("{package} (doc)");
        } else if let Some((name, outcome)) = trimmed.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            let name = format!("{}: {name}", self.binary);
            match outcome.split_once(", ").unwrap_or((outcome, "")) {
                ("ok", _) => self.passed += 1,
                ("ignored", GUEST_TEST_REASON) => {}
                ("ignored", reason) => self.ignored.push((name, reason.to_owned())),
                ("FAILED", _) => {
                    self.failed.push(name);
                    return Kind::Noteworthy;
                }
                _ => return Kind::Noteworthy,
            }
            return Kind::Routine;
        }
        if trimmed.is_empty() || trimmed.starts_with("running ") || trimmed.starts_with("test result: ok. 0 passed") {
            return Kind::Routine;
        }
        Kind::Noteworthy
    }
}

/// From `unittests src/lib.rs (target/debug/deps/krun_virtio-0123456789abcdef)` to `krun_virtio`.
fn binary_name(rest: &str) -> String {
    let path = rest.rsplit_once('(').map_or(rest, |(_, path)| path.trim_end_matches(')'));
    let file = path.rsplit('/').next().unwrap_or(path);
    file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned()
}

/// The names in the output of `BINARY --list --format terse`.
pub(crate) fn listed(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// The names of guest tests in the output of a binary that was asked to run its ignored tests without
/// `--include-ignored`: it runs none of them and says why.
pub(crate) fn guest_tests(text: &str) -> Vec<String> {
    let ending = format!(" ... ignored, {GUEST_TEST_REASON}");
    text.lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(ending.as_str()))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/krun_virtio-0011223344556677)

running 4 tests
test queue::tests::works ... ok
test queue::tests::breaks ... FAILED
test boots - should panic ... ok
test boots ... ignored, needs a KVM that runs real code: cargo xtask test
test slow ... ignored, takes an hour

failures:
    queue::tests::breaks

test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
   Doc-tests krun_virtio
test crates/krun-virtio/src/lib.rs - (line 7) ... ok
";

    #[test]
    fn tests_are_counted_and_failures_named() {
        let mut follower = Follower::default();
        for line in OUTPUT.lines() {
            follower.line(line);
        }
        assert_eq!(follower.passed, 3);
        assert_eq!(follower.failed, ["krun_virtio: queue::tests::breaks"]);
        assert_eq!(follower.ignored, [("krun_virtio: slow".to_owned(), "takes an hour".to_owned())]);
    }

    #[test]
    fn only_news_is_noteworthy() {
        let mut follower = Follower::default();
        assert_eq!(follower.line("test a ... ok"), Kind::Routine);
        assert_eq!(follower.line("running 3 tests"), Kind::Routine);
        assert_eq!(follower.line("test a ... FAILED"), Kind::Noteworthy);
        assert_eq!(follower.line("thread 'a' panicked at src/lib.rs:1:1"), Kind::Noteworthy);
    }

    #[test]
    fn guest_tests_are_told_by_their_reason() {
        assert_eq!(guest_tests(OUTPUT), ["boots"]);
        assert!(guest_tests("test slow ... ignored\n").is_empty());
    }

    #[test]
    fn names_are_listed() {
        assert_eq!(listed("a::b: test\nc: test\nd: benchmark\n\n2 tests, 1 benchmark\n"), ["a::b", "c"]);
    }
}
