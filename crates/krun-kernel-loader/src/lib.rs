//! Puts a Linux kernel, and all that it reads before its first driver runs, into a guest's memory, and says where to start.
//!
//! - **Kernels**: [`Kernel::open`] takes a libkrunfw bundle (`libkrunfw.so.5`), an uncompressed `vmlinux` or another ELF file
//!   (64-bit entry, PVH), or a bzImage as distributions ship it, and finds out which it is. Any other file gets an error that
//!   says what it is and what to do. [`Kernel::load`] copies it to where it belongs.
//! - **Boot data**: an initrd ([`load_initrd`]), the command line ([`Cmdline`]), `boot_params` with the memory map
//!   ([`write_boot_params`]) or the PVH start information ([`write_pvh_start_info`]), and MP tables ([`write_mp_table`]) from one
//!   [`MachineDescription`].
//! - **Facts**: where RAM is for any amount of it ([`RamLayout`]), where things lie below 1 MiB ([`x86_64::layout`]), which words
//!   on the command line are worth their bytes ([`words`]).
//!
//! It knows no KVM and no devices. The memory may be any [`GuestMemoryBackend`](vm_memory::GuestMemoryBackend); the vCPU is
//! somebody else's. It starts x86_64 kernels, and unpacks none: a bzImage unpacks itself.
//!
//! # Example
//!
//! ```
//! use std::io::Cursor;
//!
//! use krun_kernel_loader::vm_memory::{GuestAddress, GuestMemoryMmap};
//! use krun_kernel_loader::{
//!     BootParams, Cmdline, Entry, Kernel, MachineDescription, RamLayout, VirtioMmio, words, write_boot_params,
//!     write_mp_table,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // 64 MiB of RAM. Above 3328 MiB there would be two regions.
//! let layout = RamLayout::new(64 << 20)?;
//! let regions: Vec<_> =
//!     layout.regions().map(|region| (GuestAddress(region.start), (region.end - region.start) as usize)).collect();
//! let ram = GuestMemoryMmap::<()>::from_ranges(&regions)?;
//!
//! // A kernel of one instruction; `Kernel::open("vmlinux")?` is what a VMM does.
//! let mut kernel = Kernel::from_image(Cursor::new(tiny_vmlinux()))?;
//! let loaded = kernel.load(&ram, &layout)?;
//!
//! // One device, and the words that tell the kernel of it.
//! let mut machine = MachineDescription::new(2);
//! machine.virtio_mmio.push(VirtioMmio { base: 0xd000_0000, size: 0x1000, irq: 5 });
//! let mut cmdline = Cmdline::new();
//! for word in words::recommended(&kernel, &layout) {
//!     cmdline.raw(word)?;
//! }
//! cmdline.param("console", "hvc0")?;
//! machine.add_virtio_words(&mut cmdline)?;
//!
//! write_mp_table(&ram, &machine)?;
//! let rsi = write_boot_params(
//!     &ram,
//!     &BootParams { kernel: &loaded, layout: &layout, cmdline: &cmdline, initrd: None, acpi_rsdp: None },
//! )?;
//! assert_eq!(loaded.entry, Entry::Linux64 { rip: GuestAddress(0x100_0000) });
//! assert_eq!(rsi, GuestAddress(0x7000));
//! # Ok(())
//! # }
//!
//! /// An ELF header, one program header, and `hlt`.
//! fn tiny_vmlinux() -> Vec<u8> {
//!     let mut file = b"\x7fELF\x02\x01\x01".to_vec();
//!     file.resize(16, 0);
//!     let header: [u16; 24] = [2, 62, 1, 0, 0, 0x100, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 56, 1, 0, 0, 0];
//!     file.extend(header.iter().flat_map(|half| half.to_le_bytes()));
//!     for word in [5 << 32 | 1, 120, 0x100_0000, 0x100_0000, 1, 1, 0x1000u64] {
//!         file.extend(word.to_le_bytes());
//!     }
//!     file.push(0xf4);
//!     file
//! }
//! ```
//!
//! # What is checked
//!
//! A kernel file is bounded by its own length, RAM and the first GiB that a boot CPU maps; nothing is written below 1 MiB or
//! outside of RAM, and no length in a header decides how much is allocated. Its parsers are this crate's own: linux-loader
//! supplies the structures, but its loaders take one short read for the whole file, accept ELF files of any class and machine,
//! and know nothing of `XLF_KERNEL_64` and `init_size`. What goes on the command line is what the kernel's parser reads back, or an
//! error that names the byte.
//!
//! A bundle is a program library: opening one, with [`Kernel::open`] too, runs its code. For kernel files from strangers use
//! [`Kernel::from_image`], which never does.
//!
//! RAM is expected fresh: a kernel's uninitialised data are not cleared. A bundle is copied, never mapped, so that virtual
//! machines of one process share nothing that one of them could write to.
#![warn(clippy::indexing_slicing)]

#[cfg(not(target_arch = "x86_64"))]
compile_error!("krun-kernel-loader knows the guests of x86_64 hosts so far");

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
pub use x86_64::boot_params::{BootParams, write_boot_params};
pub use x86_64::layout::RamLayout;
pub use x86_64::mptable::write_mp_table;
pub use x86_64::pvh::write_pvh_start_info;

// Types of it appear in this crate's interface.
pub use vm_memory;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
