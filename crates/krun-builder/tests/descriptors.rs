//! What a jail has to leave open. A process of its own: nobody else opens and closes here meanwhile.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use krun_builder::{Command, KernelSource, RamBacking, Root, Vm, VmBuilder, Volume};

/// The numbers of this process's descriptors.
fn open() -> BTreeSet<i32> {
    let listed: Vec<_> = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path()).collect();
    // The listing's own is among them, and gone by now.
    let listed = listed.iter().filter(|path| path.is_symlink());
    listed.map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// An ELF file with one segment at 16 MiB: enough for a kernel until it runs.
fn kernel(path: &Path) {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    elf.extend([0x100_0000_u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 1, 64, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend([120_u64, 0x100_0000, 0x100_0000, 1, 0x1000, 0x1000].iter().flat_map(|word| word.to_le_bytes()));
    elf.push(0xf4);
    fs::write(path, elf).unwrap();
}

#[track_caller]
fn lists_all_that_it_opens(builder: impl FnOnce() -> VmBuilder) -> usize {
    let others = open();
    let vm = builder().build().unwrap();
    let ours: BTreeSet<i32> = open().difference(&others).copied().collect();
    let listed: Vec<i32> = vm.descriptors().iter().map(|fd| fd.as_raw_fd()).collect();
    assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), ours);
    assert_eq!(listed.len(), ours.len(), "one is listed twice");
    drop(vm);
    assert_eq!(open(), others);
    ours.len()
}

/// Whether there is a KVM; where the caller of the tests says that there must be, it is looked for no further.
#[expect(clippy::disallowed_methods, reason = "how the caller of the tests says that KVM must be there")]
fn has_kvm() -> bool {
    std::env::var_os("KRUN_TEST_KVM").is_some_and(|value| value == "required") || krun_vcpu::Kvm::open().is_ok()
}

#[test]
fn every_descriptor_of_a_vm_is_listed() {
    if !has_kvm() {
        return eprintln!("not tested: /dev/kvm cannot be opened");
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    kernel(&at("vmlinux"));
    fs::write(at("initrd"), "initrd").unwrap();
    let bare = || Vm::builder().kernel(KernelSource::File(at("vmlinux")));

    // KVM and the kernel.
    assert_eq!(lists_all_that_it_opens(bare), 2);
    // The initrd, the RAM and the serial port.
    let more = || {
        let serial = File::create(at("serial")).unwrap();
        bare().initrd(at("initrd")).ram_backing(RamBacking::File(at("ram"))).serial(serial)
    };
    assert_eq!(lists_all_that_it_opens(more), 5);
    // Streams of every kind, shares of both, the conversation with init.
    let everything = || {
        let (input, output) = (std::io::pipe().unwrap().0, File::create(at("out")).unwrap());
        let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
        bare()
            .ram_backing(RamBacking::Memfd)
            .root(Root::new(dir.path()).read_only())
            .volume(Volume::new(dir.path(), "/a"))
            .volume(Volume::new(dir.path(), "/b").read_only())
            .command(Command::new("/bin/true"))
            .console(File::create(at("console")).unwrap())
            .stdin(input)
            .stdout(output)
            .stderr(std::os::fd::OwnedFd::from(socket))
    };
    assert!(lists_all_that_it_opens(everything) > 15);
}
