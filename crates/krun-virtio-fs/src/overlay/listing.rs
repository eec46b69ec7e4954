//! Lists directories that have virtual entries.
//!
//! What the file system below has comes first, with its own offsets; then the virtual entries that it has not, with
//! offsets that no file system gives out: ext4 leaves out this very hash value, others count from 1.

use super::tree::{Content, Node, Place, Tree};
use super::{OverlayFs, virtual_entry};
use crate::errno::{Errno, FsResult};
use crate::filesystem::FileSystem;
use crate::types::{DirEntry, Emit, EmitPlus, Entry, Handle, NodeId, Request};

/// Offset of the first virtual entry of a directory that has others too.
const FIRST: u64 = 0x7fff_ffff_0000_0000;

fn kind(node: &Node) -> u8 {
    match node.content {
        Content::Directory => libc::DT_DIR,
        Content::File { .. } => libc::DT_REG,
    }
}

impl<F: FileSystem + ?Sized> OverlayFs<F> {
    pub(super) fn list(&self, rq: &Request, node: NodeId, handle: Handle, offset: u64, emit: Emit<'_>) -> FsResult<()> {
        match self.tree.place(node) {
            Place::Below if Tree::is_virtual(node) => Err(Errno::STALE.into()),
            Place::Below => self.below.readdir(rq, node, handle, offset, emit),
            Place::Virtual(index, found) => self.list_virtual(index, found, offset, &mut |entry, _| emit(entry)),
            Place::Mixed(found) => {
                let Some(start) = self.start(offset) else {
                    let (mut any, mut full) = (false, false);
                    self.below.readdir(rq, node, handle, offset, &mut |entry| {
                        any = true;
                        if self.shadowed(found, entry.name) {
                            return true;
                        }
                        full = !emit(entry);
                        !full
                    })?;
                    // Only when nothing below is left do virtual entries follow. A reply of nothing but shadowed
                    // entries must not be empty: that would be the end.
                    return if full { Ok(()) } else { self.list_added(rq, node, found, 0, &mut |e, _| emit(e)) };
                };
                self.list_added(rq, node, found, start, &mut |entry, _| emit(entry))
            }
        }
    }

    pub(super) fn list_plus(
        &self,
        rq: &Request,
        node: NodeId,
        handle: Handle,
        offset: u64,
        emit: EmitPlus<'_>,
    ) -> FsResult<()> {
        match self.tree.place(node) {
            Place::Below if Tree::is_virtual(node) => Err(Errno::STALE.into()),
            Place::Below => self.below.readdirplus(rq, node, handle, offset, emit),
            Place::Virtual(index, found) => self.list_virtual(index, found, offset, emit),
            Place::Mixed(found) => {
                let Some(start) = self.start(offset) else {
                    let mut full = false;
                    self.below.readdirplus(rq, node, handle, offset, &mut |entry, known| {
                        if self.shadowed(found, entry.name) {
                            if let Some(known) = known {
                                self.below.forget(known.node, 1);
                            }
                            return true;
                        }
                        full = !emit(entry, known);
                        if !full {
                            self.note(found, entry.name, known);
                        }
                        !full
                    })?;
                    return if full { Ok(()) } else { self.list_added(rq, node, found, 0, emit) };
                };
                self.list_added(rq, node, found, start, emit)
            }
        }
    }

    /// Which virtual entry an offset means, if any.
    fn start(&self, offset: u64) -> Option<usize> {
        let index = usize::try_from(offset.checked_sub(FIRST)?).ok()?;
        (index <= self.tree.0.len()).then_some(index)
    }

    fn child_named(&self, dir: &Node, name: &[u8]) -> Option<&Node> {
        dir.children.values().filter_map(|index| self.tree.get(*index)).find(|child| child.name.as_bytes() == name)
    }

    /// Whether a virtual file stands in front of a name.
    fn shadowed(&self, dir: &Node, name: &[u8]) -> bool {
        self.child_named(dir, name).is_some_and(Node::is_file)
    }

    /// Remembers a directory below that has virtual names further down: the guest may not look it up once more.
    fn note(&self, dir: &Node, name: &[u8], known: Option<&Entry>) {
        if let (Some(child), Some(entry)) = (self.child_named(dir, name), known)
            && entry.is_directory()
            && !entry.is_negative()
        {
            child.set_below(entry.node);
        }
    }

    /// Lists the virtual entries of a directory below that are not below too.
    fn list_added(&self, rq: &Request, dir: NodeId, found: &Node, start: usize, emit: EmitPlus<'_>) -> FsResult<()> {
        for (at, (name, index)) in found.children.iter().enumerate().skip(start) {
            let Some(child) = self.tree.get(*index).filter(|child| !child.hidden) else { continue };
            if let Some(entry) = self.look_below(rq, dir, child) {
                self.below.forget(entry.node, 1);
                continue;
            }
            let (ino, offset) = (Tree::node_id(*index).0, FIRST + at as u64 + 1);
            let entry = DirEntry { ino, offset, kind: kind(child), name: name.as_bytes() };
            if !emit(&entry, Some(&virtual_entry(*index, child))) {
                break;
            }
        }
        Ok(())
    }

    /// Lists a virtual directory.
    fn list_virtual(&self, index: usize, found: &Node, offset: u64, emit: EmitPlus<'_>) -> FsResult<()> {
        if found.is_file() {
            return Err(Errno::NOTDIR.into());
        }
        let dots = [(index, &b"."[..]), (found.parent, b"..")];
        let dots = dots.into_iter().map(|(index, name)| (index, name, libc::DT_DIR, None));
        let children = found.children.iter().filter_map(|(name, index)| {
            let child = self.tree.get(*index)?;
            (!child.hidden).then(|| (*index, name.as_bytes(), kind(child), Some(virtual_entry(*index, child))))
        });
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (index, name, kind, entry)) in dots.chain(children).enumerate().skip(start) {
            // The root is the file system below's; everything else here is virtual.
            let ino = if index == 0 { NodeId::ROOT.0 } else { Tree::node_id(index).0 };
            if !emit(&DirEntry { ino, offset: at as u64 + 1, kind, name }, entry.as_ref()) {
                break;
            }
        }
        Ok(())
    }
}
