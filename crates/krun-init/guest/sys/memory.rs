//! Memory of a size that is known late: mappings, since PID 1 has no allocator.

use core::ffi::CStr;

use super::{Result, call};
use crate::protocol::{Put, Store};

/// Bytes that are appended to a mapping. Pages that were never written cost nothing.
///
/// A region lives as long as PID 1, so it is never unmapped.
#[derive(Debug)]
pub(crate) struct Region {
    bytes: &'static mut [u8],
    used: usize,
}

impl Region {
    pub(crate) fn new(capacity: usize) -> Result<Self> {
        const READ_WRITE: usize = 1 | 2;
        const PRIVATE_ANONYMOUS_NORESERVE: usize = 0x2 | 0x20 | 0x4000;
        let start = call!(MMAP, 0_usize, capacity, READ_WRITE, PRIVATE_ANONYMOUS_NORESERVE, -1, 0_usize)?;
        // SAFETY: a new private mapping of `capacity` zero bytes, which nothing else knows and nothing unmaps.
        let bytes = unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(start), capacity) };
        Ok(Self { bytes, used: 0 })
    }

    /// The part that is still free.
    pub(crate) fn free(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.used..).unwrap_or_default()
    }

    /// `count` bytes of the free part have been written.
    pub(crate) fn filled(&mut self, count: usize) {
        self.used = (self.used + count).min(self.bytes.len());
    }
}

impl Store for Region {
    fn clear(&mut self) {
        self.used = 0;
    }

    fn append(&mut self, bytes: &[u8]) {
        for (to, from) in self.free().iter_mut().zip(bytes) {
            *to = *from;
        }
        self.filled(bytes.len());
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }
}

impl Put for Region {
    fn put(&mut self, bytes: &[u8]) {
        self.append(bytes);
    }
}

/// A list of strings as `execve(2)` takes it: pointers, then a null pointer.
#[derive(Debug)]
pub(crate) struct Pointers<'a> {
    list: &'static mut [*const u8],
    strings: core::marker::PhantomData<&'a CStr>,
}

impl<'a> Pointers<'a> {
    pub(crate) fn new(strings: impl Iterator<Item = &'a CStr> + Clone) -> Result<Self> {
        let count = strings.clone().count() + 1;
        let region = Region::new(count * size_of::<*const u8>())?;
        let start: *mut *const u8 = region.bytes.as_mut_ptr().cast();
        // SAFETY: the mapping has this size, is page-aligned, lives for ever, and zero bytes are null pointers.
        let list = unsafe { core::slice::from_raw_parts_mut(start, count) };
        for (to, string) in list.iter_mut().zip(strings) {
            *to = string.as_ptr().cast();
        }
        Ok(Self { list, strings: core::marker::PhantomData })
    }

    pub(super) fn as_ptr(&self) -> *const *const u8 {
        self.list.as_ptr()
    }
}
