//! Ends of ports that are objects of the program.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]

mod guest;
#[path = "guest/terminal.rs"]
mod terminal;

use guest::{Guest, pattern};
use krun_console::{Console, Error, Input, Output, Port, Side};
use krun_virtio::{Sink, Source};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use terminal::terminal;

/// Gives its bytes a few at a time. It has no descriptor, so it is always ready.
struct Giver(Vec<u8>);

impl Input for Giver {
    fn read(&mut self, into: &mut dyn Sink) -> io::Result<usize> {
        let count = self.0.len().min(into.remaining()).min(10_000);
        let piece: Vec<u8> = self.0.drain(..count).collect();
        into.write(&piece).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(count)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Keeps what it is given, a few bytes at a time.
#[derive(Clone, Default)]
struct Taker(Arc<Mutex<Vec<u8>>>);

impl Output for Taker {
    fn write(&mut self, from: &mut dyn Source) -> io::Result<usize> {
        let mut piece = vec![0; from.remaining().min(777)];
        from.read(&mut piece).map_err(|_| io::ErrorKind::InvalidData)?;
        self.0.lock().unwrap().extend(&piece);
        Ok(piece.len())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Says that it is not ready, without a way to find out when it is.
struct Useless;

impl Input for Useless {
    fn read(&mut self, _into: &mut dyn Sink) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Output for Useless {
    fn write(&mut self, _from: &mut dyn Source) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[test]
fn objects_without_descriptors() {
    let (data, taker) = (pattern(3_000_000, 4), Taker::default());
    let console = Console::new(vec![
        Port::console().output(taker.clone()),
        Port::named("both").input(Giver(data.clone())).output(taker.clone()),
    ]);
    let mut guest = Guest::new(console.unwrap());
    guest.write(0, b"text");
    guest.open(1);
    let mut got = Vec::new();
    while got.len() < data.len() {
        let new = guest.read(1);
        assert!(!new.is_empty());
        got.extend(new);
    }
    assert!(got == data);
    guest.write(1, &data[..20_000]);
    assert_eq!(guest.taken(1), 1);
    let taken = taker.0.lock().unwrap();
    assert!(taken[..4] == *b"text" && taken[4..] == data[..20_000]);
}

#[test]
fn ends_that_could_never_go_on_are_given_up() {
    let console = Console::new(vec![Port::console(), Port::named("x").input(Useless).output(Useless)]).unwrap();
    let handle = console.handle();
    let mut guest = Guest::new(console);
    guest.open(1);
    guest.write(1, b"data");
    assert_eq!(guest.taken(1), 1);
    let status = handle.status(1).unwrap();
    assert!(matches!((status.input, status.output), (Side::Failed(_), Side::Failed(_))));
    assert_eq!(status.lost, 4);
}

/// Panics the first time it is called.
struct Buggy {
    called: bool,
    inner: Taker,
}

impl Buggy {
    fn call(&mut self) {
        assert!(std::mem::replace(&mut self.called, true), "a bug of the program");
    }
}

impl Output for Buggy {
    fn write(&mut self, from: &mut dyn Source) -> io::Result<usize> {
        self.call();
        self.inner.write(from)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Input for Buggy {
    fn read(&mut self, _into: &mut dyn Sink) -> io::Result<usize> {
        self.call();
        Ok(0)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[test]
fn nobody_waits_for_a_device_that_has_failed() {
    let taker = Taker::default();
    let port = Port::named("out").output(Buggy { called: false, inner: taker });
    let console = Console::new(vec![Port::console(), port]).unwrap();
    let handle = console.handle();
    let mut guest = Guest::threaded(console);
    guest.open(1);
    guest.write(1, b"boom");
    assert!(matches!(handle.flush(Some(Duration::from_secs(10))), Err(Error::Gone)));
    assert!(guest.driver.needs_reset());
    guest.initialise();
    handle.flush(Some(Duration::from_secs(10))).unwrap();
}

#[test]
fn a_panic_in_an_end_leaves_nothing_to_the_next_driver() {
    let taker = Taker::default();
    let console = Console::new(vec![
        Port::console(),
        Port::named("out").output(Buggy { called: false, inner: taker.clone() }),
        Port::named("in").input(Buggy { called: false, inner: Taker::default() }),
    ]);
    let mut guest = Guest::new(console.unwrap());
    guest.open(1);
    guest.write(1, b"of a driver that has gone");
    assert!(guest.driver.needs_reset());
    guest.initialise();
    guest.open(1);
    guest.write(1, b"news");
    assert_eq!(guest.taken(1), 1);
    assert_eq!(*taker.0.lock().unwrap(), b"news");
    guest.open(2);
    guest.driver.turn();
    assert!(guest.driver.needs_reset());
    // The input has ended: every buffer goes back to the queue, and none of the driver's before.
    guest.initialise();
    guest.open(2);
    assert_eq!(guest.read(2), b"");
    assert!(!guest.driver.needs_reset());
}

#[test]
fn one_terminal_is_input_output_and_error() {
    let (mut master, slave) = terminal();
    let again = || slave.try_clone().unwrap();
    let console = Console::new(vec![
        Port::console().input_fd(again()).unwrap().output_fd(again()).unwrap(),
        Port::named("out").output_fd(again()).unwrap(),
        Port::named("error").output_fd(again()).unwrap(),
    ]);
    let mut guest = Guest::new(console.unwrap());
    guest.open(1);
    guest.open(2);
    for (id, word) in [(0, b"con"), (1, b"out"), (2, b"err")] {
        guest.write(id, word);
        let mut got = [0; 3];
        master.read_exact(&mut got).unwrap();
        assert_eq!(&got, word);
    }
    master.write_all(b"key").unwrap();
    // A terminal hands its bytes on in the background.
    let typed = (0..2000).map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        guest.read(0)
    });
    assert_eq!(typed.flatten().take(3).collect::<Vec<_>>(), b"key");
    // The terminal goes away, and the guest lives on.
    drop((master, slave));
    guest.write(1, b"nobody");
    guest.write(0, b"nobody");
    guest.hear();
    assert_eq!((guest.taken(0), guest.taken(1)), (2, 2));
    assert_eq!(guest.removed, [1]);
}
