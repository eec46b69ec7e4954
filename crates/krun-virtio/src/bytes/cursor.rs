//! Cursors over a list of [`Iov`]s: what both halves of a chain are made of.

use std::io;

use super::{Call, Iov, IovMut, Short, Sink, Source};

/// Where a cursor stands. It lies in the chain, so that a chain may be split into cursors again and again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Position {
    /// Bytes in the whole list.
    total: usize,
    /// Bytes passed.
    done: usize,
    /// The list's current element. Between calls it has bytes left, or is one past the end.
    at: usize,
    /// Bytes passed in that element.
    off: usize,
}

impl Position {
    /// The start of a list of `total` bytes.
    pub(crate) fn start(total: usize) -> Self {
        Self { total, ..Self::default() }
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn done(&self) -> usize {
        self.done
    }

    pub(crate) fn remaining(&self) -> usize {
        self.total - self.done
    }

    pub(crate) fn rewind(&mut self) {
        *self = Self::start(self.total);
    }

    /// Moves on by `n` bytes, clamped to the end.
    fn advance(&mut self, iovs: &[Iov], n: usize) {
        let mut n = n.min(self.remaining());
        self.done += n;
        while let Some(iov) = iovs.get(self.at) {
            let left = iov.len() - self.off;
            if n < left {
                self.off += n;
                return;
            }
            n -= left;
            self.at += 1;
            self.off = 0;
        }
    }
}

#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    iovs: &'a mut [Iov],
    position: &'a mut Position,
}

impl<'a> Cursor<'a> {
    /// No element of `iovs` is empty, and their lengths add up to the position's total.
    pub(crate) fn new(iovs: &'a mut [Iov], position: &'a mut Position) -> Self {
        Self { iovs, position }
    }

    fn advance(&mut self, n: usize) {
        self.position.advance(self.iovs, n);
    }

    /// Gives the next `n` bytes to `copy`, piece by piece, with the offset of each.
    fn copy(&mut self, n: usize, mut copy: impl FnMut(&Iov, usize)) -> Result<(), Short> {
        if n > self.position.remaining() {
            return Err(Short);
        }
        let mut copied = 0;
        while copied < n {
            let piece = self.iovs.get(self.position.at).ok_or(Short)?.part(self.position.off, n - copied);
            copy(&piece, copied);
            copied += piece.len();
            self.advance(piece.len());
        }
        Ok(())
    }

    fn copy_out(&mut self, dst: &mut [u8]) -> Result<(), Short> {
        self.copy(dst.len(), |piece, at| piece.copy_to(dst.get_mut(at..).unwrap_or_default()))
    }

    fn copy_in(&mut self, src: &[u8]) -> Result<(), Short> {
        self.copy(src.len(), |piece, at| piece.copy_from(src.get(at..).unwrap_or_default()))
    }

    fn skip(&mut self, n: usize) -> Result<(), Short> {
        if n > self.position.remaining() {
            return Err(Short);
        }
        self.advance(n);
        Ok(())
    }

    /// The first and the last element are trimmed in place for the call: no second array.
    fn lend(&mut self, max: usize, call: Call<'_>) -> io::Result<usize> {
        let max = max.min(self.position.remaining());
        if max == 0 {
            return Ok(0);
        }
        let Position { at: first, off, .. } = *self.position;
        let lent = self.iovs.get_mut(first..).unwrap_or_default();
        let (count, surplus) = span(lent, off, max, self.position.remaining());
        let lent = lent.get_mut(..count).unwrap_or_default();
        let saved = trim(lent, off, surplus);
        let result = call(lent);
        if let Some((front, back)) = saved {
            // In this order: with one element, `back` was cut from what `front` had left.
            if let Some(last) = lent.last_mut() {
                *last = back;
            }
            if let Some(first) = lent.first_mut() {
                *first = front;
            }
        }
        let n = result?.min(max);
        self.advance(n);
        Ok(n)
    }
}

/// How many elements from the first (of which `off` bytes are passed) hold `max` bytes, and how many more they hold.
fn span(iovs: &[Iov], off: usize, max: usize, remaining: usize) -> (usize, usize) {
    if max == remaining {
        return (iovs.len(), 0);
    }
    let (mut count, mut sum) = (0, 0);
    for iov in iovs {
        sum += if count == 0 { iov.len() - off } else { iov.len() };
        count += 1;
        if sum >= max {
            break;
        }
    }
    (count, sum.saturating_sub(max))
}

/// Cuts `off` bytes off the front and `surplus` off the back; answers what both ends were.
fn trim(iovs: &mut [Iov], off: usize, surplus: usize) -> Option<(Iov, Iov)> {
    let first = iovs.first_mut()?;
    let trimmed = first.part(off, usize::MAX);
    let front = std::mem::replace(first, trimmed);
    let last = iovs.last_mut()?;
    let trimmed = last.part(0, last.len().saturating_sub(surplus));
    let back = std::mem::replace(last, trimmed);
    Some((front, back))
}

/// The readable half of a chain. [`Source`] has its methods.
///
/// Two types, not one with both traits: nothing can write into the readable half, and no method name is ambiguous.
#[derive(Debug)]
pub struct Reader<'a>(Cursor<'a>);

/// The writable half of a chain. [`Sink`] has its methods.
#[derive(Debug)]
pub struct Writer<'a>(Cursor<'a>);

impl<'a> Reader<'a> {
    pub(crate) fn new(cursor: Cursor<'a>) -> Self {
        Self(cursor)
    }

    /// Itself as a trait object.
    pub fn bytes(&mut self) -> &mut (dyn Source + 'a) {
        self
    }
}

impl<'a> Writer<'a> {
    pub(crate) fn new(cursor: Cursor<'a>) -> Self {
        Self(cursor)
    }

    /// Itself as a trait object.
    pub fn bytes(&mut self) -> &mut (dyn Sink + 'a) {
        self
    }
}

impl Source for Reader<'_> {
    fn remaining(&self) -> usize {
        self.0.position.remaining()
    }

    fn read(&mut self, dst: &mut [u8]) -> Result<(), Short> {
        self.0.copy_out(dst)
    }

    fn lend(&mut self, max: usize, call: Call<'_>) -> io::Result<usize> {
        self.0.lend(max, call)
    }

    fn skip(&mut self, n: usize) -> Result<(), Short> {
        self.0.skip(n)
    }
}

impl Sink for Writer<'_> {
    fn remaining(&self) -> usize {
        self.0.position.remaining()
    }

    fn written(&self) -> usize {
        self.0.position.done()
    }

    fn write(&mut self, src: &[u8]) -> Result<(), Short> {
        self.0.copy_in(src)
    }

    fn lend(&mut self, max: usize, call: Call<'_, IovMut>) -> io::Result<usize> {
        self.0.lend(max, &mut |iovs| call(Iov::writable(iovs)))
    }

    fn skip(&mut self, n: usize) -> Result<(), Short> {
        self.0.skip(n)
    }

    fn patch(&mut self, at: usize, src: &[u8]) -> Result<(), Short> {
        at.checked_add(src.len()).filter(|end| *end <= self.written()).ok_or(Short)?;
        let mut position = Position::start(self.0.position.total());
        let mut cursor = Cursor::new(self.0.iovs, &mut position);
        cursor.skip(at)?;
        cursor.copy_in(src)
    }

    fn truncate(&mut self, len: usize) {
        if len < self.written() {
            self.0.position.rewind();
            self.0.advance(len);
        }
    }
}
