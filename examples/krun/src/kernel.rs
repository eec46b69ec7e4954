//! Which kernel to boot, and the environment variables that have a say.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use krun_builder::KernelSource;

/// The system's bundle: the dynamic linker knows where.
const SYSTEM_BUNDLE: &str = "libkrunfw.so.5";

/// The option first, then `KRUN_KERNEL`, then what the system has.
pub(crate) fn choose(option: Option<PathBuf>) -> KernelSource {
    match option.or_else(|| host_variable(OsStr::new("KRUN_KERNEL")).map(PathBuf::from)) {
        Some(path) => KernelSource::File(path),
        None => KernelSource::Bundle(SYSTEM_BUNDLE.into()),
    }
}

/// A variable of the host's environment.
#[expect(clippy::disallowed_methods, reason = "this is the program; its libraries are told")]
pub(crate) fn host_variable(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name)
}
