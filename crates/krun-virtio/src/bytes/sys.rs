//! The system calls that lent memory goes to, written once.
#![expect(unsafe_code, reason = "vectored system calls take addresses")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Iov, IovMut, socket};

/// Pieces that one system call takes: Linux's `UIO_MAXIOV`.
pub const IOV_MAX: usize = 1024;

/// One message of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes stored.
    pub len: usize,
    /// The message was longer than the room (`MSG_TRUNC`): its rest is lost, or for SEQPACKET comes next.
    pub truncated: bool,
    /// A record ended here (`MSG_EOR`).
    pub end_of_record: bool,
    /// The sender's address, if the socket is of the internet and not connected.
    pub from: Option<SocketAddr>,
}

/// Calls again for as long as signals interrupt it.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(n) => return Ok(n),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Address and count as the system calls want them, at most [`IOV_MAX`]. `I` is [`Iov`] or [`IovMut`].
fn vector<I>(iovs: &[I]) -> (*const libc::iovec, libc::c_int) {
    let count = iovs.len().min(IOV_MAX);
    (iovs.as_ptr().cast(), libc::c_int::try_from(count).unwrap_or(0))
}

fn offset(at: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

pub(super) fn pwrite(fd: BorrowedFd<'_>, iovs: &[Iov], at: u64, flags: i32) -> io::Result<usize> {
    let ((base, count), at) = (vector(iovs), offset(at)?);
    // SAFETY: `Iov` is laid out as `iovec`; each is mapped and readable as `Iov::new` promised; `count` is theirs.
    retry(|| unsafe { libc::pwritev2(fd.as_raw_fd(), base, count, at, flags) })
}

pub(super) fn pread(fd: BorrowedFd<'_>, iovs: &[IovMut], at: u64, flags: i32) -> io::Result<usize> {
    let ((base, count), at) = (vector(iovs), offset(at)?);
    // SAFETY: as in `pwrite`, for `IovMut`, whose memory is writable too.
    retry(|| unsafe { libc::preadv2(fd.as_raw_fd(), base, count, at, flags) })
}

pub(super) fn write(fd: BorrowedFd<'_>, iovs: &[Iov]) -> io::Result<usize> {
    let (base, count) = vector(iovs);
    // SAFETY: as in `pwrite`.
    retry(|| unsafe { libc::writev(fd.as_raw_fd(), base, count) })
}

pub(super) fn read(fd: BorrowedFd<'_>, iovs: &[IovMut]) -> io::Result<usize> {
    let (base, count) = vector(iovs);
    // SAFETY: as in `pread`.
    retry(|| unsafe { libc::readv(fd.as_raw_fd(), base, count) })
}

/// A stream's bytes: more than [`IOV_MAX`] pieces go by several calls.
pub(super) fn send(fd: BorrowedFd<'_>, iovs: &[Iov], flags: i32, to: Option<&SocketAddr>) -> io::Result<usize> {
    let mut address = to.map(socket::Address::from);
    let mut message = message(iovs);
    if let Some(address) = &mut address {
        (message.msg_name, message.msg_namelen) = address.as_ptr();
    }
    let flags = flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: `message` names iovecs that are mapped and readable as `Iov::new` promised, and an address (or none)
    // that lives to the end of this function; there is no control data.
    retry(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) })
}

/// A message's bytes: all by one call.
pub(super) fn send_whole(fd: BorrowedFd<'_>, iovs: &[Iov], flags: i32, to: Option<&SocketAddr>) -> io::Result<usize> {
    if iovs.len() > IOV_MAX {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    send(fd, iovs, flags, to)
}

pub(super) fn recv(fd: BorrowedFd<'_>, iovs: &[IovMut], flags: i32) -> io::Result<Received> {
    let mut address = socket::Address::empty();
    let mut message = message(iovs);
    (message.msg_name, message.msg_namelen) = address.as_ptr();
    // MSG_TRUNC as an input flag makes the answer longer than what was stored; the output flag tells it as well.
    let flags = (flags | libc::MSG_DONTWAIT) & !libc::MSG_TRUNC;
    // SAFETY: `message` names iovecs that are mapped and writable as `IovMut::new` promised, and an address buffer of the
    // length it states that lives to the end of this function; there is no control buffer.
    let len = retry(|| unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, flags) })?;
    Ok(Received {
        len,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        end_of_record: message.msg_flags & libc::MSG_EOR != 0,
        from: address.get(message.msg_namelen),
    })
}

fn message<I>(iovs: &[I]) -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers, zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovs.as_ptr().cast_mut().cast();
    // The field's type differs between C libraries.
    message.msg_iovlen = iovs.len().min(IOV_MAX) as _;
    message
}
