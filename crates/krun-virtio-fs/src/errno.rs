//! What a guest is told when an operation fails.

use std::fmt;
use std::io;

/// A Linux error number that a reply may carry: 1 to 511.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident = $value:ident),* $(,)?) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($value), "`")]
                pub const $name: Self = Self(libc::$value);
            )*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($value)),)*
                    Self(other) => write!(f, "Errno({other})"),
                }
            }
        }
    };
}

errnos! {
    PERM = EPERM, NOENT = ENOENT, INTR = EINTR, IO = EIO, NXIO = ENXIO, TOOBIG = E2BIG, BADF = EBADF, AGAIN = EAGAIN,
    NOMEM = ENOMEM, ACCES = EACCES, BUSY = EBUSY, EXIST = EEXIST, XDEV = EXDEV, NOTDIR = ENOTDIR, ISDIR = EISDIR,
    INVAL = EINVAL, NFILE = ENFILE, MFILE = EMFILE, NOTTY = ENOTTY, FBIG = EFBIG, NOSPC = ENOSPC, ROFS = EROFS,
    MLINK = EMLINK, RANGE = ERANGE, NAMETOOLONG = ENAMETOOLONG, NOSYS = ENOSYS, NOTEMPTY = ENOTEMPTY, LOOP = ELOOP,
    NODATA = ENODATA, PROTO = EPROTO, OVERFLOW = EOVERFLOW, OPNOTSUPP = EOPNOTSUPP, STALE = ESTALE,
}

impl Errno {
    /// The error with this number. Numbers that no reply can carry become [`Errno::IO`].
    #[must_use]
    pub const fn new(number: i32) -> Self {
        // Linux treats numbers from 512 on as its own private ones and refuses a reply that has them.
        if number > 0 && number < 512 { Self(number) } else { Self::IO }
    }

    /// The number, always positive.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&io::Error::from_raw_os_error(self.0), f)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Self {
        Self::new(error.raw_os_error())
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or(Self::IO, Self::new)
    }
}

/// Why an operation has no result (yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The guest gets this error.
    Errno(Errno),
    /// The operation would block, and [`Request::may_block`](crate::Request::may_block) says that it must not: run it
    /// once more, from its start, where blocking does no harm.
    Again,
    /// The operation waits for something that may never happen (a lock): try it once more later. It must not occupy a
    /// thread meanwhile.
    Wait,
}

impl<E: Into<Errno>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Errno(error.into())
    }
}

/// The result of a file system operation.
pub type FsResult<T> = Result<T, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_a_reply_can_carry() {
        assert_eq!(Errno::new(libc::ENOENT), Errno::NOENT);
        for odd in [0, -1, 512, 1000, i32::MIN, i32::MAX] {
            assert_eq!(Errno::new(odd), Errno::IO, "{odd}");
        }
        assert_eq!(format!("{:?}", Errno::NOTEMPTY), "ENOTEMPTY");
        assert_eq!(Errno::from(io::Error::other("no number")), Errno::IO);
    }
}
