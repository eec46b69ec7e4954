//! Says which names are virtual.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, SealFlags};

use super::OverlayFs;
use super::tree::{Content, Node, Tree};
use crate::error::Error;

/// Collects virtual files and directories.
///
/// Directories on the way to a name need not be given: where the file system below has none, they are virtual too.
#[derive(Debug, Default)]
#[must_use]
pub struct OverlayBuilder {
    entries: Vec<Wish>,
}

#[derive(Debug)]
struct Wish {
    path: String,
    mode: u32,
    content: Option<Vec<u8>>,
    hidden: bool,
}

impl OverlayBuilder {
    /// A file with this content and these permission bits, owned by root. It stands in front of whatever the file
    /// system below has in its place.
    pub fn file(mut self, path: impl Into<String>, content: impl AsRef<[u8]>, mode: u32) -> Self {
        let content = Some(content.as_ref().to_vec());
        self.entries.push(Wish { path: path.into(), mode, content, hidden: false });
        self
    }

    /// As [`OverlayBuilder::file`], but left out of listings.
    pub fn hidden_file(mut self, path: impl Into<String>, content: impl AsRef<[u8]>, mode: u32) -> Self {
        let content = Some(content.as_ref().to_vec());
        self.entries.push(Wish { path: path.into(), mode, content, hidden: true });
        self
    }

    /// An empty directory with these permission bits, owned by root: a place to mount something. If the file system
    /// below has a directory there, that one is used.
    pub fn dir(mut self, path: impl Into<String>, mode: u32) -> Self {
        self.entries.push(Wish { path: path.into(), mode, content: None, hidden: false });
        self
    }

    /// Puts the virtual names over a file system.
    ///
    /// # Errors
    /// [`Error::VirtualPath`], [`Error::VirtualConflict`], [`Error::VirtualContent`].
    pub fn build<F>(self, below: F) -> Result<OverlayFs<F>, Error> {
        let mut tree = Tree::new();
        let mut given = Vec::new();
        for wish in self.entries {
            let index = place(&mut tree, &wish)?;
            if given.contains(&index) && wish.content.is_some() {
                return Err(Error::VirtualConflict { path: wish.path });
            }
            given.push(index);
        }
        Ok(OverlayFs::new(tree, below))
    }
}

/// The components of an absolute path.
fn components(path: &str) -> Result<Vec<CString>, Error> {
    let wrong = || Error::VirtualPath { path: path.to_owned() };
    let relative = path.strip_prefix('/').ok_or_else(wrong)?;
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    relative
        .split('/')
        .map(|part| match part {
            "" | "." | ".." => Err(wrong()),
            long if long.len() > crate::abi::NAME_MAX => Err(wrong()),
            part => CString::new(part).map_err(|_| wrong()),
        })
        .collect()
}

/// Puts one wish into the tree, with the directories on the way.
fn place(tree: &mut Tree, wish: &Wish) -> Result<usize, Error> {
    let conflict = || Error::VirtualConflict { path: wish.path.clone() };
    let parts = components(&wish.path)?;
    let last = parts.len() - 1;
    let mut at = 0;
    for (depth, part) in parts.into_iter().enumerate() {
        let next = tree.0.len();
        let parent = tree.0.get_mut(at).ok_or_else(conflict)?;
        if parent.is_file() {
            return Err(conflict());
        }
        let known = parent.children.get(&part).copied();
        at = match (known, depth == last) {
            (Some(known), false) => known,
            (Some(known), true) => {
                let node = tree.0.get_mut(known).ok_or_else(conflict)?;
                if node.is_file() || wish.content.is_some() {
                    return Err(conflict());
                }
                node.mode = wish.mode & 0o7777;
                known
            }
            (None, at_end) => {
                parent.children.insert(part.clone(), next);
                let (content, mode, hidden) = match &wish.content {
                    Some(bytes) if at_end => (file(&wish.path, bytes)?, wish.mode, wish.hidden),
                    _ if at_end => (Content::Directory, wish.mode, wish.hidden),
                    _ => (Content::Directory, 0o755, false),
                };
                tree.0.push(Node::new(part, at, content, mode & 0o7777, hidden));
                next
            }
        };
    }
    Ok(at)
}

/// An anonymous file of the host with this content, which cannot be changed any more: it is read, and later mapped,
/// like any other file.
fn file(path: &str, bytes: &[u8]) -> Result<Content, Error> {
    let wrap = |source: std::io::Error| Error::VirtualContent { path: path.to_owned(), source };
    let fd = rustix::fs::memfd_create(c"virtual", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| wrap(e.into()))?;
    let mut content = File::from(fd);
    content.write_all(bytes).map_err(wrap)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&content, seals).map_err(|e| wrap(e.into()))?;
    Ok(Content::File { content, size: bytes.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        for path in ["", "/", "a", "/a//b", "/a/../b", "/./a", "/a\0b"] {
            let error = OverlayBuilder::default().dir(path, 0o755).build(()).err();
            assert!(matches!(error, Some(Error::VirtualPath { .. })), "{path:?}: {error:?}");
        }
        let twice = OverlayBuilder::default().file("/a", "1", 0o644).file("/a", "2", 0o644);
        assert!(matches!(twice.build(()), Err(Error::VirtualConflict { .. })));
        let below_file = OverlayBuilder::default().file("/a", "1", 0o644).dir("/a/b", 0o755);
        assert!(matches!(below_file.build(()), Err(Error::VirtualConflict { .. })));
        let file_over_dir = OverlayBuilder::default().dir("/a/b", 0o755).file("/a", "1", 0o644);
        assert!(matches!(file_over_dir.build(()), Err(Error::VirtualConflict { .. })));
        assert!(OverlayBuilder::default().dir("/a/b/", 0o755).dir("/a", 0o700).dir("/a", 0o700).build(()).is_ok());
    }
}
