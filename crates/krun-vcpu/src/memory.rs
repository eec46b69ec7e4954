//! Memory slots: which host memory the guest sees at which guest-physical address.

#![expect(unsafe_code, reason = "tells KVM about host memory, which must stay mapped as long as KVM knows of it")]

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, MutexGuard, PoisonError};

use bitflags::bitflags;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::error::{Error, SlotProblem};
use crate::vm::{KvmVm, VmInner};

/// Slots begin, end and are mapped on pages of this size.
const PAGE_SIZE: u64 = 4096;

bitflags! {
    /// What a slot allows.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct SlotFlags: u32 {
        /// The guest may read and execute; its writes are MMIO exits.
        const READ_ONLY = KVM_MEM_READONLY;
        /// Pages the guest writes are recorded: [`KvmVm::take_dirty_pages`].
        const LOG_DIRTY = KVM_MEM_LOG_DIRTY_PAGES;
    }
}

/// A slot of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(u32);

impl SlotId {
    /// KVM's number of the slot.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of host memory and where the guest sees it.
#[derive(Debug, Clone, Copy)]
pub struct MemoryRange {
    /// Guest-physical address, a multiple of 4096.
    pub guest: GuestAddress,
    /// Where the memory is mapped in this process, a multiple of 4096. Equal to `guest` modulo 2 MiB, it can be mapped in
    /// huge pages.
    pub host: NonNull<u8>,
    /// Size in bytes, a multiple of 4096.
    pub size: u64,
    /// What the guest may do.
    pub flags: SlotFlags,
}

/// The slots in use.
pub(crate) struct Slots {
    limit: u32,
    used: BTreeMap<u32, Slot>,
}

struct Slot {
    guest: u64,
    size: u64,
    /// Keeps memory mapped that this crate was given a share of.
    _owner: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.used.iter().map(|(number, slot)| (number, (slot.guest, slot.size)));
        f.debug_map().entries(ranges).finish()
    }
}

impl Slots {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, used: BTreeMap::new() }
    }

    /// Checks a range against the rules and the other slots, and finds a number for it.
    fn place(&self, guest: u64, host: u64, size: u64) -> Result<u32, SlotProblem> {
        if size == 0 {
            return Err(SlotProblem::Empty);
        }
        if !(guest | host | size).is_multiple_of(PAGE_SIZE) {
            return Err(SlotProblem::Alignment);
        }
        let end = guest.checked_add(size).ok_or(SlotProblem::Wraps)?;
        host.checked_add(size).ok_or(SlotProblem::Wraps)?;
        if let Some(other) = self.used.values().find(|slot| slot.guest < end && guest < slot.guest + slot.size) {
            return Err(SlotProblem::Overlaps(other.guest));
        }
        (0..self.limit).find(|number| !self.used.contains_key(number)).ok_or(SlotProblem::TooMany(self.limit))
    }
}

impl KvmVm {
    /// Makes all regions of `memory` the guest's: one slot each. The VM keeps them mapped as long as it needs them.
    ///
    /// # Errors
    ///
    /// A region is not made of whole pages, overlaps a slot, or KVM refuses. No region is added then.
    pub fn add_memory<B>(&self, memory: &GuestMemoryMmap<B>) -> Result<Vec<SlotId>, Error>
    where
        B: Bitmap + Send + Sync + 'static,
    {
        let owner: Arc<dyn Any + Send + Sync> = Arc::new(memory.clone());
        let mut added = Vec::new();
        for region in memory.iter() {
            match self.add_mapped(region, SlotFlags::empty(), Arc::clone(&owner)) {
                Ok(id) => added.push(id),
                Err(error) => {
                    for id in added {
                        self.remove_slot(id)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(added)
    }

    /// Makes one region the guest's. The VM keeps it mapped as long as it needs it.
    ///
    /// # Errors
    ///
    /// As for [`KvmVm::add_memory`].
    pub fn add_region<B>(&self, region: &Arc<GuestRegionMmap<B>>, flags: SlotFlags) -> Result<SlotId, Error>
    where
        B: Bitmap + Send + Sync + 'static,
    {
        self.add_mapped(region, flags, Arc::clone(region) as Arc<dyn Any + Send + Sync>)
    }

    fn add_mapped<B: Bitmap>(
        &self,
        region: &GuestRegionMmap<B>,
        flags: SlotFlags,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Result<SlotId, Error> {
        let guest = region.start_addr();
        let size = region.len();
        let Some(host) = NonNull::new(region.as_ptr()) else {
            return Err(slot_error(guest, size, SlotProblem::Empty));
        };
        // SAFETY: the region maps `size` bytes at `host`, and `owner` keeps it mapped as long as the slot is known.
        unsafe { self.add_slot(&MemoryRange { guest, host, size, flags }, Some(owner)) }
    }

    /// Makes host memory the guest's. `owner`, if given, lives as long as the slot: the usual way to keep the memory
    /// mapped.
    ///
    /// # Errors
    ///
    /// The range is not made of whole pages, overlaps a slot, or KVM refuses.
    ///
    /// # Safety
    ///
    /// The range must stay mapped, and be memory the guest may read and (unless read-only) write, until the slot is
    /// removed or the VM and all its vCPUs are dropped.
    pub unsafe fn add_slot(
        &self,
        range: &MemoryRange,
        owner: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Result<SlotId, Error> {
        let MemoryRange { guest, host, size, flags } = *range;
        let host = host.as_ptr().expose_provenance() as u64;
        let mut slots = self.inner.slots();
        let number = slots.place(guest.raw_value(), host, size).map_err(|problem| slot_error(guest, size, problem))?;
        let region = kvm_userspace_memory_region {
            slot: number,
            flags: flags.bits(),
            guest_phys_addr: guest.raw_value(),
            memory_size: size,
            userspace_addr: host,
        };
        // SAFETY: the caller promises that the range stays mapped; it overlaps no other slot.
        unsafe { self.inner.fd.set_user_memory_region(region) }.map_err(Error::kvm("add a memory slot"))?;
        slots.used.insert(number, Slot { guest: guest.raw_value(), size, _owner: owner });
        Ok(SlotId(number))
    }

    /// Takes memory away from the guest; where it was, accesses are MMIO exits afterwards. vCPUs may run meanwhile.
    ///
    /// # Errors
    ///
    /// There is no such slot, or KVM refuses.
    pub fn remove_slot(&self, id: SlotId) -> Result<(), Error> {
        let mut slots = self.inner.slots();
        let Some(slot) = slots.used.get(&id.0) else {
            return Err(Error::Slot { address: 0, size: 0, problem: SlotProblem::Unknown(id.0) });
        };
        let region = kvm_userspace_memory_region {
            slot: id.0,
            flags: 0,
            guest_phys_addr: slot.guest,
            memory_size: 0,
            userspace_addr: 0,
        };
        // SAFETY: size 0 removes the slot; no memory is named.
        unsafe { self.inner.fd.set_user_memory_region(region) }.map_err(Error::kvm("remove a memory slot"))?;
        slots.used.remove(&id.0);
        Ok(())
    }

    /// Which pages of a slot with [`SlotFlags::LOG_DIRTY`] were written since the last call: one bit per 4096 bytes, the
    /// lowest bit of the first word first.
    ///
    /// # Errors
    ///
    /// There is no such slot, or it keeps no record.
    pub fn take_dirty_pages(&self, id: SlotId) -> Result<Vec<u64>, Error> {
        let slots = self.inner.slots();
        let Some(slot) = slots.used.get(&id.0) else {
            return Err(Error::Slot { address: 0, size: 0, problem: SlotProblem::Unknown(id.0) });
        };
        let size = usize::try_from(slot.size).unwrap_or(usize::MAX);
        self.inner.fd.get_dirty_log(id.0, size).map_err(Error::kvm("tell which pages of a memory slot were written"))
    }
}

impl VmInner {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot_error(address: GuestAddress, size: u64, problem: SlotProblem) -> Error {
    Error::Slot { address: address.raw_value(), size, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(ranges: &[(u64, u64)]) -> Slots {
        let mut slots = Slots::new(4);
        for &(guest, size) in ranges {
            let number = slots.place(guest, 0, size).unwrap();
            slots.used.insert(number, Slot { guest, size, _owner: None });
        }
        slots
    }

    #[test]
    fn refused() {
        let slots = slots(&[(0x1000, 0x2000)]);
        assert_eq!(slots.place(0x8000, 0, 0), Err(SlotProblem::Empty));
        assert_eq!(slots.place(0x8000, 0, 0x800), Err(SlotProblem::Alignment));
        assert_eq!(slots.place(0x8001, 0, 0x1000), Err(SlotProblem::Alignment));
        assert_eq!(slots.place(0x8000, 0x10, 0x1000), Err(SlotProblem::Alignment));
        assert_eq!(slots.place(u64::MAX - 0xfff, 0, 0x2000), Err(SlotProblem::Wraps));
        assert_eq!(slots.place(0, 0, 0x2000), Err(SlotProblem::Overlaps(0x1000)));
        assert_eq!(slots.place(0x2000, 0, 0x1000), Err(SlotProblem::Overlaps(0x1000)));
        assert_eq!(slots.place(0, 0, 0x1000), Ok(1));
        assert_eq!(slots.place(0x3000, 0, 0x1000), Ok(1));
    }

    #[test]
    fn numbers_are_used_again() {
        let mut slots = slots(&[(0, 0x1000), (0x1000, 0x1000), (0x2000, 0x1000), (0x3000, 0x1000)]);
        assert_eq!(slots.place(0x4000, 0, 0x1000), Err(SlotProblem::TooMany(4)));
        slots.used.remove(&1);
        assert_eq!(slots.place(0x4000, 0, 0x1000), Ok(1));
    }
}
