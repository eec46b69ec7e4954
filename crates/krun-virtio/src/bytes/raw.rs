//! The types that are addresses: [`Iov`] and [`IovMut`].
#![expect(unsafe_code, reason = "guest memory is reached by address; everything above works on checked cursors")]

use std::io;

use super::Call;

/// Address and length of bytes that a system call reads. Opaque: never a `&[u8]`, because the guest writes while we
/// look.
///
/// It is laid out as the system's `struct iovec`: a `&[Iov]` may be passed as a `*const iovec`.
#[repr(transparent)]
#[derive(Debug)]
pub struct Iov(libc::iovec);

// SAFETY: a pair of numbers. Whoever makes one (an unsafe act, see `Iov::new`) answers for the memory behind it, on
// whatever thread it is used.
unsafe impl Send for Iov {}
// SAFETY: as above; through `&Iov` nothing but the numbers can be had without an unsafe act or this crate's cursors,
// which access the memory as a device accesses memory: expecting anyone to change it.
unsafe impl Sync for Iov {}

impl Iov {
    /// `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes stay mapped and readable for as long as this value is used, and no exclusive Rust reference to them is
    /// alive meanwhile.
    pub unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: base.cast(), iov_len: len })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The address, for system calls that this crate does not offer. What is done with it is the caller's to justify.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// At most `max` bytes of it, from `from` on. Both are clamped, so the part never exceeds the whole.
    pub(crate) fn part(&self, from: usize, max: usize) -> Self {
        let from = from.min(self.len());
        let base = self.as_ptr().wrapping_add(from);
        Self(libc::iovec { iov_base: base.cast(), iov_len: (self.len() - from).min(max) })
    }

    /// The same bytes, to be written by a system call. Only for a chain's writable half and other memory of which
    /// [`IovMut::new`]'s promise holds.
    pub(super) fn writable(iovs: &[Self]) -> &[IovMut] {
        // SAFETY: `IovMut` is a transparent wrapper of `Iov`: same layout, same validity.
        unsafe { std::slice::from_raw_parts(iovs.as_ptr().cast(), iovs.len()) }
    }

    /// Takes `next` in, if it begins where this one ends. Only for pieces of one mapping.
    pub(crate) fn join(&mut self, next: &Self) -> bool {
        let adjacent = std::ptr::eq(self.as_ptr().wrapping_add(self.len()), next.as_ptr());
        match self.len().checked_add(next.len()) {
            Some(len) if adjacent => {
                self.0.iov_len = len;
                true
            }
            _ => false,
        }
    }

    /// Copies out as much as fits into `dst`.
    pub(crate) fn copy_to(&self, dst: &mut [u8]) {
        let len = self.len().min(dst.len());
        // SAFETY: `Iov::new` promised that `self.len()` bytes are mapped and readable, `dst` is a live exclusive
        // borrow of at least `len` bytes, and the two do not overlap, because no reference to the former may exist.
        // A guest that writes meanwhile changes which bytes arrive, nothing else: they are looked at only once copied.
        unsafe { std::ptr::copy_nonoverlapping(self.as_ptr(), dst.as_mut_ptr(), len) }
    }

    /// Copies in as much of `src` as fits.
    pub(crate) fn copy_from(&self, src: &[u8]) {
        let len = self.len().min(src.len());
        // SAFETY: as for `copy_to`, with the directions exchanged; cursors that write are built over memory that a guest
        // shares for writing, or over that of an `IovMut`.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), self.as_ptr(), len) }
    }
}

/// Address and length of bytes that a system call fills. A type of its own, so that no sequence of safe calls can have
/// a system call write where a [`super::Source`] only lent for reading.
///
/// It is laid out as the system's `struct iovec`, like [`Iov`].
#[repr(transparent)]
#[derive(Debug)]
pub struct IovMut(Iov);

impl IovMut {
    /// `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes stay mapped, readable and writable for as long as this value is used, and no Rust reference to them is
    /// alive meanwhile.
    pub unsafe fn new(base: *mut u8, len: usize) -> Self {
        // SAFETY: more was promised than is asked for.
        Self(unsafe { Iov::new(base, len) })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address, for system calls that this crate does not offer. What is done with it is the caller's to justify.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    pub(crate) fn iov(&self) -> &Iov {
        &self.0
    }
}

/// Lends a buffer of our own for reading.
pub(super) fn lend_shared(bytes: &[u8], call: Call<'_>) -> io::Result<usize> {
    // SAFETY: the bytes are borrowed for the whole call, the `Iov` is dropped right after it and cannot be copied out
    // by safe code; this is a `Source`, so nothing writes through it.
    let iov = unsafe { Iov::new(bytes.as_ptr().cast_mut(), bytes.len()) };
    call(&[iov])
}

/// Lends a buffer of our own for writing.
pub(super) fn lend_exclusive(bytes: &mut [u8], call: Call<'_, IovMut>) -> io::Result<usize> {
    // SAFETY: the bytes are exclusively borrowed for the whole call and not touched through the reference during it;
    // the `IovMut` is dropped right after it and cannot be copied out by safe code.
    let iov = unsafe { IovMut::new(bytes.as_mut_ptr(), bytes.len()) };
    call(&[iov])
}
