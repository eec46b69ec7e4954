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
    let outcome = run(guest(), sh("echo before; echo c > /proc/sysrq-trigger; echo after"));
    let ExitStatus::Panicked { console } = &outcome.status else { panic!("{outcome:?}") };
    assert!(console.contains("sysrq triggered crash"), "{console}");
    assert_eq!(outcome.out(), "before\n");
}

mod every_make {
    use super::*;

    #[test]
    #[ignore = "needs a KVM that runs real code: cargo xtask test"]
    fn a_reboot_under_a_command_is_not_its_exit() {
        let outcome = run(guest(), sh("echo b > /proc/sysrq-trigger; sleep 60"));
        assert_eq!(outcome.status, ExitStatus::Rebooted, "{outcome:?}");
    }
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
    assert_eq!(threads(), before);
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
