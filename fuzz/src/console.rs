//! Fuzzes `krun-console`.
#![expect(clippy::expect_used, reason = "a target fails loudly")]

use krun_console::config::Role;
use krun_console::control::{Event, Header};
use krun_console::{Console, ConsoleHandle, Handshake, Input, Output, Port};
use krun_virtio::testing::{Descriptor, MockDriver, Request};
use krun_virtio::{Sink, Source};
use std::io;
use std::os::fd::BorrowedFd;

/// Ports of the device.
const PORTS: usize = 4;
/// Queues of the device.
const QUEUES: u8 = 10;

/// Takes its decisions from the input's bytes; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u64 {
        // Small, or beside the end of memory, or anything.
        match self.byte() % 4 {
            0 => u64::from(self.byte()),
            1 => (1 << 20) - u64::from(self.byte()),
            2 => u64::from(self.short()) << 4,
            _ => u64::from(self.short()) << 48 | u64::from(self.short()),
        }
    }
}

/// Gives `left` bytes, in pieces, then the end or an error.
struct Giver {
    left: usize,
    piece: usize,
    fails: bool,
}

impl Input for Giver {
    fn read(&mut self, into: &mut dyn Sink) -> io::Result<usize> {
        let count = self.left.min(self.piece).min(into.remaining());
        if count == 0 && self.fails {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        into.write(&vec![0x5a; count]).map_err(|_| io::ErrorKind::InvalidData)?;
        self.left -= count;
        Ok(count)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Takes `left` bytes, in pieces, then fails.
struct Taker {
    left: usize,
    piece: usize,
}

impl Output for Taker {
    fn write(&mut self, from: &mut dyn Source) -> io::Result<usize> {
        let count = self.left.min(self.piece).min(from.remaining());
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left -= count;
        from.skip(count).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(count)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn console(bytes: &mut Bytes<'_>) -> Console {
    let mut giver = || Giver {
        left: bytes.short().into(),
        piece: 1 + usize::from(bytes.byte()),
        fails: bytes.byte().is_multiple_of(2),
    };
    let (first, second) = (giver(), giver());
    let mut taker = || Taker { left: bytes.short().into(), piece: 1 + usize::from(bytes.byte()) };
    let ports = vec![
        Port::console().input(first).output(taker()).patience(500, None).remember(100),
        Port::named("in").input(second),
        Port::named("out").output(taker()),
        Port::named("none"),
    ];
    let handshake = if bytes.byte().is_multiple_of(2) { Handshake::Batched } else { Handshake::Stepwise };
    Console::new(ports).expect("the ports are sound").handshake(handshake)
}

/// Posts a request of the input's choosing; what it asks for may make no sense on that queue.
fn post(driver: &mut MockDriver, bytes: &mut Bytes<'_>) {
    let queue = u16::from(bytes.byte() % QUEUES);
    let shape = bytes.byte();
    let mut request = Request::new();
    if shape & 1 != 0 {
        let message = Header {
            id: u32::from(bytes.byte() % 8),
            event: match bytes.byte() % 4 {
                0 => Event::PortReady,
                1 => Event::PortOpen,
                2 => Event::DeviceReady,
                _ => Event::PortAdd,
            },
            value: u16::from(bytes.byte() % 3),
        };
        request = request.readable(message.to_bytes());
    }
    if shape & 2 != 0 {
        request = request.readable(vec![bytes.byte(); usize::from(bytes.byte()) * 8]);
    }
    if shape & 4 != 0 || shape & 3 == 0 {
        request = request.writable(usize::from(bytes.byte()) * 4);
    }
    if shape & 8 != 0 {
        request = request.indirect();
    }
    if shape & 16 != 0 {
        request = request.pieces(1 + usize::from(bytes.byte()));
    }
    if driver.try_post(queue, &request).is_some() && shape & 32 == 0 {
        driver.kick(queue);
    }
}

/// Things that no sane driver does.
fn break_something(driver: &mut MockDriver, bytes: &mut Bytes<'_>) {
    let queue = u16::from(bytes.byte() % QUEUES);
    match bytes.byte() % 3 {
        0 => driver.offer(queue, bytes.short()),
        1 => driver.set_available_index(queue, bytes.short()),
        _ => {
            let (index, len) = (u16::from(bytes.byte() % 32), u32::from(bytes.short()));
            let descriptor =
                Descriptor { address: bytes.long(), len, flags: bytes.byte().into(), next: bytes.byte().into() };
            driver.set_descriptor(queue, index, descriptor);
            driver.offer(queue, index);
        }
    }
    driver.kick(queue);
}

fn host(handle: &ConsoleHandle, bytes: &mut Bytes<'_>) {
    let port = usize::from(bytes.byte()) % (PORTS + 1);
    // A port that does not exist is an error, not an accident.
    let _ = match bytes.byte() % 8 {
        0 => handle.close(port),
        1 => handle.status(port).map(drop),
        2 => handle.tail(port).map(drop),
        _ => handle.resize(port, bytes.short(), bytes.short()),
    };
}

/// After whatever has happened, a driver that behaves finds a device that works.
fn works(driver: &mut MockDriver) {
    driver.initialise();
    for _ in 0..16 {
        driver.post(Role::ControlReceive.queue(), &Request::new().writable(64));
    }
    let ready = Header { id: 0, event: Event::DeviceReady, value: 1 };
    driver.submit(Role::ControlTransmit.queue(), &Request::new().readable(ready.to_bytes()));
    let first = driver.wait(Role::ControlReceive.queue());
    let header = Header::read(&mut first.data.as_slice()).expect("a control message");
    assert_eq!((header.id, header.event), (0, Event::PortAdd));
    driver.submit(Role::Transmit(0).queue(), &Request::new().readable(b"hello"));
    assert!(!driver.needs_reset());
}

/// A driver that does as it likes with every queue of a console.
pub fn device(data: &[u8]) {
    let mut bytes = Bytes(data);
    let console = console(&mut bytes);
    let handle = console.handle();
    let mut driver = MockDriver::builder(console).memory(&[(0, 1 << 20)]).queue_size(32).start();
    for _ in 0..200 {
        if bytes.0.is_empty() {
            break;
        }
        match bytes.byte() % 16 {
            0..=8 => post(&mut driver, &mut bytes),
            9 | 10 => break_something(&mut driver, &mut bytes),
            11 => host(&handle, &mut bytes),
            12 => {
                driver.initialise();
            }
            13 => {
                driver.transport().pause();
                // A paused device can be saved, and takes its own state back.
                let state = driver.transport().save().expect("a paused console can be saved");
                driver.transport().restore(&state).expect("its own state");
                let _ = driver.transport().resume();
            }
            _ => {
                for queue in 0..u16::from(QUEUES) {
                    driver.discard_used(queue);
                }
            }
        }
        driver.turn();
    }
    works(&mut driver);
}
