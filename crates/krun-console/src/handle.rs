//! The host's hold on a running console: sizes, closing, waiting for output, looking.

use crate::Error;
use crate::control::Size;
use crate::status::{PortEvent, PortStatus};
use crate::tail::Tail;
use rustix::event::{EventfdFlags, eventfd};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the host wants of one port, until the worker has seen to it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) size: Option<Size>,
    pub(crate) close: bool,
}

/// Where the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No driver: there are no queues with output in them.
    Idle,
    /// On a thread, or between two of them.
    Active,
    /// Dropped, or out of service until the driver resets it.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) phase: Phase,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) status: Vec<PortStatus>,
    /// Number of the last flush that somebody asked for.
    pub(crate) flush_wanted: u64,
    /// Per port, the last flush that found it drained.
    pub(crate) flushed: Vec<u64>,
}

pub(crate) type Listener = Box<dyn Fn(usize, &PortEvent) + Send + Sync>;

/// What face, worker and handles share. The mutex is never held across a system call that may wait, and the data path
/// takes it only when something is to be told.
pub(crate) struct Shared {
    board: Mutex<Board>,
    changed: Condvar,
    /// Makes the worker look at the board.
    pub(crate) wake: OwnedFd,
    /// Size of port 0, as the configuration space shows it.
    size: AtomicU32,
    pub(crate) tails: Vec<Option<Tail>>,
    pub(crate) listener: Option<Listener>,
}

impl Shared {
    pub(crate) fn new(status: Vec<PortStatus>, size: Size, tails: Vec<Option<Tail>>) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let count = status.len();
        let board = Board {
            phase: Phase::Idle,
            wishes: vec![Wish::default(); count],
            status,
            flush_wanted: 0,
            flushed: vec![0; count],
        };
        let shared =
            Self { board: Mutex::new(board), changed: Condvar::new(), wake, size: 0.into(), tails, listener: None };
        shared.set_size(size);
        Ok(shared)
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait that the board has changed.
    pub(crate) fn announce(&self) {
        self.changed.notify_all();
    }

    /// Makes the worker look at the board, now or when it runs again.
    pub(crate) fn wake(&self) {
        // It fails only when the counter is full: then the worker has been woken.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(crate) fn size(&self) -> Size {
        let [c0, c1, r0, r1] = self.size.load(Ordering::Acquire).to_le_bytes();
        Size { cols: u16::from_le_bytes([c0, c1]), rows: u16::from_le_bytes([r0, r1]) }
    }

    pub(crate) fn set_size(&self, size: Size) {
        let ([c0, c1], [r0, r1]) = (size.cols.to_le_bytes(), size.rows.to_le_bytes());
        self.size.store(u32::from_le_bytes([c0, c1, r0, r1]), Ordering::Release);
    }

    pub(crate) fn tell(&self, port: usize, event: &PortEvent) {
        if let Some(listener) = &self.listener {
            listener(port, event);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("board", &self.board).finish_non_exhaustive()
    }
}

/// The host's hold on a console device. It may be cloned and used from any thread, and outlives the device.
#[derive(Debug, Clone)]
pub struct ConsoleHandle(pub(crate) Arc<Shared>);

impl ConsoleHandle {
    fn check(&self, board: &Board, port: usize) -> Result<(), Error> {
        let count = board.status.len();
        if port < count { Ok(()) } else { Err(Error::NoSuchPort { port, last: count.saturating_sub(1) }) }
    }

    fn wish(&self, port: usize, wish: impl FnOnce(&mut Wish)) -> Result<(), Error> {
        let mut board = self.0.board();
        self.check(&board, port)?;
        board.wishes.get_mut(port).map(wish);
        drop(board);
        self.0.wake();
        Ok(())
    }

    /// Tells the guest that a console's terminal has `cols` columns and `rows` rows. Without effect on generic ports.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`].
    pub fn resize(&self, port: usize, cols: u16, rows: u16) -> Result<(), Error> {
        self.wish(port, |wish| wish.size = Some(Size { cols, rows }))
    }

    /// Closes the host's side of a port for good: the descriptors are closed, so whoever reads the output sees its end.
    /// What the guest still sends is thrown away; to wait for it, [`flush`](Self::flush) first. Whoever has a generic
    /// port open in the guest gets `ENODEV`. It takes effect while the device runs, or when it runs again.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`].
    pub fn close(&self, port: usize) -> Result<(), Error> {
        self.wish(port, |wish| wish.close = true)
    }

    /// Waits until all output that the guest had queued before this call is with the host's descriptors, half-written
    /// pieces included. `None` waits for as long as it takes.
    ///
    /// Output that cannot be written any more (no reader, disk full) does not keep anybody waiting; see
    /// [`status`](Self::status). While the device is paused, output waits in the guest, and so does this call.
    ///
    /// # Errors
    /// [`Error::FlushTimeout`] if a reader was too slow, [`Error::Gone`] if the device was dropped, or has failed and
    /// waits for its driver's reset.
    pub fn flush(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let begin = Instant::now();
        let mut board = self.0.board();
        board.flush_wanted += 1;
        let wanted = board.flush_wanted;
        drop(board);
        self.0.wake();
        let mut board = self.0.board();
        loop {
            let late = board.flushed.iter().position(|&flushed| flushed < wanted);
            let Some(port) = late else { return Ok(()) };
            match board.phase {
                Phase::Idle => return Ok(()),
                Phase::Gone => return Err(Error::Gone),
                Phase::Active => {}
            }
            let waited = begin.elapsed();
            board = match timeout {
                None => self.0.changed.wait(board).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let left = timeout.checked_sub(waited).filter(|left| !left.is_zero());
                    let left = left.ok_or(Error::FlushTimeout { port, waited })?;
                    self.0.changed.wait_timeout(board, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The state of a port.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`].
    pub fn status(&self, port: usize) -> Result<PortStatus, Error> {
        let board = self.0.board();
        self.check(&board, port)?;
        Ok(board.status.get(port).cloned().unwrap_or_default())
    }

    /// Waits until `condition` holds for a port, and says whether it did before `timeout` was over.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`], or [`Error::Gone`] if the device was dropped or failed first.
    pub fn wait_until(
        &self,
        port: usize,
        timeout: Duration,
        mut condition: impl FnMut(&PortStatus) -> bool,
    ) -> Result<bool, Error> {
        let begin = Instant::now();
        let mut board = self.0.board();
        self.check(&board, port)?;
        loop {
            if board.status.get(port).is_some_and(&mut condition) {
                return Ok(true);
            }
            if board.phase == Phase::Gone {
                return Err(Error::Gone);
            }
            let left = timeout.checked_sub(begin.elapsed()).filter(|left| !left.is_zero());
            let Some(left) = left else { return Ok(false) };
            board = self.0.changed.wait_timeout(board, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The last bytes of a console's output, if [`Port::remember`](crate::Port::remember) asked for them.
    ///
    /// # Errors
    /// [`Error::NoSuchPort`].
    pub fn tail(&self, port: usize) -> Result<Vec<u8>, Error> {
        self.check(&self.0.board(), port)?;
        Ok(self.0.tails.get(port).and_then(Option::as_ref).map(Tail::to_vec).unwrap_or_default())
    }
}
