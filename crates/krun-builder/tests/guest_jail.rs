//! A VM whose process locks itself in between building and starting it.

#![expect(unsafe_code, reason = "closes descriptors by their numbers, as jails do")]

mod common;

use std::fs;
use std::os::fd::AsRawFd as _;

use common::*;
use krun_builder::{ExitStatus, Volume};

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_vm_starts_without_paths_and_other_descriptors() {
    let (volume, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let out = tempfile::tempfile().unwrap();
    let script = "mkdir -p /data/a/b; echo from the jail > /data/a/b/file; cat /data/a/b/file; exit 7";
    let builder = guest().volume(Volume::new(volume.path(), "/data")).stdout(out.try_clone().unwrap());
    let vm = builder.command(sh(script)).build().unwrap();

    let mut kept: Vec<i32> = vm.descriptors().iter().map(|fd| fd.as_raw_fd()).collect();
    // This test's own: the standard streams and what it looks at afterwards.
    kept.extend([0, 1, 2, out.as_raw_fd()]);
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    for fd in open.into_iter().filter(|fd| !kept.contains(fd)) {
        // SAFETY: nothing that is used below owns it; what else there is loses it, which is what is tested.
        unsafe { libc::close(fd) };
    }
    rustix::process::chroot(empty.path()).unwrap();
    std::env::set_current_dir("/").unwrap();
    assert!(!fs::exists("/proc").unwrap());

    assert_eq!(vm.start().unwrap().wait().unwrap(), ExitStatus::Exited(7));
    assert_eq!(read_all(out), b"from the jail\n");
}
