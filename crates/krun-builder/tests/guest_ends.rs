//! How VMs end when it is not their command that ends.

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
    assert!(whole.contains("Linux version"), "{whole}");
}
