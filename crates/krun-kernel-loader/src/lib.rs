//! Loads Linux kernels into guest memory: libkrunfw bundles, ELF and PVH, bzImage, initrd, boot parameters and MP tables
#![warn(clippy::indexing_slicing)]

mod cmdline;
mod error;
mod initrd;
mod kernel;
mod machine;
mod sys;
pub mod words;
pub mod x86_64;

pub use cmdline::{Cmdline, MAX_CMDLINE, MAX_INIT_ARGS, MAX_INIT_ENV};
pub use error::{Error, Result};
pub use initrd::{Initrd, load_initrd};
pub use kernel::{BUNDLE_ABI, BUNDLE_NAME, Bundle, BzImage, ElfKernel, Entry, Image, Kernel, LoadedKernel};
pub use machine::{MachineDescription, VirtioMmio};
pub use vm_memory;
pub use x86_64::boot_params::{BootParams, write_boot_params};
pub use x86_64::layout::RamLayout;
pub use x86_64::mptable::write_mp_table;
pub use x86_64::pvh::write_pvh_start_info;
