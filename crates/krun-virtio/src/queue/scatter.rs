//! One system call over many chains.

use std::io;

use super::Chain;
use crate::bytes::{Cursor, IOV_MAX, Iov, IovMut, Position, Reader, Sink, Source, Writer};

/// Memory to work in. However it is left, by a panic too, nothing stays in it that may dangle.
struct Scratch<'a>(&'a mut Vec<Iov>);

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// The pieces of many chains in a row, as one cursor's worth.
fn with_all<R>(
    scratch: &mut Vec<Iov>,
    chains: &mut [Chain],
    mut collect: impl FnMut(&mut Chain, &mut Vec<Iov>) -> io::Result<()>,
    call: impl FnOnce(Cursor<'_>) -> (io::Result<R>, usize),
) -> io::Result<(R, usize)> {
    let scratch = Scratch(scratch);
    scratch.0.clear();
    for chain in chains {
        collect(chain, scratch.0)?;
        if scratch.0.len() >= IOV_MAX {
            break;
        }
    }
    let mut position = Position::start(scratch.0.iter().map(Iov::len).sum());
    let (result, moved) = call(Cursor::new(scratch.0, &mut position));
    Ok((result?, moved))
}

fn copy<'a>(iovs: impl Iterator<Item = &'a Iov>, scratch: &mut Vec<Iov>) -> io::Result<usize> {
    scratch.extend(iovs.map(|iov| iov.part(0, usize::MAX)));
    Ok(0)
}

/// Fills the writable halves of many chains as if they were one, `header` bytes left free at the start of each: guests
/// post receive buffers of a page, a socket gives a megabyte by one call.
///
/// `call` gets a [`Sink`] over all of them, one behind the other; `scratch` is memory to work in, reused from call to
/// call. Chains that nothing was written to are as they were. Those that were have their header skipped, to be filled
/// with [`Sink::patch`].
///
/// # Errors
/// Those of `call`, and `InvalidData` if a chain has no room for the header. No chain counts as written then.
pub fn scatter<R>(
    chains: &mut [Chain],
    header: usize,
    scratch: &mut Vec<Iov>,
    call: impl FnOnce(&mut dyn Sink) -> io::Result<R>,
) -> io::Result<R> {
    let collect = |chain: &mut Chain, scratch: &mut Vec<Iov>| {
        let mut writer = chain.writer();
        let start = writer.written();
        writer.skip(header).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let lent = writer.lend(usize::MAX, &mut |iovs| copy(iovs.iter().map(IovMut::iov), scratch));
        writer.truncate(start);
        lent.map(drop)
    };
    let (result, mut left) = with_all(scratch, chains, collect, |cursor| {
        let mut sink = Writer::new(cursor);
        let result = call(&mut sink);
        (result, sink.written())
    })?;
    for chain in chains {
        if left == 0 {
            break;
        }
        let mut writer = chain.writer();
        let _ = writer.skip(header);
        let filled = left.min(writer.remaining());
        let _ = writer.skip(filled);
        left -= filled;
    }
    Ok(result)
}

/// Empties the readable halves of many chains as if they were one, from where each of them stands: small writes leave
/// the guest in a batch.
///
/// `call` gets a [`Source`] over all of them, one behind the other; `scratch` is memory to work in, reused from call
/// to call. The chains' readers stand behind what was taken.
///
/// # Errors
/// Those of `call`; no chain counts as read then.
pub fn gather<R>(
    chains: &mut [Chain],
    scratch: &mut Vec<Iov>,
    call: impl FnOnce(&mut dyn Source) -> io::Result<R>,
) -> io::Result<R> {
    let collect = |chain: &mut Chain, scratch: &mut Vec<Iov>| {
        chain.reader().lend(usize::MAX, &mut |iovs| copy(iovs.iter(), scratch)).map(drop)
    };
    let (result, mut left) = with_all(scratch, chains, collect, |cursor| {
        let mut source = Reader::new(cursor);
        let before = source.remaining();
        let result = call(&mut source);
        (result, before - source.remaining())
    })?;
    for chain in chains {
        let mut reader = chain.reader();
        let taken = left.min(reader.remaining());
        let _ = reader.skip(taken);
        left -= taken;
    }
    Ok(result)
}
