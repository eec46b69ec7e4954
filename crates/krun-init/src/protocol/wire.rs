//! Little-endian values in and out of byte strings, without an allocator.

use core::ffi::CStr;
use core::fmt;

/// Why bytes are not a frame of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// The stream does not stand at the start of a frame.
    Magic([u8; 2]),
    /// The other end speaks another version.
    Version(u8),
    /// A frame type this end does not know and may not skip, or one that only the other end may send.
    Type(u8),
    /// The frame is about a process other than the workload.
    Process(u32),
    /// The payload is longer than this direction allows.
    TooLong {
        /// Frame type.
        kind: u8,
        /// Length that the header announces, in bytes.
        length: u32,
        /// The most that is accepted, in bytes.
        limit: u32,
    },
    /// The payload of a frame of this type is not what the type says.
    Payload(u8),
    /// A field of `Start` is unknown and not optional.
    UnknownField(u16),
    /// The body of a field of `Start` is not what its tag says.
    Field(u16),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Magic([a, b]) => write!(f, "bytes {a:#04x} {b:#04x} stand where a frame must start"),
            Self::Version(version) => write!(f, "protocol version {version} is not spoken here"),
            Self::Type(kind) => write!(f, "frame type {kind:#04x} is not known in this direction"),
            Self::Process(process) => write!(f, "there is no process {process}"),
            Self::TooLong { kind, length, limit } => {
                write!(f, "a frame of type {kind:#04x} announces {length} bytes, at most {limit} are accepted")
            }
            Self::Payload(kind) => write!(f, "the payload of a frame of type {kind:#04x} is malformed"),
            Self::UnknownField(tag) => write!(f, "field {tag} of the start frame is not known"),
            Self::Field(tag) => write!(f, "field {tag} of the start frame is malformed"),
        }
    }
}

impl core::error::Error for Malformed {}

/// Takes values off the front of a byte string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string with its NUL.
    pub(super) fn string(&mut self) -> Option<&'a CStr> {
        let string = CStr::from_bytes_until_nul(self.rest).ok()?;
        self.bytes(string.count_bytes() + 1)?;
        Some(string)
    }

    /// A zero that later versions may give a meaning.
    pub(super) fn zero(&mut self) -> Option<()> {
        (self.u16()? == 0).then_some(())
    }

    /// What is left, whatever it is.
    pub(super) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// `value`, if nothing is left behind it.
    pub(super) fn end<T>(self, value: T) -> Option<T> {
        self.rest.is_empty().then_some(value)
    }
}

/// Where encoded bytes go: a vector on the host, a fixed buffer in the guest.
pub trait Put {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);
}

/// Counts what would be put.
#[derive(Debug, Default)]
pub(super) struct Count(pub(super) usize);

impl Put for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 = self.0.saturating_add(bytes.len());
    }
}
