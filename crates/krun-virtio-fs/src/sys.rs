//! Borrows descriptors of types that know only their number.
#![expect(unsafe_code, reason = "vmm-sys-util's EventFd has no AsFd")]

use std::os::fd::{BorrowedFd, RawFd};

/// The descriptor `fd` of `owner`.
pub(crate) fn borrow<T>(owner: &T, fd: RawFd) -> BorrowedFd<'_> {
    let _ = owner;
    // SAFETY: callers pass the number that `owner` itself gave out with AsRawFd; `owner` keeps it open for as long as
    // the borrow lasts.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
