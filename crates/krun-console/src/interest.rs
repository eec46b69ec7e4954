//! One descriptor's registration with the event loop.

use krun_virtio::{Ready, Watch};
use std::io;
use std::os::fd::BorrowedFd;

/// Whether, and how, a descriptor is waited for.
#[derive(Debug)]
pub(crate) struct Interest {
    token: u32,
    ready: Ready,
    registered: bool,
    on: bool,
}

impl Interest {
    /// Interest in `ready`, under `token`.
    pub(crate) fn new(token: u32, ready: Ready) -> Self {
        Self { token, ready, registered: false, on: false }
    }

    /// Waits for the descriptor. Without one there is nothing to wait for, and that is an error.
    pub(crate) fn on(&mut self, fd: Option<BorrowedFd<'_>>, watch: &mut dyn Watch) -> io::Result<()> {
        if self.on {
            return Ok(());
        }
        if self.registered {
            watch.change(self.token, self.ready)?;
        } else {
            watch.add(fd.ok_or(io::ErrorKind::WouldBlock)?, self.token, self.ready)?;
            self.registered = true;
        }
        self.on = true;
        Ok(())
    }

    /// Waits no more, for the moment: a descriptor that is ready and not served would keep the loop busy.
    pub(crate) fn off(&mut self, watch: &mut dyn Watch) {
        if std::mem::take(&mut self.on) {
            let _ = watch.change(self.token, Ready::NONE);
        }
    }

    /// Lets go of the descriptor.
    pub(crate) fn remove(&mut self, watch: &mut dyn Watch) {
        self.on = false;
        if std::mem::take(&mut self.registered) {
            let _ = watch.remove(self.token);
        }
    }

    /// A new event loop knows of no registrations.
    pub(crate) fn forget(&mut self) {
        (self.registered, self.on) = (false, false);
    }
}
