//! The data path of a device.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{Queues, Ready, SharedWindow};
use crate::interrupt::Interrupt;
use crate::memory::Ram;

/// Where a worker announces the descriptors it waits for. Level-triggered.
///
/// A registration is named by its token, which the worker chooses below 2^31. The loop keeps a *duplicate* of the
/// descriptor, so the worker may close its own at any time; but the open file (and a socket's peer) sees the end only
/// when the registration is [removed](Watch::remove) too.
///
/// What epoll refuses (regular files, `/dev/null`) counts as always ready. Whoever has no use for readiness at the
/// moment (data waits and the guest has posted no buffer) must change to [`Ready::NONE`], or the loop spins.
///
/// Registrations end with the thread: [`Worker::start`] makes them anew.
pub trait Watch {
    /// Waits for `ready` on `fd`; [`Worker::io_event`] will name `token`.
    ///
    /// # Errors
    /// `AlreadyExists` if the token is in use, `InvalidInput` if it is 2^31 or more; else the system's.
    fn add(&mut self, fd: BorrowedFd<'_>, token: u32, ready: Ready) -> io::Result<()>;

    /// Waits for `ready` from now on.
    ///
    /// # Errors
    /// `NotFound` if the token is not in use; else the system's.
    fn change(&mut self, token: u32, ready: Ready) -> io::Result<()>;

    /// Waits no more, and lets go of the descriptor.
    ///
    /// # Errors
    /// `NotFound` if the token is not in use.
    fn remove(&mut self, token: u32) -> io::Result<()>;
}

/// What driver and device agreed on; the same for every worker of a device, from DRIVER_OK to reset.
#[derive(Clone)]
pub struct Session {
    /// The features negotiated.
    pub features: u64,
    /// Guest memory, for the few devices that name guest addresses themselves (balloon); all others see chains only.
    pub ram: Ram,
    /// The way to the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// Host side of the device's shared memory, if it has one and the transport placed it.
    pub shared: Option<Arc<dyn SharedWindow>>,
}

impl Session {
    /// Whether feature `bit` (a bit number) was negotiated.
    pub fn has(&self, bit: u32) -> bool {
        1u64.checked_shl(bit).is_some_and(|mask| self.features & mask != 0)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("features", &format_args!("{:#x}", self.features)).finish_non_exhaustive()
    }
}

/// What a worker borrows for one call.
pub struct Context<'a> {
    /// Its queues.
    pub queues: &'a mut Queues,
    /// What was negotiated.
    pub session: &'a Session,
    /// Its registrations.
    pub watch: &'a mut dyn Watch,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("queues", &self.queues).field("session", &self.session).finish_non_exhaustive()
    }
}

/// The data path. Made once with the device and dropped with it; queues come and go, threads come and go.
///
/// Its calls never overlap. A call that panics costs the guest its device until the next reset (DEVICE_NEEDS_RESET);
/// the process lives on.
pub trait Worker: Send {
    /// Each time it is put on a thread (first start, after a pause, with one more queue): registers what it waits for.
    /// [`Worker::queue_event`] follows for every queue that is there.
    ///
    /// # Errors
    /// An error leaves the device without this worker until it is reset, and is logged.
    fn start(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let _ = cx;
        Ok(())
    }

    /// Queue `index` was kicked, or is new and may hold chains.
    fn queue_event(&mut self, index: u16, cx: &mut Context<'_>);

    /// A descriptor that it registered is ready.
    fn io_event(&mut self, token: u32, ready: Ready, cx: &mut Context<'_>) {
        let _ = (token, ready, cx);
    }

    /// Gives back every chain that it still holds, completed or put back; waits for a pool, bounded by the system calls
    /// under way. Afterwards nothing is in flight. Called before each stop; the queues are flushed after it.
    fn quiesce(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }

    /// It panicked, or could not start: nothing but [`Worker::reset`] is called any more. Whoever waits for it on the
    /// host must learn that here.
    fn failed(&mut self) {}

    /// The driver reset the device: session state as new, host resources (ports, sockets, files) stay.
    fn reset(&mut self) {}

    /// Its state as versioned bytes, while it stands still. `None` says that it cannot be saved.
    fn save(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    /// Takes on state that [`Worker::save`] gave.
    ///
    /// # Errors
    /// `InvalidData` if the bytes are not that.
    fn restore(&mut self, state: &[u8]) -> io::Result<()> {
        if state.is_empty() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}
