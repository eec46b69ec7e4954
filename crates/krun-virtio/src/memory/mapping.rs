//! One snapshot of the memory map, and the way from guest addresses to host addresses.
#![expect(unsafe_code, reason = "turns checked guest ranges into host addresses")]

use std::fmt;
use std::mem::size_of;
use std::sync::Arc;

use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::BadAddress;
use crate::bytes::Iov;

/// What remains of the memory's type: it is kept alive, and it hears about writes.
trait Backing: Send + Sync {
    fn mark_dirty(&self, address: u64, len: usize);
}

struct Erased<M>(Arc<M>);

impl<M: GuestMemoryBackend + Send + Sync> Backing for Erased<M> {
    fn mark_dirty(&self, address: u64, len: usize) {
        if let Some((region, at)) = self.0.to_region_addr(GuestAddress(address))
            && let Ok(at) = usize::try_from(at.raw_value())
        {
            region.bitmap().mark_dirty(at, len);
        }
    }
}

/// One region: `len` bytes at guest address `guest` lie at `host` in this process.
struct Row {
    guest: u64,
    len: u64,
    host: *mut u8,
}

/// One immutable snapshot of the memory map; whoever holds it keeps the memory mapped.
pub struct Regions {
    rows: Vec<Row>,
    backing: Box<dyn Backing>,
    tracks_writes: bool,
}

// SAFETY: the rows' addresses stay valid on any thread for as long as `backing` (which is `Send + Sync`) is held.
unsafe impl Send for Regions {}
// SAFETY: as above. The memory itself is only accessed as a device accesses it, expecting concurrent change.
unsafe impl Sync for Regions {}

impl fmt::Debug for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rows.iter().map(|row| row.guest..row.guest.saturating_add(row.len))).finish()
    }
}

impl Regions {
    pub(super) fn new<M>(memory: Arc<M>) -> Self
    where
        M: GuestMemoryBackend + Send + Sync + 'static,
    {
        let mut rows: Vec<Row> = memory
            .iter()
            .filter_map(|region| {
                // A `VolatileSlice` cannot be made by safe code unless its bytes are mapped, so its word can be taken.
                let whole = region.as_volatile_slice().ok()?;
                let len = u64::try_from(whole.len()).ok()?;
                Some(Row { guest: region.start_addr().raw_value(), len, host: whole.ptr_guard_mut().as_ptr() })
            })
            .filter(|row| row.len > 0 && row.guest.checked_add(row.len).is_some())
            .collect();
        rows.sort_by_key(|row| row.guest);
        // The bitmap that tracks nothing is the unit type. Knowing that once saves a call per chain.
        let tracks_writes = size_of::<<M::R as GuestMemoryRegion>::B>() > 0;
        Self { rows, backing: Box::new(Erased(memory)), tracks_writes }
    }

    fn find(&self, address: u64) -> Option<(usize, &Row, u64)> {
        // Guests have two or three regions, and what they use most is in the first: a scan beats a binary search.
        let at = match self.rows.len() {
            0..=4 => self.rows.iter().rposition(|row| row.guest <= address)?,
            _ => self.rows.partition_point(|row| row.guest <= address).checked_sub(1)?,
        };
        let row = self.rows.get(at)?;
        let offset = address - row.guest;
        (offset < row.len).then_some((at, row, offset))
    }

    /// Host address of `address`, and how many bytes follow it without a break.
    pub fn host(&self, address: u64) -> Option<(*mut u8, u64)> {
        let (_, row, offset) = self.find(address)?;
        // The offset is below the region's length, which was a `usize`.
        let host = row.host.wrapping_add(usize::try_from(offset).ok()?);
        Some((host, row.len - offset))
    }

    /// Host address of `len` bytes in one piece, aligned to `align` on the host too.
    pub(crate) fn whole(&self, address: u64, len: u64, align: usize) -> Option<*mut u8> {
        let (host, follows) = self.host(address)?;
        (follows >= len && host.addr().is_multiple_of(align)).then_some(host)
    }

    /// The first of the `len` bytes at `address` that lie in one piece, and which region they are of.
    pub(crate) fn piece(&self, address: u64, len: u64) -> Option<(Iov, usize)> {
        let (at, row, offset) = self.find(address)?;
        let len = usize::try_from(len.min(row.len - offset)).ok()?;
        let host = row.host.wrapping_add(usize::try_from(offset).ok()?);
        // SAFETY: `offset + len` is within the region, whose memory stays mapped while `self` is held; whoever keeps
        // the piece (a chain) keeps `self`. There are no Rust references into guest memory.
        Some((unsafe { Iov::new(host, len) }, at))
    }

    /// Whether anybody wants to know of writes.
    pub(crate) fn tracks_writes(&self) -> bool {
        self.tracks_writes
    }

    pub(crate) fn mark_guest_dirty(&self, address: u64, len: usize) {
        if self.tracks_writes {
            self.backing.mark_dirty(address, len);
        }
    }

    /// Marks what was written through `iov`, which is a piece (or joined pieces) of one region.
    pub(crate) fn mark_dirty(&self, iov: &Iov) {
        let host = iov.as_ptr().addr();
        let row = self.rows.iter().find_map(|row| {
            let offset = u64::try_from(host.checked_sub(row.host.addr())?).ok()?;
            (offset < row.len).then_some(row.guest + offset)
        });
        if let Some(address) = row {
            self.mark_guest_dirty(address, iov.len());
        }
    }

    /// The range piece by piece; an error (before anything is done) if some of it is no memory.
    fn pieces(&self, address: u64, len: usize, mut each: impl FnMut(u64, &Iov, usize)) -> Result<(), BadAddress> {
        let bad = BadAddress { address, len: u64::try_from(len).unwrap_or(u64::MAX) };
        for dry in [true, false] {
            let mut done = 0;
            while done < len {
                let left = u64::try_from(len - done).map_err(|_| bad)?;
                let at = u64::try_from(done).ok().and_then(|done| address.checked_add(done)).ok_or(bad)?;
                let (piece, _) = self.piece(at, left).ok_or(bad)?;
                if !dry {
                    each(at, &piece, done);
                }
                done += piece.len();
            }
        }
        Ok(())
    }

    /// Copies `dst.len()` bytes out of guest memory.
    ///
    /// # Errors
    /// [`BadAddress`] if some of them are no memory; then nothing was copied.
    pub fn read(&self, address: u64, dst: &mut [u8]) -> Result<(), BadAddress> {
        self.pieces(address, dst.len(), |_, piece, done| piece.copy_to(dst.get_mut(done..).unwrap_or_default()))
    }

    /// Copies `src` into guest memory and marks it dirty.
    ///
    /// # Errors
    /// [`BadAddress`] if some of it is no memory; then nothing was copied.
    pub fn write(&self, address: u64, src: &[u8]) -> Result<(), BadAddress> {
        self.pieces(address, src.len(), |at, piece, done| {
            piece.copy_from(src.get(done..).unwrap_or_default());
            self.mark_guest_dirty(at, piece.len());
        })
    }
}
