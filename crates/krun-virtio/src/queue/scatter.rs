//! One system call over many chains.

use std::io;

use super::Chain;
use crate::bytes::{Call, IOV_MAX, Iov, Sink, Source};

/// Fills the writable halves of many chains by one system call, `header` bytes left free at the start of each: guests
/// post receive buffers of a page, a socket gives a megabyte at once.
///
/// `scratch` is memory to work in, reused from call to call. Answers how many bytes `call` moved. Chains that it did
/// not reach are as they were (nothing written); those that it did have their header skipped, to be filled with
/// [`Sink::patch`]. At most [`IOV_MAX`] pieces are lent.
///
/// # Errors
/// Those of `call`; and `InvalidData` if a chain has no room for the header. No chain has changed then.
pub fn scatter(chains: &mut [Chain], header: usize, scratch: &mut Vec<Iov>, call: Call<'_>) -> io::Result<usize> {
    scratch.clear();
    for chain in chains.iter_mut() {
        let mut writer = chain.writer();
        let start = writer.written();
        let room = writer.skip(header).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let _ = writer.lend(usize::MAX, &mut |iovs| {
            scratch.extend(iovs.iter().map(|iov| iov.part(0, usize::MAX)));
            Ok(0)
        });
        writer.truncate(start);
        room?;
        if scratch.len() >= IOV_MAX {
            break;
        }
    }
    scratch.truncate(IOV_MAX);
    let moved = lend_all(scratch, call)?;
    let mut left = moved;
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
    Ok(moved)
}

/// Empties the readable halves of many chains by one system call, from where each of them stands: small console or
/// socket writes leave the guest in a batch.
///
/// `scratch` is memory to work in, reused from call to call. Answers how many bytes `call` took; the chains' readers
/// stand behind them. At most [`IOV_MAX`] pieces are lent.
///
/// # Errors
/// Those of `call`; no chain has changed then.
pub fn gather(chains: &mut [Chain], scratch: &mut Vec<Iov>, call: Call<'_>) -> io::Result<usize> {
    scratch.clear();
    for chain in chains.iter_mut() {
        let _ = chain.reader().lend(usize::MAX, &mut |iovs| {
            scratch.extend(iovs.iter().map(|iov| iov.part(0, usize::MAX)));
            Ok(0)
        });
        if scratch.len() >= IOV_MAX {
            break;
        }
    }
    scratch.truncate(IOV_MAX);
    let moved = lend_all(scratch, call)?;
    let mut left = moved;
    for chain in chains {
        let mut reader = chain.reader();
        let taken = left.min(reader.remaining());
        let _ = reader.skip(taken);
        left -= taken;
    }
    Ok(moved)
}

/// The call itself: it cannot have moved more than it was lent. Leaves nothing in `scratch` that may dangle.
fn lend_all(scratch: &mut Vec<Iov>, call: Call<'_>) -> io::Result<usize> {
    let lent: usize = scratch.iter().map(Iov::len).sum();
    let moved = if lent == 0 { Ok(0) } else { call(scratch) };
    scratch.clear();
    Ok(moved?.min(lent))
}
