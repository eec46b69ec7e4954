//! A driver for tests, fuzzers and benches: it speaks the real registers and the real rings, in-process.
pub use vm_memory::GuestMemoryMmap;
