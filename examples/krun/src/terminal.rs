//! The host's terminal in raw mode, for as long as the command has it.

use std::io::{self, IsTerminal as _};

use rustix::termios::{self, OptionalActions, Termios};

/// Whether the command should get a terminal: somebody types and somebody reads.
pub(crate) fn wanted() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Columns and rows of the terminal on standard output.
pub(crate) fn size() -> Option<(u16, u16)> {
    termios::tcgetwinsize(io::stdout()).ok().map(|size| (size.ws_col, size.ws_row))
}

/// Raw mode; the drop restores what was there, on every way out of the program.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Every key goes to the guest, Ctrl-C included.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // `Now`, not `Drain`: a stopped terminal (Ctrl-S) must not hold us up.
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            tracing::warn!(%error, "cannot restore the terminal; `reset` does");
        }
    }
}
