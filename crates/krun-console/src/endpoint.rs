//! The host's end of a port: where its bytes come from and go to.

use krun_virtio::{Sink, Source};
use std::io;
use std::os::fd::BorrowedFd;

/// Where the bytes for the guest come from.
///
/// Implemented by [`HostFd`](crate::HostFd) for descriptors of every kind. Implement it to feed a port from inside the
/// program.
pub trait Input: Send {
    /// Puts bytes into `into`, which has room for at least one, and says how many. Zero is the end of the input.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing now: the device asks again when [`Self::fd`] is readable. `Interrupted` is asked
    /// again at once. Any other error ends the input.
    fn read(&mut self, into: &mut dyn Sink) -> io::Result<usize>;

    /// What becomes readable when there is something to read. Without one, [`Self::read`] must not answer `WouldBlock`.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Where the bytes from the guest go.
///
/// Implemented by [`HostFd`](crate::HostFd) for descriptors of every kind. Implement it to take a port's bytes inside
/// the program.
pub trait Output: Send {
    /// Takes bytes from `from`, which has at least one, and says how many. What is not taken comes again.
    ///
    /// # Errors
    /// `WouldBlock` if nothing can be taken now: the device asks again when [`Self::fd`] is writable. `Interrupted` is
    /// asked again at once. Any other error ends the output: what follows is thrown away, and the guest is told.
    fn write(&mut self, from: &mut dyn Source) -> io::Result<usize>;

    /// What becomes writable when bytes can be taken. Without one, [`Self::write`] must not answer `WouldBlock`.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether it is known that nobody will take another byte. Asked when the input of the same port has ended.
    fn is_gone(&self) -> bool {
        false
    }
}
