//! `Vm::builder()`: settings first, all mistakes at once.

use std::ffi::OsString;
use std::path::PathBuf;

use krun_virtio::VirtioDevice;
use rustix::fd::{AsFd, OwnedFd};

use crate::command::Command;
use crate::config::{Config, KernelSource, Terminal};
use crate::error::{BuildError, Problem};
use crate::memory::RamBacking;
use crate::share::{Root, Volume};
use crate::vm::Vm;

/// The settings of a VM. [`VmBuilder::build`] checks them all and reports every mistake, not only the first.
///
/// A VM has the devices that its settings ask for, and no other: one file system for `root` and each `volume`, one
/// console if there is a command or a `console`, a 16550 if there is a `serial`.
#[derive(Debug)]
#[must_use]
pub struct VmBuilder {
    config: Config,
}

impl VmBuilder {
    pub(crate) fn new() -> Self {
        Self { config: Config { vcpus: 1, memory: 256 << 20, ..Config::default() } }
    }

    /// How many vCPUs; 1 by default.
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.config.vcpus = vcpus;
        self
    }

    /// RAM in bytes; 256 MiB by default. Pages come into being when the guest touches them.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.config.memory = bytes;
        self
    }

    /// RAM in MiB.
    pub fn memory_mib(self, mib: u32) -> Self {
        self.memory(u64::from(mib) << 20)
    }

    /// What RAM is made of; private anonymous memory by default.
    pub fn ram_backing(mut self, backing: RamBacking) -> Self {
        self.config.backing = backing;
        self
    }

    /// The guest's kernel.
    pub fn kernel(mut self, kernel: KernelSource) -> Self {
        self.config.kernel = Some(kernel);
        self
    }

    /// An initial RAM disk for the kernel.
    pub fn initrd(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.initrd = Some(path.into());
        self
    }

    /// Words for the kernel's command line, after the ones that the VM itself needs. May be called again.
    pub fn kernel_cmdline(mut self, words: impl Into<String>) -> Self {
        self.config.cmdline.push(words.into());
        self
    }

    /// The directory that is the guest's root. A path is a writable root; see [`Root`] for a read-only one.
    pub fn root(mut self, root: impl Into<Root>) -> Self {
        self.config.root = Some(root.into());
        self
    }

    /// Adds a directory of the host. There may be many.
    pub fn volume(mut self, volume: Volume) -> Self {
        self.config.volumes.push(volume);
        self
    }

    /// What to run. Without a command the VM is a kernel and its devices, and ends when the guest restarts,
    /// powers off or halts.
    pub fn command(mut self, command: Command) -> Self {
        self.config.command = Some(command);
        self
    }

    /// The guest's host name.
    pub fn hostname(mut self, hostname: impl Into<OsString>) -> Self {
        self.config.hostname = Some(hostname.into());
        self
    }

    /// The command's standard input. Without one it reads end-of-file at once.
    pub fn stdin(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.config.stdin = Some(fd.into());
        self
    }

    /// Where the command's standard output goes, byte for byte. Without one it goes nowhere.
    pub fn stdout(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.config.stdout = Some(fd.into());
        self
    }

    /// Where the command's standard error goes, byte for byte. Without one it goes nowhere.
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.config.stderr = Some(fd.into());
        self
    }

    /// This process's three standard streams, as the command's. The descriptors are duplicated; their flags stay as they
    /// are.
    pub fn inherit_stdio(self) -> Self {
        let duplicate = |fd: rustix::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        let streams = (
            duplicate(std::io::stdin().as_fd()),
            duplicate(std::io::stdout().as_fd()),
            duplicate(std::io::stderr().as_fd()),
        );
        match streams {
            (Ok(stdin), Ok(stdout), Ok(stderr)) => self.stdin(stdin).stdout(stdout).stderr(stderr),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                let remedy = "give the command streams of its own, or none";
                self.with_problem(Problem::caused_by("inherit_stdio", "", error, remedy))
            }
        }
    }

    /// One terminal as the command's standard input, output and error: the guest sees a terminal of the same size, with
    /// line editing and job control. The host's terminal should be in raw mode; that, and telling about new sizes
    /// ([`VmHandle::resize`](crate::VmHandle::resize)), is the caller's business.
    pub fn terminal(mut self, input: impl Into<OwnedFd>, output: impl Into<OwnedFd>) -> Self {
        self.config.terminal = Some(Terminal { input: input.into(), output: output.into() });
        self
    }

    /// Where the messages of the guest's kernel and init go. Without one only the last of them are kept, for the report
    /// of a panic. A VM with a [`terminal`](Self::terminal) shows them there.
    pub fn console(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.config.console = Some(fd.into());
        self
    }

    /// Adds a 16550 serial port (COM1) whose output goes to `fd`: for a kernel's very first messages, and for kernels
    /// without a virtio console. The kernel has to be told to use it (`console=ttyS0`, `earlyprintk=ttyS0`).
    pub fn serial(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.config.serial = Some(fd.into());
        self
    }

    /// Adds a virtio device of your own.
    pub fn device(mut self, device: impl VirtioDevice + 'static) -> Self {
        self.config.devices.push(Box::new(device));
        self
    }

    /// Checks the settings without opening anything.
    ///
    /// # Errors
    ///
    /// [`BuildError`] with every mistake that shows in the settings themselves.
    pub fn check(&self) -> Result<(), BuildError> {
        let mut problems = Vec::new();
        self.config.check(&mut problems);
        BuildError::of(problems)
    }

    /// Checks the settings and acquires everything the VM needs from outside: KVM, the kernel's file, the shared
    /// directories, a file for RAM. After this the caller may give up its privileges, the sight of its paths, and every
    /// descriptor that [`Vm::descriptors`] does not list.
    ///
    /// # Errors
    ///
    /// [`BuildError`] with every mistake in the settings and everything that cannot be opened.
    pub fn build(mut self) -> Result<Vm, BuildError> {
        let mut problems = std::mem::take(&mut self.config.problems);
        self.config.check(&mut problems);
        Vm::acquire(self.config, problems)
    }

    fn with_problem(mut self, problem: Problem) -> Self {
        self.config.problems.push(problem);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(builder: &VmBuilder) -> Vec<&'static str> {
        match builder.check() {
            Ok(()) => Vec::new(),
            Err(error) => error.problems().iter().map(|problem| problem.field).collect(),
        }
    }

    fn good() -> VmBuilder {
        VmBuilder::new()
            .kernel(KernelSource::Bundle("libkrunfw.so.5".into()))
            .root("/r")
            .command(Command::new("/bin/true"))
    }

    #[test]
    fn a_sensible_configuration_has_no_problem() {
        assert_eq!(fields(&good()), [""; 0]);
        assert_eq!(fields(&good().vcpus(4).memory_mib(5120).volume(Volume::new("/a", "/b"))), [""; 0]);
        let bare = VmBuilder::new().kernel(KernelSource::File("bzImage".into())).kernel_cmdline("console=ttyS0");
        assert_eq!(fields(&bare), [""; 0]);
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let builder = VmBuilder::new()
            .vcpus(0)
            .memory(5)
            .kernel_cmdline("a\nb")
            .hostname("h".repeat(65))
            .volume(Volume::new("/a", "b"))
            .command(Command::new("").env("A=B", "").current_dir("x"));
        let expected = [
            "vcpus",
            "memory",
            "kernel",
            "kernel_cmdline",
            "volume",
            "root",
            "hostname",
            "command",
            "env",
            "current_dir",
        ];
        assert_eq!(fields(&builder), expected);
    }

    #[test]
    fn an_init_is_root() {
        let init = || Command::new("/sbin/init").as_init();
        assert_eq!(fields(&good().command(init())), [""; 0]);
        assert_eq!(fields(&good().command(init().uid(0).gid(5))), [""; 0]);
        assert_eq!(fields(&good().command(init().uid(1000))), ["uid"]);
    }

    #[test]
    fn settings_that_need_a_command_are_not_ignored() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let builder = VmBuilder::new()
            .kernel(KernelSource::File("bzImage".into()))
            .root("/r")
            .volume(Volume::new("/a", "/b"))
            .stdin(reader)
            .hostname("h");
        assert_eq!(fields(&builder), ["root", "volume", "stdio", "hostname"]);
    }

    #[test]
    fn a_terminal_excludes_streams_and_a_console() {
        let ((a, b), (c, d)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        assert_eq!(fields(&good().stdin(c).terminal(a, b).console(d)), ["terminal", "console"]);
    }
}
