//! Guest memory as devices see it: its type erased once, at the door.

mod mapping;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use vm_memory::GuestMemoryBackend;

pub use mapping::Regions;

/// Guest addresses that no memory lies behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no guest memory at {address:#x} (of {len} bytes)")]
pub struct BadAddress {
    /// First guest address of the access.
    pub address: u64,
    /// Its length in bytes.
    pub len: u64,
}

#[derive(Debug)]
struct Shared {
    current: RwLock<Arc<Regions>>,
    generation: AtomicU64,
}

/// Every device's view of guest memory: cheap to clone, without a type parameter, replaceable while devices run.
///
/// [`Regions`] is one snapshot of it. A chain keeps the snapshot that it was built on, and with it the memory mapped.
#[derive(Debug, Clone)]
pub struct Ram(Arc<Shared>);

impl Ram {
    /// Erases the type of `memory`. Regions that are not mapped into this process are not seen by devices.
    pub fn new<M>(memory: Arc<M>) -> Self
    where
        M: GuestMemoryBackend + Send + Sync + 'static,
    {
        let current = RwLock::new(Arc::new(Regions::new(memory)));
        Self(Arc::new(Shared { current, generation: AtomicU64::new(1) }))
    }

    /// Replaces the memory map (memory hot-plug, vhost-user's SET_MEM_TABLE). Queues notice at their next step;
    /// chains in flight keep the old map until they are completed.
    pub fn replace<M>(&self, memory: Arc<M>)
    where
        M: GuestMemoryBackend + Send + Sync + 'static,
    {
        let regions = Arc::new(Regions::new(memory));
        let mut current = self.0.current.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        *current = regions;
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// The memory map of now.
    pub fn regions(&self) -> Arc<Regions> {
        self.0.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Changes whenever the map is replaced.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }
}
