//! How VMs end when it is not their command that ends.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use common::*;
use krun_builder::ExitStatus;

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_kernel_without_a_root_panics_and_says_so() {
    let console = tempfile::tempfile().unwrap();
    let vm = bare().console(console.try_clone().unwrap()).build().unwrap();
    let status = vm.start().unwrap().wait().unwrap();
    let ExitStatus::Panicked { console: words } = &status else { panic!("{status}") };
    assert!(words.contains("Kernel panic - not syncing"), "{words}");
    let whole = String::from_utf8_lossy(&read_all(console)).into_owned();
    assert!(whole.contains("Kernel panic - not syncing"), "{whole}");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_panic_under_a_command_is_not_its_exit() {
    // The bundle's kernel has no sysrq; running out of memory does as well.
    let script = "echo before; mount -o remount,size=1g /dev/shm; echo 2 > /proc/sys/vm/panic_on_oom
        cat /dev/zero > /dev/shm/all; echo after";
    let outcome = run(guest().memory_mib(96), sh(script));
    let ExitStatus::Panicked { console } = &outcome.status else { panic!("{}: {}", outcome.status, outcome.err()) };
    assert!(console.contains("Kernel panic - not syncing: Out of memory"), "{console}");
    assert_eq!(outcome.out(), "before\n");
}

mod every_make {
    use super::*;

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn a_reboot_under_a_command_is_not_its_exit() {
        let outcome = run(guest(), sh("reboot -f; sleep 60"));
        assert_eq!(outcome.status, ExitStatus::Rebooted, "{outcome:?}");
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_guest_that_powers_off_or_halts_has_ended() {
    // Neither leaves the guest by itself: its CPUs stop for ever. An idle guest is not taken for one that did.
    for (vcpus, end) in [(1, "poweroff -f"), (2, "halt -f")] {
        let outcome = run(guest().vcpus(vcpus), sh(&format!("sleep 4; echo idle; {end}; sleep 60")));
        assert_eq!(outcome.status, ExitStatus::Rebooted, "{outcome:?}");
        assert_eq!(outcome.out(), "idle\n");
    }
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_triple_fault_is_told_as_one() {
    let outcome = run(guest().kernel_cmdline("reboot=t"), sh("reboot -f; sleep 60"));
    assert!(matches!(outcome.status, ExitStatus::TripleFault { .. }), "{outcome:?}");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn dropping_a_vm_stops_it_and_leaves_no_thread() {
    let before = threads();
    let running = start(guest(), sh("echo up; sleep 1000"));
    running.wait_for("up");
    assert!(threads() > before);
    let handle = running.vm.handle();
    drop(running);
    assert_eq!(handle.try_wait(), Some(ExitStatus::Stopped));
    // A thread that was joined may show for a moment more.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while threads() > before {
        assert!(std::time::Instant::now() < deadline, "{} threads, {before} before", threads());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
