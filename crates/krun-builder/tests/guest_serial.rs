//! A distribution's kernel, without virtio: an initrd and a 16550.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use common::*;
use krun_builder::{ExitStatus, KernelSource, Vm};

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn a_stock_bzimage_runs_a_program_from_an_initrd() {
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join("initrd");
    let script = b"#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n\
        echo \"sum: $(echo 6 7 | /bin/busybox awk '{ print $1 * $2 }')\"\n\
        echo \"kernel: $(/bin/busybox uname -r)\"\n/bin/busybox reboot -f\n";
    let busybox = std::fs::read(asset("KRUN_TEST_BUSYBOX")).unwrap();
    let archive = Cpio::default()
        .add("bin", 0o040_755, b"")
        .add("proc", 0o040_755, b"")
        .add("bin/busybox", 0o100_755, &busybox)
        .add("init", 0o100_755, script)
        .finish();
    std::fs::write(&initrd, archive).unwrap();
    let serial = tempfile::tempfile().unwrap();
    let vm = Vm::builder()
        .kernel(KernelSource::File(asset("KRUN_TEST_BZIMAGE")))
        .initrd(&initrd)
        .memory_mib(256)
        .serial(serial.try_clone().unwrap())
        .kernel_cmdline("earlyprintk=serial");
    let status = vm.build().unwrap().start().unwrap().wait().unwrap();
    let text = String::from_utf8_lossy(&read_all(serial)).into_owned();
    assert_eq!(status, ExitStatus::Rebooted, "{text}");
    assert!(text.contains("Linux version") && text.contains("sum: 42"), "{text}");
    assert!(text.contains("kernel: ") && text.contains("-cloud-amd64"), "{text}");
}

/// An archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Cpio(Vec<u8>, u32);

impl Cpio {
    fn add(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.1 += 1;
        let len = u32::try_from(content.len()).unwrap();
        let name_len = u32::try_from(name.len() + 1).unwrap();
        let fields = [self.1, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
        self.0.extend_from_slice(b"070701");
        fields.iter().for_each(|field| self.0.extend_from_slice(format!("{field:08x}").as_bytes()));
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(content);
        self.pad();
        self
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }

    fn finish(self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"").0
    }
}
