//! The header of a frame.

use super::wire::{Count, Malformed, Put, Reader};

/// The version of the protocol in these files.
pub const VERSION: u8 = 1;
/// Types from here on may be skipped by an end that does not know them.
pub const SKIPPABLE: u8 = 0x80;
/// The longest payload the host may send: more than the 2 MiB of arguments and environment that Linux gives a program
/// under the usual stack limit of 8 MiB.
pub const MAX_TO_GUEST: u32 = 4 << 20;
/// The longest payload the guest may send. The host never holds more of a frame than this.
pub const MAX_TO_HOST: u32 = 4096;

const MAGIC: [u8; 2] = *b"kr";

/// The header of a frame: what follows it, about which process, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Frame type.
    pub kind: u8,
    /// The process it is about; 0 is the workload.
    pub process: u32,
    /// Length of the payload in bytes.
    pub length: u32,
}

impl Header {
    /// Bytes of a header on the wire.
    pub const SIZE: usize = 12;

    /// Reads a header; `limit` is the longest payload accepted.
    ///
    /// # Errors
    ///
    /// [`Malformed::Magic`], [`Malformed::Version`] or [`Malformed::TooLong`].
    pub fn decode(bytes: &[u8; Self::SIZE], limit: u32) -> Result<Self, Malformed> {
        let [m0, m1, version, kind, p0, p1, p2, p3, l0, l1, l2, l3] = *bytes;
        if [m0, m1] != MAGIC {
            return Err(Malformed::Magic([m0, m1]));
        }
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > limit {
            return Err(Malformed::TooLong { kind, length, limit });
        }
        Ok(Self { kind, process: u32::from_le_bytes([p0, p1, p2, p3]), length })
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut impl Put) {
        out.put(&MAGIC);
        out.put(&[VERSION, self.kind]);
        out.put(&self.process.to_le_bytes());
        out.put(&self.length.to_le_bytes());
    }
}

/// One whole frame, its payload not yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Frame type.
    pub kind: u8,
    /// The process it is about; 0 is the workload.
    pub process: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The payload, if the frame is about the workload: in this version nothing else runs in the guest.
    pub(super) const fn workload(&self) -> Result<&'a [u8], Malformed> {
        if self.process == 0 { Ok(self.payload) } else { Err(Malformed::Process(self.process)) }
    }

    /// Reads the payload by `parse`, which must use all of it.
    pub(super) fn read<T>(&self, parse: impl FnOnce(Reader<'a>) -> Option<T>) -> Result<T, Malformed> {
        parse(Reader::new(self.workload()?)).ok_or(Malformed::Payload(self.kind))
    }
}

/// Writes a frame of `kind`, whose payload `payload` writes (twice: the first time to learn its length).
pub(super) fn put_frame<P: Put>(out: &mut P, kind: u8, payload: impl Fn(&mut dyn Put)) {
    let mut count = Count::default();
    payload(&mut count);
    Header { kind, process: 0, length: u32::try_from(count.0).unwrap_or(u32::MAX) }.encode(out);
    payload(out);
}
