//! A port as the worker has it: both directions, and what is known of their ends.

use crate::port::Port;
use crate::protocol::HostSide;
use crate::receive::Receiver;
use crate::status::Side;
use crate::transmit::Transmitter;
use std::time::Duration;

/// One port, as the worker sees it.
pub(crate) struct PortIo {
    pub(crate) receive: Receiver,
    pub(crate) transmit: Transmitter,
    /// An output was given.
    pub(crate) had_output: bool,
    pub(crate) console: bool,
    /// The host has closed the port.
    pub(crate) closed: bool,
    pub(crate) patience: Option<Duration>,
    /// A turn ended before its work did.
    pub(crate) more: bool,
    /// The last flush that found the output drained.
    pub(crate) flushed: u64,
    /// What the board says: ready, open, bytes lost.
    pub(crate) told: (bool, bool, u64),
}

impl PortIo {
    pub(crate) fn new(at: usize, port: Port) -> Self {
        let token = u32::try_from(at).unwrap_or(u32::MAX / 4) * 2 + 2;
        let text = port.text();
        Self {
            had_output: port.output.is_some(),
            console: port.console,
            closed: false,
            patience: port.patience,
            more: false,
            flushed: 0,
            told: (false, false, 0),
            receive: Receiver::new(port.input, token),
            transmit: Transmitter::new(port.output, text, token + 1),
        }
    }

    /// What the guest is to be told about the host's side.
    pub(crate) fn host_side(&self) -> HostSide {
        let input = self.receive.is_live();
        let output = self.transmit.is_live();
        match (self.closed, self.console) {
            (true, false) => HostSide::Removed,
            (true, true) => HostSide::Closed,
            // The protocol knows no half-closed port, and a closed one makes writers wait for ever.
            _ if input || output => HostSide::Open,
            _ if self.receive.has_ended() => HostSide::Closed,
            // A writer gets an error; waiting for a reader that does not come would be worse.
            (_, false) if self.had_output => HostSide::Removed,
            // Output that is thrown away, because there is no better place or because the console outlives its reader.
            _ => HostSide::Open,
        }
    }

    pub(crate) fn input_side(&self) -> Side {
        match self.receive.failure() {
            Some(error) => Side::Failed(error.clone()),
            None if self.receive.is_live() => Side::Open,
            None if self.receive.has_ended() => Side::Ended,
            None => Side::Absent,
        }
    }

    pub(crate) fn output_side(&self) -> Side {
        match self.transmit.failure() {
            Some(error) => Side::Failed(error.clone()),
            None if self.transmit.is_live() => Side::Open,
            None if self.had_output => Side::Ended,
            None => Side::Absent,
        }
    }
}
