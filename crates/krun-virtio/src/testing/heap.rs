//! Where in guest memory a test's buffers lie.

use std::collections::BTreeMap;

/// Bytes between two blocks: neighbours never touch, so that no two descriptors merge by chance.
const GAP: u64 = 64;

/// Hands out guest addresses; blocks of like size are used again.
#[derive(Debug)]
pub(super) struct Heap {
    next: u64,
    end: u64,
    free: BTreeMap<u64, Vec<u64>>,
}

impl Heap {
    pub(super) fn new(start: u64, end: u64) -> Self {
        Self { next: start, end, free: BTreeMap::new() }
    }

    fn class(len: usize) -> u64 {
        (len as u64).max(16).next_power_of_two()
    }

    pub(super) fn take(&mut self, len: usize) -> u64 {
        let class = Self::class(len);
        if let Some(address) = self.free.get_mut(&class).and_then(Vec::pop) {
            return address;
        }
        let address = self.next.next_multiple_of(class.min(4096));
        assert!(address + class <= self.end, "the mock guest is out of memory: give it more with the builder");
        self.next = address + class + GAP;
        address
    }

    pub(super) fn give(&mut self, address: u64, len: usize) {
        self.free.entry(Self::class(len)).or_default().push(address);
    }
}
