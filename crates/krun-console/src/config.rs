//! Numbers of the device: identity, features, queues, configuration space (virtio 1.2, section 5.3).

/// Device type (section 5).
pub const DEVICE_TYPE: u32 = 3;

/// `VIRTIO_CONSOLE_F_SIZE`: the configuration space holds the size of the console.
pub const F_SIZE: u64 = 1 << 0;

/// `VIRTIO_CONSOLE_F_MULTIPORT`: there are several ports and the control queues.
pub const F_MULTIPORT: u64 = 1 << 1;

/// Entries of a receive queue and of the control queues. Linux fills every entry with a page, so this many pages of guest
/// memory are spent per port.
pub const RECEIVE_QUEUE_SIZE: u16 = 32;

/// Entries of a transmit queue. An unused entry costs a guest 16 bytes.
pub const TRANSMIT_QUEUE_SIZE: u16 = 64;

/// The most ports a device has: two queues each, two for control, and queue numbers of 16 bits with room to spare.
pub const MAX_PORTS: usize = 4096;

/// Length of the configuration space: cols, rows, max_nr_ports, emerg_wr.
pub const CONFIG_LEN: usize = 12;

/// What a queue is for (section 5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Bytes of this port towards the guest.
    Receive(usize),
    /// Bytes of this port from the guest.
    Transmit(usize),
    /// Control messages towards the guest.
    ControlReceive,
    /// Control messages from the guest.
    ControlTransmit,
}

impl Role {
    /// The role of a queue.
    pub fn of(queue: u16) -> Self {
        let pair = usize::from(queue / 2);
        match (pair, queue % 2) {
            (0, 0) => Self::Receive(0),
            (0, _) => Self::Transmit(0),
            (1, 0) => Self::ControlReceive,
            (1, _) => Self::ControlTransmit,
            (_, 0) => Self::Receive(pair - 1),
            (_, _) => Self::Transmit(pair - 1),
        }
    }

    /// The queue that has this role.
    ///
    /// Ports from [`MAX_PORTS`] on do not exist; their number saturates at the last queue.
    pub fn queue(self) -> u16 {
        let pair = |port: usize| if port == 0 { 0 } else { u16::try_from(port + 1).unwrap_or(u16::MAX / 2) };
        match self {
            Self::Receive(port) => pair(port) * 2,
            Self::Transmit(port) => pair(port) * 2 + 1,
            Self::ControlReceive => 2,
            Self::ControlTransmit => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_and_roles_are_one_to_one() {
        for queue in 0..1000 {
            assert_eq!(Role::of(queue).queue(), queue);
        }
        assert_eq!(Role::of(0), Role::Receive(0));
        assert_eq!(Role::of(1), Role::Transmit(0));
        assert_eq!(Role::of(2), Role::ControlReceive);
        assert_eq!(Role::of(3), Role::ControlTransmit);
        assert_eq!(Role::of(4), Role::Receive(1));
        assert_eq!(Role::of(5), Role::Transmit(1));
        assert_eq!(Role::Transmit(MAX_PORTS - 1).queue(), 8193);
    }
}
