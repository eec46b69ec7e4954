//! `krun run` with a real guest.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[expect(clippy::disallowed_methods, reason = "the test runner passes its assets on in the environment")]
fn asset(variable: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(variable).unwrap())
}

fn krun(options: &[&str], command: &[&str]) -> Command {
    let mut krun = Command::new(env!("CARGO_BIN_EXE_krun"));
    krun.args(["run", "--read-only", "--root"]).arg(asset("KRUN_TEST_ROOT"));
    krun.env("KRUN_KERNEL", asset("KRUN_TEST_KERNEL")).args(options).arg("--").args(command);
    krun
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn streams_options_and_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "shared\n").unwrap();
    let volume = format!("{}:/data:ro", dir.path().display());
    let script = "cat; cat /data/file; echo $GIVEN $PASSED; pwd; nproc; echo problem >&2; exit 42";
    let options = [
        "--cpus",
        "2",
        "--memory",
        "192",
        "--env",
        "GIVEN=a b",
        "--env",
        "PASSED",
        "--workdir",
        "/etc",
        "--volume",
        &volume,
    ];
    let mut child = krun(&options, &["sh", "-c", script])
        .env("PASSED", "on")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\0\xff\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"typed\0\xff\nshared\na b on\n/etc\n2\n", "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.stderr, b"problem\n");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn codes_for_commands_that_do_not_run() {
    for (command, code) in [("no-such-command", 127), ("/etc/motd", 126)] {
        let output = krun(&[], &[command]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(output.stdout.is_empty() && error.contains(command) && error.lines().count() == 1, "{error:?}");
    }
    let killed = krun(&[], &["sh", "-c", "kill -SEGV $$"]).output().unwrap();
    assert_eq!(killed.status.code(), Some(128 + libc::SIGSEGV));
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn an_init_of_the_guests_own() {
    let (etc, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // busybox takes its orders from here, and goes through its own shut-down.
    let inittab = "::sysinit:/bin/sh -c 'echo $PPID > /out/parent'\n::once:/bin/poweroff\n::shutdown:touch /out/down\n";
    std::fs::write(etc.path().join("inittab"), inittab).unwrap();
    let volumes =
        [(etc.path(), "/etc"), (out.path(), "/out")].map(|(host, guest)| format!("{}:{guest}", host.display()));
    let options = ["--become-init", "--volume", &volumes[0], "--volume", &volumes[1]];
    let output = krun(&options, &["/bin/busybox", "init"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert_eq!(std::fs::read_to_string(out.path().join("parent")).unwrap(), "1\n");
    assert!(out.path().join("down").exists());
    assert!(error.contains("Requesting system poweroff"), "{error}");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn signals_are_passed_on() {
    let script = "trap 'echo user' USR1; trap 'echo over; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = krun(&[], &["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pid = rustix::process::Pid::from_child(&child);
    assert_eq!(lines.next().as_deref(), Some("ready"));
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert_eq!(lines.next().as_deref(), Some("user"));
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.next().as_deref(), Some("over"));
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_signal_before_the_command_runs_ends_krun() {
    let mut child = krun(&[], &["sleep", "1000"]).spawn().unwrap();
    // Once it has threads it listens to signals.
    let threads = format!("/proc/{}/task", child.id());
    while std::fs::read_dir(&threads).unwrap().count() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGTERM));
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_terminal_is_raw_for_the_command_and_as_before_afterwards() {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let terminal = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let stream = || Stdio::from(terminal.try_clone().unwrap());
    let modes = || {
        let modes = tcgetattr(&terminal).unwrap();
        (modes.input_modes, modes.output_modes, modes.local_modes)
    };
    let before = modes();
    let script = "tty -s && echo a terminal; read line; echo read $line; exit 3";
    let mut child = krun(&[], &["sh", "-c", script]).stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
    let mut master = BufReader::new(std::fs::File::from(master));
    let mut line = String::new();
    master.read_line(&mut line).unwrap();
    assert_eq!(line, "a terminal\r\n");
    assert!(!modes().2.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
    master.get_mut().write_all(b"words\r").unwrap();
    line.clear();
    master.read_line(&mut line).unwrap();
    master.read_line(&mut line).unwrap();
    assert_eq!(line, "words\r\nread words\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(modes(), before);
}
