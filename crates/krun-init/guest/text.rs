//! Strings of a bounded length, made without an allocator.

use core::ffi::CStr;
use core::fmt;

use crate::protocol::Put;
use crate::sys::{Errno, Result};

/// Up to `N` bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    used: usize,
    overflowed: bool,
}

impl<const N: usize> Text<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], used: 0, overflowed: false }
    }

    /// `parts`, one after the other; what does not fit is cut.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut text = Self::new();
        for part in parts {
            text.put(part);
        }
        text
    }

    /// `parts` and a NUL, for [`Self::path`].
    pub(crate) fn path_of(parts: &[&[u8]]) -> Self {
        let mut text = Self::of(parts);
        text.put(&[0]);
        text
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }

    /// The part that is still free.
    pub(crate) fn free(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.used..).unwrap_or_default()
    }

    /// `count` bytes of the free part have been written.
    pub(crate) fn filled(&mut self, count: usize) {
        self.used = (self.used + count).min(N);
    }

    /// The text as a path, up to its first NUL.
    pub(crate) fn path(&self) -> Result<&CStr> {
        if self.overflowed {
            return Err(Errno::NAMETOOLONG);
        }
        CStr::from_bytes_until_nul(self.bytes()).map_err(|_| Errno::NAMETOOLONG)
    }
}

impl<const N: usize> Put for Text<N> {
    fn put(&mut self, bytes: &[u8]) {
        let free = self.bytes.get_mut(self.used..).unwrap_or_default();
        let count = bytes.len().min(free.len());
        for (to, from) in free.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.used += count;
        self.overflowed |= count < bytes.len();
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

/// A number in decimal.
pub(crate) fn decimal(number: u32) -> Text<10> {
    let mut text = Text::new();
    // Ten digits are enough for 32 bits.
    let _ = fmt::Write::write_fmt(&mut text, format_args!("{number}"));
    text
}
