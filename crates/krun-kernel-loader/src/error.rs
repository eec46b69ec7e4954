//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

use vm_memory::GuestMemoryError;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong while a guest's memory is prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The asked size of guest RAM is not one a machine can have.
    #[error("guest RAM of {size:#x} bytes: {reason}")]
    RamSize {
        /// The asked size in bytes.
        size: u64,
        /// Why it cannot be, and what can.
        reason: &'static str,
    },

    /// The kernel file could not be opened.
    #[error("cannot open the kernel {}: {source}", path.display())]
    OpenKernel {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The dynamic linker refused the bundle.
    #[error("cannot load the kernel bundle {}: {reason}", path.display())]
    LoadBundle {
        /// The library, as it was named.
        path: PathBuf,
        /// The linker's words.
        reason: String,
    },

    /// The bundle answers with another ABI than the one this crate speaks.
    #[error("the kernel bundle {} has ABI {found}, this program needs {supported}: install libkrunfw {supported}.x",
        path.display(), supported = crate::kernel::BUNDLE_ABI)]
    BundleAbi {
        /// The library, as it was named.
        path: PathBuf,
        /// What `krunfw_get_version` returned.
        found: i32,
    },

    /// The bundle describes an image that cannot be.
    #[error("the kernel bundle {} is damaged: {field} is {value:#x}, {expected}", path.display())]
    BundleImage {
        /// The library, as it was named.
        path: PathBuf,
        /// Which of its values.
        field: &'static str,
        /// The value.
        value: u64,
        /// What it has to be.
        expected: &'static str,
    },

    /// The file is something, but no kernel this crate can start.
    #[error("cannot start this kernel: it is {found}; {remedy}")]
    UnsupportedKernel {
        /// What the file is.
        found: &'static str,
        /// What to do.
        remedy: &'static str,
    },

    /// The kernel file ends before something that its own headers promise.
    #[error(
        "the kernel file is cut short: {what} takes bytes {offset:#x} to {end:#x}, the file has {file_size:#x}; \
         copy or download it again"
    )]
    Truncated {
        /// What is missing.
        what: &'static str,
        /// Where it starts in the file.
        offset: u64,
        /// Where it ends in the file.
        end: u64,
        /// How long the file is.
        file_size: u64,
    },

    /// Reading the kernel or the initrd failed.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What was read.
        what: &'static str,
        /// Why.
        source: io::Error,
    },

    /// A header of the kernel holds a value that cannot be.
    #[error("damaged kernel file: {field} is {value:#x}, {expected}")]
    BadKernel {
        /// The header field, by the name its specification gives it.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it has to be.
        expected: &'static str,
    },

    /// The kernel does not fit the guest's memory.
    #[error(
        "the kernel needs guest memory {start:#x} to {end:#x}, usable is {usable_start:#x} to {usable_end:#x}; {remedy}"
    )]
    KernelDoesNotFit {
        /// First address that the kernel needs.
        start: u64,
        /// Address after the last that it needs, its uninitialised data included.
        end: u64,
        /// First address a kernel may use.
        usable_start: u64,
        /// Address after the last one a kernel may use.
        usable_end: u64,
        /// What to do.
        remedy: String,
    },

    /// The initrd does not fit between the kernel and the end of the memory the kernel can take it from.
    #[error(
        "the initrd of {size:#x} bytes does not fit into guest memory {room_start:#x} to {room_end:#x}; \
         give the guest more memory or the initrd fewer files"
    )]
    InitrdDoesNotFit {
        /// The initrd's size in bytes.
        size: u64,
        /// First address behind the kernel.
        room_start: u64,
        /// End of the memory that an initrd may use.
        room_end: u64,
    },

    /// An empty initrd.
    #[error("the initrd is empty: leave it away, or name a cpio archive")]
    EmptyInitrd,

    /// The command line is longer than the kernel reads.
    #[error("the kernel command line has {len} bytes, the kernel reads {max}: make it shorter by {}", len - max)]
    CmdlineTooLong {
        /// Its length in bytes, without the NUL.
        len: usize,
        /// The longest that this kernel takes.
        max: usize,
    },

    /// A word cannot be written so that the kernel reads it back unchanged.
    #[error("cannot put {word:?} on the kernel command line: {reason}")]
    CmdlineWord {
        /// The word, with anything unprintable escaped.
        word: String,
        /// Which rule of the kernel's parser it breaks.
        reason: String,
    },

    /// More environment variables or init arguments than the kernel keeps: it panics on the next one.
    #[error("the kernel command line carries at most {max} {what}; pass the others another way")]
    CmdlineTooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many the kernel takes.
        max: usize,
    },

    /// The machine cannot be described to a kernel as it is.
    #[error("bad machine description: {field} is {value:#x}, {expected}")]
    Machine {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it has to be.
        expected: &'static str,
    },

    /// Guest memory is not where its layout says.
    #[error("cannot write {what} to guest memory at {address:#x}: {source}")]
    WriteGuest {
        /// What was written.
        what: &'static str,
        /// Where.
        address: u64,
        /// Why it failed.
        source: GuestMemoryError,
    },
}
