//! Our own standard streams, lent to a command in a nested machine.

use std::ffi::OsString;
use std::io::{self, Read, Write, stderr, stdin, stdout};
use std::os::unix::ffi::OsStringExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::machine::protocol::Command;
use crate::machine::{Lost, Machine, Outcome, Requests, Streams};

/// Runs a command in a machine as if it were running here: on our terminal if a person sits there, else on our streams.
pub(crate) fn run_attached(
    machine: &mut Machine,
    arguments: Vec<OsString>,
    environment: Vec<Vec<u8>>,
    limit: Option<Duration>,
) -> Result<Result<Outcome, Lost>> {
    let terminal = interactive_size();
    let arguments = arguments.into_iter().map(OsStringExt::into_vec).collect();
    let command = Command { arguments, environment, input: true, terminal };
    let _raw = terminal.map(|_| RawMode::enter()).transpose()?;
    feed(machine.requests())?;
    Ok(machine.run(command, limit, &mut Inherit))
}

/// Hands what the command writes on to our own standard streams.
#[derive(Debug)]
struct Inherit;

impl Streams for Inherit {
    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut output = stdout().lock();
        output.write_all(bytes)?;
        output.flush()
    }

    fn errors(&mut self, bytes: &[u8]) -> io::Result<()> {
        stderr().write_all(bytes)
    }
}

/// Rows and columns of our terminal, if a person sits at both ends of it.
fn interactive_size() -> Option<(u16, u16)> {
    if !isatty(stdin()) || !isatty(stdout()) {
        return None;
    }
    let size = tcgetwinsize(stdout()).ok()?;
    Some((size.ws_row, size.ws_col))
}

/// Sends our standard input to the running command, on a thread of its own that may outlive the command.
fn feed(requests: Requests) -> Result<()> {
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            let mut input = stdin().lock();
            let mut buffer = [0; 4096];
            loop {
                match input.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) if requests.input(&buffer[..count]).is_ok() => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // The machine is gone: whoever waits for the command reports it.
                    _ => return,
                }
            }
            let _ = requests.end_of_input();
        })
        .context("cannot start a thread")?;
    Ok(())
}

/// Our terminal in raw mode, until this is dropped: every key goes to the command.
struct RawMode(Termios);

impl RawMode {
    /// Switches the terminal at our standard input.
    fn enter() -> Result<Self> {
        let before = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw).context("cannot switch the terminal to raw mode")?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing better can be done with a terminal that went away.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}
