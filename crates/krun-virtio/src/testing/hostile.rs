//! What only a hostile driver does, and bytes of guest memory.

use vm_memory::{Bytes, GuestAddress};

use super::{Descriptor, MockDriver};

impl MockDriver {
    /// Writes a descriptor of the ring's own table.
    ///
    /// # Panics
    /// If there is no such queue, or no memory there.
    pub fn set_descriptor(&self, queue: u16, index: u16, descriptor: Descriptor) {
        self.ring(queue).set_descriptor(&self.memory, index, descriptor);
    }

    /// Puts a head of any kind into the available ring.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn offer(&mut self, queue: u16, head: u16) {
        let (ring, memory, _) = self.ring_mut(queue);
        ring.offer(memory, head);
    }

    /// Sets the available index, right or wrong.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn set_available_index(&mut self, queue: u16, index: u16) {
        let (ring, memory, _) = self.ring_mut(queue);
        ring.set_available_index(memory, index);
    }

    /// Takes back whatever the device has used, and asks nothing: for a driver that broke its own rings, and so can
    /// no longer say what is due to it.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn discard_used(&mut self, queue: u16) {
        let (ring, memory, heap) = self.ring_mut(queue);
        ring.discard_used(memory, heap);
    }

    /// The index of the used ring.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn used_index(&self, queue: u16) -> u16 {
        self.ring(queue).used_index(&self.memory)
    }

    /// `len` bytes of guest memory for whatever a test wants to put there.
    ///
    /// # Panics
    /// If there is no memory left.
    pub fn allocate(&mut self, len: usize) -> u64 {
        self.heap.take(len)
    }

    /// Copies bytes into guest memory.
    ///
    /// # Panics
    /// If there is no memory there.
    pub fn write_memory(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Copies bytes out of guest memory.
    ///
    /// # Panics
    /// If there is no memory there.
    pub fn read_memory(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}
