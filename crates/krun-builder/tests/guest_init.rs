//! Commands that are the guest's first process.

mod common;

use common::*;
use krun_builder::{Command, Error, ExitStatus};

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_command_is_pid_1_until_it_restarts_the_guest() {
    let script = "echo $$; hostname; pwd; echo $GIVEN; cat /sys/class/virtio-ports/*/name | sort
        grep -e CapEff -e CapBnd /proc/1/status; cat /proc/sys/kernel/usermodehelper/bset
        echo problem >&2; reboot -f";
    let command = sh(script).as_init().env("GIVEN", "a b").current_dir("/etc");
    let running = start(guest().hostname("mice"), command);
    assert!(matches!(running.vm.handle().signal(15), Err(Error::NotRunning { .. })));
    let outcome = running.wait();
    assert_eq!(outcome.status, ExitStatus::ShutDown, "{outcome:?}");
    let out = outcome.success();
    let (first, capabilities) = out.split_once("CapEff").unwrap();
    assert_eq!(first, "1\nmice\n/etc\na b\nkrun-control\nkrun-stderr\nkrun-stdout\n");
    // Every one that Linux has, CAP_SYS_PTRACE (19) included, for the init and for the kernel's helpers.
    let [effective, bounding, helpers] = capabilities.lines().collect::<Vec<_>>()[..] else { panic!("{out}") };
    let set = |line: &str| u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(set(effective) & (1 << 19), 1 << 19, "{out}");
    assert_eq!(set(effective), set(bounding), "{out}");
    assert!(helpers.starts_with("4294967295\t"), "{out}");
    assert_eq!(outcome.err(), "problem\n");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_command_that_is_no_init_cannot_look_into_one() {
    let outcome = run(guest(), sh("grep CapBnd /proc/self/status; cat /proc/sys/kernel/usermodehelper/bset"));
    let out = outcome.success();
    let (own, helpers) = out.split_once('\n').unwrap();
    let own = u64::from_str_radix(own.rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(own & (1 << 19), 0, "{out}");
    // All of the lower 32 but CAP_SYS_PTRACE.
    assert!(helpers.starts_with(&format!("{}\t", u32::MAX - (1 << 19))), "{out}");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn the_control_channel_is_deaf_to_an_init() {
    // The port is free now, and nobody believes what comes out of it.
    let script = "for port in /sys/class/virtio-ports/*; do
            [ \"$(cat $port/name)\" = krun-control ] && dev=/dev/${port##*/}; done
        printf 'kr\\1D\\0\\0\\0\\0\\4\\0\\0\\0\\0\\7\\0\\0' > $dev & sleep 1; echo alive; reboot -f";
    let outcome = run(guest(), sh(script).as_init());
    assert_eq!(outcome.status, ExitStatus::ShutDown, "{outcome:?}");
    assert_eq!(outcome.out(), "alive\n");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn an_init_that_exits_ends_the_guest() {
    // The bundle's kernel is patched to restart then; an ordinary one panics.
    let outcome = run(guest(), sh("echo out; exit 3").as_init());
    assert_eq!(outcome.status, ExitStatus::ShutDown, "{outcome:?}");
    assert_eq!(outcome.out(), "out\n");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn an_init_that_is_not_there_is_named() {
    let outcome = run(guest(), Command::new("/sbin/no-such-init").as_init());
    assert_eq!(outcome.status.shell_code(), Some(127), "{}", outcome.status);
    assert!(outcome.status.to_string().contains("/sbin/no-such-init"), "{}", outcome.status);
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn an_init_may_power_off_or_halt() {
    // Neither leaves the guest by itself: its CPUs stop for ever. An idle guest is not taken for one that did.
    for (vcpus, end) in [(1, "poweroff -f"), (2, "halt -f")] {
        let outcome = run(guest().vcpus(vcpus), sh(&format!("sleep 5; echo idle; {end}")).as_init());
        assert_eq!(outcome.status, ExitStatus::ShutDown, "{outcome:?}");
        assert_eq!(outcome.out(), "idle\n");
    }
}
