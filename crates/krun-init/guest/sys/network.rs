//! Network interfaces.

use super::{Fd, Result, call};

/// `struct ifreq` with flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Brings an interface up.
pub(crate) fn raise_interface(name: &[u8]) -> Result<()> {
    const AF_INET: u32 = 2;
    const SOCK_DGRAM: u32 = 2;
    const GET_FLAGS: u32 = 0x8913;
    const SET_FLAGS: u32 = 0x8914;
    const UP: u16 = 1;
    let socket = Fd::from_answer(call!(SOCKET, AF_INET, SOCK_DGRAM | super::CLOEXEC, 0_usize)?);
    let mut request = Request { name: [0; 16], flags: 0, rest: [0; 22] };
    // The last byte stays NUL.
    for (to, from) in request.name.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    let at: *mut Request = &mut request;
    call!(IOCTL, socket.number(), GET_FLAGS, at)?;
    request.flags |= UP;
    let at: *const Request = &request;
    call!(IOCTL, socket.number(), SET_FLAGS, at).map(drop)
}
