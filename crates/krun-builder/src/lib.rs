//! MicroVMs as values: a kernel, a directory, a command; one call to build, one to start, one to wait.
//!
//! ```no_run
//! use krun_builder::{Command, KernelSource, Vm, Volume};
//!
//! # fn main() -> Result<(), krun_builder::Error> {
//! let vm = Vm::builder()
//!     .vcpus(2)
//!     .memory_mib(512)
//!     .kernel(KernelSource::Bundle("libkrunfw.so.5".into()))
//!     .root("/srv/root")
//!     .volume(Volume::new("/home/me/project", "/project").read_only())
//!     .command(Command::new("/bin/sh").args(["-c", "uname -a; ls /project"]).env("LANG", "C.UTF-8"))
//!     .inherit_stdio()
//!     .build()?;
//! let status = vm.start()?.wait()?;
//! println!("{status}");
//! # Ok(())
//! # }
//! ```
//!
//! # What it is
//!
//! The reference composition of the krun crates: [`krun_vcpu`] runs the CPUs, [`krun_kernel_loader`] brings a kernel into
//! memory, [`krun_virtio`] hosts the devices ([`krun_console`], [`krun_virtio_fs`]), [`krun_init`] is the guest's first
//! process. Each of them works without this one; this one is for whoever wants a VM and not a VMM.
//!
//! # From settings to an exit status
//!
//! - [`VmBuilder`] takes settings. [`VmBuilder::build`] checks all of them and opens everything they name; its
//!   [`BuildError`] lists *every* problem, with the setting, its value, the reason and the remedy. Settings that make no
//!   sense together are problems, not ignored.
//! - [`Vm`] holds open files and no memory. A program may give up its privileges here: starting it needs no path, and
//!   of the process's descriptors only those that [`Vm::descriptors`] lists.
//! - [`RunningVm`] has the guest's memory and threads. As a file descriptor it is readable when the VM has ended, so it
//!   fits any event loop; [`VmHandle`] sends signals, new terminal sizes and the order to stop from any thread.
//! - [`ExitStatus`] says how it ended. The exit code comes from init over a private channel. A panic of the guest's
//!   kernel, a triple fault, and a guest that restarts, powers off or halts are outcomes of their own, never mistaken for
//!   the command's. A command may also be the guest's init itself ([`Command::as_init`]): then that is its ordinary end.
//!
//! # What it does not do
//!
//! It never ends the process, installs no signal handler, and touches no terminal and no standard stream that it was not
//! given. It reads no environment variable. It has no global state: a process may run many VMs at once. A VM has the
//! devices that were asked for, and no other. There is no hot-plug: virtio-mmio has none.
//!
//! # How a VM lies in memory
//!
//! [`Layout::plan`] decides, as a pure function. RAM is one memory slot, or two around the hole below 4 GiB; its host
//! addresses are congruent to its guest addresses modulo 2 MiB, so that KVM can map huge pages, and it is reserved, not
//! filled: a 5 GiB guest starts on a 4 GiB host. Devices have a page of registers each from `0xd0000000` on, and share
//! the I/O APIC's lines when there are more of them than lines. As many devices fit as the kernel's command line has room
//! for: about 45.
//!
//! Only x86-64 Linux hosts with KVM are supported so far.
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
mod halt;
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
mod signals;
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
