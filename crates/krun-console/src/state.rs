//! The session state of a snapshot.
//!
//! Little-endian, no padding: version, driver ready, number of ports; then per port what its driver knows, is owed, the
//! host's side, the size, the bytes taken of the next chain, and the text that the host has not taken yet.

use crate::control::Size;
use crate::protocol::{HostSide, Known, Owed};
use crate::worker::ConsoleWorker;
use krun_virtio::Source;
use std::io;

const VERSION: u8 = 1;

pub(crate) fn save(worker: &ConsoleWorker) -> Vec<u8> {
    let (ready, session) = worker.protocol.session();
    let count = u32::try_from(worker.ports.len()).unwrap_or(u32::MAX);
    let mut bytes = vec![VERSION, ready.into()];
    bytes.extend(count.to_le_bytes());
    for ((known, owed, host, size), port) in session.zip(&worker.ports) {
        let host = match host {
            HostSide::Open => 0,
            HostSide::Closed => 1,
            HostSide::Removed => 2,
        };
        let (offset, backlog) = port.transmit.save();
        bytes.extend([known.bits(), owed.bits(), host]);
        bytes.extend(size.cols.to_le_bytes());
        bytes.extend(size.rows.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend((backlog.len() as u64).to_le_bytes());
        bytes.extend(backlog);
    }
    bytes
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    from.read(&mut bytes).ok()?;
    Some(bytes)
}

fn take_len(from: &mut &[u8]) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(take(from)?)).ok()
}

/// One port's part.
struct PortState<'a> {
    known: Known,
    owed: Owed,
    host: HostSide,
    size: Size,
    offset: usize,
    backlog: &'a [u8],
}

fn take_port<'a>(from: &mut &'a [u8]) -> Option<PortState<'a>> {
    let [known, owed, host] = take(from)?;
    let host = match host {
        0 => HostSide::Open,
        1 => HostSide::Closed,
        2 => HostSide::Removed,
        _ => return None,
    };
    let size = Size { cols: u16::from_le_bytes(take(from)?), rows: u16::from_le_bytes(take(from)?) };
    let offset = take_len(from)?;
    let len = take_len(from)?;
    let (backlog, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(PortState { known: Known::from_bits(known)?, owed: Owed::from_bits(owed)?, host, size, offset, backlog })
}

fn parse(mut bytes: &[u8], count: usize) -> Option<(bool, Vec<PortState<'_>>)> {
    let [version, ready] = take(&mut bytes)?;
    if version != VERSION || ready > 1 || u32::from_le_bytes(take(&mut bytes)?) != u32::try_from(count).ok()? {
        return None;
    }
    let ports = (0..count).map(|_| take_port(&mut bytes)).collect::<Option<_>>()?;
    bytes.is_empty().then_some((ready == 1, ports))
}

/// Takes over `state`, whole or not at all.
pub(crate) fn restore(worker: &mut ConsoleWorker, state: &[u8]) -> io::Result<()> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not the saved state of a console with these ports");
    let (ready, states) = parse(state, worker.ports.len()).ok_or_else(invalid)?;
    worker.protocol.restore_ready(ready);
    for (at, (port, state)) in worker.ports.iter_mut().zip(states).enumerate() {
        worker.protocol.restore(at, state.known, state.owed, state.host, state.size);
        port.transmit.restore(state.offset, state.backlog);
    }
    worker.restored();
    Ok(())
}
