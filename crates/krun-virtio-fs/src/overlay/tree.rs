//! The virtual names: a small tree that never changes after it was built.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::NodeId;

/// Marks the node ids of virtual files and directories. No file system below may use it.
const VIRTUAL: u64 = 1 << 63;

/// What lies at a virtual name.
#[derive(Debug)]
pub(super) enum Content {
    /// A directory: the one of the file system below if it has one there, else a virtual one.
    Directory,
    /// A file with this content, whatever the file system below has there.
    File { content: File, size: u64 },
}

/// A virtual name.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: CString,
    pub(super) parent: usize,
    pub(super) children: BTreeMap<CString, usize>,
    pub(super) content: Content,
    /// Permission bits.
    pub(super) mode: u32,
    /// Not shown in listings.
    pub(super) hidden: bool,
    /// The node that the file system below has in this place, as far as the guest was told of it; 0: none.
    below: AtomicU64,
}

impl Node {
    pub(super) fn new(name: CString, parent: usize, content: Content, mode: u32, hidden: bool) -> Self {
        Self { name, parent, children: BTreeMap::new(), content, mode, hidden, below: AtomicU64::new(0) }
    }

    /// Remembers what the file system below has in this place.
    pub(super) fn set_below(&self, node: NodeId) {
        self.below.store(node.0, Ordering::Relaxed);
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.content, Content::File { .. })
    }
}

/// The tree. Node 0 is the root, which the file system below always has.
#[derive(Debug)]
pub(super) struct Tree(pub(super) Vec<Node>);

/// Where a request leads.
pub(super) enum Place<'a> {
    /// To a virtual node.
    Virtual(usize, &'a Node),
    /// To a directory of the file system below that has virtual names in it.
    Mixed(&'a Node),
    /// Only to the file system below.
    Below,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node::new(CString::default(), 0, Content::Directory, 0o755, false);
        root.set_below(NodeId::ROOT);
        Self(vec![root])
    }

    /// What the virtual files hold.
    pub(super) fn files(&self) -> impl Iterator<Item = &File> {
        self.0.iter().filter_map(|node| match &node.content {
            Content::File { content, .. } => Some(content),
            Content::Directory => None,
        })
    }

    pub(super) fn node_id(index: usize) -> NodeId {
        NodeId(VIRTUAL | index as u64)
    }

    pub(super) fn is_virtual(node: NodeId) -> bool {
        node.0 & VIRTUAL != 0
    }

    pub(super) fn get(&self, index: usize) -> Option<&Node> {
        self.0.get(index)
    }

    /// The virtual node with this id.
    pub(super) fn virtual_node(&self, node: NodeId) -> Option<(usize, &Node)> {
        let index = usize::try_from(node.0 & !VIRTUAL).ok()?;
        Some((index, self.get(index)?)).filter(|_| index != 0)
    }

    /// What a node id stands for. The tree has a few nodes: looking at each costs less than any table.
    pub(super) fn place(&self, node: NodeId) -> Place<'_> {
        if Self::is_virtual(node) {
            return self.virtual_node(node).map_or(Place::Below, |(index, node)| Place::Virtual(index, node));
        }
        let mixed =
            self.0.iter().enumerate().find(|(_, candidate)| {
                !candidate.children.is_empty() && candidate.below.load(Ordering::Relaxed) == node.0
            });
        mixed.map_or(Place::Below, |(_, node)| Place::Mixed(node))
    }

    pub(super) fn child(&self, parent: &Node, name: &CStr) -> Option<(usize, &Node)> {
        let index = *parent.children.get(name)?;
        Some((index, self.get(index)?))
    }

    /// Whatever was known of the file system below is void.
    pub(super) fn forget_below(&self) {
        for node in self.0.iter().skip(1) {
            node.set_below(NodeId(0));
        }
    }
}
