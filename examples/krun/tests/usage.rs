//! What `krun` says when it cannot do what it was asked to: exit code 125, one line, nothing on standard output.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::{Command, Output};

fn krun(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_krun"))
        .args(args)
        .env_remove("KRUN_KERNEL")
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[track_caller]
fn fails_naming(args: &[&str], name: &str) {
    let output = krun(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{error}");
    assert!(output.stdout.is_empty());
    let about: Vec<&str> = error.lines().filter(|line| line.contains(name)).collect();
    assert_eq!(about.len(), 1, "no one line about {name:?} in {error:?}");
    assert!(error.lines().all(|line| line.starts_with("krun: ")), "{error:?}");
}

#[test]
fn wrong_usage() {
    fails_naming(&["run", "--", "true"], "--root");
    fails_naming(&["run", "--root", "/"], "COMMAND");
    fails_naming(&["run", "--root", "/", "--cpus", "many", "--", "true"], "many");
    fails_naming(&["run", "--root", "/", "--memory", "12X", "--", "true"], "12X");
    fails_naming(&["run", "--root", "/", "--volume", "nowhere", "--", "true"], "nowhere");
    fails_naming(&["run", "--root", "/", "--frobnicate", "--", "true"], "--frobnicate");
    fails_naming(&["fly"], "fly");
}

#[test]
fn things_that_are_not_there() {
    let kernel = ["run", "--kernel", "/no/such/kernel", "--root", "/no/such/root", "--", "true"];
    fails_naming(&kernel, "/no/such/kernel");
    fails_naming(&kernel, "/no/such/root");
    fails_naming(&["run", "--kernel", "/etc/passwd", "--root", "/", "--", "true"], "/etc/passwd");
    fails_naming(&["run", "--root", "/", "--cpus", "0", "--", "true"], "vcpus 0");
    fails_naming(&["run", "--root", "/", "--memory", "1M", "--", "true"], "memory 1048576");
    fails_naming(&["run", "--root", "/", "--become-init", "--user", "1000", "--", "true"], "uid 1000");
    fails_naming(&["run", "--root", "/", "--console", "/no/such/dir/file", "--", "true"], "--console");
}

#[test]
fn help_is_not_a_failure() {
    let output = krun(&["run", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("--root") && text.contains("--volume"), "{text}");
}
