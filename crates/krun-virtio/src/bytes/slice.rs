//! Cursors over memory of our own: what tests, fuzzers and other transports feed to protocol cores.

use std::io;

use super::raw::{lend_exclusive, lend_shared};
use super::{Call, IovMut, Short, Sink, Source};

impl Source for &[u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn read(&mut self, dst: &mut [u8]) -> Result<(), Short> {
        let (head, tail) = self.split_at_checked(dst.len()).ok_or(Short)?;
        dst.copy_from_slice(head);
        *self = tail;
        Ok(())
    }

    fn lend(&mut self, max: usize, call: Call<'_>) -> io::Result<usize> {
        let lent = self.get(..max).unwrap_or(self);
        if lent.is_empty() {
            return Ok(0);
        }
        let n = lend_shared(lent, call)?.min(lent.len());
        *self = self.get(n..).unwrap_or_default();
        Ok(n)
    }
}

/// A [`Sink`] of fixed room over memory of its own.
///
/// ```
/// use krun_virtio::{Sink, VecSink};
///
/// let mut reply = VecSink::new(8);
/// reply.skip(2).unwrap(); // a header, known later
/// reply.write(b"abc").unwrap();
/// reply.patch(0, &[0, 3]).unwrap();
/// assert_eq!(reply.as_slice(), b"\0\x03abc");
/// assert!(reply.write(b"too long").is_err());
/// ```
#[derive(Debug, Clone, Default)]
pub struct VecSink {
    room: Vec<u8>,
    written: usize,
}

impl VecSink {
    /// Room for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { room: vec![0; capacity], written: 0 }
    }

    /// What was written.
    pub fn as_slice(&self) -> &[u8] {
        self.room.get(..self.written).unwrap_or_default()
    }

    /// What was written.
    pub fn into_vec(mut self) -> Vec<u8> {
        self.room.truncate(self.written);
        self.room
    }

    fn ahead(&mut self, len: usize) -> Result<&mut [u8], Short> {
        let end = self.written.checked_add(len).ok_or(Short)?;
        self.room.get_mut(self.written..end).ok_or(Short)
    }
}

impl Sink for VecSink {
    fn remaining(&self) -> usize {
        self.room.len() - self.written
    }

    fn written(&self) -> usize {
        self.written
    }

    fn write(&mut self, src: &[u8]) -> Result<(), Short> {
        self.ahead(src.len())?.copy_from_slice(src);
        self.written += src.len();
        Ok(())
    }

    fn lend(&mut self, max: usize, call: Call<'_, IovMut>) -> io::Result<usize> {
        let max = max.min(self.remaining());
        if max == 0 {
            return Ok(0);
        }
        let n = match self.ahead(max) {
            Ok(room) => lend_exclusive(room, call)?.min(max),
            Err(Short) => 0,
        };
        self.written += n;
        Ok(n)
    }

    fn skip(&mut self, n: usize) -> Result<(), Short> {
        self.ahead(n)?;
        self.written += n;
        Ok(())
    }

    fn patch(&mut self, at: usize, src: &[u8]) -> Result<(), Short> {
        let end = at.checked_add(src.len()).filter(|end| *end <= self.written).ok_or(Short)?;
        self.room.get_mut(at..end).ok_or(Short)?.copy_from_slice(src);
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.written = self.written.min(len);
    }
}
