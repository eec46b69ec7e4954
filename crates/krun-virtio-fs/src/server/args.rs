//! Reads the arguments of a request. They are copied once, then checked: the guest may change them meanwhile.

use std::ffi::CStr;
use std::io;

use krun_virtio::{Call, Short, Source};

use crate::abi::NAME_MAX;
use crate::errno::{Errno, FsResult};

/// Room for one name and its NUL.
pub(super) type NameBuffer = [u8; NAME_MAX + 1];

/// What follows the header of a request, up to the length that the header tells.
pub(super) struct Args<'a> {
    source: &'a mut dyn Source,
    left: usize,
}

impl<'a> Args<'a> {
    /// At most `left` bytes of the source.
    pub(super) fn new(source: &'a mut dyn Source, left: usize) -> Self {
        Self { source, left }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Ends the arguments earlier.
    pub(super) fn cut(&mut self, left: usize) {
        self.left = self.left.min(left);
    }

    /// The next `N` bytes: a structure.
    pub(super) fn take<const N: usize>(&mut self) -> FsResult<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Copies as many bytes as the buffer has.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> FsResult<()> {
        self.left = self.left.checked_sub(buffer.len()).ok_or(Errno::INVAL)?;
        Ok(self.source.read(buffer).map_err(|Short| Errno::INVAL)?)
    }

    /// All that is left; `too_long` if the buffer does not hold it.
    pub(super) fn rest<'b>(&mut self, buffer: &'b mut [u8], too_long: Errno) -> FsResult<&'b [u8]> {
        let part = buffer.get_mut(..self.left).ok_or(too_long)?;
        self.fill(part)?;
        Ok(part)
    }

    /// All that is left, which is one file name.
    pub(super) fn name<'b>(&mut self, buffer: &'b mut NameBuffer) -> FsResult<&'b CStr> {
        let bytes = self.rest(buffer, Errno::NAMETOOLONG)?;
        let (name, rest) = split_string(bytes)?;
        if !rest.is_empty() {
            return Err(Errno::INVAL.into());
        }
        Ok(component(name)?)
    }

    /// The next `size` bytes, as a source that ends there.
    pub(super) fn payload(&mut self, size: usize) -> FsResult<Limited<'_>> {
        self.left = self.left.checked_sub(size).ok_or(Errno::INVAL)?;
        Ok(Limited { source: &mut *self.source, left: size })
    }
}

/// A source that ends before its chain does: descriptors may hold more than the request's own size admits.
pub(super) struct Limited<'a> {
    source: &'a mut dyn Source,
    left: usize,
}

impl Source for Limited<'_> {
    fn remaining(&self) -> usize {
        self.left.min(self.source.remaining())
    }

    fn read(&mut self, dst: &mut [u8]) -> Result<(), Short> {
        let left = self.left.checked_sub(dst.len()).ok_or(Short)?;
        self.source.read(dst)?;
        self.left = left;
        Ok(())
    }

    fn lend(&mut self, max: usize, call: Call<'_>) -> io::Result<usize> {
        let count = self.source.lend(max.min(self.left), call)?;
        self.left = self.left.saturating_sub(count);
        Ok(count)
    }
}

/// The string up to the first NUL, and what follows.
pub(super) fn split_string(bytes: &[u8]) -> Result<(&CStr, &[u8]), Errno> {
    let string = CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::INVAL)?;
    let rest = bytes.get(string.count_bytes() + 1..).unwrap_or_default();
    Ok((string, rest))
}

/// Admits what is the name of one directory entry: nothing to walk, nothing that leads up.
pub(super) fn component(name: &CStr) -> Result<&CStr, Errno> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        long if long.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
        path if path.contains(&b'/') => Err(Errno::INVAL),
        _ => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> FsResult<Vec<u8>> {
        let mut source = bytes;
        let mut buffer = [0; NAME_MAX + 1];
        Args::new(&mut source, bytes.len()).name(&mut buffer).map(|n| n.to_bytes().to_vec())
    }

    #[test]
    fn only_single_components_are_names() {
        for good in [&b"a\0"[..], b"...\0", b"..a\0", b" \0", b"\xff\xfe\0"] {
            assert_eq!(name(good).expect("a name"), good[..good.len() - 1]);
        }
        for bad in [&b""[..], b"\0", b".\0", b"..\0", b"a/b\0", b"/\0", b"../x\0", b"a", b"a\0b\0", b"a\0\0"] {
            assert_eq!(name(bad), Err(Errno::INVAL.into()), "{bad:?}");
        }
        let mut long = [b'x'; 257];
        long[255] = 0;
        assert_eq!(name(&long[..256]).expect("255 bytes").len(), 255);
        long = [b'x'; 257];
        long[256] = 0;
        assert_eq!(name(&long), Err(Errno::NAMETOOLONG.into()));
        assert_eq!(name(&[b'x'; 5000]), Err(Errno::NAMETOOLONG.into()));
    }

    #[test]
    fn a_payload_ends_where_it_was_said_to_end() {
        let bytes = *b"0123456789";
        let mut source = &bytes[..];
        let mut args = Args::new(&mut source, 8);
        let mut payload = args.payload(4).expect("8 are left");
        assert_eq!(payload.remaining(), 4);
        let mut lent = 0;
        let count = payload
            .lend(usize::MAX, &mut |parts| {
                lent = parts.iter().map(|p| p.len()).sum();
                Ok(3)
            })
            .expect("the call succeeds");
        assert_eq!((lent, count, payload.remaining()), (4, 3, 1));
        assert_eq!(payload.read(&mut [0; 2]), Err(Short));
        assert!(args.payload(5).is_err());
        assert_eq!(args.take::<1>().expect("one more"), [b'3']);
    }
}
