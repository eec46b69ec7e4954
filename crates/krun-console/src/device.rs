//! The face of the device: features, queues, configuration space.

use crate::config::{CONFIG_LEN, DEVICE_TYPE, F_MULTIPORT, F_SIZE, MAX_PORTS, RECEIVE_QUEUE_SIZE, TRANSMIT_QUEUE_SIZE};
use crate::control::ResizeOrder;
use crate::handle::{ConsoleHandle, Shared};
use crate::protocol::Handshake;
use crate::status::{PortEvent, PortStatus, Side};
use crate::worker::ConsoleWorker;
use crate::{Error, Port};
use krun_virtio::{Task, VirtioDevice, read_config_bytes};
use std::collections::HashSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A virtio-console device (virtio 1.2, section 5.3).
///
/// With a single [`Port::console`] it is the plain device of two queues. In any other case it offers multiport, and a
/// driver that does not take it up has the first port alone.
pub struct Console {
    ports: Vec<Port>,
    queue_sizes: Vec<u16>,
    multiport: bool,
    handshake: Handshake,
    order: ResizeOrder,
    shared: Arc<Shared>,
}

impl Console {
    /// A device with these ports; their numbers are their places.
    ///
    /// # Errors
    /// If there are no ports or too many, if a name is unusable or is there twice, or if no descriptor can be made.
    pub fn new(ports: Vec<Port>) -> Result<Self, Error> {
        let first = ports.first().ok_or(Error::NoPorts)?;
        if ports.len() > MAX_PORTS {
            return Err(Error::TooManyPorts { asked: ports.len(), max: MAX_PORTS });
        }
        let mut names = HashSet::new();
        for port in &ports {
            port.check_name()?;
            if let Some(name) = port.name.as_ref().filter(|name| !names.insert(*name)) {
                return Err(Error::DuplicateName { name: name.clone() });
            }
        }
        let multiport = ports.len() > 1 || !first.is_plain_console();
        let pairs = if multiport { ports.len() + 1 } else { 1 };
        let mut queue_sizes = [RECEIVE_QUEUE_SIZE, TRANSMIT_QUEUE_SIZE].repeat(pairs);
        // The control queues carry messages, not streams.
        if let Some(size) = queue_sizes.get_mut(3) {
            *size = RECEIVE_QUEUE_SIZE;
        }
        let side = |there: bool| if there { Side::Open } else { Side::Absent };
        let status = ports.iter().map(|port| PortStatus {
            input: side(port.input.is_some()),
            output: side(port.output.is_some()),
            ..PortStatus::default()
        });
        let tails = ports.iter().map(|port| port.tail.clone()).collect();
        let shared = Shared::new(status.collect(), first.size, tails)
            .map_err(|source| Error::Create { what: "an event descriptor", source })?;
        Ok(Self {
            ports,
            queue_sizes,
            multiport,
            handshake: Handshake::default(),
            order: ResizeOrder::default(),
            shared: Arc::new(shared),
        })
    }

    /// How much of the handshake is sent before the driver has answered.
    #[must_use]
    pub fn handshake(mut self, handshake: Handshake) -> Self {
        self.handshake = handshake;
        self
    }

    /// How the driver reads resize messages; see [`ResizeOrder`].
    #[must_use]
    pub fn resize_order(mut self, order: ResizeOrder) -> Self {
        self.order = order;
        self
    }

    /// Calls `listener` with the number of a port and what happened to it, on the device's thread: it must not wait,
    /// and must not drop the device. Call this before [`Self::handle`].
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(usize, &PortEvent) + Send + Sync + 'static) -> Self {
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => shared.listener = Some(Box::new(listener)),
            None => tracing::warn!("a console's listener was set after a handle was taken; it will hear nothing"),
        }
        self
    }

    /// The host's hold on the device, to be taken before the device goes to its transport.
    pub fn handle(&self) -> ConsoleHandle {
        ConsoleHandle(self.shared.clone())
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let size = self.shared.size();
        let ports = u32::try_from(self.queue_sizes.len() / 2).unwrap_or(u32::MAX);
        let ports = if self.multiport { ports - 1 } else { ports };
        let ([c0, c1], [r0, r1]) = (size.cols.to_le_bytes(), size.rows.to_le_bytes());
        let [p0, p1, p2, p3] = ports.to_le_bytes();
        [c0, c1, r0, r1, p0, p1, p2, p3, 0, 0, 0, 0]
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn name(&self) -> String {
        "console".into()
    }

    fn features(&self) -> u64 {
        F_SIZE | if self.multiport { F_MULTIPORT } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let inputs = self.ports.iter().filter_map(|port| port.input.as_ref()?.fd());
        let outputs = self.ports.iter().filter_map(|port| port.output.as_ref()?.fd());
        inputs.chain(outputs).chain([self.shared.wake.as_fd()]).collect()
    }

    fn tasks(&mut self) -> Vec<Task> {
        let queues = u16::try_from(self.queue_sizes.len()).unwrap_or(u16::MAX);
        let ports = std::mem::take(&mut self.ports);
        vec![Task::new(0..queues, ConsoleWorker::new(ports, self.handshake, self.order, self.shared.clone()))]
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("ports", &self.ports)
            .field("multiport", &self.multiport)
            .finish_non_exhaustive()
    }
}
