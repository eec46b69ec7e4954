//! Bytes carried between a pipe of the workload and a port of the host.

use crate::protocol::Store as _;
use crate::sys::{self, Errno, Fd, Region, Result, Wait};

/// As much as a pipe holds.
const CAPACITY: usize = 64 << 10;

/// One direction. It reads only when everything read before is written, so a host that does not take bytes stops the
/// workload's writes, and nothing is held that could be lost.
///
/// The bytes are copied, not spliced: the driver loses what is spliced into a ring that has fewer free descriptors
/// than the pipe has pages.
#[derive(Debug)]
pub(crate) struct Relay {
    ends: Option<(Fd, Fd)>,
    buffer: Region,
    /// Bytes of the buffer that are written already.
    written: usize,
}

impl Relay {
    pub(crate) fn new(from: Fd, to: Fd) -> Result<Self> {
        sys::set_nonblocking(&from)?;
        sys::set_nonblocking(&to)?;
        Ok(Self { ends: Some((from, to)), buffer: Region::new(CAPACITY)?, written: 0 })
    }

    /// Whether the stream has ended and all of it is delivered, or nobody takes it.
    pub(crate) const fn is_done(&self) -> bool {
        self.ends.is_none()
    }

    /// Whether every byte so far has been delivered.
    pub(crate) fn is_empty(&self) -> bool {
        let Some((from, _)) = &self.ends else { return true };
        let mut wait = [Wait::new(from, sys::IN)];
        self.pending().is_empty()
            && sys::poll(&mut wait, Some(0)).is_ok()
            && !wait.iter().any(|wait| wait.happened(sys::IN))
    }

    /// Ends the stream, whatever is still in it.
    pub(crate) fn close(&mut self) {
        self.ends = None;
    }

    fn pending(&self) -> &[u8] {
        self.buffer.bytes().get(self.written..).unwrap_or_default()
    }

    /// What to wait for. The end that is not next is watched for its reader's going away only.
    pub(crate) fn waits(&self) -> [Wait; 2] {
        match &self.ends {
            None => [Wait::NOTHING; 2],
            Some((from, to)) if self.pending().is_empty() => [Wait::new(from, sys::IN), Wait::new(to, 0)],
            Some((_, to)) => [Wait::NOTHING, Wait::new(to, sys::OUT)],
        }
    }

    /// Goes on after a wait.
    pub(crate) fn serve(&mut self, [from_wait, to_wait]: [Wait; 2]) {
        let answer = if from_wait.happened(sys::IN | sys::HUP | sys::ERR) {
            self.pump()
        } else if to_wait.happened(sys::HUP | sys::ERR) {
            Err(Errno::PIPE)
        } else if to_wait.happened(sys::OUT) {
            self.drain()
        } else {
            Ok(())
        };
        match answer {
            Ok(()) | Err(Errno::AGAIN) => {}
            // End of the stream, or nobody at the other end.
            Err(_) => self.close(),
        }
    }

    /// Reads what there is (a port gives a page at a time), and writes what can be written.
    fn pump(&mut self) -> Result<()> {
        let Some((from, _)) = &self.ends else { return Ok(()) };
        self.buffer.clear();
        self.written = 0;
        while !self.buffer.free().is_empty() {
            match sys::read(from, self.buffer.free()) {
                Ok(count @ 1..) => self.buffer.filled(count),
                // The end of the stream is there again when what came before it is written.
                _ if !self.buffer.bytes().is_empty() => break,
                Ok(_) => return Err(Errno::PIPE),
                Err(errno) => return Err(errno),
            }
        }
        self.drain()
    }

    fn drain(&mut self) -> Result<()> {
        while let (Some((_, to)), pending @ [_, ..]) = (&self.ends, self.pending()) {
            self.written += sys::write(to, pending)?;
        }
        Ok(())
    }
}
