//! Shared-memory windows of devices: guest-physical ranges that a device maps files into while the guest runs.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use krun_vcpu::KvmVm;
use krun_virtio::{SharedMemory, SharedWindow};

use crate::error::Error;
use crate::layout::Layout;
use crate::mapping::Mapping;

/// The host's side of a window. Until something is mapped there, and where it was taken away again, nothing is: a guest
/// that looks all the same stops its own VM.
#[derive(Debug)]
pub(crate) struct Window {
    mapping: Mapping,
}

/// Makes the planned `range` a window of the guest.
pub(crate) fn place(kvm: &KvmVm, range: &Range<u64>) -> Result<SharedMemory, Error> {
    let size = range.end - range.start;
    let mapping = Mapping::reserve(size, range.start);
    let mapping = mapping.map_err(|source| Error::Memory { action: "reserve a window of", size, source })?;
    let window = Arc::new(Window { mapping });
    crate::sys::add_window(kvm, range.start, &window)?;
    Ok(SharedMemory { base: range.start, window })
}

impl Window {
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Where in the mapping `len` bytes at `offset` lie, if they are whole pages inside of it.
    fn part(&self, offset: u64, len: u64) -> io::Result<Range<usize>> {
        let aligned = offset.is_multiple_of(Layout::PAGE) && len.is_multiple_of(Layout::PAGE) && len > 0;
        let inside = |(start, end): &(usize, usize)| start < end && *end <= self.mapping.len();
        let start = usize::try_from(offset).ok();
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
        match start.zip(end).filter(inside) {
            Some((start, end)) if aligned => Ok(start..end),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl SharedWindow for Window {
    fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    fn map(&self, offset: u64, fd: BorrowedFd<'_>, fd_offset: u64, len: u64, writable: bool) -> io::Result<()> {
        self.mapping.place_file(self.part(offset, len)?, fd, fd_offset, writable)
    }

    fn unmap(&self, offset: u64, len: u64) -> io::Result<()> {
        self.mapping.clear(self.part(offset, len)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn only_whole_pages_inside_are_mapped() {
        let window = Window { mapping: Mapping::reserve(8 * Layout::PAGE, 1 << 32).unwrap() };
        assert_eq!(window.len(), 8 * Layout::PAGE);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        let map = |offset, len| window.map(offset, file.as_fd(), 0, len, false);
        map(4096, 8192).unwrap();
        map(7 * 4096, 4096).unwrap();
        for (offset, len) in [
            (0, 0),
            (1, 4096),
            (0, 1),
            (8 * 4096, 4096),
            (7 * 4096, 8192),
            (u64::MAX - 4095, 4096),
            (4096, u64::MAX - 4095),
        ] {
            let kind = map(offset, len).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidInput, "{offset:#x} {len:#x}");
        }
        window.unmap(4096, 4096).unwrap();
        assert!(window.unmap(4095, 4096).is_err());
    }
}
