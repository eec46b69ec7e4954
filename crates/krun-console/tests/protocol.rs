//! The control protocol against a driver that takes every message at its word.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]

use krun_console::control::{Event, Header, Message, ResizeOrder, Size};
use krun_console::protocol::{Change, Handshake, HostSide, Protocol};
use proptest::prelude::*;
use std::collections::BTreeMap;

const PORTS: usize = 4;
/// What the ports are called; the first and the last are consoles.
const NAMES: [Option<&str>; PORTS] = [None, Some("in"), Some("out"), Some("second")];
const CONSOLES: [bool; PORTS] = [true, false, false, true];

fn protocol(handshake: Handshake) -> Protocol {
    let mut protocol = Protocol::new(handshake, ResizeOrder::ColumnsFirst);
    for (name, console) in NAMES.into_iter().zip(CONSOLES) {
        protocol.add_port(name, console, Size::default());
    }
    protocol
}

fn tell(protocol: &mut Protocol, event: Event, id: u32, value: u16) -> Change {
    protocol.receive(&mut Header { id, event, value }.to_bytes().as_slice())
}

/// What a driver knows of a port.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Seen {
    name: Option<String>,
    console: bool,
    size: Size,
    host_open: bool,
}

/// A driver that fails the test when the device breaks the rules of section 5.3.6.2.
#[derive(Debug, Default)]
struct Driver {
    ports: BTreeMap<u32, Seen>,
    removed: Vec<u32>,
}

impl Driver {
    fn take(&mut self, message: Message<'_>) {
        match message {
            Message::Plain(Header { id, event: Event::PortAdd, .. }) => {
                assert!(!self.removed.contains(&id), "a port that was removed came back");
                assert!(usize::try_from(id).unwrap() < PORTS, "a port beyond max_nr_ports");
                assert!(self.ports.insert(id, Seen::default()).is_none(), "a port was added twice");
            }
            Message::Plain(Header { id, event: Event::PortRemove, .. }) => {
                assert!(self.ports.remove(&id).is_some(), "a port was removed that was not there");
                self.removed.push(id);
            }
            Message::Plain(Header { id, event: Event::ConsolePort, value }) => {
                assert_eq!(value, 1);
                self.port(id).console = true;
            }
            Message::Plain(Header { id, event: Event::PortOpen, value }) => self.port(id).host_open = value == 1,
            Message::Name { id, name } => self.port(id).name = Some(name.to_owned()),
            Message::Resize { id, size, .. } => {
                assert!(self.port(id).console, "Linux ignores the size of what it does not know as a console");
                self.port(id).size = size;
            }
            Message::Plain(other) => panic!("not the device's to send: {other:?}"),
        }
    }

    fn port(&mut self, id: u32) -> &mut Seen {
        self.ports.get_mut(&id).expect("a message about a port that was not added")
    }

    /// Takes at most `count` messages; the rest are waiting for buffers.
    fn hear(&mut self, protocol: &mut Protocol, count: usize) -> usize {
        for taken in 0..count {
            let Some(message) = protocol.next_message() else { return taken };
            self.take(message);
            protocol.sent();
        }
        count
    }
}

#[test]
fn the_whole_handshake_is_one_batch() {
    let mut protocol = protocol(Handshake::Batched);
    assert_eq!(protocol.next_message(), None, "nothing before the driver is ready");
    protocol.set_size(0, Size { cols: 80, rows: 25 });
    tell(&mut protocol, Event::DeviceReady, u32::MAX, 1);
    let mut driver = Driver::default();
    assert_eq!(driver.hear(&mut protocol, 100), 4 + 3 + 3 + 4);
    let console = Seen { name: None, console: true, size: Size { cols: 80, rows: 25 }, host_open: true };
    assert_eq!(driver.ports[&0], console);
    assert_eq!(driver.ports[&2], Seen { name: Some("out".into()), host_open: true, ..Seen::default() });
    // The driver's answers are no reason to say anything again.
    for id in 0..4 {
        assert_eq!(tell(&mut protocol, Event::PortReady, id, 1), Change::Port(id as usize));
        assert_eq!(tell(&mut protocol, Event::PortOpen, id, 1), Change::Port(id as usize));
        assert_eq!(tell(&mut protocol, Event::PortOpen, id, 1), Change::Nothing, "said twice");
        assert!(protocol.is_ready(id as usize) && protocol.is_guest_open(id as usize));
    }
    assert_eq!(protocol.next_message(), None);
}

#[test]
fn stepwise_describes_a_port_when_it_is_ready() {
    let mut protocol = protocol(Handshake::Stepwise);
    let mut driver = Driver::default();
    tell(&mut protocol, Event::DeviceReady, 0, 1);
    assert_eq!(driver.hear(&mut protocol, 100), PORTS);
    assert_eq!(driver.ports[&1], Seen::default());
    tell(&mut protocol, Event::PortReady, 1, 1);
    assert_eq!(driver.hear(&mut protocol, 100), 2);
    assert_eq!(driver.ports[&1], Seen { name: Some("in".into()), host_open: true, ..Seen::default() });
    assert_eq!(driver.ports[&2], Seen::default());
}

#[test]
fn a_refused_port_is_left_alone() {
    let mut protocol = protocol(Handshake::Batched);
    let mut driver = Driver::default();
    tell(&mut protocol, Event::DeviceReady, 0, 1);
    driver.hear(&mut protocol, 100);
    tell(&mut protocol, Event::PortOpen, 1, 1);
    assert_eq!(tell(&mut protocol, Event::PortReady, 1, 0), Change::Port(1));
    assert!(!protocol.is_guest_open(1));
    protocol.set_host_side(1, HostSide::Closed);
    assert_eq!(protocol.next_message(), None);
}

#[test]
fn a_driver_that_failed_is_told_nothing() {
    let mut protocol = protocol(Handshake::Batched);
    tell(&mut protocol, Event::DeviceReady, 0, 0);
    assert_eq!(protocol.next_message(), None);
}

#[derive(Debug, Clone)]
enum Step {
    Bytes(Vec<u8>),
    Say(u16, u32, u16),
    Resize(usize, u16, u16),
    Side(usize, HostSide),
    Hear(usize),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let side = prop_oneof![Just(HostSide::Open), Just(HostSide::Closed), Just(HostSide::Removed)];
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..16).prop_map(Step::Bytes),
        6 => (0u16..8, 0u32..6, 0u16..3).prop_map(|(event, id, value)| Step::Say(event, id, value)),
        2 => (0usize..6, 0u16..3, 0u16..3).prop_map(|(at, cols, rows)| Step::Resize(at, cols, rows)),
        2 => (0usize..6, side).prop_map(|(at, side)| Step::Side(at, side)),
        3 => (0usize..8).prop_map(Step::Hear),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(700))]

    /// Whatever is said and done, in whatever order: no rule is broken, nothing piles up, and in the end the driver
    /// knows how things are.
    #[test]
    fn the_driver_ends_up_knowing_the_truth(stepwise: bool, steps in prop::collection::vec(step(), 0..60)) {
        let mut protocol = protocol(if stepwise { Handshake::Stepwise } else { Handshake::Batched });
        let mut driver = Driver::default();
        let mut sides = [HostSide::Open; PORTS];
        let mut sizes = [Size::default(); PORTS];
        let (mut driver_ready, mut refused, mut readied) = (false, [false; PORTS], [false; PORTS]);
        for step in steps {
            match step {
                Step::Bytes(bytes) if bytes.len() < 8 => {
                    prop_assert_eq!(protocol.receive(&mut bytes.as_slice()), Change::Nothing);
                }
                // Longer ones are covered by `Say`, whose effect is known.
                Step::Bytes(_) => {}
                Step::Say(event, id, value) => {
                    let [i0, i1, i2, i3] = id.to_le_bytes();
                    protocol.receive(&mut [i0, i1, i2, i3, event as u8, 0, value as u8, 0].as_slice());
                    let known = driver.ports.contains_key(&id);
                    let alive = known && sides[id as usize] != HostSide::Removed;
                    match event {
                        0 => driver_ready |= value == 1,
                        3 if alive => {
                            refused[id as usize] = value != 1;
                            readied[id as usize] |= value == 1;
                        }
                        _ => {}
                    }
                }
                Step::Resize(at, cols, rows) => {
                    protocol.set_size(at, Size { cols, rows });
                    if at < PORTS && CONSOLES[at] {
                        sizes[at] = Size { cols, rows };
                    }
                }
                Step::Side(at, side) => {
                    protocol.set_host_side(at, side);
                    if at < PORTS && sides[at] != HostSide::Removed {
                        sides[at] = side;
                    }
                }
                Step::Hear(count) => {
                    driver.hear(&mut protocol, count);
                }
                Step::Reset => {
                    // The host's ends are what they are; all but what was removed by a whim of the test.
                    sides = sides.map(|side| if side == HostSide::Removed { HostSide::Open } else { side });
                    protocol.reset(|at| sides[at]);
                    driver = Driver::default();
                    (driver_ready, refused, readied) = (false, [false; PORTS], [false; PORTS]);
                }
            }
        }
        prop_assert!(driver.hear(&mut protocol, 6 * PORTS + 1) <= 6 * PORTS, "debts pile up");
        prop_assert_eq!(protocol.next_message(), None);
        for (at, side) in sides.into_iter().enumerate() {
            let id = at as u32;
            let Some(seen) = driver.ports.get(&id) else {
                prop_assert!(!driver_ready || side == HostSide::Removed, "port {} was never added", at);
                prop_assert!(!protocol.is_guest_open(at) && !protocol.is_ready(at));
                continue;
            };
            prop_assert!(driver_ready);
            prop_assert_ne!(side, HostSide::Removed, "port {} is still there", at);
            // One that was refused, and one whose description waits for its readiness, may be out of date.
            if refused[at] || (stepwise && !readied[at]) {
                continue;
            }
            let truth = Seen {
                name: NAMES[at].map(str::to_owned),
                console: CONSOLES[at],
                size: sizes[at],
                host_open: side == HostSide::Open,
            };
            prop_assert_eq!(seen, &truth, "port {}", at);
        }
    }
}
