//! Kernels: what kind a file is, and how each kind gets into guest memory.

mod bundle;
mod bzimage;
mod detect;
mod elf;
pub(crate) mod image;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use linux_loader::bootparam::setup_header;
use vm_memory::{GuestAddress, GuestMemoryBackend};

pub use bundle::{BUNDLE_ABI, BUNDLE_NAME, Bundle};
pub use bzimage::BzImage;
pub use elf::ElfKernel;
pub use image::Image;

use crate::error::{Error, Result};
use crate::x86_64::layout::{HIMEM, IDENTITY_MAP_END, RamLayout};
use detect::Format;
use image::Reader;

/// A kernel, its headers checked, not yet in guest memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kernel<F = File> {
    /// A kernel as a shared library: `libkrunfw.so.5`.
    Bundle(Bundle),
    /// An uncompressed `vmlinux`, or another system's kernel with a PVH entry.
    Elf(ElfKernel<F>),
    /// A `vmlinuz` as distributions ship it.
    BzImage(BzImage<F>),
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
    /// PVH: 32-bit protected mode with flat segments and no paging, EBX pointing to `hvm_start_info`, see
    /// [`write_pvh_start_info`](crate::write_pvh_start_info).
    Pvh {
        /// The first instruction.
        eip: GuestAddress,
    },
}

/// A kernel in guest memory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoadedKernel {
    /// Where to start it. For a Linux kernel that offers both ways, this is [`Entry::Linux64`].
    pub entry: Entry,
    /// Where to start it by PVH, if it can be.
    pub pvh_entry: Option<GuestAddress>,
    /// The memory that is the kernel's until it knows its memory map, with its uninitialised data: nothing else may
    /// be put there.
    pub range: Range<u64>,
    /// The longest command line that it reads, in bytes without the NUL.
    pub max_cmdline: usize,
    /// An initrd has to end at or below this address.
    pub initrd_end: u64,
    pub(crate) header: Option<setup_header>,
}

impl Kernel {
    /// Opens a kernel file of any kind, and finds out which kind it is.
    ///
    /// **A bundle is a program library: opening one runs its code.** A shared library that exports a kernel is opened as
    /// [`bundle`](Self::bundle) does, and its constructors run in this process; other libraries are not loaded. For
    /// kernel files from strangers use [`from_image`](Self::from_image), which never runs any.
    ///
    /// A bundle's path is resolved twice, to find out what the file is and then by the dynamic linker: whoever can
    /// replace the file, or a directory on the way to it, has to be as trustworthy as the bundle. (The linker is not
    /// given the open file as `/proc/self/fd/N`: it knows libraries by their names, and would take the next file with
    /// that number for this one.)
    ///
    /// # Errors
    ///
    /// [`Error::OpenKernel`] if it cannot be opened or is no regular file; [`Error::UnsupportedKernel`] with what it
    /// is and what to do if it is none that can be started; [`Error::Truncated`] and [`Error::BadKernel`] if its
    /// headers do not add up; those of [`bundle`](Self::bundle).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = open_regular(path).map_err(|source| Error::OpenKernel { path: path.into(), source })?;
        let mut reader = Reader::new(file, WHAT)?;
        if detect::detect(&mut reader)? == Format::SharedObject && bundle::exports_kernel(&mut reader)? {
            // Without a slash in it the linker would not look here.
            return Self::bundle(if path.parent() == Some(Path::new("")) {
                Path::new(".").join(path)
            } else {
                path.into()
            });
        }
        Self::from_reader(reader)
    }

    /// Opens a kernel bundle: a file, or the bare name of a library (such as [`BUNDLE_NAME`]) that the dynamic linker
    /// then searches for.
    ///
    /// The library's constructors run in this process: it has to be as trustworthy as the program itself. It is
    /// unloaded when the [`Kernel`] is dropped; loading copies, so that this may be right afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::LoadBundle`] if the linker refuses it or a symbol is missing, [`Error::BundleAbi`] and
    /// [`Error::BundleImage`] if it is another version's or damaged.
    pub fn bundle(path: impl AsRef<Path>) -> Result<Self> {
        Bundle::open(path.as_ref()).map(Self::Bundle)
    }
}

impl<F: AsFd> Kernel<F> {
    /// The file's descriptor, which is needed until the kernel is loaded. A bundle has none: it is mapped.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Bundle(_) => None,
            Self::Elf(kernel) => Some(kernel.file.source().as_fd()),
            Self::BzImage(kernel) => Some(kernel.file.source().as_fd()),
        }
    }
}

impl<F: Image> Kernel<F> {
    /// A kernel from bytes that need not be in a file, or from an open [`File`] of unknown origin: nothing of it runs
    /// in this process. There are no bundles here: only the dynamic linker reads them.
    ///
    /// # Errors
    ///
    /// As [`open`](Kernel::open), without those about opening.
    pub fn from_image(image: F) -> Result<Self> {
        Self::from_reader(Reader::new(image, WHAT)?)
    }

    fn from_reader(mut reader: Reader<F>) -> Result<Self> {
        match detect::detect(&mut reader)? {
            Format::Elf => ElfKernel::new(reader).map(Self::Elf),
            Format::BzImage => BzImage::new(reader).map(Self::BzImage),
            Format::SharedObject => Err(Error::UnsupportedKernel {
                found: "a shared library or position-independent program",
                remedy: "name a bzImage, a vmlinux, or the path of a libkrunfw.so.5",
            }),
        }
    }

    /// Puts the kernel into guest memory.
    ///
    /// `ram` is expected to be fresh, that is zero, where the kernel's uninitialised data will be. Nothing below
    /// 1 MiB is touched, nor anything outside of RAM. A kernel may be loaded any number of times.
    ///
    /// # Errors
    ///
    /// [`Error::KernelDoesNotFit`] if RAM is too small or the kernel belongs where no RAM is; [`Error::Read`];
    /// [`Error::WriteGuest`] if `ram` is not what `layout` says.
    pub fn load<M: GuestMemoryBackend>(&mut self, ram: &M, layout: &RamLayout) -> Result<LoadedKernel> {
        let loaded = match self {
            Self::Bundle(bundle) => bundle.load(ram, layout),
            Self::Elf(kernel) => kernel.load(ram, layout),
            Self::BzImage(kernel) => kernel.load(ram, layout),
        }?;
        tracing::debug!(entry = ?loaded.entry, range = ?loaded.range, "kernel loaded");
        Ok(loaded)
    }
}

/// What errors call the file.
const WHAT: &str = "the kernel file";

/// Opens a file that has a length and stays: a pipe would block, a directory fail obscurely.
fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(path)
}

/// Checks that a kernel that starts by the 64-bit protocol may have `needed`.
fn check_range64(needed: &Range<u64>, layout: &RamLayout) -> Result<()> {
    check_range(needed, layout, IDENTITY_MAP_END)
}

/// Checks that a kernel that starts by PVH, without paging, may have `needed`.
fn check_range_pvh(needed: &Range<u64>, layout: &RamLayout) -> Result<()> {
    check_range(needed, layout, crate::x86_64::layout::MMIO_HOLE.start)
}

fn check_range(needed: &Range<u64>, layout: &RamLayout, limit: u64) -> Result<()> {
    let usable = HIMEM..layout.low().end.min(limit);
    if needed.start >= usable.start && needed.end <= usable.end {
        return Ok(());
    }
    let remedy = if needed.start < usable.start || needed.end > limit {
        "this kernel is not linked for a start without firmware".to_owned()
    } else {
        format!("give the guest at least {} MiB", needed.end.div_ceil(1 << 20))
    };
    Err(Error::KernelDoesNotFit {
        start: needed.start,
        end: needed.end,
        usable_start: usable.start,
        usable_end: usable.end,
        remedy,
    })
}
