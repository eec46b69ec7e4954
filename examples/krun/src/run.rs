//! `krun run`.

use std::fs::File;
use std::io;
use std::path::Path;

use krun_builder::{Command, ExitStatus, Root, RunningVm, Vm, VmBuilder};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::{self, RunOptions};
use crate::failure::{Failure, say};
use crate::kernel;
use crate::signals::{Signals, ends};
use crate::terminal::{self, RawMode};

/// What a command finds by default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the command; the code is the command's.
pub(crate) fn run(options: RunOptions) -> Result<u8, Failure> {
    raise_descriptor_limit();
    // Before the VM starts its threads: they inherit the mask.
    let signals = Signals::take().map_err(|source| Failure::Host { action: "receive signals", source })?;
    let with_terminal = terminal::wanted();
    let vm = configure(options, with_terminal)?.build()?;
    let raw = if with_terminal {
        Some(RawMode::enter().map_err(|source| Failure::Host { action: "put the terminal into raw mode", source })?)
    } else {
        None
    };
    let running = vm.start()?;
    if let Some(signal) = attend(&running, &signals)? {
        drop((running, raw));
        return Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    let status = running.wait()?;
    // The messages below are for a terminal as it was.
    drop(raw);
    report(status)
}

/// As many open files as this process may have: the guest's kernel remembers files, and each of them is a descriptor
/// here. Root may have more than its limit says.
fn raise_descriptor_limit() {
    const PLENTY: u64 = 1 << 20;
    let hard = getrlimit(Resource::Nofile).maximum;
    let raise = |limit: Option<u64>| setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit });
    let wanted = hard.map(|hard| hard.max(PLENTY));
    if let Err(error) = raise(wanted).or_else(|_| raise(hard)) {
        tracing::debug!(%error, "cannot raise the limit on open files");
    }
}

/// The code for a shell, or the failure of a VM whose command has none.
fn report(status: ExitStatus) -> Result<u8, Failure> {
    match status.shell_code() {
        Some(code) => {
            if matches!(status, ExitStatus::InitFailed { .. }) {
                say(&status);
            }
            Ok(code)
        }
        None => Err(Failure::Ended(status)),
    }
}

/// Passes signals on until the VM has ended. `Some(signal)` if one ended it before there was a command to pass it to.
fn attend(running: &RunningVm, signals: &Signals) -> Result<Option<i32>, Failure> {
    let failed = |source: io::Error| Failure::Host { action: "wait for the VM", source };
    let handle = running.handle();
    loop {
        let mut ready = [PollFd::new(running, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        if !ready[0].revents().is_empty() {
            return Ok(None);
        }
        while let Some(signal) = signals.next().map_err(failed)? {
            if signal == libc::SIGWINCH {
                if let Some((columns, rows)) = terminal::size() {
                    handle.resize(columns, rows);
                }
            } else if handle.signal(signal).is_err() && ends(signal) {
                running.kill();
                return Ok(Some(signal));
            }
        }
    }
}

fn configure(options: RunOptions, with_terminal: bool) -> Result<VmBuilder, Failure> {
    let root = Root::new(options.root);
    let mut builder = Vm::builder()
        .vcpus(options.cpus)
        .memory(options.memory)
        .kernel(kernel::choose(options.kernel))
        .root(if options.read_only { root.read_only() } else { root });
    let mut words = options.command.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default()).args(words).env("PATH", DEFAULT_PATH);
    if with_terminal {
        builder = builder.terminal(duplicate(io::stdin())?, duplicate(io::stdout())?);
        command = command.env("TERM", kernel::host_variable("TERM".as_ref()).unwrap_or_else(|| "linux".into()));
    } else {
        builder = builder.inherit_stdio();
    }
    command = command.envs(options.env.iter().filter_map(|text| args::variable(text)));
    if let Some(dir) = options.workdir {
        command = command.current_dir(dir);
    }
    if let Some((uid, gid)) = options.user {
        command = command.uid(uid);
        command = gid.into_iter().fold(command, Command::gid);
    }
    if options.become_init {
        command = command.as_init();
    }
    builder = options.volume.into_iter().fold(builder, VmBuilder::volume);
    builder = options.hostname.into_iter().fold(builder, VmBuilder::hostname);
    builder = options.initrd.into_iter().fold(builder, VmBuilder::initrd);
    builder = options.kernel_cmdline.into_iter().fold(builder, VmBuilder::kernel_cmdline);
    if let Some(path) = options.console {
        builder = builder.console(create(&path, "create the file for --console")?);
    }
    if let Some(path) = options.serial {
        builder = builder.serial(create(&path, "create the file for --serial")?);
    }
    Ok(builder.command(command))
}

fn duplicate(stream: impl rustix::fd::AsFd) -> Result<rustix::fd::OwnedFd, Failure> {
    let copy = stream.as_fd().try_clone_to_owned();
    copy.map_err(|source| Failure::Host { action: "duplicate the terminal", source })
}

fn create(path: &Path, action: &'static str) -> Result<File, Failure> {
    File::create(path).map_err(|source| Failure::Host { action, source })
}
