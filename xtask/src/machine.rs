//! A machine with a working KVM where the host has none: an emulated computer that runs our programs.
//!
//! [`image`] says what is in it, [`amd`] and [`intel`] start the emulators, [`agent`] runs in the machine and takes
//! commands by [`protocol`], [`console`] tells a machine that broke from a test that failed.

pub(crate) mod agent;
mod amd;
pub(crate) mod console;
mod emulator;
pub(crate) mod image;
mod initramfs;
mod intel;
mod libraries;
mod modules;
pub(crate) mod protocol;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use self::emulator::Emulator;
use self::image::Bootable;
use self::intel::{Terminal, UntilHangUp};
use self::protocol::{Command, End, INPUT_WINDOW, Reply, Request, receive, send};
use crate::process::last_lines;
use crate::progress::say;

/// How long a machine that was told to kill a command, or to switch off, may take to obey.
const GRACE: Duration = Duration::from_secs(30);

/// A running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    emulator: Emulator,
    requests: Requests,
    replies: Receiver<Result<Reply>>,
    console: PathBuf,
}

/// How a command went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ended by itself.
    Ended(End),
    /// It was killed at its time limit.
    TimedOut,
    /// It could not be started.
    NotStarted(String),
}

/// The machine is gone or does not answer; says what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost(pub(crate) String);

/// Takes what a command writes.
pub(crate) trait Streams {
    /// Bytes of standard output.
    fn output(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Bytes of standard error.
    fn errors(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// The way into the machine, for any thread.
#[derive(Clone)]
pub(crate) struct Requests {
    writer: Arc<Mutex<Box<dyn Write + Send>>>,
    room: Arc<(Mutex<usize>, Condvar)>,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Machine {
    /// Boots `image` and waits up to `limit` until it is up. The console's log goes to the file `console`.
    ///
    /// An emulated machine on a busy computer sometimes fails to start: it is tried twice, and says so.
    ///
    /// The calling thread owns the machine: when it ends, the machine is killed.
    pub(crate) fn boot(image: &Bootable, console: &Path, limit: Duration) -> Result<Self> {
        Self::boot_once(image, console, limit).or_else(|error| {
            say(format!("{error:#}; trying once more"));
            Self::boot_once(image, console, limit)
        })
    }

    fn boot_once(image: &Bootable, console: &Path, limit: Duration) -> Result<Self> {
        let start = Instant::now();
        if let Some(directory) = console.parent() {
            fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        File::create(console).with_context(|| format!("cannot create {}", console.display()))?;
        let mut machine = match image {
            Bootable::Amd { qemu, kernel, initramfs } => {
                let mut emulator = Emulator::start(&mut amd::command(qemu, kernel, initramfs, console))?;
                let child = emulator.child();
                let writer = child.stdin.take().context("the emulator has no standard input")?;
                let reader = child.stdout.take().context("the emulator has no standard output")?;
                Self::new(emulator, writer, reader, console)?.0
            }
            Bootable::Intel { bochs, disk } => {
                let (agent, display) = (Terminal::open()?, Terminal::open()?);
                let emulator = Emulator::start(&mut intel::command(bochs, disk, console, &agent, &display)?)?;
                let writer = agent.into_file();
                let reader = UntilHangUp(writer.try_clone()?);
                let (machine, sender) = Self::new(emulator, writer, reader, console)?;
                watch_display(display, sender)?;
                machine
            }
        };
        match machine.next(start + limit) {
            Ok(Some(Reply::Ready)) => Ok(machine),
            Ok(Some(other)) => bail!("the machine started with {other:?}"),
            Ok(None) => {
                bail!("the machine was not up after {} s; its console: {}", limit.as_secs(), console.display())
            }
            Err(Lost(reason)) => {
                let complaint = machine.complaint();
                bail!("the machine did not come up: {reason}; its console: {}{complaint}", console.display())
            }
        }
    }

    fn new(
        emulator: Emulator,
        writer: impl Write + Send + 'static,
        reader: impl Read + Send + 'static,
        console: &Path,
    ) -> Result<(Self, Sender<Result<Reply>>)> {
        let requests = Requests {
            writer: Arc::new(Mutex::new(Box::new(writer))),
            room: Arc::new((Mutex::new(INPUT_WINDOW), Condvar::new())),
        };
        let (sender, replies) = channel();
        listen(reader, requests.clone(), sender.clone())?;
        Ok((Self { emulator, requests, replies, console: console.to_owned() }, sender))
    }

    /// Runs one command. What it writes goes to `streams` as it comes; without a limit it may take for ever.
    ///
    /// # Errors
    /// [`Lost`] when the machine stopped answering: nothing more can be run in it.
    pub(crate) fn run(
        &mut self,
        command: Command,
        limit: Option<Duration>,
        streams: &mut dyn Streams,
    ) -> Result<Outcome, Lost> {
        self.requests.reset_room();
        self.requests.send(&Request::Run(command)).map_err(|error| self.lost(&error))?;
        let mut deadline = limit.map(|limit| Instant::now() + limit);
        let mut timed_out = false;
        loop {
            let reply = match self.next(deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)))? {
                Some(reply) => reply,
                None if deadline.is_none() => continue,
                None if timed_out => return Err(self.lost(&anyhow!("it did not end a command when told to"))),
                None => {
                    timed_out = true;
                    deadline = Some(Instant::now() + GRACE);
                    self.requests.signal(9).map_err(|error| self.lost(&error))?;
                    continue;
                }
            };
            let written = match reply {
                Reply::Output(bytes) => streams.output(&bytes),
                Reply::Errors(bytes) => streams.errors(&bytes),
                Reply::Ended(_) if timed_out => return Ok(Outcome::TimedOut),
                Reply::Ended(end) => return Ok(Outcome::Ended(end)),
                Reply::NotStarted(reason) => return Ok(Outcome::NotStarted(reason)),
                Reply::Room(_) => Ok(()),
                Reply::Ready => return Err(self.lost(&anyhow!("it started again"))),
            };
            if written.is_err() {
                // Nobody reads any more: the command ends as it would at a closed pipe.
                self.requests.signal(13).map_err(|error| self.lost(&error))?;
            }
        }
    }

    /// The way to send input and signals to the running command from another thread.
    pub(crate) fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// The log of the machine's kernel.
    pub(crate) fn console(&self) -> &Path {
        &self.console
    }

    /// The next reply, or `None` at the deadline.
    fn next(&mut self, deadline: Instant) -> Result<Option<Reply>, Lost> {
        match self.replies.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Ok(reply)) => Ok(Some(reply)),
            Ok(Err(error)) => Err(self.lost(&error)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.lost(&anyhow!("it ended without saying so"))),
        }
    }

    fn lost(&self, error: &anyhow::Error) -> Lost {
        match console::trouble_in_file(&self.console) {
            Some(line) => Lost(format!("{error:#}; its kernel says: {line}")),
            None => Lost(format!("{error:#}")),
        }
    }

    /// What the emulator itself said before it ended.
    fn complaint(&mut self) -> String {
        let child = self.emulator.child();
        let _ = child.kill();
        // Best effort: it decorates an error that is reported anyway.
        let mut text = fs::read_to_string(intel::log(&self.console)).unwrap_or_default();
        if let Some(mut errors) = child.stderr.take() {
            let _ = errors.read_to_string(&mut text);
        }
        let text = last_lines(&text, 5);
        if text.trim().is_empty() { text } else { format!("; the emulator says: {}", text.trim()) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An emulated machine has nothing to lose: it is switched off by ending its emulator.
        let _ = self.requests.send(&Request::PowerOff);
    }
}

impl Requests {
    /// Sends bytes of standard input, as fast as the command takes them.
    pub(crate) fn input(&self, bytes: &[u8]) -> Result<()> {
        let (room, grown) = &*self.room;
        for piece in bytes.chunks(INPUT_WINDOW / 4) {
            let room = room.lock().unwrap_or_else(PoisonError::into_inner);
            let mut room = grown.wait_while(room, |room| *room < piece.len()).unwrap_or_else(PoisonError::into_inner);
            *room -= piece.len();
            drop(room);
            self.send(&Request::Input(piece.to_vec()))?;
        }
        Ok(())
    }

    /// Ends standard input.
    pub(crate) fn end_of_input(&self) -> Result<()> {
        self.send(&Request::InputEnd)
    }

    /// Sends a signal to the command.
    pub(crate) fn signal(&self, number: i32) -> Result<()> {
        self.send(&Request::Signal(number))
    }

    fn send(&self, request: &Request) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut *writer, request)
    }

    fn reset_room(&self) {
        *self.room.0.lock().unwrap_or_else(PoisonError::into_inner) = INPUT_WINDOW;
    }

    fn grow_room(&self, count: u32) {
        let (room, grown) = &*self.room;
        *room.lock().unwrap_or_else(PoisonError::into_inner) += usize::try_from(count).unwrap_or_default();
        grown.notify_all();
    }
}

/// Reads replies on a thread of its own, so that waiting for one can have a limit.
fn listen(mut reader: impl Read + Send + 'static, requests: Requests, sender: Sender<Result<Reply>>) -> Result<()> {
    spawn("machine", move || {
        loop {
            let reply = match receive::<Reply>(&mut reader) {
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => Err(anyhow!("it ended without saying so")),
                Err(error) => Err(error),
            };
            let is_last = reply.is_err();
            if let Ok(Reply::Room(count)) = reply {
                requests.grow_room(count);
            }
            if sender.send(reply).is_err() || is_last {
                return;
            }
        }
    })
}

/// Keeps an emulator's display from filling up. Its end is the emulator's end.
fn watch_display(display: Terminal, sender: Sender<Result<Reply>>) -> Result<()> {
    spawn("display", move || {
        // What is drawn says nothing that the console and the emulator's log do not.
        let _ = io::copy(&mut UntilHangUp(display.into_file()), &mut io::sink());
        // Nobody waits any more when the machine was ended on purpose.
        let _ = sender.send(Err(anyhow!("the emulator ended")));
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.into()).spawn(body).context("cannot start a thread")?;
    Ok(())
}
