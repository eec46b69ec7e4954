//! Commands in a guest: exit codes, streams, arguments, CPUs and memory.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{Read as _, Write as _};

use common::*;
use krun_builder::{Command, ExitStatus, Rlimit};

mod every_make {
    use super::*;

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn exit_codes_are_the_commands() {
        for code in [0_u8, 1, 42, 127] {
            let outcome = run(guest(), sh(&format!("exit {code}")));
            assert_eq!(outcome.status, ExitStatus::Exited(code), "{outcome:?}");
        }
    }

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn a_death_by_signal_is_told_apart() {
        let outcome = run(guest(), sh("kill -KILL $$"));
        assert_eq!(outcome.status, ExitStatus::Signaled(libc::SIGKILL));
        assert_eq!(outcome.status.shell_code(), Some(137));
    }

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn the_kernel_and_a_file_of_the_root() {
        let outcome = run(guest(), sh("uname -s; cat /etc/motd"));
        let motd = std::fs::read_to_string(asset("KRUN_TEST_ROOT").join("etc/motd")).unwrap();
        assert_eq!(outcome.success(), format!("Linux\n{motd}"));
    }

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn one_vcpu_computes() {
        computes(1);
    }

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn two_vcpus_compute() {
        computes(2);
    }

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn four_vcpus_compute() {
        computes(4);
    }

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn stderr_is_apart_from_stdout() {
        let outcome = run(guest(), sh("echo out; echo err >&2; echo more"));
        assert_eq!((outcome.success().as_str(), outcome.err().as_str()), ("out\nmore\n", "err\n"));
    }
}

/// A checksum of known data on each CPU at once, pinned, and every CPU is there.
fn computes(vcpus: u32) {
    let script = "nproc
        i=0; while [ $i -lt $(nproc) ]; do
            taskset -c $i sh -c 'head -c 1000000 /dev/zero | md5sum' > /tmp/$i & i=$((i + 1))
        done; wait; cat /tmp/[0-9]*";
    let outcome = run(guest().vcpus(vcpus), sh(script));
    let sum = "879f4bba57ed37c9ec5e5aedf9864698";
    let mut lines = outcome.success();
    let rest = lines.split_off(lines.find('\n').unwrap() + 1);
    assert_eq!(lines.trim(), vcpus.to_string());
    let sums: Vec<&str> = rest.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(sums, vec![sum; vcpus as usize]);
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_missing_program_and_one_that_is_none() {
    let missing = run(guest(), Command::new("/no/such/program"));
    assert_eq!(missing.status.shell_code(), Some(127), "{}", missing.status);
    assert!(missing.status.to_string().contains("/no/such/program"), "{}", missing.status);
    let none = run(guest(), Command::new("/etc/motd"));
    assert_eq!(none.status.shell_code(), Some(126), "{}", none.status);
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn memory_is_as_asked_for() {
    // The kernel keeps some for itself: pages it needs to manage pages, its own image.
    for (mib, least, most) in [(256_u32, 190_u64, 256), (5120, 4900, 5120)] {
        let outcome = run(guest().memory_mib(mib), sh("grep MemTotal /proc/meminfo"));
        let text = outcome.success();
        let kib: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!((least..=most).contains(&(kib >> 10)), "{mib} MiB: {text}");
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn sixty_four_mib_through_stdin_and_stdout() {
    const SIZE: usize = 64 << 20;
    let (guest_in, mut host_out) = std::io::pipe().unwrap();
    let (mut host_in, guest_out) = std::io::pipe().unwrap();
    let vm = guest().stdin(guest_in).stdout(guest_out).command(Command::new("/bin/cat"));
    let running = vm.build().unwrap().start().unwrap();
    let sent = noise(SIZE);
    let received = std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().spawn_scoped(scope, || {
            let mut received = Vec::with_capacity(SIZE);
            host_in.read_to_end(&mut received).unwrap();
            received
        });
        host_out.write_all(&sent).unwrap();
        drop(host_out);
        assert_eq!(running.wait().unwrap(), ExitStatus::Exited(0));
        reader.unwrap().join().unwrap()
    });
    assert_eq!(received.len(), SIZE);
    // Not assert_eq: nobody wants to read 64 MiB.
    assert!(received == sent, "first difference at {:?}", received.iter().zip(&sent).position(|(a, b)| a != b));
}

/// Bytes without a pattern that a lost or doubled page could hide in.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn arguments_and_environment_arrive_intact() {
    let long = "x".repeat(100 << 10);
    let words = [
        "",
        " ",
        "a\nb",
        "\"quoted\" 'twice' \\ $HOME `id` --",
        "Ünïcödé ☃ 漢字",
        "--",
        "-c",
        long.as_str(),
        "\u{1}\u{7f}",
    ];
    let script =
        r#"for word; do printf '%s\0' "$word"; done; printf '%s\0' "$NEWLINES" "$QUOTES" "$SNOW" "$LONG" "$PWD""#;
    let command = sh(script)
        .arg("sh")
        .args(words)
        .env("NEWLINES", "\n\n")
        .env("QUOTES", "\"'\\")
        .env("SNOW", "☃")
        .env("LONG", "y".repeat(28 << 10))
        .current_dir("/etc");
    let outcome = run(guest(), command);
    let mut expected: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    expected.extend(["\n\n".into(), "\"'\\".into(), "☃".into(), "y".repeat(28 << 10), "/etc".into(), String::new()]);
    let received: Vec<String> = outcome.success().split('\0').map(str::to_owned).collect();
    assert!(received == expected, "{received:?}");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn identity_limits_and_name() {
    let limit = Rlimit { resource: 7, soft: 123, hard: 456 };
    let command = sh("id -u; id -g; hostname; ulimit -n; ulimit -Hn").uid(1000).gid(2000).rlimit(limit);
    let outcome = run(guest().hostname("mice"), command);
    assert_eq!(outcome.success(), "1000\n2000\nmice\n123\n456\n");
}
