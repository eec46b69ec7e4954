//! How a ring can break.

/// What was wrong with a ring. The first fault of a queue is latched; the queue is silent from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingFault {
    /// The size is zero, above the largest the device offers, or not a power of two.
    #[error("the ring's size is not one the device offers")]
    Size,
    /// The ring, an indirect table or a buffer is (partly) no memory, or not aligned as section 2.7 asks.
    #[error("an address that is no guest memory, or not aligned")]
    Address,
    /// The available index is further ahead than there are entries.
    #[error("the available index is out of range")]
    Index,
    /// A descriptor number out of range, or an indirect descriptor where none may be.
    #[error("a malformed descriptor")]
    Descriptor,
    /// A chain with more descriptors than can be: most likely it is a ring.
    #[error("a descriptor chain without an end")]
    Loop,
    /// A readable descriptor behind a writable one.
    #[error("a device-readable descriptor behind a device-writable one")]
    Order,
    /// A half of a chain of 4 GiB or more.
    #[error("a descriptor chain too long to be counted")]
    Length,
    /// A chain was dropped, or given back where it does not belong: a bug of the device.
    #[error("the device lost a descriptor chain")]
    Lost,
    /// The device found requests on this queue that it cannot go on from.
    #[error("a request that the device cannot go on from")]
    Protocol,
}
