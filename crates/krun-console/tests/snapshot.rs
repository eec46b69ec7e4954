//! What a snapshot carries: sessions, half-written chains, text that nobody has read yet.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]

mod guest;

use guest::{Guest, pattern};
use krun_console::{Console, Port};
use krun_virtio::testing::{MockDriver, Request};
use krun_virtio::{Hosted, Inline, MmioTransport};
use proptest::prelude::*;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The same ports, before and after.
fn console(text: OwnedFd, stdin: OwnedFd, stdout: OwnedFd) -> Console {
    Console::new(vec![
        Port::console().output_fd(text).unwrap().size(90, 30),
        Port::named("stdin").input_fd(stdin).unwrap(),
        Port::named("stdout").output_fd(stdout).unwrap(),
    ])
    .unwrap()
}

#[test]
fn a_console_goes_on_elsewhere() {
    let ((mut text, text_ours), (stdin_ours, mut stdin), (mut stdout, stdout_ours)) =
        (io::pipe().unwrap(), io::pipe().unwrap(), io::pipe().unwrap());
    let again = console(
        text_ours.try_clone().unwrap().into(),
        stdin_ours.try_clone().unwrap().into(),
        stdout_ours.try_clone().unwrap().into(),
    );
    let before = console(text_ours.into(), stdin_ours.into(), stdout_ours.into());
    let handle = before.handle();
    let mut guest = Guest::new(before);
    handle.resize(0, 120, 50).unwrap();
    guest.open(1);
    // Text beyond what its pipe takes, and a chain of the other port of which a part has gone.
    let (words, bytes) = (pattern(90_000, 1), pattern(100_000, 2));
    words.chunks(9000).for_each(|piece| guest.write(0, piece));
    assert_eq!(guest.taken(0), 10, "a console's chains come back at once");
    guest.write(2, &bytes);
    assert_eq!(guest.taken(2), 0);

    guest.driver.transport().pause();
    let state = guest.driver.transport().save().unwrap();
    let inline = Inline::new();
    let transport = MmioTransport::new(Box::new(again), Arc::new(inline.clone()), guest.driver.ram().clone()).unwrap();
    transport.pause();
    transport.restore(&state).unwrap();
    transport.resume().unwrap();

    // The guest has noticed nothing: it reads what it opened before, and its output arrives whole.
    let mut config = [0; 4];
    transport.read(0x100, &mut config);
    assert_eq!(config, [120, 0, 50, 0]);
    let mut arrived = (vec![0; words.len()], vec![0; bytes.len()]);
    stdin.write_all(b"input").unwrap();
    let reader = std::thread::scope(|scope| {
        let (first, second) = (&mut arrived.0, &mut arrived.1);
        let reader = scope.spawn(|| {
            text.read_exact(first).unwrap();
            stdout.read_exact(second).unwrap();
        });
        while !reader.is_finished() {
            inline.turn();
        }
        reader.join()
    });
    reader.unwrap();
    assert!(arrived.0 == words && arrived.1 == bytes);
    assert_eq!(guest.take(1), b"input");
    assert_eq!(guest.taken(2), 1);
}

/// The worker's own part of a running console's state.
fn saved() -> Vec<u8> {
    let ports = vec![Port::console(), Port::named("a").pipe().unwrap().0];
    let guest = Guest::new(Console::new(ports).unwrap());
    guest.driver.transport().pause();
    guest.driver.transport().with_hosted(Hosted::save).unwrap().remove(0)
}

fn restore(state: &[u8]) -> bool {
    let ports = vec![Port::console(), Port::named("a").pipe().unwrap().0];
    let driver = MockDriver::builder(Console::new(ports).unwrap()).build();
    let restored = driver.transport().with_hosted(|hosted| hosted.restore(&[state.to_vec()])).is_ok();
    // Whatever it was: the device works.
    let mut driver = driver;
    driver.initialise();
    driver.post(1, &Request::new().readable(b"text"));
    driver.kick(1);
    driver.turn();
    assert_eq!(driver.wait(1).len, 0);
    restored
}

#[test]
fn state_of_other_consoles_is_refused() {
    let good = saved();
    assert!(restore(&good));
    assert!(!restore(&[]));
    assert!(!restore(&good[..good.len() - 1]));
    assert!(!restore(&[good.as_slice(), &[0]].concat()));
    let other = Guest::new(Console::new(vec![Port::console()]).unwrap());
    other.driver.transport().pause();
    let state = other.driver.transport().with_hosted(Hosted::save).unwrap().remove(0);
    assert!(!restore(&state));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_state_does_no_harm(flips in prop::collection::vec((0usize..100, any::<u8>()), 1..6)) {
        let mut state = saved();
        for (at, value) in flips {
            let at = at % state.len();
            state[at] ^= value;
        }
        restore(&state);
    }
}
