//! INIT, and what lasts from there to DESTROY.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{FuseServer, Job};
use crate::abi::{InitExtIn, InitIn, InitOut, MAJOR, MIN_MINOR, MINOR};
use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::InitFlags;

/// The longest WRITE, in bytes: 256 pages, the most that Linux asks for by default.
pub const MAX_WRITE: u32 = 1 << 20;
/// How many interrupted requests are remembered. They are needed only while a request waits for a lock.
const INTERRUPTED: usize = 64;
/// Requests that no process waits for (read-ahead): as many as the ring has room for.
const MAX_BACKGROUND: u16 = 1024;

/// What this server can do; a file system chooses from it.
pub(super) fn supported() -> InitFlags {
    InitFlags::ASYNC_READ
        | InitFlags::POSIX_LOCKS
        | InitFlags::FLOCK_LOCKS
        | InitFlags::ATOMIC_O_TRUNC
        | InitFlags::BIG_WRITES
        | InitFlags::DONT_MASK
        | InitFlags::AUTO_INVAL_DATA
        | InitFlags::DO_READDIRPLUS
        | InitFlags::READDIRPLUS_AUTO
        | InitFlags::ASYNC_DIO
        | InitFlags::PARALLEL_DIROPS
        | InitFlags::ABORT_ERROR
        | InitFlags::MAX_PAGES
        | InitFlags::CACHE_SYMLINKS
        | InitFlags::SUBMOUNTS
        | InitFlags::HANDLE_KILLPRIV_V2
        | InitFlags::SETXATTR_EXT
        | InitFlags::INIT_EXT
}

#[derive(Debug, Default)]
pub(super) struct Session {
    live: AtomicBool,
    flags: AtomicU64,
    interrupted: Mutex<Interrupted>,
}

/// The requests interrupted last; a ring.
#[derive(Debug, Default)]
struct Interrupted {
    recent: Vec<u64>,
    next: usize,
}

impl Session {
    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.live.store(false, Ordering::Release);
        *self.interrupted.lock().unwrap_or_else(PoisonError::into_inner) = Interrupted::default();
    }

    pub(super) fn uses(&self, flag: InitFlags) -> bool {
        InitFlags::from_bits_retain(self.flags.load(Ordering::Relaxed)).contains(flag)
    }

    /// Remembers that nobody waits for this request any more.
    pub(super) fn interrupt(&self, unique: u64) {
        let mut ring = self.interrupted.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.recent.len() < INTERRUPTED {
            ring.recent.push(unique);
        } else {
            let at = ring.next % INTERRUPTED;
            if let Some(place) = ring.recent.get_mut(at) {
                *place = unique;
            }
            ring.next = at + 1;
        }
    }

    /// Whether this request was interrupted; forgets it.
    pub(super) fn take_interrupted(&self, unique: u64) -> bool {
        let mut ring = self.interrupted.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ring.recent.iter().position(|u| *u == unique);
        if let Some(at) = found {
            ring.recent.swap_remove(at);
        }
        found.is_some()
    }
}

impl<F: FileSystem + ?Sized> FuseServer<F> {
    pub(super) fn init(&self, job: &mut Job<'_>) -> FsResult<()> {
        let client = InitIn::decode(&job.args.take()?);
        if client.major > MAJOR {
            // The client asks once more, with our major version.
            return job.reply.write(&InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() }.encode());
        }
        if client.major < MAJOR || client.minor < MIN_MINOR {
            return Err(Errno::PROTO.into());
        }
        job.reply.need(InitOut::SIZE)?;
        let mut bits = u64::from(client.flags);
        if bits & InitFlags::INIT_EXT.bits() != 0 && job.args.left() >= InitExtIn::SIZE {
            bits |= u64::from(InitExtIn::decode(&job.args.take()?).flags2) << 32;
        }
        // A client that says INIT without DESTROY has forgotten everything; so do we.
        self.reset();
        let capable = InitFlags::from_bits_truncate(bits) & supported();
        let used = self.fs.init(capable) & capable;
        self.session.flags.store(used.bits(), Ordering::Relaxed);
        self.session.live.store(true, Ordering::Release);
        let (low, high) = (used.bits() & u64::from(u32::MAX), used.bits() >> 32);
        let out = InitOut {
            major: MAJOR,
            minor: MINOR,
            max_readahead: client.max_readahead,
            flags: u32::try_from(low).unwrap_or_default(),
            max_background: MAX_BACKGROUND,
            congestion_threshold: MAX_BACKGROUND / 4 * 3,
            max_write: MAX_WRITE,
            time_gran: 1,
            max_pages: u16::try_from(MAX_WRITE / 4096).unwrap_or(u16::MAX),
            flags2: u32::try_from(high).unwrap_or_default(),
            ..InitOut::default()
        };
        job.reply.write(&out.encode())
    }
}
