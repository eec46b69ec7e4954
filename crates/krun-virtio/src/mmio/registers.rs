//! Offsets and values of the registers: virtio 1.2 section 4.2.2.

use virtio_bindings::bindings::{virtio_config as config, virtio_mmio as mmio, virtio_ring as ring};

/// Length of a device's window in bytes. Section 4.2.2 sets no length; a page is what everybody uses.
pub const WINDOW: u64 = 0x1000;

/// "virt", little-endian.
pub const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface.
pub const VERSION: u32 = 2;
/// Any value will do: ours is "krun", little-endian.
pub const VENDOR: u32 = 0x6e75_726b;

/// MagicValue, read.
pub const MAGIC_VALUE: u64 = mmio::VIRTIO_MMIO_MAGIC_VALUE as u64;
/// Version, read.
pub const VERSION_ID: u64 = mmio::VIRTIO_MMIO_VERSION as u64;
/// DeviceID, read.
pub const DEVICE_ID: u64 = mmio::VIRTIO_MMIO_DEVICE_ID as u64;
/// VendorID, read.
pub const VENDOR_ID: u64 = mmio::VIRTIO_MMIO_VENDOR_ID as u64;
/// DeviceFeatures, read.
pub const DEVICE_FEATURES: u64 = mmio::VIRTIO_MMIO_DEVICE_FEATURES as u64;
/// DeviceFeaturesSel, written.
pub const DEVICE_FEATURES_SEL: u64 = mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL as u64;
/// DriverFeatures, written.
pub const DRIVER_FEATURES: u64 = mmio::VIRTIO_MMIO_DRIVER_FEATURES as u64;
/// DriverFeaturesSel, written.
pub const DRIVER_FEATURES_SEL: u64 = mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL as u64;
/// QueueSel, written.
pub const QUEUE_SEL: u64 = mmio::VIRTIO_MMIO_QUEUE_SEL as u64;
/// QueueSizeMax, read.
pub const QUEUE_SIZE_MAX: u64 = mmio::VIRTIO_MMIO_QUEUE_NUM_MAX as u64;
/// QueueSize, written.
pub const QUEUE_SIZE: u64 = mmio::VIRTIO_MMIO_QUEUE_NUM as u64;
/// QueueReady, both.
pub const QUEUE_READY: u64 = mmio::VIRTIO_MMIO_QUEUE_READY as u64;
/// QueueNotify, written: the offset that ioeventfds are for.
pub const QUEUE_NOTIFY: u64 = mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;
/// InterruptStatus, read.
pub const INTERRUPT_STATUS: u64 = mmio::VIRTIO_MMIO_INTERRUPT_STATUS as u64;
/// InterruptACK, written.
pub const INTERRUPT_ACK: u64 = mmio::VIRTIO_MMIO_INTERRUPT_ACK as u64;
/// Status, both.
pub const STATUS: u64 = mmio::VIRTIO_MMIO_STATUS as u64;
/// QueueDescLow, written.
pub const QUEUE_DESC_LOW: u64 = mmio::VIRTIO_MMIO_QUEUE_DESC_LOW as u64;
/// QueueDescHigh, written.
pub const QUEUE_DESC_HIGH: u64 = mmio::VIRTIO_MMIO_QUEUE_DESC_HIGH as u64;
/// QueueDriverLow, written.
pub const QUEUE_DRIVER_LOW: u64 = mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW as u64;
/// QueueDriverHigh, written.
pub const QUEUE_DRIVER_HIGH: u64 = mmio::VIRTIO_MMIO_QUEUE_AVAIL_HIGH as u64;
/// QueueDeviceLow, written.
pub const QUEUE_DEVICE_LOW: u64 = mmio::VIRTIO_MMIO_QUEUE_USED_LOW as u64;
/// QueueDeviceHigh, written.
pub const QUEUE_DEVICE_HIGH: u64 = mmio::VIRTIO_MMIO_QUEUE_USED_HIGH as u64;
/// SHMSel, written.
pub const SHM_SEL: u64 = mmio::VIRTIO_MMIO_SHM_SEL as u64;
/// SHMLenLow, read.
pub const SHM_LEN_LOW: u64 = mmio::VIRTIO_MMIO_SHM_LEN_LOW as u64;
/// SHMLenHigh, read.
pub const SHM_LEN_HIGH: u64 = mmio::VIRTIO_MMIO_SHM_LEN_HIGH as u64;
/// SHMBaseLow, read.
pub const SHM_BASE_LOW: u64 = mmio::VIRTIO_MMIO_SHM_BASE_LOW as u64;
/// SHMBaseHigh, read.
pub const SHM_BASE_HIGH: u64 = mmio::VIRTIO_MMIO_SHM_BASE_HIGH as u64;
/// QueueReset, both; with RING_RESET.
pub const QUEUE_RESET: u64 = 0xc0;
/// ConfigGeneration, read.
pub const CONFIG_GENERATION: u64 = mmio::VIRTIO_MMIO_CONFIG_GENERATION as u64;
/// Where the config space begins.
pub const CONFIG: u64 = mmio::VIRTIO_MMIO_CONFIG as u64;

/// Bit of [`INTERRUPT_STATUS`]: chains were used.
pub const INTERRUPT_QUEUE: u32 = mmio::VIRTIO_MMIO_INT_VRING;
/// Bit of [`INTERRUPT_STATUS`]: the config space changed.
pub const INTERRUPT_CONFIG: u32 = mmio::VIRTIO_MMIO_INT_CONFIG;

/// Bit of [`STATUS`] (section 2.1): a driver found the device.
pub const ACKNOWLEDGE: u32 = config::VIRTIO_CONFIG_S_ACKNOWLEDGE;
/// Bit of [`STATUS`]: the driver knows how to drive it.
pub const DRIVER: u32 = config::VIRTIO_CONFIG_S_DRIVER;
/// Bit of [`STATUS`]: the driver is ready.
pub const DRIVER_OK: u32 = config::VIRTIO_CONFIG_S_DRIVER_OK;
/// Bit of [`STATUS`]: the features are agreed on.
pub const FEATURES_OK: u32 = config::VIRTIO_CONFIG_S_FEATURES_OK;
/// Bit of [`STATUS`]: the device cannot go on.
pub const NEEDS_RESET: u32 = config::VIRTIO_CONFIG_S_NEEDS_RESET;
/// Bit of [`STATUS`]: the driver has given up.
pub const FAILED: u32 = config::VIRTIO_CONFIG_S_FAILED;

/// Feature: indirect descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << ring::VIRTIO_RING_F_INDIRECT_DESC;
/// Feature: both sides name the index at which they want to hear of the other.
pub const F_EVENT_IDX: u64 = 1 << ring::VIRTIO_RING_F_EVENT_IDX;
/// Feature: not the legacy interface. Without it there is no device.
pub const F_VERSION_1: u64 = 1 << config::VIRTIO_F_VERSION_1;
/// Feature: queues can be reset one by one.
pub const F_RING_RESET: u64 = 1 << config::VIRTIO_F_RING_RESET;

/// What this transport and its rings add to a device's features.
pub const TRANSPORT_FEATURES: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | F_RING_RESET;
