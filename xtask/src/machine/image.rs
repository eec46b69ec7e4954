//! What a nested machine boots from: kernel and initramfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::initramfs::Initramfs;
use super::intel;
use super::modules::{Module, with_dependencies};
use crate::assets::{Assets, Bochs, CloudKernel, GuestAssets, Tool};
use crate::process::{find_program, output};

const INIT: &str = include_str!("init.sh");
/// Where xtask puts itself in the machine.
const XTASK: &str = "xtask";

/// The make of CPU that a machine emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Make {
    /// AMD SVM, emulated by QEMU.
    Amd,
    /// Intel VT-x, emulated by Bochs.
    Intel,
}

impl Make {
    /// The name people use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd => "amd",
            Self::Intel => "intel",
        }
    }

    /// How long it may take until it is up, on a busy computer.
    pub(crate) fn boot_limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Amd => 120,
            Self::Intel => 600,
        })
    }

    /// How long one test may take in it.
    pub(crate) fn test_limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Amd => 400,
            Self::Intel => 600,
        })
    }

    /// The modules to load: KVM, and the way to the host.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Amd => &["kvm_amd", "virtio_pci", "virtio_console"],
            Self::Intel => &["kvm_intel"],
        }
    }

    /// The machine's device that leads to the host: a port of a virtio console is ten times as fast as a serial port,
    /// which is what Bochs has.
    fn agent_device(self) -> &'static str {
        match self {
            Self::Amd => "/dev/vport0p1",
            Self::Intel => "/dev/ttyS1",
        }
    }
}

/// Paths inside the machine of what guests need.
pub(crate) mod inside {
    /// The kernel bundle.
    pub(crate) const KERNEL: &str = "/guest/libkrunfw.so.5";
    /// The stock kernel.
    pub(crate) const BZIMAGE: &str = "/guest/vmlinuz";
    /// A static busybox.
    pub(crate) const BUSYBOX: &str = "/bin/busybox";
    /// The guest's root directory.
    pub(crate) const ROOT: &str = "/guest/root";

    /// The variables by which tests find what they need.
    pub(crate) fn test_environment() -> Vec<Vec<u8>> {
        [
            ("PATH", "/bin"),
            ("HOME", "/root"),
            ("RUST_BACKTRACE", "1"),
            ("KRUN_TEST_KVM", "required"),
            ("KRUN_TEST_KERNEL", KERNEL),
            ("KRUN_TEST_ROOT", ROOT),
            ("KRUN_TEST_BZIMAGE", BZIMAGE),
            ("KRUN_TEST_BUSYBOX", BUSYBOX),
        ]
        .map(|(name, value)| format!("{name}={value}").into_bytes())
        .to_vec()
    }
}

/// Everything that goes into a machine, until it is written.
#[derive(Debug)]
pub(crate) struct Image {
    make: Make,
    emulator: Emulator,
    kernel: CloudKernel,
    content: Initramfs,
    scratch: PathBuf,
}

/// A written image and the emulator for it.
#[derive(Debug, Clone)]
pub(crate) enum Bootable {
    /// QEMU takes kernel and initramfs as they are.
    Amd {
        /// The emulator.
        qemu: Tool,
        /// The kernel.
        kernel: PathBuf,
        /// The initramfs.
        initramfs: PathBuf,
    },
    /// Bochs boots a disk.
    Intel {
        /// The emulator.
        bochs: Bochs,
        /// The disk.
        disk: PathBuf,
    },
}

/// The emulator of one make.
#[derive(Debug)]
enum Emulator {
    Amd(Tool),
    Intel(Bochs),
}

impl Image {
    /// A machine that can run guests from `guest`; working files go to `scratch`.
    pub(crate) fn new(make: Make, assets: &Assets, guest: &GuestAssets, scratch: &Path) -> Result<Self> {
        fs::create_dir_all(scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        let kernel = assets.cloud_kernel()?;
        let emulator = match make {
            Make::Amd => Emulator::Amd(assets.qemu()?),
            Make::Intel => Emulator::Intel(assets.bochs()?),
        };
        let mut image = Self { make, emulator, kernel, content: Initramfs::default(), scratch: scratch.to_owned() };
        image.system(&guest.busybox)?;
        let content = &mut image.content;
        content.program(inside::KERNEL, &guest.kernel)?;
        content.tree(inside::ROOT, &guest.root)?;
        Ok(image)
    }

    fn system(&mut self, busybox: &Path) -> Result<()> {
        let content = &mut self.content;
        content.bytes("init", INIT, 0o755);
        for directory in ["dev", "proc", "sys", "tmp", "root"] {
            content.directory(directory);
        }
        content.file(inside::BUSYBOX, busybox)?;
        for name in output(Command::new(busybox).arg("--list"))?.lines().filter(|&name| name != "busybox") {
            content.link(Path::new("bin").join(name), "busybox");
        }
        content.bytes("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644);
        content.bytes("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644);
        content.bytes("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644);
        let mut order = String::new();
        for Module { name, object } in with_dependencies(&self.kernel.modules, self.make.modules())? {
            content.bytes(Path::new("modules").join(&name), object, 0o644);
            order = order + &name + "\n";
        }
        content.bytes("modules/order", order, 0o644);
        content.bytes("agent-device", self.make.agent_device(), 0o644);
        // By this name even if a new build has replaced the file meanwhile.
        let own = self.scratch.join(XTASK);
        fs::copy("/proc/self/exe", &own).context("cannot copy xtask's own program")?;
        self.program(&Path::new("/").join(XTASK), &own)
    }

    /// Adds a host's program, without its debugging information, and the libraries it needs.
    pub(crate) fn program(&mut self, path: &Path, source: &Path) -> Result<()> {
        let stripped = self.stripped(source)?;
        self.content.program(path, &stripped)
    }

    /// Adds a stock kernel for tests that boot one.
    pub(crate) fn stock_kernel(&mut self) -> Result<()> {
        self.content.file(inside::BZIMAGE, &self.kernel.image)
    }

    /// Adds an empty directory.
    pub(crate) fn directory(&mut self, path: &Path) {
        self.content.directory(path);
    }

    /// Adds a file or directory of the host.
    pub(crate) fn copy(&mut self, path: &Path, source: &Path) -> Result<()> {
        if source.is_dir() { self.content.tree(path, source) } else { self.content.file(path, source) }
    }

    /// Writes the initramfs as `name`.
    pub(crate) fn write(self, name: &str) -> Result<Bootable> {
        let initramfs = self.scratch.join(format!("{name}.cpio"));
        self.content.write(&initramfs)?;
        Ok(match self.emulator {
            Emulator::Amd(qemu) => Bootable::Amd { qemu, kernel: self.kernel.image, initramfs },
            Emulator::Intel(bochs) => {
                let disk = intel::make_disk(&bochs, &self.kernel.image, &initramfs, &self.scratch)?;
                Bootable::Intel { bochs, disk }
            }
        })
    }

    /// Debugging information is most of a program and only costs time in there.
    fn stripped(&self, source: &Path) -> Result<PathBuf> {
        let Some(strip) = find_program("strip") else { return Ok(source.to_owned()) };
        let directory = self.scratch.join("stripped");
        fs::create_dir_all(&directory)?;
        let target = directory.join(source.file_name().context("a program has a name")?);
        let arguments = ["--strip-debug", "-o"];
        match output(Command::new(strip).args(arguments).arg(&target).arg(source)) {
            Ok(_) => Ok(target),
            // A script, or a format this strip does not know: as it is, then.
            Err(_) => Ok(source.to_owned()),
        }
    }
}
