//! What several tests need.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod script;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use krun_virtio::{GuestFault, Interrupt};

/// An interrupt that remembers.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) queue: AtomicU64,
    pub(crate) config: AtomicU64,
    pub(crate) needs_reset: AtomicU64,
    pub(crate) faults: Mutex<Vec<GuestFault>>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn queue_interrupts(&self) -> u64 {
        self.queue.load(Ordering::SeqCst)
    }

    pub(crate) fn resets_asked(&self) -> u64 {
        self.needs_reset.load(Ordering::SeqCst)
    }
}

impl Interrupt for Recorder {
    fn queue(&self, _index: u16) {
        self.queue.fetch_add(1, Ordering::SeqCst);
    }

    fn config(&self) {
        self.config.fetch_add(1, Ordering::SeqCst);
    }

    fn needs_reset(&self) {
        self.needs_reset.fetch_add(1, Ordering::SeqCst);
    }

    fn report(&self, fault: &GuestFault) {
        self.faults.lock().unwrap().push(*fault);
    }
}
