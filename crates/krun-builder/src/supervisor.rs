//! The VM's own thread: listens to init and the vCPUs, and decides when and how the VM has ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use krun_console::ConsoleHandle;
use krun_init::Event;
use krun_init::protocol::Exit;
use krun_kernel_loader::words::guest_panicked;
use krun_vcpu::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::control::Control;
use crate::devices::CONSOLE_PORT;
use crate::halt::HaltWatch;
use crate::log::{Log, last_lines};
use crate::machine::Machine;
use crate::memory::GuestRam;
use crate::shared::{Message, Shared};
use crate::status::ExitStatus;
use crate::sys::borrow;
use crate::vcpus::Left;

/// How long a guest may take to write its file systems back and restart, after its command has ended.
const GRACE: Duration = Duration::from_secs(10);
/// How often a wait for slow readers looks whether it is still wanted.
const FLUSH_STEP: Duration = Duration::from_millis(100);

/// The VM's own thread.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) shared: Arc<Shared>,
    /// Everything that runs; gone when the VM has ended.
    pub(crate) machine: Arc<Mutex<Option<Machine>>>,
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) control: Option<Control>,
    pub(crate) console: Option<ConsoleHandle>,
    pub(crate) serial: Option<Log>,
}

impl Supervisor {
    /// Runs until the VM has ended.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let end = End(&shared);
        let status = self.attend();
        tracing::debug!(?status, "the VM ends");
        self.stop(status != ExitStatus::Stopped);
        end.with(status);
    }

    /// Listens until there is a verdict.
    fn attend(&mut self) -> ExitStatus {
        let mut verdict = Verdict::new();
        loop {
            self.wait(verdict.next());
            // Messages before the control channel: what init said before a vCPU left is there by now.
            let messages = self.shared.take();
            let mut left = None;
            for message in messages {
                match message {
                    Message::Kill => return ExitStatus::Stopped,
                    Message::Left { vcpu, why } => {
                        tracing::debug!(vcpu, ?why, "a vCPU has left");
                        left.get_or_insert(why);
                    }
                    Message::Signal(number) => self.with_control(|control| control.signal(number)),
                    Message::Resize { columns, rows } => self.resize(columns, rows),
                }
            }
            if left.is_none() && self.has_halted(&mut verdict.watch) {
                tracing::debug!("the guest has halted");
                left = Some(Ok(Stop::Shutdown));
            }
            if left.is_some() {
                self.shared.command_is_over();
                if let Err(status) = self.hear_out(&mut verdict) {
                    return status;
                }
            } else if let Err(status) = self.listen(&mut verdict) {
                return status;
            }
            if let Some(why) = left {
                return verdict.command.take().unwrap_or_else(|| self.judge(why, verdict.is_init));
            }
            if let (Some(deadline), Some(status)) = (verdict.deadline, &verdict.command)
                && Instant::now() >= deadline
            {
                tracing::warn!("the guest did not restart in time after its command had ended; it is stopped");
                return status.clone();
            }
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self, deadline: Instant) {
        let timeout = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        let mut fds = vec![PollFd::from_borrowed_fd(borrow(&self.shared.wake), PollFlags::IN)];
        if let Some((fd, wanted)) = self.control.as_ref().and_then(Control::interest) {
            fds.push(PollFd::from_borrowed_fd(fd, wanted));
        }
        if let Err(error) = poll(&mut fds, timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "cannot wait for the VM");
        }
    }

    /// Whether the guest has stopped all its CPUs: it was powered off or halted, which it cannot tell otherwise.
    fn has_halted(&self, watch: &mut HaltWatch) -> bool {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.as_ref().is_some_and(|machine| watch.look(machine))
    }

    /// Hears what is still on its way through the console device: the exit code may be among it. The guest runs no more.
    fn hear_out(&mut self, verdict: &mut Verdict) -> Result<(), ExitStatus> {
        let patience = Instant::now() + GRACE;
        loop {
            // Not before the control channel: all output waits for its reader, and that channel's is this thread.
            let flushed = self.flush_step();
            let more = self.listen(verdict)?;
            let is_late = Instant::now() >= patience;
            if let Some(control) = &mut self.control
                && (control.is_over() || is_late)
            {
                control.hang_up();
            }
            if flushed && (!more || is_late) {
                return Ok(());
            }
        }
    }

    /// Hears what init has to say, and whether there may be more.
    fn listen(&mut self, verdict: &mut Verdict) -> Result<bool, ExitStatus> {
        let Some(control) = &mut self.control else { return Ok(false) };
        let shared = &self.shared;
        let heard = control.pump(|event| {
            tracing::debug!(?event, "the guest's init reports");
            match event {
                Event::Started { .. } => shared.command_runs(),
                Event::Failed(failure) => verdict.command_ended(ExitStatus::InitFailed(failure)),
                Event::Exited(exit) => {
                    shared.command_is_over();
                    verdict.command_ended(match exit {
                        Exit::Code(code) => ExitStatus::Exited(code),
                        Exit::Signal(signal) => ExitStatus::Signaled(signal.into()),
                    });
                }
                Event::HandedOver => verdict.is_init = true,
                _ => {}
            }
        });
        heard.map_err(|fault| self.failed(fault.to_string()))
    }

    /// How a VM ended whose command has not.
    fn judge(&self, why: Left, is_init: bool) -> ExitStatus {
        let console = || self.last_words();
        match why {
            Ok(Stop::Crashed) => ExitStatus::Panicked { console: console() },
            Ok(Stop::Reset | Stop::Shutdown) if guest_panicked(&*self.ram) => {
                ExitStatus::Panicked { console: console() }
            }
            Ok(Stop::Reset | Stop::Shutdown) if is_init => ExitStatus::ShutDown,
            Ok(Stop::Reset | Stop::Shutdown) => ExitStatus::Rebooted,
            Ok(Stop::TripleFault) => ExitStatus::TripleFault { console: console() },
            Ok(stop) => self.failed(format!("a vCPU stopped for a reason that no handler gave: {stop:?}")),
            Err(error) => self.failed(error.to_string()),
        }
    }

    fn failed(&self, reason: String) -> ExitStatus {
        ExitStatus::Failed { reason, console: self.last_words() }
    }

    /// The last lines of the kernel: of its console, unless only the serial port has any.
    fn last_words(&self) -> String {
        let console = self.console.as_ref().and_then(|console| console.tail(CONSOLE_PORT).ok()).unwrap_or_default();
        match &self.serial {
            Some(serial) if console.is_empty() => serial.text(),
            _ => last_lines(&console),
        }
    }

    fn with_control(&mut self, tell: impl FnOnce(&mut Control)) {
        if let Some(control) = &mut self.control {
            tell(control);
        }
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        if let Some(console) = &self.console
            && let Err(error) = console.resize(CONSOLE_PORT, columns, rows)
        {
            tracing::debug!(%error, "cannot tell the guest the size of its terminal");
        }
        self.with_control(|control| control.resize(columns, rows));
    }

    /// Stops the vCPUs, brings all output to its readers (unless nobody waits for it), and takes the machine apart.
    fn stop(&mut self, with_output: bool) {
        self.shared.command_is_over();
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(machine) = &machine {
            machine.stop_vcpus();
            // Devices of a paused VM hold output back.
            if with_output && let Err(error) = machine.resume() {
                tracing::warn!(%error, "output of the guest may be lost");
            }
        }
        // Nobody listens any more.
        self.with_control(Control::hang_up);
        if with_output {
            while !self.flush_step() {}
            if let Some(serial) = &self.serial {
                serial.drain(None, borrow(&self.shared.killed));
            }
        }
    }

    /// Waits a moment for everything that the guest has written to be with its readers. Whether the wait is over: it is
    /// there, or nobody wants to wait any more.
    fn flush_step(&self) -> bool {
        let Some(console) = &self.console else { return true };
        let Err(error) = console.flush(Some(FLUSH_STEP)) else { return true };
        let is_late = matches!(error, krun_console::Error::FlushTimeout { .. });
        let is_over = self.shared.is_killed() || !is_late;
        if is_over {
            tracing::debug!(%error, "output of the guest is given up");
        }
        is_over
    }
}

/// What is known about the end so far.
#[derive(Debug)]
struct Verdict {
    command: Option<ExitStatus>,
    deadline: Option<Instant>,
    /// Whether the command is the guest's first process.
    is_init: bool,
    watch: HaltWatch,
}

impl Verdict {
    fn new() -> Self {
        Self { command: None, deadline: None, is_init: false, watch: HaltWatch::new() }
    }

    fn command_ended(&mut self, status: ExitStatus) {
        self.command = Some(status);
        self.deadline = Some(Instant::now() + GRACE);
    }

    /// When to do something even if nothing happens.
    fn next(&self) -> Instant {
        let look = self.watch.next();
        self.deadline.map_or(look, |deadline| deadline.min(look))
    }
}

/// Makes sure that whoever waits is told, even if this thread meets a defect of ours.
struct End<'a>(&'a Shared);

impl End<'_> {
    fn with(self, status: ExitStatus) {
        self.0.end(status);
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if self.0.status().is_none() {
            let reason = "the VM's own thread panicked".to_owned();
            self.0.end(ExitStatus::Failed { reason, console: String::new() });
        }
    }
}

#[cfg(test)]
mod tests;
