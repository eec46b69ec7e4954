//! The three areas of a split ring, by address.
#![expect(unsafe_code, reason = "rings are shared memory, reached by address and by atomic access")]

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use virtio_queue::QueueState;

use super::RingFault;
use crate::memory::Regions;

/// Bytes of one descriptor: section 2.7.5.
pub(super) const DESCRIPTOR_SIZE: u32 = 16;

/// The next descriptor's number is in `next`: VIRTQ_DESC_F_NEXT.
pub(super) const F_NEXT: u16 = 1;
/// The device writes: VIRTQ_DESC_F_WRITE.
pub(super) const F_WRITE: u16 = 2;
/// It names a table of descriptors: VIRTQ_DESC_F_INDIRECT.
pub(super) const F_INDIRECT: u16 = 4;

/// One descriptor, copied out of guest memory: only the copy is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) next: u16,
}

/// Eight bytes at any address: an indirect table needs no alignment.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned(u64);

/// A descriptor table: the ring's own or an indirect one.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    base: *const u8,
    count: u32,
    regions: PhantomData<&'a Regions>,
}

impl<'a> Table<'a> {
    /// The table of `count` descriptors at guest address `address`.
    pub(super) fn new(regions: &'a Regions, address: u64, count: u32) -> Result<Self, RingFault> {
        let base =
            regions.whole(address, u64::from(count) * u64::from(DESCRIPTOR_SIZE), 1).ok_or(RingFault::Address)?;
        Ok(Self { base, count, regions: PhantomData })
    }

    pub(super) fn get(&self, index: u32) -> Option<Descriptor> {
        if index >= self.count {
            return None;
        }
        let entry = self.base.wrapping_add(usize::try_from(index).ok()? * 16).cast::<Unaligned>();
        // SAFETY: `index` is below `count`, and `count` descriptors were found mapped when the table was made; they
        // stay so for 'a. The type has alignment 1. Volatile, so that each word is read exactly once: the guest may
        // write at any time, and what was checked must be what is used.
        let (low, high) = unsafe { (entry.read_volatile().0, entry.wrapping_add(1).read_volatile().0) };
        let (address, rest) = (u64::from_le(low), u64::from_le(high));
        let [l0, l1, l2, l3, f0, f1, n0, n1] = rest.to_le_bytes();
        Some(Descriptor {
            address,
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }
}

/// A ring's areas in one memory map. Chains hold it: it keeps their memory mapped and knows where they come from.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) regions: Arc<Regions>,
    /// Set when a chain of this queue was dropped instead of being given back. Also the queue's identity.
    pub(super) lost: Arc<AtomicBool>,
    descriptors: *const u8,
    available: *mut u8,
    used: *mut u8,
    used_address: u64,
    size: u16,
}

// SAFETY: the addresses stay valid on any thread while `regions` is held. What lies there is shared with the guest and
// accessed by atomic or volatile access only.
unsafe impl Send for Rings {}
// SAFETY: as above.
unsafe impl Sync for Rings {}

impl Rings {
    /// Finds the areas of `ring` in `regions`. `ring` was validated: its size is a power of two.
    pub(super) fn new(ring: &QueueState, regions: Arc<Regions>, lost: Arc<AtomicBool>) -> Result<Self, RingFault> {
        let size = u64::from(ring.size);
        let area = |address, len, align| regions.whole(address, len, align).ok_or(RingFault::Address);
        // Sections 2.7, 2.7.6 and 2.7.8: sizes and alignments, with the event fields always there.
        let descriptors = area(ring.desc_table, u64::from(DESCRIPTOR_SIZE) * size, 16)?;
        let available = area(ring.avail_ring, 6 + 2 * size, 2)?;
        let used = area(ring.used_ring, 6 + 8 * size, 4)?;
        Ok(Self { lost, descriptors, available, used, used_address: ring.used_ring, size: ring.size, regions })
    }

    /// The ring's own descriptor table.
    pub(super) fn table(&self) -> Table<'_> {
        Table { base: self.descriptors, count: u32::from(self.size), regions: PhantomData }
    }

    fn slot(&self, position: u16) -> usize {
        usize::from(position & (self.size - 1))
    }

    /// The half-word `offset` bytes into the available area.
    fn available(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2) && offset < 6 + 2 * usize::from(self.size));
        // SAFETY: offsets come from this file and lie in the area, whose extent and alignment (2) were checked.
        unsafe { AtomicU16::from_ptr(self.available.wrapping_add(offset).cast()) }
    }

    /// The half-word `offset` bytes into the used area.
    fn used(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2) && offset < 6 + 8 * usize::from(self.size));
        // SAFETY: as in `available`; the used area is aligned to 4.
        unsafe { AtomicU16::from_ptr(self.used.wrapping_add(offset).cast()) }
    }

    /// How far the driver is. Acquire: what it published before is seen after.
    pub(super) fn available_index(&self) -> u16 {
        u16::from_le(self.available(2).load(Ordering::Acquire))
    }

    /// The head that the driver put at `position`.
    pub(super) fn available_entry(&self, position: u16) -> u16 {
        u16::from_le(self.available(4 + 2 * self.slot(position)).load(Ordering::Relaxed))
    }

    /// VIRTQ_AVAIL_F_NO_INTERRUPT: section 2.7.7.
    pub(super) fn no_interrupt(&self) -> bool {
        u16::from_le(self.available(0).load(Ordering::Relaxed)) & 1 != 0
    }

    /// Interrupt when the used index passes this: section 2.7.7, with EVENT_IDX.
    pub(super) fn used_event(&self) -> u16 {
        u16::from_le(self.available(4 + 2 * usize::from(self.size)).load(Ordering::Relaxed))
    }

    /// Fills the used entry at `position`; not seen by the driver before the index moves.
    pub(super) fn set_used_entry(&self, position: u16, head: u16, len: u32) {
        let offset = 4 + 8 * self.slot(position);
        let entry = self.used.wrapping_add(offset).cast::<u32>();
        // SAFETY: the slot is below the ring's size, the area's extent was checked, and it is aligned to 4.
        let (id, length) = unsafe { (AtomicU32::from_ptr(entry), AtomicU32::from_ptr(entry.wrapping_add(1))) };
        // The driver reads them after it saw the index.
        id.store(u32::from(head).to_le(), Ordering::Relaxed);
        length.store(len.to_le(), Ordering::Relaxed);
        self.regions.mark_guest_dirty(self.used_address.saturating_add(offset as u64), 8);
    }

    /// Publishes used entries. Release: the entries are seen before the index.
    pub(super) fn set_used_index(&self, index: u16) {
        self.used(2).store(index.to_le(), Ordering::Release);
        self.regions.mark_guest_dirty(self.used_address, 4);
    }

    /// VIRTQ_USED_F_NO_NOTIFY: section 2.7.10.
    pub(super) fn set_no_notify(&self, on: bool) {
        self.used(0).store(u16::from(on).to_le(), Ordering::Relaxed);
        self.regions.mark_guest_dirty(self.used_address, 4);
    }

    /// Kick when the available index passes this: section 2.7.10, with EVENT_IDX.
    pub(super) fn set_available_event(&self, index: u16) {
        let offset = 4 + 8 * usize::from(self.size);
        self.used(offset).store(index.to_le(), Ordering::Relaxed);
        self.regions.mark_guest_dirty(self.used_address.saturating_add(offset as u64), 2);
    }
}
