//! What a serial port puts out: passed on without ever holding a vCPU up, the last of it kept for the report of a panic.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use krun_console::{HostFd, Output};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes kept for a report: two screens of text.
pub(crate) const KEPT: usize = 4096;
/// Bytes that wait for a slow reader before more is dropped: a serial port cannot refuse.
const MOST_PENDING: usize = 256 << 10;

/// Where the output of a serial port goes. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    tail: VecDeque<u8>,
    out: Option<HostFd>,
    pending: VecDeque<u8>,
    dropped: u64,
}

impl Log {
    /// Passes on to `out`, if there is one.
    pub(crate) fn new(out: Option<HostFd>) -> Self {
        let state = State { tail: VecDeque::new(), out, pending: VecDeque::new(), dropped: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The last lines.
    pub(crate) fn text(&self) -> String {
        let state = self.lock();
        let (front, back) = state.tail.as_slices();
        last_lines(&[front, back].concat())
    }

    /// Waits until everything is with its reader, `until` at the latest or until `cancel` is readable. Whether it is.
    pub(crate) fn drain(&self, until: Option<Instant>, cancel: BorrowedFd<'_>) -> bool {
        loop {
            let fd = {
                let mut state = self.lock();
                state.pass_on();
                match state.out.as_ref().and_then(Output::fd).map(|fd| fd.try_clone_to_owned()) {
                    Some(Ok(fd)) if !state.pending.is_empty() => fd,
                    _ => return state.pending.is_empty(),
                }
            };
            let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [PollFd::new(&fd, PollFlags::OUT), PollFd::from_borrowed_fd(cancel, PollFlags::IN)];
            let ready = poll(&mut fds, timeout.as_ref());
            let [_, cancelled] = fds;
            if matches!(ready, Ok(0)) || !cancelled.revents().is_empty() {
                return false;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a console's output as text, from the start of a line on.
pub(crate) fn last_lines(bytes: &[u8]) -> String {
    let whole = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if bytes.len() >= KEPT => bytes.get(end + 1..).unwrap_or_default(),
        _ => bytes,
    };
    String::from_utf8_lossy(whole).replace('\r', "")
}

impl State {
    fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..excess);
    }

    /// Gives the reader what it takes now.
    fn pass_on(&mut self) {
        let Some(out) = &mut self.out else { return self.pending.clear() };
        while !self.pending.is_empty() {
            let (mut front, _) = self.pending.as_slices();
            match out.write(&mut front) {
                Ok(0) => return,
                Ok(taken) => {
                    self.pending.drain(..taken.min(self.pending.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::info!(%error, "nobody reads the guest's console any more");
                    self.out = None;
                    return self.pending.clear();
                }
            }
        }
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        state.keep(bytes);
        if state.pending.len() + bytes.len() <= MOST_PENDING {
            state.pending.extend(bytes);
        } else {
            if state.dropped == 0 {
                tracing::warn!("the reader of the serial port does not keep up: output is dropped");
            }
            state.dropped += bytes.len() as u64;
        }
        state.pass_on();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().pass_on();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::time::Duration;
    use vmm_sys_util::eventfd::EventFd;

    #[test]
    fn the_tail_starts_with_a_whole_line() {
        let mut log = Log::new(None);
        log.write_all(b"short\r\nenough\n").unwrap();
        assert_eq!(log.text(), "short\nenough\n");
        for line in 0..1000 {
            writeln!(log, "line {line}").unwrap();
        }
        let text = log.text();
        assert!(text.len() <= KEPT && text.starts_with("line ") && text.ends_with("line 999\n"), "{text}");
    }

    #[test]
    fn a_slow_reader_gets_everything_and_holds_nobody_up() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = Log::new(Some(HostFd::output(writer).unwrap()));
        let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).take(200_000).collect();
        log.clone().write_all(&sent).unwrap();
        let cancel = EventFd::new(0).unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        let watch = |until| log.drain(until, crate::sys::borrow(&cancel));
        assert!(!watch(Some(soon)), "a pipe holds 64 KiB: the rest waits");
        let received = std::thread::scope(|scope| {
            let reading = std::thread::Builder::new().spawn_scoped(scope, move || {
                let mut received = vec![0; 200_000];
                reader.read_exact(&mut received).unwrap();
                received
            });
            assert!(watch(None));
            reading.unwrap().join().unwrap()
        });
        assert_eq!(received, sent);
    }

    #[test]
    fn a_reader_that_left_is_forgotten() {
        let (reader, writer) = io::pipe().unwrap();
        let mut log = Log::new(Some(HostFd::output(writer).unwrap()));
        drop(reader);
        log.write_all(b"lost, but kept\n").unwrap();
        assert_eq!(log.text(), "lost, but kept\n");
        assert!(log.lock().out.is_none());
    }
}
