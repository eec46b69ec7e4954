//! The queue registers of one queue.

use virtio_queue::QueueState;

use super::registers as reg;

/// What a driver said of one queue, not checked: that happens when the queue is attached.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueRegisters {
    pub(super) state: QueueState,
}

fn low(old: u64, value: u32) -> u64 {
    old & !0xffff_ffff | u64::from(value)
}

fn high(old: u64, value: u32) -> u64 {
    old & 0xffff_ffff | u64::from(value) << 32
}

impl QueueRegisters {
    /// As after a reset. A driver that says nothing of the size gets the largest.
    pub(super) fn new(max_size: u16) -> Self {
        Self { state: QueueState { max_size, size: max_size, ..QueueState::default() } }
    }

    /// Back to that.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.state.max_size);
    }

    /// Section 4.2.2.1: what follows is for the selected queue and while it is not ready.
    pub(super) fn write(&mut self, offset: u64, value: u32) {
        let state = &mut self.state;
        match offset {
            // What no size can be becomes 0, which cannot be either.
            reg::QUEUE_SIZE => state.size = u16::try_from(value).unwrap_or(0),
            reg::QUEUE_DESC_LOW => state.desc_table = low(state.desc_table, value),
            reg::QUEUE_DESC_HIGH => state.desc_table = high(state.desc_table, value),
            reg::QUEUE_DRIVER_LOW => state.avail_ring = low(state.avail_ring, value),
            reg::QUEUE_DRIVER_HIGH => state.avail_ring = high(state.avail_ring, value),
            reg::QUEUE_DEVICE_LOW => state.used_ring = low(state.used_ring, value),
            reg::QUEUE_DEVICE_HIGH => state.used_ring = high(state.used_ring, value),
            _ => {}
        }
    }
}
