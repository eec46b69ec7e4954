//! The control protocol: what is on the wire between PID 1 and the host.
//!
//! Both ends compile these very files (the guest by path, without `std` and without an allocator), so there is one
//! definition of every byte. The stream below may be any ordered byte stream; today it is a virtio-console port named
//! [`CONTROL_PORT`].
//!
//! # Frames
//!
//! All integers are little-endian. A frame is a header of [`Header::SIZE`] bytes and a payload.
//!
//! | offset | size | header field | value |
//! |---|---|---|---|
//! | 0 | 2 | magic | `"kr"` |
//! | 2 | 1 | version | [`VERSION`] |
//! | 3 | 1 | type | see below; 0x80 and above may be skipped by an end that does not know them |
//! | 4 | 4 | process | 0: the workload. Others are kept for processes started later in the same guest |
//! | 8 | 4 | length | of the payload; at most [`MAX_TO_GUEST`] or [`MAX_TO_HOST`] |
//!
//! | type | frame | direction | payload |
//! |---|---|---|---|
//! | 0x01 | [`Start`](ToGuest::Start) | to guest | fields, see [`Field`] |
//! | 0x02 | [`Signal`](ToGuest::Signal) | to guest | u8 signal, u8 [`Scope`], u16 zero |
//! | 0x03 | [`Resize`](ToGuest::Resize) | to guest | u16 columns, u16 rows |
//! | 0x41 | [`Hello`](ToHost::Hello) | to host | u64 feature bits |
//! | 0x42 | [`Started`](ToHost::Started) | to host | u32 process id in the guest |
//! | 0x43 | [`Failed`](ToHost::Failed) | to host | u16 [`Stage`], u16 zero, u32 errno, then up to [`MAX_DETAIL`] bytes: on what |
//! | 0x44 | [`Exited`](ToHost::Exited) | to host | u8 kind (0 code, 1 signal), u8 value, u16 zero |
//! | 0x45 | [`HandingOver`](ToHost::HandingOver) | to host | none |
//!
//! The guest speaks first: `Hello`. The host answers `Start`. The guest sends `Started` when the program runs, or
//! `Failed`, which is its last word. `Signal` and `Resize` may follow `Start` at any time. `Exited` is the guest's
//! last word: the output of the workload has left the guest, and its file systems are synced.
//!
//! A `Start` with the field [`Init`](Field::Init) asks for a program that takes PID 1's own place. The guest sends
//! `HandingOver` instead of `Started`. If the program cannot be run after all, `Failed` follows. If it can, its
//! execution closes the channel, which is how the host learns of it. Nobody is left to tell of its end.
//!
//! # Versions
//!
//! An end refuses a frame of another version, of an unknown type below 0x80, or with a payload that is not exactly
//! what this version says. New optional things are therefore either types from 0x80, optional fields of `Start`
//! (see [`Field`]), or announced in `Hello`'s feature bits before they are used.

mod decoder;
mod field;
mod frame;
mod header;
mod wire;

pub use decoder::{Decoder, Store};
pub use field::{Field, Fields, Limit, MAX_PORT_NAME, Mount, Source, Stream, User};
pub use frame::{Exit, Failed, Hello, MAX_DETAIL, Resize, Scope, Signal, Stage, Started, ToGuest, ToHost};
pub use header::{Frame, Header, MAX_TO_GUEST, MAX_TO_HOST, SKIPPABLE, VERSION};
pub use wire::{Malformed, Put};

/// The name of the console port that carries this protocol.
pub const CONTROL_PORT: &str = "krun-control";
/// The usual name of the console port behind the workload's standard input.
pub const STDIN_PORT: &str = "krun-stdin";
/// The usual name of the console port behind the workload's standard output.
pub const STDOUT_PORT: &str = "krun-stdout";
/// The usual name of the console port behind the workload's standard error.
pub const STDERR_PORT: &str = "krun-stderr";
