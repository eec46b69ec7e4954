//! Kernels: what kind a file is, and how each kind gets into guest memory.

mod bundle;

use std::ops::Range;
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{GuestAddress, GuestMemoryBackend};

pub use bundle::{BUNDLE_ABI, BUNDLE_NAME, Bundle};

use crate::error::{Error, Result};
use crate::x86_64::layout::{HIMEM, IDENTITY_MAP_END, RamLayout};

/// A kernel, checked but not yet in guest memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kernel {
    /// A kernel as a shared library: `libkrunfw.so.5`.
    Bundle(Bundle),
}

/// How the boot CPU starts a loaded kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The 64-bit Linux boot protocol: long mode, the first GiB mapped one to one, RSI pointing to
    /// `boot_params`, see [`write_boot_params`](crate::write_boot_params).
    Linux64 {
        /// The first instruction.
        rip: GuestAddress,
    },
}

/// A kernel in guest memory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoadedKernel {
    /// Where to start it.
    pub entry: Entry,
    /// The memory that is the kernel's until it knows its memory map, with its uninitialised data: nothing else may
    /// be put there.
    pub range: Range<u64>,
    /// The longest command line that it reads, in bytes without the NUL.
    pub max_cmdline: usize,
    pub(crate) header: Option<setup_header>,
}

impl Kernel {
    /// Opens a kernel bundle: a file, or the bare name of a library (such as [`BUNDLE_NAME`]) that the dynamic linker
    /// then searches for.
    ///
    /// The library's constructors run in this process: it has to be as trustworthy as the program itself.
    ///
    /// # Errors
    ///
    /// [`Error::LoadBundle`] if the linker refuses it or a symbol is missing, [`Error::BundleAbi`] and
    /// [`Error::BundleImage`] if it is another version's or damaged.
    pub fn bundle(path: impl AsRef<Path>) -> Result<Self> {
        Bundle::open(path.as_ref()).map(Self::Bundle)
    }

    /// Copies the kernel into guest memory.
    ///
    /// Nothing below 1 MiB is touched, nor anything outside of RAM.
    ///
    /// # Errors
    ///
    /// [`Error::KernelDoesNotFit`] if RAM is too small for it, [`Error::WriteGuest`] if `ram` is not what `layout`
    /// says.
    pub fn load<M: GuestMemoryBackend>(&mut self, ram: &M, layout: &RamLayout) -> Result<LoadedKernel> {
        match self {
            Self::Bundle(bundle) => bundle.load(ram, layout),
        }
    }
}

/// Checks that a kernel that starts by the 64-bit protocol may have `needed`.
fn check_range64(needed: &Range<u64>, layout: &RamLayout) -> Result<()> {
    let usable = HIMEM..layout.low().end.min(IDENTITY_MAP_END);
    if needed.start >= usable.start && needed.end <= usable.end {
        return Ok(());
    }
    let remedy = if needed.start < usable.start || needed.end > IDENTITY_MAP_END {
        "this kernel is not made for a start without firmware"
    } else {
        "give the guest more memory"
    };
    Err(Error::KernelDoesNotFit {
        start: needed.start,
        end: needed.end,
        usable_start: usable.start,
        usable_end: usable.end,
        remedy,
    })
}
