//! Descriptors of types that only know the raw number.
#![expect(unsafe_code, reason = "BorrowedFd from types without AsFd")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Borrows the descriptor of `owner`, whose type does not offer it as one.
pub(crate) fn borrow(owner: &vmm_sys_util::eventfd::EventFd) -> BorrowedFd<'_> {
    // SAFETY: an `EventFd` owns its descriptor, which stays open while `owner` is borrowed.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}
