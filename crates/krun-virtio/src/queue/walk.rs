//! From a head to a list of host addresses: one pass, every descriptor copied once and then checked.

use super::RingFault;
use super::raw::{DESCRIPTOR_SIZE, Descriptor, F_INDIRECT, F_NEXT, F_WRITE, Rings, Table};
use crate::bytes::Iov;
use crate::memory::Regions;

/// Descriptors that an indirect table may hold, however small the ring: section 2.7.5.3.1 allows a ring's size, Linux
/// uses more.
const INDIRECT_LIMIT: u32 = 1024;

/// The two halves of a chain as they lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Halves {
    /// Pieces of the readable half; the others are writable.
    pub(super) readable_pieces: usize,
    /// Bytes of the readable half.
    pub(super) readable: u32,
    /// Bytes of the writable half.
    pub(super) writable: u32,
}

/// Collects pieces, merging those that touch.
struct Pieces<'a> {
    regions: &'a Regions,
    iovs: &'a mut Vec<Iov>,
    halves: Halves,
    /// Region of the last piece, if another may be joined to it.
    region: Option<usize>,
    writable: bool,
}

impl Pieces<'_> {
    fn add(&mut self, descriptor: &Descriptor) -> Result<(), RingFault> {
        if descriptor.flags & F_WRITE != 0 {
            if !self.writable {
                self.writable = true;
                self.region = None;
                self.halves.readable_pieces = self.iovs.len();
            }
            self.halves.writable = self.halves.writable.checked_add(descriptor.len).ok_or(RingFault::Length)?;
        } else if self.writable {
            // Section 2.7.4.2: readable ones first.
            return Err(RingFault::Order);
        } else {
            self.halves.readable = self.halves.readable.checked_add(descriptor.len).ok_or(RingFault::Length)?;
        }
        let (mut address, mut left) = (descriptor.address, u64::from(descriptor.len));
        while left > 0 {
            let (piece, region) = self.regions.piece(address, left).ok_or(RingFault::Address)?;
            let len = piece.len() as u64;
            let joined = self.region == Some(region) && self.iovs.last_mut().is_some_and(|last| last.join(&piece));
            if !joined {
                self.iovs.push(piece);
                self.region = Some(region);
            }
            left -= len;
            address = address.checked_add(len).ok_or(RingFault::Address)?;
        }
        Ok(())
    }

    fn finish(self) -> Halves {
        let readable_pieces = if self.writable { self.halves.readable_pieces } else { self.iovs.len() };
        Halves { readable_pieces, ..self.halves }
    }
}

/// Walks the chain that begins at `head` into `iovs`, which is empty.
pub(super) fn walk(rings: &Rings, size: u16, head: u16, iovs: &mut Vec<Iov>) -> Result<Halves, RingFault> {
    let halves = Halves { readable_pieces: 0, readable: 0, writable: 0 };
    let mut pieces = Pieces { regions: &rings.regions, iovs, halves, region: None, writable: false };
    let (mut table, mut index, mut indirect) = (rings.table(), u32::from(head), false);
    let mut left = u32::from(size);
    loop {
        let descriptor = table.get(index).ok_or(RingFault::Descriptor)?;
        if descriptor.flags & F_INDIRECT != 0 {
            // Section 2.7.5.3.1: not nested, not together with NEXT; WRITE is to be ignored (2.7.5.3.2).
            let count = descriptor.len / DESCRIPTOR_SIZE;
            let whole = descriptor.len.is_multiple_of(DESCRIPTOR_SIZE) && count > 0;
            if indirect || descriptor.flags & F_NEXT != 0 || !whole {
                return Err(RingFault::Descriptor);
            }
            table = Table::new(pieces.regions, descriptor.address, count)?;
            (index, indirect) = (0, true);
            left = left.max(INDIRECT_LIMIT);
            continue;
        }
        left = left.checked_sub(1).ok_or(RingFault::Loop)?;
        pieces.add(&descriptor)?;
        if descriptor.flags & F_NEXT == 0 {
            return Ok(pieces.finish());
        }
        index = u32::from(descriptor.next);
    }
}
