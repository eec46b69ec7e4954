//! Writes a reply: the header's place first, the header itself when its length is known.

use std::io;
use std::time::Duration;

use krun_virtio::{Call, IovMut, Short, Sink};

use crate::abi::{AttrOut, EntryOut, OutHeader};
use crate::errno::{Errno, FsResult};
use crate::types::{Attributes, Entry};

/// A reply under construction.
pub(super) struct Reply<'a> {
    sink: &'a mut dyn Sink,
    unique: u64,
}

impl<'a> Reply<'a> {
    /// Leaves room for the header. `None`: there is not even room for that.
    pub(super) fn begin(sink: &'a mut dyn Sink, unique: u64) -> Option<Self> {
        sink.skip(OutHeader::SIZE).ok()?;
        Some(Self { sink, unique })
    }

    /// Room that is left.
    pub(super) fn room(&self) -> usize {
        self.sink.remaining()
    }

    /// Fails if there is less room than this: before an operation has an effect that could not be told.
    pub(super) fn need(&self, bytes: usize) -> FsResult<()> {
        if self.room() < bytes { Err(Errno::INVAL.into()) } else { Ok(()) }
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> FsResult<()> {
        Ok(self.sink.write(bytes).map_err(|Short| Errno::INVAL)?)
    }

    /// A sink of at most `max` bytes at the end of the reply.
    pub(super) fn payload(&mut self, max: usize) -> Limited<'_> {
        Limited { sink: &mut *self.sink, left: max, written: 0 }
    }

    /// Puts the header of a success in its place.
    pub(super) fn finish(self) {
        let Ok(len) = u32::try_from(self.sink.written()) else { return self.fail(Errno::IO) };
        let header = OutHeader { len, error: 0, unique: self.unique };
        // The room was passed over by `begin`.
        let _ = self.sink.patch(0, &header.encode());
    }

    /// Takes everything back and answers an error.
    pub(super) fn fail(self, errno: Errno) {
        self.sink.truncate(0);
        let header = OutHeader { len: 16, error: -errno.number(), unique: self.unique };
        let _ = self.sink.write(&header.encode());
    }

    /// Takes everything back and answers nothing.
    pub(super) fn withdraw(self) {
        self.sink.truncate(0);
    }
}

/// A sink that ends before its chain does.
pub(super) struct Limited<'a> {
    sink: &'a mut dyn Sink,
    left: usize,
    written: usize,
}

impl Limited<'_> {
    fn pass(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        self.written += count;
    }

    fn room_for(&self, count: usize) -> Result<(), Short> {
        if count > self.left { Err(Short) } else { Ok(()) }
    }
}

impl Sink for Limited<'_> {
    fn remaining(&self) -> usize {
        self.left.min(self.sink.remaining())
    }

    fn written(&self) -> usize {
        self.written
    }

    fn write(&mut self, src: &[u8]) -> Result<(), Short> {
        self.room_for(src.len())?;
        self.sink.write(src)?;
        self.pass(src.len());
        Ok(())
    }

    fn lend(&mut self, max: usize, call: Call<'_, IovMut>) -> io::Result<usize> {
        let count = self.sink.lend(max.min(self.left), call)?;
        self.pass(count);
        Ok(count)
    }

    fn skip(&mut self, n: usize) -> Result<(), Short> {
        self.room_for(n)?;
        self.sink.skip(n)?;
        self.pass(n);
        Ok(())
    }

    fn patch(&mut self, at: usize, src: &[u8]) -> Result<(), Short> {
        let end = at.checked_add(src.len()).ok_or(Short)?;
        if end > self.written {
            return Err(Short);
        }
        let start = self.sink.written() - self.written;
        self.sink.patch(start + at, src)
    }

    fn truncate(&mut self, len: usize) {
        if len < self.written {
            let start = self.sink.written() - self.written;
            self.sink.truncate(start + len);
            self.left += self.written - len;
            self.written = len;
        }
    }
}

/// An entry as it goes over the wire.
pub(super) fn entry_out(entry: &Entry) -> EntryOut {
    let ((entry_valid, entry_valid_nsec), (attr_valid, attr_valid_nsec)) =
        (timeout(entry.entry_valid), timeout(entry.attr_valid));
    EntryOut {
        nodeid: entry.node.0,
        generation: entry.generation,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: entry.attr,
    }
}

/// Attributes as they go over the wire.
pub(super) fn attr_out(attributes: &Attributes) -> AttrOut {
    let (attr_valid, attr_valid_nsec) = timeout(attributes.valid);
    AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: attributes.attr }
}

/// A time span in the wire's two fields.
pub(super) fn timeout(span: Duration) -> (u64, u32) {
    (span.as_secs(), span.subsec_nanos())
}
