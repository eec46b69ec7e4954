//! Cursors over several chains at once, so that one system call moves what many descriptors hold.

use krun_virtio::{Call, Chain, Iov, Short, Sink, Source, gather, scatter};
use std::io;

/// The readable halves of some chains, one after the other.
#[derive(Debug)]
pub(crate) struct Gather<'a> {
    chains: &'a mut [Chain],
    remaining: usize,
    scratch: &'a mut Vec<Iov>,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(chains: &'a mut [Chain], scratch: &'a mut Vec<Iov>) -> Self {
        let remaining = chains.iter_mut().map(|chain| chain.reader().remaining()).sum();
        Self { chains, remaining, scratch }
    }
}

impl Source for Gather<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn read(&mut self, mut dst: &mut [u8]) -> Result<(), Short> {
        self.remaining = self.remaining.checked_sub(dst.len()).ok_or(Short)?;
        for chain in self.chains.iter_mut() {
            let mut reader = chain.reader();
            let (part, rest) = dst.split_at_mut(dst.len().min(reader.remaining()));
            reader.read(part)?;
            dst = rest;
        }
        Ok(())
    }

    fn lend(&mut self, max: usize, call: Call<'_>) -> io::Result<usize> {
        let count = if max >= self.remaining {
            gather(self.chains, self.scratch, |source| source.lend(usize::MAX, call))?
        } else {
            // Less than all is allowed; one chain is simple.
            match self.chains.iter_mut().map(Chain::reader).find(|reader| reader.remaining() > 0) {
                Some(mut reader) => reader.lend(max, call)?,
                None => 0,
            }
        };
        self.remaining -= count;
        Ok(count)
    }
}

/// The writable halves of some untouched chains, one after the other.
#[derive(Debug)]
pub(crate) struct Scatter<'a> {
    chains: &'a mut [Chain],
    remaining: usize,
    written: usize,
    scratch: &'a mut Vec<Iov>,
}

impl<'a> Scatter<'a> {
    pub(crate) fn new(chains: &'a mut [Chain], scratch: &'a mut Vec<Iov>) -> Self {
        let remaining = chains.iter().map(Chain::writable).sum();
        Self { chains, remaining, written: 0, scratch }
    }

    /// Hands the next `count` bytes of room to `step`, chain by chain.
    fn walk(
        &mut self,
        count: usize,
        mut step: impl FnMut(&mut dyn Sink, usize) -> Result<(), Short>,
    ) -> Result<(), Short> {
        self.remaining = self.remaining.checked_sub(count).ok_or(Short)?;
        self.written += count;
        let mut left = count;
        for chain in self.chains.iter_mut() {
            let mut writer = chain.writer();
            let part = left.min(writer.remaining());
            step(&mut writer, part)?;
            left -= part;
        }
        Ok(())
    }
}

impl Sink for Scatter<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn written(&self) -> usize {
        self.written
    }

    fn write(&mut self, mut src: &[u8]) -> Result<(), Short> {
        self.walk(src.len(), |sink, count| {
            let (part, rest) = src.split_at_checked(count).ok_or(Short)?;
            src = rest;
            sink.write(part)
        })
    }

    fn lend(&mut self, max: usize, call: Call<'_>) -> io::Result<usize> {
        let count = if max >= self.remaining {
            scatter(self.chains, 0, self.scratch, |sink| sink.lend(usize::MAX, call))?
        } else {
            match self.chains.iter_mut().map(Chain::writer).find(|writer| writer.remaining() > 0) {
                Some(mut writer) => writer.lend(max, call)?,
                None => 0,
            }
        };
        self.remaining -= count;
        self.written += count;
        Ok(count)
    }

    fn skip(&mut self, count: usize) -> Result<(), Short> {
        self.walk(count, |sink, count| sink.skip(count))
    }

    fn patch(&mut self, mut at: usize, mut src: &[u8]) -> Result<(), Short> {
        at.checked_add(src.len()).filter(|end| *end <= self.written).ok_or(Short)?;
        for chain in self.chains.iter_mut() {
            let here = chain.written();
            let (part, rest) = src.split_at_checked(src.len().min(here.saturating_sub(at))).ok_or(Short)?;
            if !part.is_empty() {
                chain.writer().patch(at, part)?;
            }
            src = rest;
            at = at.saturating_sub(here);
        }
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        let mut left = len;
        for chain in self.chains.iter_mut() {
            let keep = left.min(chain.written());
            chain.writer().truncate(keep);
            left -= keep;
        }
        let gone = self.written.saturating_sub(len);
        self.written -= gone;
        self.remaining += gone;
    }
}
