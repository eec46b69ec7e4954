//! Control messages (virtio 1.2, section 5.3.6.2): eight bytes, sometimes followed by a payload.

use krun_virtio::{Short, Sink, Source};

/// Bytes of a control message without its payload.
pub const HEADER_LEN: usize = 8;

/// The largest port name the device sends, in bytes. Linux receives control messages in buffers of one page.
pub const MAX_NAME_LEN: usize = 255;

/// What a control message is about (`event` of `struct virtio_console_control`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Event {
    /// Driver: control messages may be sent now (value 1), or the driver failed (value 0).
    DeviceReady = 0,
    /// Device: there is a port of this number.
    PortAdd = 1,
    /// Device: the port is gone.
    PortRemove = 2,
    /// Driver: the port can be used (value 1), or could not be set up (value 0).
    PortReady = 3,
    /// Device: use the port as a text console.
    ConsolePort = 4,
    /// Device: the console has a new size.
    Resize = 5,
    /// Both: this side of the port is open (value 1) or closed (value 0).
    PortOpen = 6,
    /// Device: the name of the port.
    PortName = 7,
}

impl Event {
    fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            0 => Self::DeviceReady,
            1 => Self::PortAdd,
            2 => Self::PortRemove,
            3 => Self::PortReady,
            4 => Self::ConsolePort,
            5 => Self::Resize,
            6 => Self::PortOpen,
            7 => Self::PortName,
            _ => return None,
        })
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::DeviceReady => 0,
            Self::PortAdd => 1,
            Self::PortRemove => 2,
            Self::PortReady => 3,
            Self::ConsolePort => 4,
            Self::Resize => 5,
            Self::PortOpen => 6,
            Self::PortName => 7,
        }
    }
}

/// The fixed part of a control message (`struct virtio_console_control`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Port number.
    pub id: u32,
    /// Kind of message.
    pub event: Event,
    /// Extra information; its meaning depends on the event.
    pub value: u16,
}

impl Header {
    /// Reads a header; `None` where the bytes are too few or the event is unknown. What follows is left unread.
    pub fn read(from: &mut dyn Source) -> Option<Self> {
        let mut bytes = [0; HEADER_LEN];
        from.read(&mut bytes).ok()?;
        let [i0, i1, i2, i3, e0, e1, v0, v1] = bytes;
        let event = Event::from_wire(u16::from_le_bytes([e0, e1]))?;
        Some(Self { id: u32::from_le_bytes([i0, i1, i2, i3]), event, value: u16::from_le_bytes([v0, v1]) })
    }

    /// The header as it travels.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [i0, i1, i2, i3] = self.id.to_le_bytes();
        let [e0, e1] = self.event.to_wire().to_le_bytes();
        let [v0, v1] = self.value.to_le_bytes();
        [i0, i1, i2, i3, e0, e1, v0, v1]
    }
}

/// The size of a text console in characters. Zero means unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Size {
    /// Characters in a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

/// How the two numbers of a resize message are ordered.
///
/// The specification puts columns first. Linux read rows first from 2010 on, followed the specification for some
/// releases of 2025, and then went back; the long-term kernels 6.12 took the first change only (6.12.65 and 6.12.113
/// read columns first). Only the one who chooses the kernel can know. The size in the configuration space, which
/// drivers without multiport read, was never in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum ResizeOrder {
    /// Columns, then rows, as the specification says.
    #[default]
    ColumnsFirst,
    /// Rows, then columns, as most Linux kernels read it.
    RowsFirst,
}

/// A message from the device to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// One that is a header only.
    Plain(Header),
    /// The name of port `id`.
    Name {
        /// Port number.
        id: u32,
        /// The name, without a terminating NUL.
        name: &'a str,
    },
    /// The size of console port `id`.
    Resize {
        /// Port number.
        id: u32,
        /// The new size.
        size: Size,
        /// The order that the driver expects.
        order: ResizeOrder,
    },
}

impl Message<'_> {
    /// Writes the message. A name that does not fit is cut at a character; anything else fits whole or not at all.
    ///
    /// # Errors
    /// [`Short`] if the buffer cannot take the message; nothing has been written then.
    pub fn write(&self, to: &mut dyn Sink) -> Result<(), Short> {
        match *self {
            Self::Plain(header) => to.write(&header.to_bytes()),
            Self::Name { id, name } => {
                let room = to.remaining().checked_sub(HEADER_LEN).ok_or(Short)?;
                let end = (0..=room.min(name.len())).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
                // Never worth an empty name: the next buffer may be larger.
                if end == 0 && !name.is_empty() {
                    return Err(Short);
                }
                to.write(&Header { id, event: Event::PortName, value: 1 }.to_bytes())?;
                to.write(name.as_bytes().get(..end).unwrap_or_default())
            }
            Self::Resize { id, size, order } => {
                let (first, second) = match order {
                    ResizeOrder::ColumnsFirst => (size.cols, size.rows),
                    ResizeOrder::RowsFirst => (size.rows, size.cols),
                };
                let [h0, h1, h2, h3, h4, h5, h6, h7] = Header { id, event: Event::Resize, value: 0 }.to_bytes();
                let ([a0, a1], [b0, b1]) = (first.to_le_bytes(), second.to_le_bytes());
                to.write(&[h0, h1, h2, h3, h4, h5, h6, h7, a0, a1, b0, b1])
            }
        }
    }
}
