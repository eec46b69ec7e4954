//! A request in flight.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::raw::Rings;
use super::walk::Halves;
use crate::bytes::{Cursor, Iov, Position, Reader, Writer};

/// A popped descriptor chain: an owned, `Send` value.
///
/// It may wait, move to a pool, be one of many, complete in any order. Give it back with
/// [`VirtQueue::complete`](super::VirtQueue::complete) or [`VirtQueue::put_back`](super::VirtQueue::put_back):
/// dropping one fails its queue, because the driver would wait for it for ever. A chain from before a reset is
/// harmless: nobody waits for it, and it keeps its memory mapped until it is dropped.
#[must_use = "a chain that is dropped fails its queue"]
pub struct Chain {
    pub(super) head: u16,
    /// Its place in the available ring.
    pub(super) position: u16,
    pub(super) iovs: Vec<Iov>,
    readable_pieces: usize,
    read: Position,
    pub(super) write: Position,
    /// `None` once it was given back.
    pub(super) rings: Option<Arc<Rings>>,
}

impl Chain {
    pub(super) fn new(head: u16, position: u16, iovs: Vec<Iov>, halves: Halves, rings: Arc<Rings>) -> Self {
        Self {
            head,
            position,
            iovs,
            readable_pieces: halves.readable_pieces,
            read: Position::start(halves.readable as usize),
            write: Position::start(halves.writable as usize),
            rings: Some(rings),
        }
    }

    /// Number of its first descriptor. Not unique: a hostile driver may offer one twice.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Length of the readable half in bytes, read or not.
    pub fn readable(&self) -> usize {
        self.read.total()
    }

    /// Length of the writable half in bytes, written or not.
    pub fn writable(&self) -> usize {
        self.write.total()
    }

    /// Bytes written so far: what the driver is told when the chain is completed.
    pub fn written(&self) -> usize {
        self.write.done()
    }

    /// The two halves. Where they stand is kept by the chain, so it may be split again later and goes on from there.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        let at = self.readable_pieces.min(self.iovs.len());
        let (readable, writable) = self.iovs.split_at_mut(at);
        (Reader::new(Cursor::new(readable, &mut self.read)), Writer::new(Cursor::new(writable, &mut self.write)))
    }

    /// The readable half alone.
    pub fn reader(&mut self) -> Reader<'_> {
        self.split().0
    }

    /// The writable half alone.
    pub fn writer(&mut self) -> Writer<'_> {
        self.split().1
    }

    /// Back to the start of both halves: to handle it once more, elsewhere.
    pub fn rewind(&mut self) {
        self.read.rewind();
        self.write.rewind();
    }

    /// The pieces of the writable half that were written.
    pub(super) fn written_pieces(&self) -> impl Iterator<Item = Iov> {
        let mut left = self.write.done();
        self.iovs.iter().skip(self.readable_pieces).map_while(move |iov| {
            let piece = iov.part(0, left);
            left -= piece.len();
            (!piece.is_empty()).then_some(piece)
        })
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if let Some(rings) = self.rings.take() {
            rings.lost.store(true, Ordering::Release);
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("head", &self.head)
            .field("read", &self.read)
            .field("write", &self.write)
            .finish_non_exhaustive()
    }
}
