//! Bounded reading of a kernel file: every range is checked against the file's length before it is read, so that a
//! short file is told from an unreadable one, and no length in a header decides how much is allocated.

use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, ReadVolatile, VolatileMemoryError};

use crate::error::{Error, Result};

/// Where the bytes of a kernel or an initrd come from: a [`File`](std::fs::File), or for bytes in memory a
/// [`Cursor`](std::io::Cursor).
///
/// [`ReadVolatile`] is what lets them go into guest memory without a copy in between.
pub trait Image: Read + Seek + ReadVolatile {}

impl<F: Read + Seek + ReadVolatile> Image for F {}

/// An image and its length.
#[derive(Debug)]
pub(crate) struct Reader<F> {
    source: F,
    size: u64,
    what: &'static str,
}

impl<F> Reader<F> {
    /// Where the bytes come from.
    pub(super) fn source(&self) -> &F {
        &self.source
    }
}

impl<F: Image> Reader<F> {
    /// `what` names it in errors.
    pub(crate) fn new(mut source: F, what: &'static str) -> Result<Self> {
        let size = source.seek(SeekFrom::End(0)).map_err(|source| Error::Read { what, source })?;
        Ok(Self { source, size, what })
    }

    /// The file's length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads `N` bytes at `offset`.
    pub(super) fn read<const N: usize>(&mut self, offset: u64, part: &'static str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_into(&mut bytes, offset, part)?;
        Ok(bytes)
    }

    /// Fills `bytes` from `offset`.
    pub(super) fn read_into(&mut self, bytes: &mut [u8], offset: u64, part: &'static str) -> Result<()> {
        self.seek_to(offset, bytes.len() as u64, part)?;
        self.source.read_exact(bytes).map_err(|source| self.failed(source))
    }

    /// Reads at most `most` bytes at `offset`: fewer only where the file ends.
    pub(super) fn read_up_to(&mut self, most: usize, offset: u64, part: &'static str) -> Result<Vec<u8>> {
        let len = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; len];
        self.read_into(&mut bytes, offset.min(self.size), part)?;
        Ok(bytes)
    }

    /// Copies `len` bytes at `offset` to guest memory.
    pub(crate) fn copy_to<M: GuestMemoryBackend>(
        &mut self,
        ram: &M,
        address: u64,
        offset: u64,
        len: u64,
        part: &'static str,
    ) -> Result<()> {
        self.seek_to(offset, len, part)?;
        let cannot_write = |source| Error::WriteGuest { what: part, address, source };
        let count = usize::try_from(len).map_err(|_| cannot_write(GuestMemoryError::GuestAddressOverflow))?;
        // Not `read_exact_volatile_from`: it takes a short read, which a file may answer with, for the end.
        for slice in ram.get_slices(GuestAddress(address), count) {
            self.source.read_exact_volatile(&mut slice.map_err(cannot_write)?).map_err(|error| match error {
                VolatileMemoryError::IOError(source) => self.failed(source),
                other => cannot_write(other.into()),
            })?;
        }
        Ok(())
    }

    /// Checks that the file has `len` bytes at `offset`.
    pub(super) fn check(&self, offset: u64, len: u64, part: &'static str) -> Result<()> {
        let end = offset.saturating_add(len);
        if end > self.size {
            return Err(Error::Truncated { what: part, offset, end, file_size: self.size });
        }
        Ok(())
    }

    fn seek_to(&mut self, offset: u64, len: u64, part: &'static str) -> Result<()> {
        self.check(offset, len, part)?;
        self.source.seek(SeekFrom::Start(offset)).map(drop).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Read { what: self.what, source }
    }
}
