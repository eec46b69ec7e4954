//! The one thing that needs unsafe code: work between fork and exec.
#![expect(unsafe_code, reason = "std's only way to run code in the child before it becomes another program")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Has the kernel kill the started process when the thread that starts it ends, however it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call (prctl) and touches no memory of the parent: it takes no lock and
    // allocates nothing, which is all that may happen between fork and exec in a process with threads.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from));
    }
}
