//! The one place with `unsafe`: calling into a bundle's shared library.
#![expect(unsafe_code, reason = "a shared library is asked, through its C functions, where in it the kernel is")]

use std::error::Error as _;
use std::ffi::{c_char, c_int};
use std::path::Path;
use std::slice;

use libloading::Library;

use crate::error::{Error, Result};
use crate::kernel::BUNDLE_ABI;

type GetVersion = unsafe extern "C" fn() -> c_int;
type GetKernel = unsafe extern "C" fn(load: *mut usize, entry: *mut usize, size: *mut usize) -> *const c_char;

/// A loaded bundle library. Dropping it unloads it.
#[derive(Debug)]
pub(crate) struct BundleLibrary {
    /// Guest physical address the image belongs to; not checked.
    pub(crate) address: u64,
    /// Guest physical address of the first instruction; not checked.
    pub(crate) entry: u64,
    image: *const u8,
    size: usize,
    _library: Library,
}

// SAFETY: the image is constant data of a library that stays loaded as long as this value lives; nothing in here is
// bound to a thread.
unsafe impl Send for BundleLibrary {}
// SAFETY: as above, and `&self` gives out shared slices of data that nobody writes.
unsafe impl Sync for BundleLibrary {}

impl BundleLibrary {
    /// Loads the library and asks it for its image.
    ///
    /// # Errors
    ///
    /// [`Error::LoadBundle`], [`Error::BundleAbi`], and [`Error::BundleImage`] if the image it describes is not within
    /// the readable memory of a loaded library.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // The linker's words are in the source; the error itself only names the failed call.
        let fail = |error: libloading::Error| Error::LoadBundle {
            path: path.into(),
            reason: error.source().map_or_else(|| error.to_string(), ToString::to_string),
        };
        // SAFETY: constructors of the library run. That is the documented condition of `Kernel::bundle`: the caller
        // trusts the file as he trusts the program.
        let library = unsafe { Library::new(path) }.map_err(fail)?;
        // SAFETY: libkrunfw has declared both functions with these types since its ABI 1; a file that has them under
        // these names and means something else is not a bundle, and trusted all the same.
        let (version, kernel) = unsafe {
            let version = library.get::<GetVersion>(c"krunfw_get_version").map_err(fail)?;
            let kernel = library.get::<GetKernel>(c"krunfw_get_kernel").map_err(fail)?;
            (version, kernel)
        };
        // SAFETY: it takes nothing and returns a number.
        let found = unsafe { version() };
        if found != BUNDLE_ABI {
            return Err(Error::BundleAbi { path: path.into(), found });
        }
        let (mut address, mut entry, mut size) = (0, 0, 0);
        // SAFETY: the three pointers are valid for writes of a `size_t` each; that is all it does with them.
        let image = unsafe { kernel(&raw mut address, &raw mut entry, &raw mut size) }.cast::<u8>();
        if !is_readable(image.addr(), size) {
            return Err(Error::BundleImage {
                path: path.into(),
                field: "the image's size",
                value: size as u64,
                expected: "it does not lie within the library",
            });
        }
        Ok(Self { address: address as u64, entry: entry as u64, image, size, _library: library })
    }

    /// The image.
    pub(crate) fn image(&self) -> &[u8] {
        // SAFETY: `open` saw that these bytes lie in a readable segment of a loaded object. It is the library that
        // `self` keeps loaded, and it never writes to them: they are an array that its functions only point at.
        unsafe { slice::from_raw_parts(self.image, self.size) }
    }
}

/// Whether one readable segment of a loaded object covers `size` bytes at `address`.
fn is_readable(address: usize, size: usize) -> bool {
    let Some(end) = address.checked_add(size).filter(|_| address != 0) else { return false };
    let mut wanted = Wanted { address, end, found: false };
    // SAFETY: the callback matches the declaration and gets back the pointer given here, valid for the whole call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut wanted).cast()) };
    wanted.found
}

struct Wanted {
    address: usize,
    end: usize,
    found: bool,
}

/// Called by the dynamic linker for each loaded object; not 0 ends the walk.
unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: usize, data: *mut libc::c_void) -> c_int {
    // SAFETY: `is_readable` passed a `Wanted` that nothing else refers to during the walk.
    let wanted = unsafe { &mut *data.cast::<Wanted>() };
    // SAFETY: the linker passes a valid description of a loaded object.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the linker keeps `dlpi_phnum` program headers at `dlpi_phdr` for as long as the object is loaded.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    #[expect(clippy::cast_possible_truncation, reason = "addresses of this process")]
    let covers = |header: &libc::Elf64_Phdr| {
        let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
        let end = start.saturating_add(header.p_memsz as usize);
        header.p_type == libc::PT_LOAD
            && header.p_flags & libc::PF_R != 0
            && start <= wanted.address
            && wanted.end <= end
    };
    wanted.found = headers.iter().any(covers);
    c_int::from(wanted.found)
}
