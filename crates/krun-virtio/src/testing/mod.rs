//! A driver for tests, fuzzers and benches: it speaks the real registers and the real rings, in-process.
//!
//! [`MockDriver`] takes any [`VirtioDevice`](crate::VirtioDevice), puts an [`MmioTransport`](crate::MmioTransport) and
//! guest memory around it, and goes the way a kernel's driver goes: reset, features, queues, DRIVER_OK. Then requests
//! of any shape are posted, kicked and collected:
//!
//! ```
//! use krun_virtio::testing::{MockDriver, Request, Upper};
//!
//! let mut driver = MockDriver::new(Upper);
//!
//! // The short way: post, kick, wait, collect.
//! assert_eq!(driver.request(0, b"hello", 16), b"HELLO");
//!
//! // The long way, with a shape: descriptors of at most two bytes, behind an indirect one.
//! let request = Request::new().readable(b"hello").writable(16).pieces(2).indirect();
//! let head = driver.post(0, &request);
//! driver.kick(0);
//! let used = driver.wait(0);
//! assert_eq!((used.head, used.data.as_slice()), (head, b"HELLO".as_slice()));
//! assert!(!driver.needs_reset());
//! ```
//!
//! Without threads (the default: [`Inline`](crate::Inline)) everything is deterministic: the device runs only within
//! [`MockDriver::turn`] and what calls it. With [`MockDriverBuilder::threads`] the same device runs as in a VMM.
//!
//! To be nasty, write [raw descriptors](MockDriver::set_descriptor), [offer](MockDriver::offer) heads that do not
//! exist, set [indices](MockDriver::set_available_index) at will, and look whether the device
//! [needs a reset](MockDriver::needs_reset) while the process lives on.
//!
//! Whatever a well-behaved device cannot do (use a chain that it was not given, claim more bytes than there was room
//! for, answer nothing for ten seconds) panics, with words.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test driver fails its test, loudly")]

mod builder;
mod driver;
mod heap;
mod hostile;
mod request;
mod requests;
mod ring;

mod upper;

pub use builder::MockDriverBuilder;
pub use driver::MockDriver;
pub use request::{Descriptor, Request, Used};
pub use ring::Ring;
pub use upper::Upper;
pub use vm_memory::{GuestAddress, GuestMemoryMmap};
