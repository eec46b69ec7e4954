//! The settings of a VM, and what makes no sense among them.

use std::ffi::OsString;
use std::path::PathBuf;

use krun_virtio::VirtioDevice;
use rustix::fd::OwnedFd;

use crate::command::Command;
use crate::error::Problem;
use crate::layout::{Layout, LayoutConfig, LayoutError};
use crate::memory::RamBacking;
use crate::share::{self, Root, Volume};

/// Most vCPUs that one MP table and the 8-bit APIC ids in it can name.
pub(crate) const MAX_VCPUS: u32 = 254;

/// Where the guest's kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelSource {
    /// A kernel bundle, `libkrunfw.so.5`: a path, or a bare name that the dynamic linker looks up.
    Bundle(PathBuf),
    /// An ELF `vmlinux` or a bzImage; which of the two is seen from its first bytes. A bundle is recognised, too: it
    /// is a program library, and opening it runs its code in this process, so that the file has to be as trustworthy as
    /// the program.
    File(PathBuf),
}

/// One terminal for all three standard streams.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
}

impl Terminal {
    /// Columns and rows, if they are known.
    pub(crate) fn size(&self) -> Option<(u16, u16)> {
        let size = rustix::termios::tcgetwinsize(&self.output).ok()?;
        Some((size.ws_col, size.ws_row)).filter(|(columns, rows)| *columns > 0 && *rows > 0)
    }
}

/// Everything that was asked for.
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) vcpus: u32,
    pub(crate) memory: u64,
    pub(crate) backing: RamBacking,
    pub(crate) kernel: Option<KernelSource>,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: Vec<String>,
    pub(crate) root: Option<Root>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) command: Option<Command>,
    pub(crate) hostname: Option<OsString>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) serial: Option<OwnedFd>,
    pub(crate) devices: Vec<Box<dyn VirtioDevice>>,
    /// What went wrong while settings were made.
    pub(crate) problems: Vec<Problem>,
}

impl Config {
    /// Whether there is a console device: a command needs one for its control channel and its streams, and whoever
    /// wants to see the kernel's messages.
    pub(crate) fn has_console(&self) -> bool {
        self.command.is_some() || self.console.is_some()
    }

    /// Whether any of the three standard streams is connected.
    pub(crate) fn has_streams(&self) -> bool {
        self.stdin.is_some() || self.stdout.is_some() || self.stderr.is_some()
    }

    /// How many virtio devices there are.
    pub(crate) fn device_count(&self) -> usize {
        usize::from(self.has_console()) + usize::from(self.root.is_some()) + self.volumes.len() + self.devices.len()
    }

    pub(crate) fn layout(&self) -> Result<Layout, LayoutError> {
        let windows = self.devices.iter().filter_map(|device| device.shared_memory()).map(|(_, size)| size).collect();
        let devices = self.device_count();
        Layout::plan(&LayoutConfig { memory: self.memory, devices, serial: self.serial.is_some(), windows })
    }

    /// Adds everything that is wrong, as far as it shows without opening anything.
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            let remedy = format!("use 1 to {MAX_VCPUS}");
            problems.push(Problem::new(
                "vcpus",
                self.vcpus.to_string(),
                "not a number of CPUs a guest can have",
                remedy,
            ));
        }
        match self.layout() {
            Ok(_) => {}
            Err(error @ LayoutError::Memory { .. }) => {
                let remedy = "use whole pages of 4096 bytes, from 64 MiB to 1 TiB";
                problems.push(Problem::caused_by("memory", self.memory.to_string(), error, remedy));
            }
            Err(error @ LayoutError::Window { .. }) => {
                problems.push(Problem::caused_by("device", "", error, "give the device a smaller window"));
            }
            Err(error) => problems.push(Problem::caused_by("device", "", error, "use fewer devices")),
        }
        if self.kernel.is_none() {
            problems.push(Problem::new(
                "kernel",
                "",
                "not set",
                "name a kernel bundle (libkrunfw.so.5), a vmlinux or a bzImage",
            ));
        }
        for words in self.cmdline.iter().filter(|words| !words.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
            let value = words.escape_debug().to_string();
            problems.push(Problem::new(
                "kernel_cmdline",
                value,
                "not printable ASCII",
                "use single spaces between words",
            ));
        }
        share::check(&self.volumes, problems);
        self.check_command(problems);
    }

    /// Settings that only make sense together.
    fn check_command(&self, problems: &mut Vec<Problem>) {
        let mut problem = |field, value: &str, reason: &str, remedy: &str| {
            problems.push(Problem::new(field, value, reason, remedy));
        };
        let Some(command) = &self.command else {
            let only_for_a_command = "only a command has it, and there is none";
            if self.root.is_some() {
                problem("root", "", "there is no command to run in it", "set `command`");
            }
            if !self.volumes.is_empty() {
                problem("volume", "", "volumes are mounted for a command, and there is none", "set `command`");
            }
            if self.has_streams() || self.terminal.is_some() {
                problem("stdio", "", only_for_a_command, "set `command`, or use `console` or `serial`");
            }
            if let Some(hostname) = &self.hostname {
                problem("hostname", &hostname.to_string_lossy(), only_for_a_command, "set `command`");
            }
            return;
        };
        if self.root.is_none() {
            problem(
                "root",
                "",
                "a command needs a root file system",
                "set `root` to a directory that holds the command",
            );
        }
        if let Some(hostname) = &self.hostname {
            // Linux: __NEW_UTS_LEN.
            if !(1..=64).contains(&hostname.len()) || hostname.as_encoded_bytes().contains(&0) {
                problem("hostname", &hostname.to_string_lossy(), "not a host name", "use 1 to 64 bytes without NUL");
            }
        }
        if self.terminal.is_some() && self.has_streams() {
            problem("terminal", "", "a command has either a terminal or three streams", "set one or the other");
        }
        if self.terminal.is_some() && self.console.is_some() {
            problem("console", "", "the terminal is the guest's console already", "set one or the other");
        }
        command.check(problems);
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("vcpus", &self.vcpus)
            .field("memory", &self.memory)
            .field("kernel", &self.kernel)
            .field("root", &self.root)
            .field("volumes", &self.volumes)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}
