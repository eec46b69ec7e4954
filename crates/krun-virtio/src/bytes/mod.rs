//! Bytes that somebody else may change at any time.
//!
//! A request is a readable half ([`Source`]) and a writable half ([`Sink`]). Protocol cores take `&mut dyn Source` and
//! `&mut dyn Sink` and know neither rings nor guest memory; a fuzzer gives them a byte slice and a [`VecSink`].
//!
//! Guest memory is never seen as `&[u8]`, because the guest writes while we look. It is copied out once
//! ([`Source::read`]) and then validated, or lent to one system call ([`Source::lend`]) that copies between it and the
//! kernel, with nothing in between.

mod cursor;
mod raw;
mod slice;
mod socket;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

pub(crate) use cursor::{Cursor, Position};
pub use cursor::{Reader, Writer};
pub use raw::{Iov, IovMut};
pub use slice::VecSink;
pub use sys::{IOV_MAX, Received};

/// Fewer bytes were left than asked for: a mistake of the guest, not of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("fewer bytes than the request needs")]
pub struct Short;

/// One system call over lent memory: it answers how many bytes it moved. A [`Source`] lends [`Iov`]s, a [`Sink`]
/// [`IovMut`]s.
pub type Call<'a, I = Iov> = &'a mut dyn FnMut(&[I]) -> io::Result<usize>;

/// A cursor over bytes to be read: the readable half of a chain, or `&[u8]`.
pub trait Source {
    /// Bytes not read yet.
    fn remaining(&self) -> usize;

    /// Copies the next `dst.len()` bytes out.
    ///
    /// # Errors
    /// [`Short`] if fewer remain; then nothing was read.
    fn read(&mut self, dst: &mut [u8]) -> Result<(), Short>;

    /// Lends at most `max` bytes to one system call and moves on by what it took.
    ///
    /// With nothing to lend, `call` is not made and the answer is 0.
    ///
    /// # Errors
    /// Those of `call`; the position is then unchanged.
    fn lend(&mut self, max: usize, call: Call<'_>) -> io::Result<usize>;

    /// Passes over `n` bytes.
    ///
    /// # Errors
    /// [`Short`] if fewer remain; then nothing was passed over.
    fn skip(&mut self, n: usize) -> Result<(), Short> {
        if n > self.remaining() {
            return Err(Short);
        }
        self.lend(n, &mut |_| Ok(n)).map(drop).map_err(|_| Short)
    }

    /// `pwritev2(2)`: writes at most `max` bytes to `fd` at offset `at`; `flags` are the `RWF_*` ones.
    ///
    /// # Errors
    /// Those of the system call, `EINTR` excepted: it is retried. At most [`IOV_MAX`] pieces go by one call, so
    /// fewer bytes than asked for may have been written.
    fn pwrite(&mut self, fd: BorrowedFd<'_>, at: u64, flags: i32, max: usize) -> io::Result<usize> {
        self.lend(max, &mut |iovs| sys::pwrite(fd, iovs, at, flags))
    }

    /// `writev(2)`: writes at most `max` bytes to `fd` at its own position (pipes, terminals).
    ///
    /// # Errors
    /// As [`Source::pwrite`].
    fn write_to(&mut self, fd: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        self.lend(max, &mut |iovs| sys::write(fd, iovs))
    }

    /// `sendmsg(2)` on a connected socket. `MSG_NOSIGNAL` and `MSG_DONTWAIT` are always added to `flags`.
    ///
    /// # Errors
    /// Those of the system call, `EINTR` excepted: it is retried.
    fn send(&mut self, fd: BorrowedFd<'_>, flags: i32, max: usize) -> io::Result<usize> {
        self.lend(max, &mut |iovs| sys::send(fd, iovs, flags, None))
    }

    /// `sendmsg(2)` of one whole datagram of `len` bytes (which may be 0) to `to`, or to the connected peer.
    /// `MSG_NOSIGNAL` and `MSG_DONTWAIT` are always added to `flags`.
    ///
    /// # Errors
    /// Those of the system call, `EINTR` excepted: it is retried. `EMSGSIZE` if the bytes lie in more than
    /// [`IOV_MAX`] pieces. `InvalidInput` if fewer than `len` bytes remain.
    fn send_datagram(
        &mut self,
        fd: BorrowedFd<'_>,
        to: Option<&SocketAddr>,
        flags: i32,
        len: usize,
    ) -> io::Result<usize> {
        if len > self.remaining() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if len == 0 {
            return sys::send(fd, &[], flags, to);
        }
        self.lend(len, &mut |iovs| sys::send_whole(fd, iovs, flags, to))
    }
}

/// A cursor over room to be written: the writable half of a chain, or a [`VecSink`].
pub trait Sink {
    /// Room left.
    fn remaining(&self) -> usize;

    /// Bytes written (or skipped) so far; for a chain, what the driver is told.
    fn written(&self) -> usize;

    /// Copies `src` in.
    ///
    /// # Errors
    /// [`Short`] if there is less room; then nothing was written.
    fn write(&mut self, src: &[u8]) -> Result<(), Short>;

    /// Lends at most `max` bytes of room to one system call and moves on by what it filled.
    ///
    /// With no room to lend, `call` is not made and the answer is 0.
    ///
    /// # Errors
    /// Those of `call`; the position is then unchanged.
    fn lend(&mut self, max: usize, call: Call<'_, IovMut>) -> io::Result<usize>;

    /// Passes over `n` bytes that [`Sink::patch`] fills later: FUSE and vsock headers before the payload, block's
    /// status behind it.
    ///
    /// # Errors
    /// [`Short`] if there is less room; then nothing was passed over.
    fn skip(&mut self, n: usize) -> Result<(), Short>;

    /// Overwrites bytes already passed, `at` counted from the start; the position stays.
    ///
    /// # Errors
    /// [`Short`] if `at + src.len()` is more than [`Sink::written`]; then nothing was overwritten.
    fn patch(&mut self, at: usize, src: &[u8]) -> Result<(), Short>;

    /// Takes back everything after the first `len` bytes (error replies, a directory entry that did not fit).
    /// Without effect if no more than `len` bytes were written.
    fn truncate(&mut self, len: usize);

    /// `preadv2(2)`: reads at most `max` bytes from `fd` at offset `at`; `flags` are the `RWF_*` ones, such as
    /// `RWF_NOWAIT`.
    ///
    /// # Errors
    /// Those of the system call, `EINTR` excepted: it is retried. At most [`IOV_MAX`] pieces go by one call, so
    /// fewer bytes than asked for may have been read.
    fn pread(&mut self, fd: BorrowedFd<'_>, at: u64, flags: i32, max: usize) -> io::Result<usize> {
        self.lend(max, &mut |iovs| sys::pread(fd, iovs, at, flags))
    }

    /// `readv(2)`: reads at most `max` bytes from `fd` at its own position (pipes, terminals).
    ///
    /// # Errors
    /// As [`Sink::pread`].
    fn read_from(&mut self, fd: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        self.lend(max, &mut |iovs| sys::read(fd, iovs))
    }

    /// `recvmsg(2)` on a connected socket. `MSG_DONTWAIT` is always added to `flags`.
    ///
    /// # Errors
    /// Those of the system call, `EINTR` excepted: it is retried.
    fn recv(&mut self, fd: BorrowedFd<'_>, flags: i32, max: usize) -> io::Result<usize> {
        self.lend(max, &mut |iovs| sys::recv(fd, iovs, flags).map(|r| r.len))
    }

    /// `recvmsg(2)` of one message (datagram, SEQPACKET): where it came from, and whether it was cut or ended.
    /// `MSG_DONTWAIT` is always added to `flags`. The length in the answer is what was stored.
    ///
    /// # Errors
    /// Those of the system call, `EINTR` excepted: it is retried. `InvalidInput` if there is no room at all.
    fn recv_message(&mut self, fd: BorrowedFd<'_>, flags: i32, max: usize) -> io::Result<Received> {
        let mut received = Err(io::ErrorKind::InvalidInput.into());
        self.lend(max, &mut |iovs| {
            received = sys::recv(fd, iovs, flags);
            match &received {
                Ok(message) => Ok(message.len),
                Err(_) => Ok(0),
            }
        })?;
        received
    }
}
