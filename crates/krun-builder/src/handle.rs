//! A handle on a running VM, for threads that do not own it.

use std::sync::Arc;

use crate::error::Error;
use crate::shared::{Message, Shared};
use crate::status::ExitStatus;

/// Talks to a running VM from any thread; clones are cheap. It does not keep the VM alive.
#[derive(Debug, Clone)]
pub struct VmHandle {
    shared: Arc<Shared>,
}

impl VmHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Sends the command a signal (Linux numbering, 1 to 64).
    ///
    /// # Errors
    ///
    /// [`Error::Signal`] if there is no such signal, [`Error::NotRunning`] before the command has started, after it has
    /// ended, and always if it is the guest's init ([`Command::as_init`](crate::Command::as_init)).
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let number = u8::try_from(signal).ok().filter(|number| (1..=64).contains(number));
        let number = number.ok_or(Error::Signal { signal })?;
        self.shared.send_to_command("send it a signal", Message::Signal(number))
    }

    /// Asks the command to end: `SIGTERM`.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`].
    pub fn shutdown(&self) -> Result<(), Error> {
        self.signal(libc::SIGTERM)
    }

    /// Tells the command's terminal its new size in characters. Without a terminal it does nothing.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.shared.send(Message::Resize { columns, rows });
    }

    /// Stops the VM at once, whatever it does. Output that its reader has not taken yet is lost.
    pub fn kill(&self) {
        self.shared.send(Message::Kill);
    }

    /// How the VM ended, or `None` while it has not.
    #[must_use]
    pub fn try_wait(&self) -> Option<ExitStatus> {
        self.shared.status()
    }

    /// Waits for the end of the VM.
    #[must_use]
    pub fn wait(&self) -> ExitStatus {
        self.shared.wait()
    }
}
