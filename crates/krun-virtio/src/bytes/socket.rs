//! Internet addresses as the system calls want them.
#![expect(unsafe_code, reason = "C unions of socket addresses")]

use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A `sockaddr` of either internet family.
#[repr(C)]
pub(super) union Address {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

// The families are small numbers; the field is narrower than the constants.
const INET: libc::sa_family_t = 2;
const INET6: libc::sa_family_t = 10;
const _: () = assert!(libc::AF_INET == 2 && libc::AF_INET6 == 10);

fn socklen(size: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(size).unwrap_or(0)
}

impl Address {
    /// Room for either family.
    pub(super) fn empty() -> Self {
        // SAFETY: all-zero bytes are valid for each field: they are plain integers.
        unsafe { std::mem::zeroed() }
    }

    fn family(&self) -> libc::sa_family_t {
        // SAFETY: all fields begin with the family, and all bytes were initialised by `empty`.
        unsafe { self.family }
    }

    /// Address and length for `msghdr`: for a known family its own length, else the whole room.
    pub(super) fn as_ptr(&mut self) -> (*mut libc::c_void, libc::socklen_t) {
        let len = match self.family() {
            INET => size_of::<libc::sockaddr_in>(),
            _ => size_of::<Self>(),
        };
        (std::ptr::from_mut(self).cast(), socklen(len))
    }

    /// What a system call stored, if it is an internet address.
    pub(super) fn get(&self, len: libc::socklen_t) -> Option<SocketAddr> {
        match self.family() {
            INET if len >= socklen(size_of::<libc::sockaddr_in>()) => {
                // SAFETY: the family says which field it is; all bytes were initialised by `empty`.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            INET6 if len >= socklen(size_of::<libc::sockaddr_in6>()) => {
                // SAFETY: as above.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

impl From<&SocketAddr> for Address {
    fn from(address: &SocketAddr) -> Self {
        let mut raw = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: INET,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                    sin_zero: [0; 8],
                };
            }
            SocketAddr::V6(v6) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: INET6,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
            }
        }
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["127.0.0.1:80", "[::1]:443", "[fe80::1%7]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut raw = Address::from(&address);
            let (_, len) = raw.as_ptr();
            assert_eq!(raw.get(len), Some(address));
        }
        assert_eq!(Address::empty().get(28), None);
    }
}
