//! The driver's side of a split ring.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::heap::Heap;
use super::request::{Descriptor, Request, Used};

/// Where a ring lies, and what its driver knows of it.
#[derive(Debug)]
pub struct Ring {
    /// Entries.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    free: Vec<u16>,
    next_available: u16,
    next_used: u16,
    pub(super) event_idx: bool,
    posted: HashMap<u16, Posted>,
    /// Heads that were offered raw, to be taken back without questions.
    raw: Vec<u16>,
}

/// What one request occupies.
#[derive(Debug, Default)]
struct Posted {
    descriptors: Vec<u16>,
    /// Address and length of every block to be freed.
    blocks: Vec<(u64, usize)>,
    /// Address and length of the writable ones.
    writable: Vec<(u64, usize)>,
}

impl Ring {
    pub(super) fn new(size: u16, heap: &mut Heap) -> Self {
        let entries = usize::from(size);
        let mut area = |len: usize| heap.take(len.max(4096));
        let (descriptors, available, used) = (area(16 * entries), area(6 + 2 * entries), area(6 + 8 * entries));
        Self {
            size,
            descriptors,
            available,
            used,
            free: (0..size).rev().collect(),
            next_available: 0,
            next_used: 0,
            event_idx: false,
            posted: HashMap::new(),
            raw: Vec::new(),
        }
    }

    /// As a driver has it after it set the queue up.
    pub(super) fn reset(&mut self, memory: &GuestMemoryMmap, heap: &mut Heap) {
        for (_, posted) in self.posted.drain() {
            posted.blocks.iter().for_each(|(address, len)| heap.give(*address, *len));
        }
        self.free = (0..self.size).rev().collect();
        (self.next_available, self.next_used) = (0, 0);
        self.raw.clear();
        let entries = usize::from(self.size);
        for (address, len) in
            [(self.descriptors, 16 * entries), (self.available, 6 + 2 * entries), (self.used, 6 + 8 * entries)]
        {
            memory.write_slice(&vec![0; len], GuestAddress(address)).unwrap();
        }
    }

    /// Requests posted and not yet taken back.
    pub fn outstanding(&self) -> usize {
        self.posted.len()
    }

    /// Free descriptors.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn set_descriptor(&self, memory: &GuestMemoryMmap, index: u16, descriptor: Descriptor) {
        let address = self.descriptors + 16 * u64::from(index);
        memory.write_slice(&descriptor.bytes(), GuestAddress(address)).unwrap();
    }

    /// Puts `request` into memory and its head into the ring. `None` if there are not enough descriptors.
    pub(super) fn post(&mut self, memory: &GuestMemoryMmap, heap: &mut Heap, request: &Request) -> Option<u16> {
        let readable: Vec<&[u8]> = request.readable_pieces().collect();
        let writable: Vec<usize> = request.writable_pieces().collect();
        let count = readable.len() + writable.len();
        assert!(count > 0, "a request needs at least one descriptor");
        let direct = if request.indirect { 1 } else { count };
        if direct > self.free.len() {
            return None;
        }
        let mut posted = Posted { descriptors: self.free.split_off(self.free.len() - direct), ..Posted::default() };
        posted.descriptors.reverse();
        let mut block = |len: usize| {
            let address = heap.take(len);
            posted.blocks.push((address, len));
            address
        };
        let mut chain = Vec::with_capacity(count);
        for bytes in readable {
            let address = block(bytes.len());
            memory.write_slice(bytes, GuestAddress(address)).unwrap();
            chain.push(Descriptor { address, len: u32::try_from(bytes.len()).unwrap(), flags: 0, next: 0 });
        }
        for len in writable {
            let address = block(len);
            chain.push(Descriptor { address, len: u32::try_from(len).unwrap(), flags: Descriptor::WRITE, next: 0 });
            posted.writable.push((address, len));
        }
        let table = request.indirect.then(|| block(16 * count));
        let numbers: Vec<u16> = match table {
            Some(_) => (0..u16::try_from(count).unwrap()).collect(),
            None => posted.descriptors.clone(),
        };
        for (descriptor, next) in chain.iter_mut().zip(numbers.iter().skip(1)) {
            descriptor.flags |= Descriptor::NEXT;
            descriptor.next = *next;
        }
        let head = *posted.descriptors.first()?;
        match table {
            Some(table) => {
                let bytes: Vec<u8> = chain.iter().flat_map(Descriptor::bytes).collect();
                memory.write_slice(&bytes, GuestAddress(table)).unwrap();
                let len = u32::try_from(bytes.len()).unwrap();
                let indirect = Descriptor { address: table, len, flags: Descriptor::INDIRECT, next: 0 };
                self.set_descriptor(memory, head, indirect);
            }
            None => {
                for (descriptor, index) in chain.iter().zip(&posted.descriptors) {
                    self.set_descriptor(memory, *index, *descriptor);
                }
            }
        }
        self.posted.insert(head, posted);
        self.publish(memory, head);
        Some(head)
    }

    fn publish(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = u64::from(self.next_available & (self.size - 1));
        memory.write_obj(head.to_le(), GuestAddress(self.available + 4 + 2 * slot)).unwrap();
        self.set_available_index(memory, self.next_available.wrapping_add(1));
    }

    /// A head of any kind, without a request behind it.
    pub(super) fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        self.raw.push(head);
        self.publish(memory, head);
    }

    pub(super) fn set_available_index(&mut self, memory: &GuestMemoryMmap, index: u16) {
        self.next_available = index;
        memory.store(index.to_le(), GuestAddress(self.available + 2), Ordering::Release).unwrap();
    }

    pub(super) fn set_no_interrupt(&self, memory: &GuestMemoryMmap, on: bool) {
        memory.store(u16::from(on).to_le(), GuestAddress(self.available), Ordering::SeqCst).unwrap();
    }

    pub(super) fn set_used_event(&self, memory: &GuestMemoryMmap, index: u16) {
        let address = self.available + 4 + 2 * u64::from(self.size);
        memory.store(index.to_le(), GuestAddress(address), Ordering::SeqCst).unwrap();
    }

    /// Whether the device asks to be kicked for what was posted since `old`.
    pub(super) fn wants_kick(&self, memory: &GuestMemoryMmap, old: u16) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.event_idx {
            let address = self.used + 4 + 8 * u64::from(self.size);
            let event = u16::from_le(memory.load(GuestAddress(address), Ordering::SeqCst).unwrap());
            let new = self.next_available;
            return new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        }
        let flags: u16 = memory.load(GuestAddress(self.used), Ordering::SeqCst).unwrap();
        u16::from_le(flags) & 1 == 0
    }

    /// The index of the next chain to be posted.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    pub(super) fn used_index(&self, memory: &GuestMemoryMmap) -> u16 {
        u16::from_le(memory.load(GuestAddress(self.used + 2), Ordering::Acquire).unwrap())
    }

    /// Takes back whatever the device has used, and asks nothing.
    pub(super) fn discard_used(&mut self, memory: &GuestMemoryMmap, heap: &mut Heap) {
        let index = self.used_index(memory);
        // A device that was told to write into its own ring may have written any index.
        for _ in 0..self.size {
            if self.next_used == index {
                break;
            }
            let slot = u64::from(self.next_used & (self.size - 1));
            let head: u32 = memory.read_obj(GuestAddress(self.used + 4 + 8 * slot)).unwrap();
            self.next_used = self.next_used.wrapping_add(1);
            let posted = u16::try_from(u32::from_le(head)).ok().and_then(|head| self.posted.remove(&head));
            if let Some(posted) = posted {
                self.take_back(&posted, heap);
            }
        }
        self.next_used = index;
        self.raw.clear();
        if self.event_idx {
            self.set_used_event(memory, self.next_used);
        }
    }

    fn take_back(&mut self, posted: &Posted, heap: &mut Heap) {
        posted.blocks.iter().for_each(|(address, len)| heap.give(*address, *len));
        self.free.extend(posted.descriptors.iter().rev());
    }

    /// The next chain that the device has used.
    pub(super) fn take_used(&mut self, memory: &GuestMemoryMmap, heap: &mut Heap) -> Option<Used> {
        if self.used_index(memory) == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used & (self.size - 1));
        let mut entry = [0; 8];
        memory.read_slice(&mut entry, GuestAddress(self.used + 4 + 8 * slot)).unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        if self.event_idx {
            self.set_used_event(memory, self.next_used);
        }
        let [i0, i1, i2, i3, l0, l1, l2, l3] = entry;
        let (id, len) = (u32::from_le_bytes([i0, i1, i2, i3]), u32::from_le_bytes([l0, l1, l2, l3]));
        let head = u16::try_from(id).unwrap_or_else(|_| panic!("the device used descriptor {id}"));
        let Some(posted) = self.posted.remove(&head) else {
            let at = self.raw.iter().position(|raw| *raw == head);
            let at = at.unwrap_or_else(|| panic!("the device used chain {head}, which it does not have"));
            self.raw.swap_remove(at);
            return Some(Used { head, len, data: Vec::new(), room: Vec::new() });
        };
        let mut room = Vec::new();
        for (address, len) in &posted.writable {
            let at = room.len();
            room.resize(at + len, 0);
            memory.read_slice(room.get_mut(at..).unwrap_or_default(), GuestAddress(*address)).unwrap();
        }
        self.take_back(&posted, heap);
        let data = room.get(..len as usize);
        let data =
            data.unwrap_or_else(|| panic!("the device claims {len} bytes of the {} of chain {head}", room.len()));
        Some(Used { head, len, data: data.to_vec(), room })
    }
}
