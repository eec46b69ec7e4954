//! A process that emulates a machine: it dies with us, and when its handle is dropped.

use std::process::{Child, Command};

use anyhow::{Context, Result};

use crate::sys::die_with_parent;

/// A running emulator.
#[derive(Debug)]
pub(crate) struct Emulator(Child);

impl Emulator {
    /// Starts `command`. The calling thread must outlive the emulator, which is killed when that thread ends.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        die_with_parent(command);
        let program = command.get_program().to_string_lossy().into_owned();
        Ok(Self(command.spawn().with_context(|| format!("cannot start `{program}`"))?))
    }

    /// The process.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself: both calls only tidy up.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
