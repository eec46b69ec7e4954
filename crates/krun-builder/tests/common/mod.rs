//! What all guest tests need: the assets that `cargo xtask test` names in the environment, and a way to run a command
//! and have its output.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use krun_builder::{Command, ExitStatus, KernelSource, RunningVm, Vm, VmBuilder};

/// A path that the test run was told of.
#[expect(clippy::disallowed_methods, reason = "the test runner passes its assets on in the environment")]
pub(crate) fn asset(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test`"));
    PathBuf::from(value)
}

/// The kernel bundle and nothing else.
pub(crate) fn bare() -> VmBuilder {
    Vm::builder().kernel(KernelSource::File(asset("KRUN_TEST_KERNEL")))
}

/// The kernel bundle and the busybox root, shared read-only: tests write to volumes of their own.
pub(crate) fn guest() -> VmBuilder {
    bare().root(krun_builder::Root::new(asset("KRUN_TEST_ROOT")).read_only())
}

/// A script for the guest's shell.
pub(crate) fn sh(script: &str) -> Command {
    Command::new("/bin/sh").args(["-c", script])
}

/// How a VM ended, and what its command had to say.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The output of a command that exited with code 0; anything else fails the test with all there is to see.
    #[track_caller]
    pub(crate) fn success(&self) -> String {
        assert!(self.status.success(), "{}\nstdout: {}\nstderr: {}", self.status, self.out(), self.err());
        self.out()
    }
}

/// A VM on its way, its output going to files.
pub(crate) struct Running {
    pub(crate) vm: RunningVm,
    stdout: File,
    stderr: File,
}

/// Lets this process have as many open files as it may: a guest's file system remembers one for each file it knows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    // The nested machine's limit is low, and root may raise it.
    let enough = [Some(1 << 19), hard].map(|limit| Rlimit { current: limit, maximum: limit });
    assert!(enough.into_iter().any(|limit| setrlimit(Resource::Nofile, limit).is_ok()));
}

/// Starts a command.
pub(crate) fn start(builder: VmBuilder, command: Command) -> Running {
    raise_descriptor_limit();
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let builder = builder.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    Running { vm: builder.command(command).build().unwrap().start().unwrap(), stdout, stderr }
}

impl Running {
    /// What the command has put out so far.
    pub(crate) fn out_so_far(&self) -> String {
        String::from_utf8_lossy(&content(&self.stdout)).into_owned()
    }

    /// Waits until the command has put `text` out.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        self.wait_until(&format!("to say {text:?}"), |out| out.contains(text));
    }

    /// Waits until the command's output is as it should be.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !is_so(&self.out_so_far()) {
            if let Some(status) = self.vm.try_wait() {
                panic!("the VM was {what}, but ended: {status}; {:?}", self.out_so_far());
            }
            assert!(std::time::Instant::now() < deadline, "the VM was {what}: {:?}", self.out_so_far());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub(crate) fn wait(self) -> Outcome {
        let status = self.vm.wait().unwrap();
        Outcome { status, stdout: content(&self.stdout), stderr: content(&self.stderr) }
    }
}

/// All of a file, whoever wrote it. The position is not touched: the device writes at the same one.
fn content(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Runs a command to its end.
pub(crate) fn run(builder: VmBuilder, command: Command) -> Outcome {
    start(builder, command).wait()
}

/// All of a file, from its start.
pub(crate) fn read_all(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}
