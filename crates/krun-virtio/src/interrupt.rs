//! How a device tells its guest something.

use vmm_sys_util::eventfd::EventFd;

use crate::error::GuestFault;

/// The device's way to its driver. A value (`Arc<dyn Interrupt>`), so that no device has a type parameter for it.
///
/// Transports implement it; all methods may be called from any thread and never block.
pub trait Interrupt: Send + Sync {
    /// Chains of queue `index` were used. [`crate::VirtQueue::flush`] calls this when the driver wants to know.
    fn queue(&self, index: u16);

    /// The config space changed. Call it *after* the change: it is what moves the config generation on.
    fn config(&self);

    /// The device cannot go on before it is reset (DEVICE_NEEDS_RESET, virtio 1.2 section 2.1.2).
    fn needs_reset(&self);

    /// Counts and logs what the guest did wrong; does not stop the device.
    fn report(&self, fault: &GuestFault) {
        tracing::debug!("guest fault: {fault}");
    }

    /// An event descriptor that interrupts for queue `index` when it is written, for back ends in other processes
    /// (vhost-user's call descriptor). `None` where the transport has none.
    fn call_fd(&self, index: u16) -> Option<EventFd> {
        let _ = index;
        None
    }
}
