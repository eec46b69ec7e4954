//! What a workload meets.

use std::io::{Read as _, Write as _};

use krun_init::protocol::{Exit, Limit, Scope, Stage, User};
use krun_init::{Event, Mount, Stdio};

use crate::machine::{Machine, is_possible, on_ports, script};
use crate::{EACCES, ENOENT};

/// Runs a script as the workload and gives back what it printed.
fn output_of(text: &str) -> String {
    let outcome = Machine::run(&script(text), b"");
    assert_eq!(outcome.exit, Exit::Code(0), "{outcome:?}");
    outcome.text()
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    if !is_possible() {
        return;
    }
    for code in [0, 1, 42, 126, 127, 255] {
        assert_eq!(Machine::run(&script(&format!("exit {code}")), b"").exit, Exit::Code(code));
    }
    for signal in [9, 11, 15] {
        assert_eq!(Machine::run(&script(&format!("kill -{signal} $$")), b"").exit, Exit::Signal(signal));
    }
}

#[test]
fn a_program_that_cannot_be_run_says_why() {
    if !is_possible() {
        return;
    }
    let missing = Machine::fail(&on_ports(["no-such-program"]));
    assert_eq!((missing.stage, missing.errno, missing.status()), (Stage::Exec, ENOENT, 127));
    assert_eq!(
        missing.to_string(),
        "the guest's init could not run no-such-program: No such file or directory (os error 2)"
    );
    for (program, stage, errno) in
        [("/usr", Stage::Exec, EACCES), ("/etc/passwd", Stage::Exec, EACCES), ("", Stage::Exec, ENOENT)]
    {
        let failure = Machine::fail(&on_ports([program]));
        assert_eq!((failure.stage, failure.errno), (stage, errno), "{program}");
        assert_eq!(failure.status(), if errno == ENOENT { 127 } else { 126 });
        assert_eq!(failure.detail, program.as_bytes());
    }
    // One argument longer than Linux takes.
    const E2BIG: u32 = 7;
    let mut start = on_ports(["true"]);
    start.arguments.push("x".repeat(128 << 10).into());
    let failure = Machine::fail(&start);
    assert_eq!((failure.stage, failure.errno, failure.status()), (Stage::Exec, E2BIG, 126));

    let mut machine = Machine::boot_with(
        &on_ports(["/home/broken"]),
        b"",
        "printf '#!/no/such/interpreter\n' > home/broken; chmod 755 home/broken",
    );
    let Event::Failed(failure) = machine.event() else { panic!("it ran") };
    assert_eq!((failure.stage, failure.errno, failure.status()), (Stage::Interpreter, ENOENT, 126));
}

#[test]
fn programs_are_found_as_execvp_finds_them() {
    if !is_possible() {
        return;
    }
    let run = |path: &str, extra: &str| {
        let mut start = on_ports(["tool", "a b", ""]);
        start.environment = vec![("PATH".into(), path.into())];
        start.directory = "/home".into();
        let mut machine = Machine::boot_with(&start, b"", extra);
        machine.started();
        machine.outcome().text()
    };
    let tool =
        |path: &str| format!("mkdir -p {path}; printf 'echo {path} $# \"$1\"\n' > {path}/tool; chmod 755 {path}/tool;");
    // No interpreter line: a shell's. A file that cannot be run does not end the search, nor does a missing directory.
    assert_eq!(
        run("/nowhere:/etc/passwd:/home/a:/home/b:/bin", &(tool("home/b") + "mkdir home/a; touch home/a/tool")),
        "home/b 2 a b\n"
    );
    // An empty entry is the working directory.
    assert_eq!(run("/nowhere::/bin", &tool("home")), "home 2 a b\n");
}

#[test]
fn arguments_and_environment_arrive_as_they_are() {
    if !is_possible() {
        return;
    }
    let odd = "line\nbreak \"quotes\" 'single' \\back $dollar \u{fc}\u{4e2d}\u{1f600} --flag= ";
    let mut all: Vec<u8> = (1..=255).collect();
    all.extend_from_slice(odd.as_bytes());
    let all = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&all);
    // The longest single argument that Linux takes is 128 KiB with its NUL.
    let long = "x".repeat((128 << 10) - 1);
    let mut start = on_ports(["cat", "/proc/self/cmdline", "/proc/self/environ", "/dev/null"]);
    start.default_environment = false;
    start.environment = vec![("PATH".into(), "/bin".into()), ("ODD".into(), all.into()), ("EMPTY".into(), "".into())];
    let mut expected = b"cat\0/proc/self/cmdline\0/proc/self/environ\0/dev/null\0PATH=/bin\0ODD=".to_vec();
    expected.extend_from_slice(all.as_encoded_bytes());
    expected.extend_from_slice(b"\0EMPTY=\0");
    assert_eq!(Machine::run(&start, b"").stdout, expected);

    let mut start = on_ports(["sh", "-c", "cat /proc/self/cmdline > /dev/null; cat /proc/$$/cmdline", "name"]);
    start.arguments.extend([all.into(), long.clone().into(), "".into(), long.into()]);
    let mut expected = Vec::new();
    for argument in &start.arguments {
        expected.extend_from_slice(argument.as_encoded_bytes());
        expected.push(0);
    }
    assert_eq!(Machine::run(&start, b"").stdout, expected);
}

#[test]
fn the_environment_has_nothing_but_what_was_asked_for() {
    if !is_possible() {
        return;
    }
    let mut start = on_ports(["env"]);
    start.environment = vec![("A".into(), "1".into()), ("HOME".into(), "/there".into()), ("A".into(), "2".into())];
    assert_eq!(
        Machine::run(&start, b"").text(),
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/there\nA=2\n"
    );
}

#[test]
fn signals_are_as_a_new_program_expects_them() {
    if !is_possible() {
        return;
    }
    let status = output_of("cat /proc/self/status; umask");
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    for set in ["SigBlk:", "SigIgn:", "SigCgt:", "CapAmb:"] {
        assert_eq!(value(set), 0, "{set} in {status}");
    }
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    assert_eq!(value("CapBnd:") & CAP_SYS_PTRACE, 0, "{status}");
    assert!(status.contains("Groups:\t \n"), "{status}");
    assert!(status.ends_with("0022\n"), "{status}");
}

#[test]
fn directory_user_groups_and_limits() {
    if !is_possible() {
        return;
    }
    let mut start =
        script("pwd; id -u; id -g; id -G; ulimit -n; ulimit -Hn; ulimit -c; cat < /dev/stdin; echo x > /dev/stdout");
    start.directory = "/usr/lib".into();
    start.user = User { uid: 1234, gid: 567 };
    start.groups = vec![10, 20];
    start.limits = vec![
        Limit { resource: 7, soft: 100, hard: 200 },
        Limit { resource: 4, soft: 0, hard: 0 },
        Limit { resource: 7, soft: 50, hard: 150 },
    ];
    assert_eq!(Machine::run(&start, b"in\n").text(), "/usr/lib\n1234\n567\n567 10 20\n50\n150\n0\nin\nx\n");

    start.directory = "/no/such".into();
    let failure = Machine::fail(&start);
    assert_eq!((failure.stage, failure.errno, failure.status()), (Stage::Directory, ENOENT, 125));
    assert_eq!(failure.detail, b"/no/such");

    start.directory = "/".into();
    start.limits = vec![Limit { resource: 7, soft: 2, hard: 1 }];
    let failure = Machine::fail(&start);
    assert_eq!((failure.stage, failure.errno, &failure.detail[..]), (Stage::Rlimit, 22, &b"7"[..]));
}

#[test]
fn the_machine_has_its_name_and_its_loopback() {
    if !is_possible() {
        return;
    }
    let mut start = script("uname -n; cat /sys/class/net/lo/flags 2>/dev/null || cat /proc/net/if_inet6 | wc -l");
    start.hostname = "box".into();
    // No sysfs here: an interface that is down has no address.
    assert_eq!(Machine::run(&start, b"").text(), "box\n1\n");
    start.hostname = "h".repeat(65).into();
    assert_eq!(Machine::fail(&start).stage, Stage::Hostname);
}

#[test]
fn the_usual_file_systems_are_mounted() {
    if !is_possible() {
        return;
    }
    let mounts = output_of("cat /proc/mounts; ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr; ls -ld /dev/shm");
    for line in [
        "proc /proc proc rw,nosuid,nodev,noexec,relatime",
        "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
        "tmpfs /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime",
        "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime",
        // There was none.
        "tmpfs /run tmpfs rw,nosuid,nodev,relatime,mode=755",
        "/dev/fd -> /proc/self/fd\n",
        "/dev/stdout -> /proc/self/fd/1\n",
        "drwxrwxrwt",
    ] {
        assert!(mounts.contains(line), "{line} not in\n{mounts}");
    }
    // It was there, and writable.
    assert!(!mounts.contains(" /tmp "), "{mounts}");
}

#[test]
fn a_read_only_root_gets_its_scratch_directories() {
    if !is_possible() {
        return;
    }
    let start = script("touch /tmp/a /run/b && ! touch /home/c 2>/dev/null");
    let mut machine = Machine::boot_with(&start, b"", "mkdir run; mount -o remount,ro .");
    machine.started();
    assert_eq!(machine.outcome().exit, Exit::Code(0));
}

#[test]
fn volumes_are_mounted_where_they_are_wanted() {
    if !is_possible() {
        return;
    }
    let mut start = script(
        "touch /vol/deep/er/x /run/there/y && ! touch /ro/z 2>/dev/null && stat -f -c %T /vol/deep/er && ls /ro",
    );
    let tmpfs = |target: &str, flags| Mount {
        source: "none".into(),
        target: target.into(),
        kind: "tmpfs".into(),
        flags,
        options: "size=1m".into(),
    };
    const MS_BIND: u64 = 0x1000;
    start.mounts = vec![tmpfs("/vol/deep/er", 0), tmpfs("/run/there", 0)];
    start.mounts.push(Mount {
        source: "/home".into(),
        target: "/ro".into(),
        kind: "".into(),
        flags: MS_BIND | Mount::READ_ONLY,
        options: "".into(),
    });
    let mut machine = Machine::boot_with(&start, b"", "touch home/here");
    machine.started();
    assert_eq!(machine.outcome().text(), "tmpfs\nhere\n");

    start.mounts.push(Mount::shared("no-such-tag", "/etc/passwd/below", true));
    let failure = Machine::fail(&start);
    assert_eq!((failure.stage, failure.errno, failure.status()), (Stage::Mount, 20, 125));
    assert_eq!(
        failure.to_string(),
        "the guest's init could not mount /etc/passwd/below: Not a directory (os error 20)"
    );
}

#[test]
fn orphans_are_reaped_and_end_with_the_workload() {
    if !is_possible() {
        return;
    }
    // Two hundred orphans die; none stays as a zombie. One that lives on, and holds stdout, is ended.
    let text = "
        for i in $(seq 200); do (sh -c 'exit 3' & ) ; done
        sleep 1
        grep -l '^State:.Z' /proc/[0-9]*/status | wc -l
        (trap '' TERM INT HUP; sleep 1000 & ) &
        echo end";
    assert_eq!(output_of(text), "0\nend\n");
}

#[test]
fn a_pipe_that_somebody_still_holds_does_not_hold_up_the_end() {
    if !is_possible() {
        return;
    }
    // As a process that cannot be killed would hold it. Whatever is in it arrives all the same: more than a pipe holds.
    let mut machine = Machine::boot(&script("sleep 1; head -c 300000 /dev/zero"), b"");
    machine.started();
    let held = machine.hold_stdout();
    let outcome = machine.outcome();
    assert_eq!((outcome.exit, outcome.stdout.len()), (Exit::Code(0), 300_000));
    drop(held);
}

#[test]
fn streams_are_byte_exact_and_apart() {
    if !is_possible() {
        return;
    }
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut machine = Machine::boot(&script("cat; echo oops >&2"), &input);
    machine.started();
    let outcome = machine.outcome();
    assert_eq!(outcome.exit, Exit::Code(0));
    assert!(outcome.stdout == input, "{} of {} bytes", outcome.stdout.len(), input.len());
    assert_eq!(outcome.stderr, b"oops\n");
}

#[test]
fn the_end_of_input_is_seen_and_input_may_be_left() {
    if !is_possible() {
        return;
    }
    assert_eq!(
        Machine::run(&script("read line; echo \"got $line\"; read more || echo end"), b"one\n").text(),
        "got one\nend\n"
    );
    // Nobody reads a megabyte: neither the workload's end nor the host's writer is held up.
    let mut machine = Machine::boot(&script("exec <&-; sleep 0.2; echo done"), &vec![0; 1 << 20]);
    machine.started();
    machine.wait_for_stdin();
    assert_eq!(machine.outcome().text(), "done\n");
}

#[test]
fn a_host_that_stops_reading_breaks_the_pipe() {
    if !is_possible() {
        return;
    }
    let mut machine = Machine::boot_reading(&on_ports(["yes"]), 1000);
    machine.started();
    let outcome = machine.outcome();
    const SIGPIPE: u8 = 13;
    assert_eq!(outcome.exit, Exit::Signal(SIGPIPE));
    assert_eq!(outcome.stdout, b"y\n".repeat(500));
}

#[test]
fn signals_reach_whom_they_are_meant_for() {
    if !is_possible() {
        return;
    }
    // The shell handles it; its child, in the same group, gets it only with the group.
    let text = "
        trap 'echo shell' USR1
        sh -c 'trap \"echo child\" USR1; echo ready; while :; do sleep 0.1; done' &
        while :; do wait; done";
    for (scope, expected) in [(Scope::Process, "ready\nshell\n"), (Scope::Group, "ready\nchild\nshell\n")] {
        let mut machine = Machine::boot(&script(text), b"");
        machine.started();
        std::thread::sleep(std::time::Duration::from_millis(700));
        machine.signal(10, scope);
        std::thread::sleep(std::time::Duration::from_millis(700));
        machine.signal(9, Scope::Process);
        let outcome = machine.outcome();
        assert_eq!(outcome.exit, Exit::Signal(9));
        let mut lines: Vec<_> = outcome.stdout.split_inclusive(|&byte| byte == b'\n').collect();
        lines.sort_unstable_by_key(|line| (*line != b"ready\n", *line));
        assert_eq!(String::from_utf8(lines.concat()).unwrap(), expected);
    }
}

#[test]
fn a_terminal_controls_its_session() {
    if !is_possible() {
        return;
    }
    let mut start = script("");
    start.arguments = [
        "sh",
        "-c",
        "
        tty; stty size; echo $TERM
        read line < /dev/tty; echo \"[$line]\"
        trap 'stty size; exit 5' WINCH
        echo waiting; while :; do sleep 0.1; done",
    ]
    .map(Into::into)
    .to_vec();
    (start.stdin, start.stdout, start.stderr) = (Stdio::Terminal, Stdio::Terminal, Stdio::Terminal);
    start.terminal = Some(krun_init::protocol::Resize { columns: 100, rows: 30 });
    let mut machine = Machine::boot(&start, b"");
    machine.started();
    let mut terminal = machine.terminal();
    let mut screen = String::new();
    let mut until = |terminal: &mut std::fs::File, wanted: &str| {
        while !screen.contains(wanted) {
            let mut buffer = [0; 256];
            let count = terminal.read(&mut buffer).unwrap();
            screen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        screen.clone()
    };
    until(&mut terminal, "xterm-256color");
    terminal.write_all(b"typed\n").unwrap();
    let seen = until(&mut terminal, "waiting");
    assert!(seen.contains("/dev/hvc0\r\n30 100\r\n"), "{seen}");
    assert!(seen.contains("[typed]"), "{seen}");
    machine.resize(81, 25);
    until(&mut terminal, "25 81");
    assert_eq!(machine.event(), Event::Exited(Exit::Code(5)));
}

#[test]
fn the_foreground_group_gets_what_the_terminal_would_send() {
    if !is_possible() {
        return;
    }
    // With job control the child is a group of its own, in the foreground.
    let mut start = on_ports(["sh", "-c", "set -m; sh -c 'echo in front; sleep 1000'; echo child ended with $?"]);
    start.stdin = Stdio::Terminal;
    let mut machine = Machine::boot(&start, b"");
    machine.started();
    std::thread::sleep(std::time::Duration::from_millis(700));
    machine.signal(15, Scope::Foreground);
    let outcome = machine.outcome();
    assert_eq!(outcome.exit, Exit::Code(0));
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), "in front\nchild ended with 143\n");
}

#[test]
fn pid_1_cannot_be_looked_into() {
    if !is_possible() {
        return;
    }
    // Root is the workload's user here.
    let text = "
        readlink /proc/1/fd/* && echo names of descriptors
        for fd in 0 1 2 3 4 5 6 7 8 9; do (: < /proc/1/fd/$fd) 2>/dev/null && echo descriptor $fd; done
        (: < /proc/1/mem) 2>/dev/null && echo memory
        cat /proc/1/cmdline /proc/1/environ | grep -a secret && echo arguments
        : secret
        kill -9 1; kill -TERM 1; kill -STOP 1
        ls /proc/self/fd | wc -l
        readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 | sed 's/:.*//' | sort -u";
    assert_eq!(output_of(text), "4\npipe\n");
}
