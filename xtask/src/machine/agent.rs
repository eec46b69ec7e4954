//! The half of xtask that runs inside a nested machine: it takes commands from the host and runs them, one at a time.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, isatty, tcgetattr, tcsetattr, tcsetwinsize};

use super::protocol::{Command, End, OUTPUT_PIECE, Reply, Request, receive, send};

/// How long output is waited for after the command itself ended: something it left behind may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the device that leads to the host may take to appear.
const DEVICE_APPEARS: Duration = Duration::from_secs(20);

/// Serves the host over the character device at `path` until it says goodbye.
pub(crate) fn serve(path: &Path) -> Result<()> {
    let device = open(path)?;
    if isatty(&device) {
        let mut settings = tcgetattr(&device)?;
        settings.make_raw();
        settings.set_speed(115_200)?;
        tcsetattr(&device, OptionalActions::Now, &settings)?;
    }
    let host = Host(Arc::new(Mutex::new(device.try_clone()?)));
    host.say(&Reply::Ready)?;
    let mut running: Option<Running> = None;
    while let Some(request) = receive::<Request>(&device)? {
        match request {
            Request::Run(command) => match Running::start(&command, &host) {
                Ok(started) => running = Some(started),
                Err(error) => host.say(&Reply::NotStarted(format!("{error:#}")))?,
            },
            Request::Input(bytes) => {
                if let Some(running) = &running {
                    // The command may have ended meanwhile: then nobody wants the bytes.
                    let _ = running.input.send(bytes);
                }
            }
            // Every sender gone is how the writing thread learns of the end.
            Request::InputEnd => {
                if let Some(running) = &mut running {
                    running.input = channel().0;
                }
            }
            Request::Signal(number) => {
                if let (Some(running), Some(signal)) = (&running, Signal::from_named_raw(number)) {
                    // It may have ended meanwhile.
                    let _ = kill_process_group(running.group, signal);
                }
            }
            Request::PowerOff => return Ok(()),
        }
    }
    Ok(())
}

/// Opens the device, which appears some moments after its driver is there.
fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed());
    let deadline = Instant::now() + DEVICE_APPEARS;
    loop {
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result.with_context(|| format!("cannot open {}", path.display())),
        }
    }
}

/// The way to the host, shared by the threads that have something to say.
#[derive(Clone)]
struct Host(Arc<Mutex<File>>);

impl Host {
    fn say(&self, reply: &Reply) -> Result<()> {
        let device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*device, reply)
    }
}

/// A command under way.
struct Running {
    group: Pid,
    input: Sender<Vec<u8>>,
}

/// The ends of a command's standard streams that are ours.
struct Streams {
    input: Option<File>,
    output: Vec<Output>,
}

/// Something the command writes to, and how its bytes are sent.
type Output = (File, fn(Vec<u8>) -> Reply);

impl Running {
    fn start(command: &Command, host: &Host) -> Result<Self> {
        let (mut child, streams) = match command.terminal {
            Some(size) => on_terminal(command, size)?,
            None => on_pipes(command)?,
        };
        let group = Pid::from_child(&child);
        let (input, waiting) = channel();
        let from = host.clone();
        spawn("input", move || feed(streams.input, &waiting, &from))?;
        let (done, all_done) = channel::<()>();
        let count = streams.output.len();
        for (stream, wrap) in streams.output {
            let (host, done) = (host.clone(), done.clone());
            spawn("output", move || {
                forward(stream, wrap, &host);
                let _ = done.send(());
            })?;
        }
        let host = host.clone();
        spawn("wait", move || {
            let end = child.wait().map_or(End::Code(127), end_of);
            // What it left running would disturb the next command.
            let _ = kill_process_group(group, Signal::KILL);
            for _ in 0..count {
                let _ = all_done.recv_timeout(LAST_WORDS);
            }
            // Without a host there is nobody left to tell.
            let _ = host.say(&Reply::Ended(end));
        })?;
        Ok(Self { group, input })
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.into()).spawn(body).context("cannot start a thread")?;
    Ok(())
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Code(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}

/// Writes what the host sends into the command and tells the host that it was taken.
fn feed(mut input: Option<File>, waiting: &Receiver<Vec<u8>>, host: &Host) {
    while let Ok(bytes) = waiting.recv() {
        if input.as_mut().is_some_and(|input| input.write_all(&bytes).is_err()) {
            // The command closed its end; what still comes is thrown away.
            input = None;
        }
        if host.say(&Reply::Room(u32::try_from(bytes.len()).unwrap_or(u32::MAX))).is_err() {
            return;
        }
    }
}

fn forward(mut stream: File, wrap: fn(Vec<u8>) -> Reply, host: &Host) {
    let mut buffer = vec![0; OUTPUT_PIECE];
    loop {
        match stream.read(&mut buffer) {
            // A terminal whose last user is gone answers EIO.
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if host.say(&wrap(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
        }
    }
}

/// The process to start, before its standard streams are set.
fn process(arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Result<std::process::Command> {
    let mut words = arguments.iter().map(|word| OsStr::from_bytes(word));
    let mut process = std::process::Command::new(words.next().context("the command is empty")?);
    process.args(words).env_clear().envs(environment.iter().filter_map(|pair| split_pair(pair)));
    Ok(process)
}

fn split_pair(pair: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let at = pair.iter().position(|&byte| byte == b'=')?;
    Some((OsStr::from_bytes(&pair[..at]), OsStr::from_bytes(&pair[at + 1..])))
}

fn spawn_process(process: &mut std::process::Command) -> Result<Child> {
    process.spawn().with_context(|| format!("cannot start {}", process.get_program().to_string_lossy()))
}

fn on_pipes(command: &Command) -> Result<(Child, Streams)> {
    let mut process = process(&command.arguments, &command.environment)?;
    process
        .process_group(0)
        .stdin(if command.input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn_process(&mut process)?;
    let file = |descriptor: Option<OwnedFd>| descriptor.map(File::from);
    let input = file(child.stdin.take().map(OwnedFd::from));
    let output = file(child.stdout.take().map(OwnedFd::from)).map(|file| (file, Reply::Output as fn(_) -> _));
    let errors = file(child.stderr.take().map(OwnedFd::from)).map(|file| (file, Reply::Errors as fn(_) -> _));
    Ok((child, Streams { input, output: output.into_iter().chain(errors).collect() }))
}

/// Runs the command in a session of its own on a new terminal, as a login would.
fn on_terminal(command: &Command, (rows, columns): (u16, u16)) -> Result<(Child, Streams)> {
    let ours =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("cannot open a terminal")?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    tcsetwinsize(&ours, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    let path = OsString::from_vec(CString::into_bytes(ptsname(&ours, Vec::new())?));
    let theirs =
        OpenOptions::new().read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed()).open(path)?;
    // busybox makes the terminal the session's controlling one, which takes a system call between fork and exec.
    let login = ["/bin/busybox", "setsid", "-c"].map(|word| word.as_bytes().to_vec());
    let arguments: Vec<_> = login.into_iter().chain(command.arguments.iter().cloned()).collect();
    let mut process = process(&arguments, &command.environment)?;
    process.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    let child = spawn_process(&mut process)?;
    // The last copies of the terminal's far end go with `process`, so that its end is seen.
    drop(process);
    let ours = File::from(ours);
    Ok((child, Streams { input: Some(ours.try_clone()?), output: vec![(ours, Reply::Output)] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_pair_is_split_at_its_first_equals_sign() {
        assert_eq!(split_pair(b"A=b=c"), Some((OsStr::new("A"), OsStr::new("b=c"))));
        assert_eq!(split_pair(b"A="), Some((OsStr::new("A"), OsStr::new(""))));
        assert_eq!(split_pair(b"A"), None);
    }

    #[test]
    fn an_empty_command_is_refused() {
        assert!(process(&[], &[]).is_err());
    }
}
