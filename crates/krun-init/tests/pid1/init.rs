//! What a workload meets that is PID 1 itself.

use std::io::Read as _;

use krun_init::Stdio;
use krun_init::protocol::{Limit, Stage};

use crate::ENOENT;
use crate::machine::{Machine, is_possible, script};

/// A script that is PID 1 itself.
#[cfg(test)]
fn init_script(text: &str) -> krun_init::Start {
    let mut start = script(text);
    start.becomes_init = true;
    start
}

#[test]
fn a_workload_can_be_pid_1_itself() {
    if !is_possible() {
        return;
    }
    let mut start = init_script(
        "
        echo $$; pwd; cat; ulimit -n; umask
        cat /proc/self/status
        ls /proc/1/fd; readlink /proc/1/fd/1
        grep -c -e ' /proc proc ' -e ' /dev/shm ' /proc/mounts
        echo problem >&2",
    );
    start.directory = "/home".into();
    start.limits = vec![Limit { resource: 7, soft: 77, hard: 100 }];
    let mut machine = Machine::boot(&start, b"typed\n");
    machine.handed_over();
    let (stdout, stderr) = machine.outputs();
    assert!(stdout.starts_with("1\n/home\ntyped\n77\n0022\n"), "{stdout}");
    // Its streams and nothing else, least of all the channel. With the port itself there is no pipe.
    assert!(stdout.contains("\n0\n1\n2\n/dev/vport0p3\n2\n"), "{stdout}");
    assert_eq!(stderr, "problem\n");

    let set = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        u64::from_str_radix(&line, 16).unwrap()
    };
    for name in ["SigBlk:", "SigIgn:"] {
        assert_eq!(set(&stdout, name), 0, "{name} in {stdout}");
    }
    // Every capability that the namespace has: the harness takes CAP_SYS_MODULE away, and nobody anything else.
    let ours = set(&std::fs::read_to_string("/proc/self/status").unwrap(), "CapBnd:") & !(1 << 16);
    for name in ["CapBnd:", "CapPrm:", "CapEff:"] {
        assert_eq!(set(&stdout, name), ours, "{name} in {stdout}");
    }
}

#[test]
fn an_init_may_have_a_terminal() {
    if !is_possible() {
        return;
    }
    let mut start = init_script("tty < /dev/tty; stty size; sleep 1000");
    (start.stdin, start.stdout, start.stderr) = (Stdio::Terminal, Stdio::Terminal, Stdio::Terminal);
    start.terminal = Some(krun_init::protocol::Resize { columns: 100, rows: 30 });
    let mut machine = Machine::boot(&start, b"");
    machine.handed_over();
    let mut screen = String::new();
    while !screen.contains("30 100") {
        let mut buffer = [0; 256];
        let count = machine.terminal().read(&mut buffer).unwrap();
        screen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

#[test]
fn an_init_that_cannot_be_run_says_why() {
    if !is_possible() {
        return;
    }
    let mut start = init_script("");
    start.arguments = vec!["/sbin/no-such-init".into()];
    let failure = Machine::fail(&start);
    assert_eq!((failure.stage, failure.errno, failure.status()), (Stage::Exec, ENOENT, 127));
    assert_eq!(failure.detail, b"/sbin/no-such-init");
    start.directory = "/no/such".into();
    let failure = Machine::fail(&start);
    assert_eq!((failure.stage, failure.errno, failure.status()), (Stage::Directory, ENOENT, 125));
}
