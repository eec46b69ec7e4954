//! The guest's end of the control channel.

use crate::protocol::{Decoder, Header, MAX_DETAIL, MAX_TO_GUEST, ToGuest, ToHost};
use crate::sys::{self, Fd, Region, Result, Wait};
use crate::text::Text;

/// A frame to the host is never longer than this.
const LONGEST: usize = Header::SIZE + 8 + MAX_DETAIL;

/// The channel: opened once, known to PID 1 alone.
#[derive(Debug)]
pub(crate) struct Channel {
    port: Port,
    decoder: Decoder<Region>,
    arrived: [u8; 4096],
}

/// The way to the host.
#[derive(Debug)]
pub(crate) struct Port(Fd);

/// Whether the conversation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alive {
    Yes,
    /// The host has hung up.
    HungUp,
    /// The host does not speak the protocol.
    Malformed,
}

/// A frame to the host as bytes.
pub(crate) type Encoded = Text<LONGEST>;

impl Channel {
    pub(crate) fn new(port: Fd) -> Result<Self> {
        let store = Region::new(MAX_TO_GUEST as usize)?;
        Ok(Self { port: Port(port), decoder: Decoder::new(MAX_TO_GUEST, store), arrived: [0; 4096] })
    }

    pub(crate) const fn port(&self) -> &Port {
        &self.port
    }

    pub(crate) fn wait(&self) -> Wait {
        Wait::new(&self.port.0, sys::IN)
    }

    /// Takes what the host has sent, waiting for it if there is nothing, and calls `each` with every whole frame and
    /// the way to answer it.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(&ToGuest<'_>, &Port)) -> Alive {
        let count = match sys::read(&self.port.0, &mut self.arrived) {
            Ok(count @ 1..) => count,
            Ok(0) | Err(_) => return Alive::HungUp,
        };
        let mut arrived = self.arrived.get(..count).unwrap_or_default();
        loop {
            match self.decoder.next(&mut arrived) {
                Ok(None) => return Alive::Yes,
                Ok(Some(frame)) => match ToGuest::decode(&frame) {
                    Ok(Some(frame)) => each(&frame, &self.port),
                    Ok(None) => {}
                    Err(_) => return Alive::Malformed,
                },
                Err(_) => return Alive::Malformed,
            }
        }
    }
}

impl Port {
    /// Sends a frame. When this returns, the host has taken it.
    pub(crate) fn send(&self, frame: &ToHost<'_>) -> Result<()> {
        self.forward(&encode(frame))
    }

    /// Sends a frame that was encoded elsewhere.
    pub(crate) fn forward(&self, frame: &Encoded) -> Result<()> {
        sys::write_all(&self.0, frame.bytes())
    }
}

/// A frame as bytes.
pub(crate) fn encode(frame: &ToHost<'_>) -> Encoded {
    let mut bytes = Text::new();
    frame.encode(&mut bytes);
    bytes
}
