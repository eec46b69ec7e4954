//! The pieces of a machine with emulated AMD SVM: QEMU, and a kernel with KVM in it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::Apt;
use super::store::Store;
use crate::process::find_program;

/// The emulator's program.
const QEMU: &str = "qemu-system-x86_64";
/// The package that depends on the newest kernel of its kind.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// A program with the libraries that were unpacked beside it.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    /// The program.
    pub(crate) program: PathBuf,
    /// A value for `LD_LIBRARY_PATH`, empty for a program that the system has installed.
    pub(crate) libraries: OsString,
}

/// A kernel for the nested machine.
#[derive(Debug, Clone)]
pub(crate) struct CloudKernel {
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// The directory `lib/modules/VERSION/kernel`.
    pub(crate) modules: PathBuf,
}

/// Answers an emulator: the system's own, else an unpacked one.
pub(crate) fn qemu(store: &Store, apt: &Apt) -> Result<Tool> {
    if let Some(program) = find_program(QEMU) {
        return Ok(Tool { program, libraries: OsString::new() });
    }
    let home = store
        .get("qemu", "qemu-system-x86", |directory| apt.unpack_with_dependencies(&["qemu-system-x86"], directory))?;
    Ok(Tool { program: home.join("usr/bin").join(QEMU), libraries: library_path(&home) })
}

/// Answers a kernel with its modules.
pub(crate) fn kernel(store: &Store, apt: &Apt) -> Result<CloudKernel> {
    let home = store.get("cloud-kernel", KERNEL_PACKAGE, |directory| {
        let package = apt.dependency(KERNEL_PACKAGE, "linux-image-")?;
        apt.unpack(&package, directory)
    })?;
    let image = only_entry(&home.join("boot"), "vmlinuz-")?;
    let version = only_entry(&modules_directory(&home), "")?;
    Ok(CloudKernel { image, modules: version.join("kernel") })
}

/// `lib` became a link to `usr/lib` in later releases, and packages followed.
fn modules_directory(home: &Path) -> PathBuf {
    let merged = home.join("usr/lib/modules");
    if merged.exists() { merged } else { home.join("lib/modules") }
}

fn only_entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .with_context(|| format!("{} holds no {prefix}*", directory.display()))
}

/// The directories with shared libraries in a tree of unpacked packages.
pub(crate) fn library_path(home: &Path) -> OsString {
    let directories =
        ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "lib"].map(|path| home.join(path));
    std::env::join_paths(directories.iter().filter(|path| path.is_dir())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_looked_for_where_packages_put_them() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(library_path(home.path()), OsString::new());
        fs::create_dir_all(home.path().join("usr/lib/x86_64-linux-gnu")).unwrap();
        let path = library_path(home.path()).into_string().unwrap();
        assert!(path.contains("usr/lib/x86_64-linux-gnu"), "{path}");
        assert!(!path.contains(&format!("{}/lib", home.path().display())), "{path}");
    }

    #[test]
    fn a_kernel_is_found_by_its_prefix() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("config-1"), "").unwrap();
        assert!(only_entry(home.path(), "vmlinuz-").is_err());
        fs::write(home.path().join("vmlinuz-1"), "").unwrap();
        assert_eq!(only_entry(home.path(), "vmlinuz-").unwrap(), home.path().join("vmlinuz-1"));
    }
}
