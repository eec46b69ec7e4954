//! The queues of one worker.

use std::ops::Range;

use crate::queue::VirtQueue;

/// The queues of one worker that are there now. A driver may leave some out; a vhost-user peer starts and stops them
/// one by one. They are named by their number in the device.
#[derive(Debug)]
pub struct Queues {
    first: u16,
    slots: Vec<Option<VirtQueue>>,
}

impl Queues {
    pub(crate) fn new(range: Range<u16>) -> Self {
        Self { first: range.start, slots: range.map(|_| None).collect() }
    }

    fn slot(&self, index: u16) -> Option<usize> {
        let slot = usize::from(index.checked_sub(self.first)?);
        (slot < self.slots.len()).then_some(slot)
    }

    /// The queue `index`, if it is there.
    pub fn get(&mut self, index: u16) -> Option<&mut VirtQueue> {
        let slot = self.slot(index)?;
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Two at once, to answer a request of one on the other. `None` for each that is not there; if they are the same
    /// one, the first has it.
    pub fn both(&mut self, a: u16, b: u16) -> [Option<&mut VirtQueue>; 2] {
        match (self.slot(a), self.slot(b)) {
            (Some(x), Some(y)) if x != y => match self.slots.get_disjoint_mut([x, y]) {
                Ok([x, y]) => [x.as_mut(), y.as_mut()],
                Err(_) => [None, None],
            },
            (Some(_), _) => [self.get(a), None],
            (None, _) => [None, self.get(b)],
        }
    }

    /// All that are there.
    pub fn iter(&mut self) -> impl Iterator<Item = &mut VirtQueue> {
        self.slots.iter_mut().flatten()
    }

    /// Their numbers, there or not.
    pub fn range(&self) -> Range<u16> {
        let count = u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
        self.first..self.first.saturating_add(count)
    }

    /// Puts a queue into its place. `false` if it has none here.
    pub(crate) fn put(&mut self, queue: VirtQueue) -> bool {
        match self.slot(queue.index()).and_then(|slot| self.slots.get_mut(slot)) {
            Some(slot) => {
                *slot = Some(queue);
                true
            }
            None => false,
        }
    }

    pub(crate) fn take(&mut self, index: u16) -> Option<VirtQueue> {
        let slot = self.slot(index)?;
        self.slots.get_mut(slot)?.take()
    }

    pub(crate) fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = None);
    }
}
