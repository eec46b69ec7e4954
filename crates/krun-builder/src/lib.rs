//! Composes KVM, a kernel, virtio devices and an init into a microVM that runs one command.
#![warn(clippy::indexing_slicing)]

mod boot;
mod builder;
mod bus;
mod command;
mod config;
mod control;
mod devices;
mod error;
mod files;
mod handle;
mod layout;
mod log;
mod machine;
mod mapping;
mod memory;
mod running;
mod serial;
mod share;
mod shared;
mod start;
mod status;
mod supervisor;
mod sys;
mod vcpus;
mod vm;
mod window;
mod x86_64;

pub use builder::VmBuilder;
pub use command::{Command, Rlimit};
pub use config::KernelSource;
pub use error::{BuildError, Error, Problem};
pub use handle::VmHandle;
pub use krun_init::Failure;
pub use krun_kernel_loader::RamLayout;
pub use krun_virtio::VirtioDevice;
pub use layout::{Layout, LayoutConfig, LayoutError, MmioSlot};
pub use memory::{GuestRam, RamBacking};
pub use running::RunningVm;
pub use share::{Root, Volume};
pub use status::ExitStatus;
pub use vm::Vm;
