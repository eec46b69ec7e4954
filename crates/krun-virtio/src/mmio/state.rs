//! A device at rest.

use virtio_queue::QueueState;

/// Everything of a device and its transport that a snapshot needs, as plain data; untrusted when it comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MmioState {
    /// The status bits that the driver set.
    pub status: u32,
    /// The device has said that it needs a reset.
    pub needs_reset: bool,
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// DeviceFeaturesSel.
    pub device_features_sel: u32,
    /// DriverFeaturesSel.
    pub driver_features_sel: u32,
    /// The driver's features.
    pub driver_features: u64,
    /// QueueSel.
    pub queue_sel: u32,
    /// SHMSel.
    pub shm_sel: u32,
    /// Each queue's registers and indices.
    pub queues: Vec<QueueState>,
    /// Each worker's bytes.
    pub workers: Vec<Vec<u8>>,
}
