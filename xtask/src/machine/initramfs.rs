//! The file system a nested machine starts with: a newc cpio archive that the kernel unpacks into memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};

use super::libraries::libraries_of;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;

/// One thing in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    /// The bytes of a file of the host.
    Copy {
        source: PathBuf,
        mode: u32,
    },
    Bytes {
        bytes: Vec<u8>,
        mode: u32,
    },
    Link(PathBuf),
}

/// The content of an archive, by path without the leading slash. Parents come before their children.
#[derive(Debug, Clone, Default)]
pub(crate) struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Initramfs {
    /// An empty directory.
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) {
        self.put(path.as_ref(), Entry::Directory);
    }

    /// A file with these bytes.
    pub(crate) fn bytes(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>, mode: u32) {
        self.put(path.as_ref(), Entry::Bytes { bytes: bytes.into(), mode });
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) {
        self.put(path.as_ref(), Entry::Link(target.into()));
    }

    /// The host's file `source`, links followed.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, source: impl Into<PathBuf>) -> Result<()> {
        let source = source.into();
        let mode =
            fs::metadata(&source).with_context(|| format!("cannot read {}", source.display()))?.permissions().mode();
        self.put(path.as_ref(), Entry::Copy { source, mode: mode & 0o7777 });
        Ok(())
    }

    /// The host's program or library `source`, and at their own paths the libraries it needs.
    pub(crate) fn program(&mut self, path: impl AsRef<Path>, source: &Path) -> Result<()> {
        for library in libraries_of(source)? {
            self.file(&library, &library)?;
        }
        self.file(path, source)
    }

    /// Everything in the host's directory `source`; sockets, pipes and devices are left out.
    pub(crate) fn tree(&mut self, path: impl AsRef<Path>, source: &Path) -> Result<()> {
        let path = path.as_ref();
        self.directory(path);
        let mut pending = vec![(path.to_owned(), source.to_owned())];
        while let Some((path, source)) = pending.pop() {
            for entry in fs::read_dir(&source).with_context(|| format!("cannot read {}", source.display()))? {
                let entry = entry?;
                let (path, source) = (path.join(entry.file_name()), entry.path());
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    self.directory(&path);
                    pending.push((path, source));
                } else if kind.is_symlink() {
                    self.link(&path, fs::read_link(&source)?);
                } else if kind.is_file() {
                    self.file(&path, source)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &Path, entry: Entry) {
        let path = path.strip_prefix("/").unwrap_or(path);
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes the archive to `path`, as it is: under emulation, unpacking takes longer than copying ever could.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        self.archive(BufWriter::with_capacity(1 << 20, file))?.flush()?;
        Ok(())
    }

    fn archive<W: Write>(&self, mut writer: W) -> Result<W> {
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let name = path.to_str().with_context(|| format!("{} is not valid UTF-8", path.display()))?;
            let head = |mode| Builder::new(name).ino(number).nlink(1).mode(mode);
            writer = match entry {
                Entry::Directory => head(DIRECTORY).write(writer, 0).finish()?,
                Entry::Link(target) => member(head(LINK), writer, target.as_os_str().as_bytes())?,
                Entry::Bytes { bytes, mode } => member(head(FILE | mode), writer, bytes)?,
                Entry::Copy { source, mode } => {
                    let mut file = File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
                    let size = u32::try_from(file.metadata()?.len())
                        .with_context(|| format!("{} is too large for an initramfs", source.display()))?;
                    let mut member = head(FILE | mode).write(writer, size);
                    io::copy(&mut file, &mut member).with_context(|| format!("cannot copy {}", source.display()))?;
                    member.finish()?
                }
            };
        }
        trailer(writer).context("cannot end the archive")
    }
}

fn member<W: Write>(head: Builder, writer: W, bytes: &[u8]) -> Result<W> {
    let mut member = head.write(writer, u32::try_from(bytes.len())?);
    member.write_all(bytes)?;
    Ok(member.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(archive: &[u8]) -> Vec<(String, u32, u32)> {
        let mut names = Vec::new();
        let mut rest = archive;
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                return names;
            }
            names.push((entry.name().to_owned(), entry.mode(), entry.file_size()));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn parents_come_first_and_files_keep_their_mode() {
        let mut content = Initramfs::default();
        content.bytes("/a/b/script", "#!", 0o755);
        content.link("/a/link", "b/script");
        let archive = content.archive(Vec::new()).unwrap();
        let expected = [("a", DIRECTORY, 0), ("a/b", DIRECTORY, 0), ("a/b/script", 0o100_755, 2), ("a/link", LINK, 8)];
        assert_eq!(names(&archive), expected.map(|(name, mode, size)| (name.to_owned(), mode, size)));
    }

    #[test]
    fn a_tree_of_the_host_is_copied_links_as_links() {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("sub")).unwrap();
        fs::write(source.path().join("sub/file"), "text").unwrap();
        std::os::unix::fs::symlink("/nowhere", source.path().join("dangling")).unwrap();
        let mut content = Initramfs::default();
        content.tree("root", source.path()).unwrap();
        let archive = content.archive(Vec::new()).unwrap();
        let names: Vec<_> = names(&archive).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["root", "root/dangling", "root/sub", "root/sub/file"]);
    }

    #[test]
    fn a_program_brings_its_libraries() {
        let mut content = Initramfs::default();
        content.program("bin/me", &std::env::current_exe().unwrap()).unwrap();
        assert!(content.entries.keys().any(|path| path.to_string_lossy().contains("libc.so")));
    }
}
