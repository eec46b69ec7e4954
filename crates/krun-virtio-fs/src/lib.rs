//! A virtio-fs device and FUSE server: a shared directory that the guest cannot leave.

#![warn(clippy::indexing_slicing)]

pub mod abi;
mod device;
mod errno;
mod error;
mod filesystem;
mod overlay;
mod passthrough;
mod pool;
mod read_only;
mod server;
mod slab;
mod sys;
mod types;
mod worker;

pub use device::{DEVICE_ID, FsDevice, TAG_LEN};
pub use errno::{Errno, Failure, FsResult};
pub use error::Error;
pub use filesystem::FileSystem;
pub use overlay::{OverlayBuilder, OverlayFs};
pub use passthrough::{MountPoints, PassthroughBuilder, PassthroughFs, Xattrs};
pub use read_only::ReadOnly;
pub use server::{FuseServer, Handled, MAX_WRITE};
pub use types::*;
