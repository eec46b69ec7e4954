//! What the VM's own thread shares with everybody who holds a handle on it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::error::Error;
use crate::status::ExitStatus;
use crate::vcpus::{Left, descriptor};

/// A message for the VM's thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// A vCPU will not run again.
    Left { vcpu: u32, why: Left },
    /// A signal for the command.
    Signal(u8),
    /// A new size of the terminal.
    Resize { columns: u16, rows: u16 },
    /// Stop at once.
    Kill,
}

/// Mailbox, state and end of a VM.
#[derive(Debug)]
pub(crate) struct Shared {
    inbox: Mutex<Inbox>,
    ended: Condvar,
    /// Readable while there are messages.
    pub(crate) wake: EventFd,
    /// Readable from the end of the VM on.
    pub(crate) done: EventFd,
    /// Readable once the VM is to be stopped at once: ends waits for slow readers.
    pub(crate) killed: EventFd,
}

#[derive(Debug, Default)]
struct Inbox {
    messages: Vec<Message>,
    command: Stage,
    killed: bool,
    status: Option<ExitStatus>,
}

/// Where the command is. It only goes forward: what is heard late does not bring it back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Starting,
    Running,
    /// It has ended, or the guest has.
    Over,
}

impl Shared {
    pub(crate) fn new() -> Result<Self, Error> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(descriptor("an eventfd for the VM"));
        Ok(Self { inbox: Mutex::default(), ended: Condvar::new(), wake: event()?, done: event()?, killed: event()? })
    }

    pub(crate) fn send(&self, message: Message) {
        let mut inbox = self.lock();
        if matches!(message, Message::Kill) {
            inbox.killed = true;
            raise(&self.killed);
        }
        inbox.messages.push(message);
        raise(&self.wake);
    }

    /// Sends what only a running command can take.
    pub(crate) fn send_to_command(&self, action: &'static str, message: Message) -> Result<(), Error> {
        if self.lock().command != Stage::Running {
            return Err(Error::NotRunning { action });
        }
        self.send(message);
        Ok(())
    }

    /// All messages so far.
    pub(crate) fn take(&self) -> Vec<Message> {
        // The counter first: a message that comes in between wakes once more than needed, never once less.
        let _ = self.wake.read();
        std::mem::take(&mut self.lock().messages)
    }

    /// Whether the VM is to be stopped at once.
    pub(crate) fn is_killed(&self) -> bool {
        self.lock().killed
    }

    /// The command runs, unless it is over already.
    pub(crate) fn command_runs(&self) {
        self.advance(Stage::Running);
    }

    /// The command does not run any more: nothing can be sent to it, however long its output takes.
    pub(crate) fn command_is_over(&self) {
        self.advance(Stage::Over);
    }

    fn advance(&self, stage: Stage) {
        let command = &mut self.lock().command;
        *command = stage.max(*command);
    }

    /// The VM has ended.
    pub(crate) fn end(&self, status: ExitStatus) {
        let mut inbox = self.lock();
        inbox.command = Stage::Over;
        inbox.status = Some(status);
        raise(&self.done);
        self.ended.notify_all();
    }

    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.lock().status.clone()
    }

    pub(crate) fn wait(&self) -> ExitStatus {
        let mut inbox = self.lock();
        loop {
            match &inbox.status {
                Some(status) => return status.clone(),
                None => inbox = self.ended.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raise(event: &EventFd) {
    if let Err(error) = event.write(1) {
        // The counter is full: it is readable.
        tracing::debug!(%error, "an eventfd of the VM takes no more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_wake_and_are_taken_once() {
        let shared = Shared::new().unwrap();
        assert!(shared.take().is_empty());
        shared.send(Message::Signal(15));
        shared.send(Message::Kill);
        assert!(shared.is_killed() && shared.killed.read().is_ok());
        assert_eq!(shared.take().len(), 2);
        assert!(shared.take().is_empty() && shared.wake.read().is_err());
    }

    #[test]
    fn a_command_that_does_not_run_takes_no_signal() {
        let shared = Shared::new().unwrap();
        let send = || shared.send_to_command("signal it", Message::Signal(2));
        assert!(matches!(send(), Err(Error::NotRunning { .. })));
        shared.command_runs();
        send().unwrap();
        shared.command_is_over();
        shared.command_runs();
        assert!(send().is_err());
        shared.end(ExitStatus::Exited(3));
        assert!(send().is_err());
        assert_eq!(shared.wait(), ExitStatus::Exited(3));
        assert!(shared.done.read().is_ok());
    }
}
