//! The guest's root directory: busybox under every name it answers to, and the few files a system is expected to have.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::store::Store;
use crate::process::{find_program, output};

/// Raised when what this module lays out changes, so that older roots are made anew.
const LAYOUT: &str = "2";
/// Directories of the root; some only so that something can be mounted on them.
const DIRECTORIES: [&str; 13] =
    ["bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "var/tmp"];
/// Files with their content.
const FILES: [(&str, &str); 5] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/motd", "Welcome to a microVM. Its root is a directory of the host.\n"),
    ("etc/os-release", "NAME=busybox\nID=busybox\nPRETTY_NAME=\"busybox\"\n"),
];

/// `p_type` of the program header that names an ELF program's dynamic loader.
const PT_INTERP: u32 = 3;

/// Answers the path of a statically linked busybox.
pub(crate) fn busybox(store: &Store, apt: &Apt) -> Result<PathBuf> {
    if let Some(installed) = find_program("busybox").filter(|path| is_static(path).unwrap_or(false)) {
        return Ok(installed);
    }
    let home = store.get("busybox", "busybox-static", |directory| apt.unpack("busybox-static", directory))?;
    ["usr/bin/busybox", "bin/busybox"]
        .map(|path| home.join(path))
        .into_iter()
        .find(|path| path.exists())
        .context("the package busybox-static holds no busybox")
}

/// Answers the path of a root directory for guests, built around the program `busybox`.
pub(crate) fn root(store: &Store, busybox: &Path) -> Result<PathBuf> {
    let bytes = fs::metadata(busybox).with_context(|| format!("cannot read {}", busybox.display()))?.len();
    store.get("rootfs", &format!("{LAYOUT} {} {bytes}", busybox.display()), |directory| lay_out(directory, busybox))
}

fn lay_out(root: &Path, busybox: &Path) -> Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    for (path, content) in FILES {
        fs::write(root.join(path), content)?;
    }
    fs::copy(busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
    for path in output(Command::new(busybox).arg("--list-full"))?.lines() {
        let Some(name) = Path::new(path).file_name() else { continue };
        let link = root.join("bin").join(name);
        if name != "busybox" && !link.exists() {
            symlink("busybox", link)?;
        }
    }
    Ok(())
}

/// Whether the 64-bit ELF program at `path` runs without a dynamic loader.
fn is_static(path: &Path) -> Result<bool> {
    let mut bytes = Vec::new();
    File::open(path)?.take(4096).read_to_end(&mut bytes)?;
    is_static_elf(&bytes)
}

fn is_static_elf(bytes: &[u8]) -> Result<bool> {
    let field = |at: usize, width: usize| bytes.get(at..at + width).context("not a whole ELF header");
    if field(0, 5)? != b"\x7fELF\x02" {
        bail!("not a 64-bit ELF program");
    }
    // e_phoff, e_phentsize and e_phnum of Elf64_Ehdr; the headers follow it at once in any linked program.
    let start = usize::try_from(u64::from_le_bytes(field(32, 8)?.try_into()?))?;
    let size = usize::from(u16::from_le_bytes(field(54, 2)?.try_into()?));
    let count = usize::from(u16::from_le_bytes(field(56, 2)?.try_into()?));
    for index in 0..count {
        let at = start.saturating_add(index * size);
        if u32::from_le_bytes(field(at.min(bytes.len()), 4)?.try_into()?) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let own = std::env::current_exe().unwrap();
        assert!(!is_static(&own).unwrap());
        let mut head = vec![0; 64 + 56];
        head[..5].copy_from_slice(b"\x7fELF\x02");
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head[64] = 1;
        assert!(is_static_elf(&head).unwrap());
        head[64] = 3;
        assert!(!is_static_elf(&head).unwrap());
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        assert!(is_static_elf(b"#!/bin/sh\n").is_err());
        assert!(is_static_elf(b"\x7fELF\x02").is_err());
        assert!(is_static_elf(b"").is_err());
    }

    #[test]
    fn a_root_has_what_a_guest_looks_for() {
        let Some(busybox) = find_program("busybox") else { return };
        let root = tempfile::tempdir().unwrap();
        lay_out(root.path(), &busybox).unwrap();
        assert!(root.path().join("bin/sh").is_symlink());
        assert!(root.path().join("proc").is_dir());
    }
}
