//! Ports as a guest sees them: names, opening and closing, bytes, sizes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]

mod guest;

use guest::{Guest, GuestPort, PAGE, pattern};
use krun_console::config::{F_MULTIPORT, F_SIZE, Role};
use krun_console::control::Event;
use krun_console::{Console, Error, Handshake, Port, PortEvent, ResizeOrder};
use krun_virtio::mmio::registers::F_EVENT_IDX;
use krun_virtio::testing::{MockDriver, Request};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A console with the ports of a command's standard streams and the host's ends of them.
struct Streams {
    console: Console,
    text: UnixStream,
    stdin: io::PipeWriter,
    stdout: io::PipeReader,
}

fn streams() -> Streams {
    let (text_port, text) = Port::console().pipe().unwrap();
    let ((stdin_ours, stdin), (stdout, stdout_ours)) = (io::pipe().unwrap(), io::pipe().unwrap());
    let console = Console::new(vec![
        text_port,
        Port::named("stdin").input_fd(stdin_ours).unwrap(),
        Port::named("stdout").output_fd(stdout_ours).unwrap(),
    ])
    .unwrap();
    text.set_nonblocking(true).unwrap();
    Streams { console, text, stdin, stdout }
}

fn read_now(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    match from.read(&mut bytes) {
        Ok(count) => bytes.truncate(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => bytes.clear(),
        Err(error) => panic!("{error}"),
    }
    bytes
}

#[test]
fn a_guest_finds_its_ports() {
    let streams = streams();
    let handle = streams.console.handle();
    let guest = Guest::new(streams.console);
    let console = GuestPort { console: true, host_open: true, ..GuestPort::default() };
    let named = |name: &str| GuestPort { name: Some(name.into()), host_open: true, ..GuestPort::default() };
    assert_eq!(guest.ports[&0], console);
    assert_eq!(guest.ports[&1], named("stdin"));
    assert_eq!(guest.ports[&2], named("stdout"));
    assert_eq!(guest.driver.config::<4>(4), [3, 0, 0, 0], "max_nr_ports");
    assert_eq!(guest.driver.features() & 0xff, F_SIZE | F_MULTIPORT);
    assert!(handle.status(0).unwrap().guest_open);
    assert!(handle.status(1).unwrap().ready && !handle.status(1).unwrap().guest_open);
}

#[test]
fn the_handshake_costs_few_interrupts() {
    let streams = streams();
    let mut guest = Guest::boot(MockDriver::builder(streams.console).without(F_EVENT_IDX));
    // Three ports, nine messages.
    assert_eq!(guest.driver.interrupts(), 1);
}

#[test]
fn a_careful_handshake_comes_to_the_same() {
    let streams = streams();
    let guest = Guest::new(streams.console.handshake(Handshake::Stepwise));
    assert_eq!(guest.port("stdin"), 1);
    assert_eq!(guest.port("stdout"), 2);
    assert!(guest.ports[&0].console && guest.ports.values().all(|port| port.host_open));
}

#[test]
fn bytes_go_both_ways() {
    let mut streams = streams();
    let mut guest = Guest::new(streams.console);
    guest.write(0, b"login: ");
    assert_eq!(read_now(&mut streams.text), b"login: ");
    streams.text.write_all(b"root\n").unwrap();
    assert_eq!(guest.read(0), b"root\n");
    let stdout = guest.port("stdout");
    guest.open(stdout);
    guest.write(stdout, b"out");
    assert_eq!(read_now(&mut streams.stdout), b"out");
    assert_eq!(guest.taken(stdout), 1);
    assert_eq!(guest.taken(0), 1);
}

#[test]
fn input_waits_for_the_guest_to_open_the_port() {
    let mut streams = streams();
    let mut guest = Guest::new(streams.console);
    let stdin = guest.port("stdin");
    streams.stdin.write_all(b"early").unwrap();
    assert_eq!(guest.read(stdin), b"", "Linux throws away what comes before somebody opens the port");
    guest.open(stdin);
    assert_eq!(guest.read(stdin), b"early");
    guest.close(stdin);
    streams.stdin.write_all(b"between").unwrap();
    assert_eq!(guest.read(stdin), b"");
    guest.open(stdin);
    assert_eq!(guest.read(stdin), b"between");
}

#[test]
fn the_end_of_input_comes_after_all_of_it() {
    let mut streams = streams();
    let handle = streams.console.handle();
    let mut guest = Guest::new(streams.console);
    let stdin = guest.port("stdin");
    let data = pattern(40_000, 1);
    streams.stdin.write_all(&data).unwrap();
    drop(streams.stdin);
    guest.open(stdin);
    let mut got = guest.take(stdin);
    guest.hear();
    assert_eq!(got.len(), data.len());
    assert!(!guest.ports[&stdin].host_open, "the end was told, after the bytes");
    got.extend(guest.read(stdin));
    assert_eq!(got, data);
    assert!(matches!(handle.status(stdin).unwrap().input, krun_console::Side::Ended));
    // For whoever opens the port next, it is still at its end.
    guest.close(stdin);
    guest.open(stdin);
    assert_eq!(guest.read(stdin), b"");
}

#[test]
fn the_end_is_not_told_while_bytes_wait() {
    let (ours, mut theirs) = io::pipe().unwrap();
    let port = Port::named("in").input_fd(ours).unwrap();
    let mut guest = Guest::new(Console::new(vec![Port::console(), port]).unwrap());
    let room = guest.driver.ring(Role::Receive(1).queue()).size as usize * PAGE;
    guest.open(1);
    theirs.write_all(&pattern(60_000, 2)).unwrap();
    let mut got = guest.take(1);
    // No buffers are given back until there are none left.
    while got.len() < room {
        theirs.write_all(&pattern(PAGE, 3)).unwrap();
        let new = guest.take(1);
        if new.is_empty() {
            break;
        }
        got.extend(new);
    }
    drop(theirs);
    guest.driver.turn();
    guest.hear();
    assert!(guest.ports[&1].host_open, "a page still waits");
    assert_eq!(guest.read(1), b"");
    assert_eq!(guest.read(1), pattern(PAGE, 3));
    guest.hear();
    assert!(!guest.ports[&1].host_open);
}

#[test]
fn a_plain_console_needs_no_control_queues() {
    let (port, mut text) = Port::console().size(80, 25).pipe().unwrap();
    let console = Console::new(vec![port]).unwrap();
    let handle = console.handle();
    let mut guest = Guest::new(console);
    assert_eq!(guest.driver.features() & 0xff, F_SIZE);
    assert_eq!(guest.driver.config::<8>(0), [80, 0, 25, 0, 1, 0, 0, 0]);
    guest.write(0, b"hello");
    text.set_nonblocking(true).unwrap();
    assert_eq!(read_now(&mut text), b"hello");
    text.write_all(b"hi").unwrap();
    assert_eq!(guest.read(0), b"hi");
    // A new size comes by way of the configuration space.
    guest.driver.acknowledge();
    handle.resize(0, 132, 43).unwrap();
    guest.driver.turn();
    assert_eq!(guest.driver.acknowledge() & 2, 2, "a configuration interrupt");
    assert_eq!(guest.driver.config::<4>(0), [132, 0, 43, 0]);
}

#[test]
fn several_consoles_with_names() {
    let ((first, mut a), (second, mut b)) = (Port::console().pipe().unwrap(), Port::console().pipe().unwrap());
    let mut guest = Guest::new(Console::new(vec![first.name("main"), second.name("log").size(40, 10)]).unwrap());
    assert!(guest.ports[&guest.port("main")].console && guest.ports[&guest.port("log")].console);
    assert_eq!(guest.ports[&1].size, Some((40, 10)));
    guest.write(0, b"one");
    guest.write(1, b"two");
    assert_eq!((read_now(&mut a), read_now(&mut b)), (b"one".to_vec(), b"two".to_vec()));
}

#[test]
fn a_driver_without_multiport_has_the_first_port() {
    let mut streams = streams();
    let mut guest = Guest::boot(MockDriver::builder(streams.console).without(F_MULTIPORT));
    guest.write(0, b"one port");
    assert_eq!(read_now(&mut streams.text), b"one port");
    streams.text.write_all(b"is enough").unwrap();
    assert_eq!(guest.read(0), b"is enough");
    // Nobody has opened the others.
    streams.stdin.write_all(b"x").unwrap();
    guest.driver.turn();
    assert_eq!(guest.take(1), b"");
}

#[test]
fn sizes_are_told() {
    for (order, expected) in [(ResizeOrder::ColumnsFirst, (100, 30)), (ResizeOrder::RowsFirst, (30, 100))] {
        let console = Console::new(vec![Port::console().size(100, 30), Port::named("other")]).unwrap();
        let console = console.resize_order(order);
        let handle = console.handle();
        let mut guest = Guest::new(console);
        assert_eq!(guest.ports[&0].size, Some(expected));
        handle.resize(0, 7, 7).unwrap();
        handle.resize(1, 9, 9).unwrap();
        guest.driver.turn();
        assert_eq!(guest.hear(), 1);
        assert_eq!(guest.ports[&0].size, Some((7, 7)));
        assert_eq!(guest.driver.config::<4>(0), [7, 0, 7, 0]);
    }
}

#[test]
fn a_port_without_ends_takes_everything() {
    let mut guest = Guest::new(Console::new(vec![Port::console(), Port::named("sink")]).unwrap());
    for id in [0, 1] {
        for _ in 0..100 {
            guest.write(id, &pattern(10_000, 5));
            assert_eq!(guest.taken(id), 1);
        }
        assert!(guest.ports[&id].host_open);
    }
}

#[test]
fn a_broken_pipe_takes_an_output_port_away() {
    let streams = streams();
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let console = streams.console.on_event(move |port, event| seen.lock().unwrap().push(format!("{port} {event:?}")));
    let handle = console.handle();
    let mut guest = Guest::new(console);
    let stdout = guest.port("stdout");
    guest.open(stdout);
    drop(streams.stdout);
    guest.write(stdout, &pattern(3 * PAGE, 1));
    guest.hear();
    assert_eq!(guest.removed, [stdout], "writers get ENODEV; with PORT_OPEN 0 they would wait for ever");
    assert_eq!(guest.taken(stdout), 1, "the chain came back");
    let status = handle.status(stdout).unwrap();
    assert_eq!(status.output.error().unwrap().kind(), ErrorKind::BrokenPipe);
    assert_eq!(status.lost, 3 * PAGE as u64);
    assert!(!status.guest_open);
    // What the guest had queued meanwhile keeps nobody waiting either.
    guest.write(stdout, b"more");
    assert_eq!(guest.taken(stdout), 1);
    let flush = std::thread::scope(|scope| {
        let flush = scope.spawn(|| handle.flush(Some(Duration::from_secs(5))));
        while !flush.is_finished() {
            guest.driver.turn();
        }
        flush.join().unwrap()
    });
    flush.unwrap();
    let events = events.lock().unwrap();
    assert!(events.iter().any(|event| event.starts_with("2 OutputFailed")), "{events:?}");
    assert!(events.contains(&"0 GuestOpened".into()) && events.contains(&"2 GuestClosed".into()), "{events:?}");
}

#[test]
fn a_broken_pipe_does_not_end_a_console() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let console = Console::new(vec![Port::console().output_fd(writer).unwrap().remember(8), Port::named("x")]).unwrap();
    let handle = console.handle();
    let mut guest = Guest::new(console);
    for _ in 0..50 {
        guest.write(0, b"kernel message\n");
        assert_eq!(guest.taken(0), 1);
    }
    guest.hear();
    assert!(guest.ports[&0].host_open);
    assert_eq!(handle.status(0).unwrap().output.error().unwrap().kind(), ErrorKind::BrokenPipe);
    assert_eq!(handle.status(0).unwrap().lost, 50 * 15);
    assert_eq!(handle.tail(0).unwrap(), b"message\n");
}

#[test]
fn a_full_disk_is_reported() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let console = Console::new(vec![Port::console(), Port::named("out").output_fd(full).unwrap()]).unwrap();
    let handle = console.handle();
    let mut guest = Guest::new(console);
    guest.open(1);
    guest.write(1, b"data");
    guest.hear();
    assert_eq!(guest.removed, [1]);
    assert_eq!(handle.status(1).unwrap().output.error().unwrap().raw_os_error(), Some(28), "ENOSPC");
}

#[test]
fn both_ends_of_a_socket_go_together() {
    let (port, theirs) = Port::named("control").pipe().unwrap();
    let console = Console::new(vec![Port::console(), port]).unwrap();
    let handle = console.handle();
    let mut guest = Guest::new(console);
    guest.open(1);
    (&theirs).write_all(b"last words").unwrap();
    drop(theirs);
    assert_eq!(guest.read(1), b"last words");
    guest.hear();
    assert!(!guest.ports[&1].host_open, "readers get the end of file");
    guest.write(1, b"nobody");
    assert_eq!(guest.taken(1), 1);
    assert_eq!(handle.status(1).unwrap().output.error().unwrap().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn output_that_waits_for_a_socket_goes_with_its_peer() {
    let (port, theirs) = Port::named("control").pipe().unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let console = Console::new(vec![Port::console(), port]).unwrap().on_event(move |at, event| match event {
        PortEvent::InputEnded(_) => log.lock().unwrap().push((at, "input ended")),
        PortEvent::OutputFailed(_) => log.lock().unwrap().push((at, "output failed")),
        _ => {}
    });
    let handle = console.handle();
    let mut guest = Guest::new(console);
    guest.open(1);
    while guest.try_send(1, &Request::new().readable(pattern(30_000, 7))) {
        guest.driver.turn();
    }
    guest.taken(1);
    let waiting = guest.driver.ring(Role::Transmit(1).queue()).outstanding();
    assert!(waiting > 0, "the socket is full");
    let flush = move || handle.flush(Some(Duration::from_secs(10))).map(|()| handle);
    let flush = std::thread::Builder::new().spawn(flush).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    guest.driver.turn();
    // The kick is first in the event loop's list, so the end of the input is met before that of the output.
    guest.driver.kick(Role::Receive(1).queue());
    drop(theirs);
    while !flush.is_finished() {
        guest.driver.turn();
        std::thread::sleep(Duration::from_millis(1));
    }
    let handle = flush.join().unwrap().unwrap();
    assert_eq!(guest.taken(1), waiting, "nobody's writer is kept");
    assert!(handle.status(1).unwrap().lost > 0);
    assert_eq!(*events.lock().unwrap(), [(1, "input ended"), (1, "output failed")]);
}

#[test]
fn a_half_closed_socket_still_takes_output() {
    let (port, mut theirs) = Port::named("control").pipe().unwrap();
    let mut guest = Guest::new(Console::new(vec![Port::console(), port]).unwrap());
    guest.open(1);
    theirs.write_all(b"request").unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.read(1), b"request");
    guest.hear();
    assert!(guest.ports[&1].host_open, "closed, the guest's writer would wait for ever");
    guest.write(1, b"answer");
    theirs.set_nonblocking(true).unwrap();
    assert_eq!(read_now(&mut theirs), b"answer");
}

#[test]
fn the_host_may_close_a_port() {
    let mut streams = streams();
    let handle = streams.console.handle();
    let mut guest = Guest::new(streams.console);
    let (stdin, stdout) = (guest.port("stdin"), guest.port("stdout"));
    guest.open(stdin);
    guest.open(stdout);
    guest.write(stdout, b"all of it");
    handle.close(stdout).unwrap();
    handle.close(stdin).unwrap();
    handle.close(0).unwrap();
    guest.driver.turn();
    guest.hear();
    guest.removed.sort_unstable();
    assert_eq!(guest.removed, [stdin, stdout]);
    assert!(!guest.ports[&0].host_open);
    let mut all = Vec::new();
    streams.stdout.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"all of it", "and then the end");
    assert_eq!(streams.stdin.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert!(matches!(handle.close(3), Err(Error::NoSuchPort { port: 3, last: 2 })));
}

#[test]
fn regular_files_and_the_null_device() {
    let mut source = tempfile::tempfile().unwrap();
    let data = pattern(300_000, 9);
    source.write_all(&data).unwrap();
    source.rewind().unwrap();
    let mut target = tempfile::tempfile().unwrap();
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    let console = Console::new(vec![
        Port::console().input_fd(null()).unwrap().output_fd(null()).unwrap(),
        Port::named("in").input_fd(source).unwrap(),
        Port::named("out").output_fd(target.try_clone().unwrap()).unwrap(),
        Port::named("none").input_fd(null()).unwrap(),
    ])
    .unwrap();
    let mut guest = Guest::new(console);
    guest.hear();
    assert!(guest.ports[&0].host_open, "a console's output does not end with its input");
    guest.write(0, b"to nowhere");
    assert_eq!(guest.taken(0), 1);
    (1..4).for_each(|id| guest.open(id));
    let mut got = Vec::new();
    while got.len() < data.len() {
        let new = guest.read(1);
        assert!(!new.is_empty());
        guest.write(2, &new);
        guest.taken(2);
        got.extend(new);
    }
    assert_eq!(got, data);
    guest.settle(|guest| !guest.ports[&1].host_open && !guest.ports[&3].host_open);
    target.rewind().unwrap();
    let mut written = Vec::new();
    target.read_to_end(&mut written).unwrap();
    assert_eq!(written, data);
}

#[test]
fn many_ports_do_not_mix() {
    let count = 100;
    let mut ends = Vec::new();
    let mut ports = vec![Port::console()];
    for number in 1..count {
        let (port, end) = Port::named(format!("port{number}")).pipe().unwrap();
        end.set_nonblocking(true).unwrap();
        ports.push(port);
        ends.push(end);
    }
    let mut guest = Guest::new(Console::new(ports).unwrap());
    assert_eq!(guest.ports.len(), count);
    assert_eq!(guest.driver.config::<4>(4), [count as u8, 0, 0, 0]);
    for (number, end) in (1..count).zip(&mut ends) {
        let id = guest.port(&format!("port{number}"));
        guest.open(id);
        guest.write(id, format!("from {number}").as_bytes());
        end.write_all(format!("to {number}").as_bytes()).unwrap();
    }
    for (number, end) in (1..count).zip(&mut ends) {
        let id = guest.port(&format!("port{number}"));
        assert_eq!(read_now(end), format!("from {number}").as_bytes());
        assert_eq!(guest.read(id), format!("to {number}").as_bytes());
    }
}

#[test]
fn garbage_is_harmless() {
    let mut streams = streams();
    let mut guest = Guest::new(streams.console);
    for event in 0..20u16 {
        for id in [0, 1, 2, 3, 77, u32::MAX] {
            let [i0, i1, i2, i3] = id.to_le_bytes();
            let bytes = [i0, i1, i2, i3, event as u8, 0, 1, 0];
            for message in [&bytes[..], &bytes[..3], &bytes[..0], &[&bytes[..], &[0; 5000]].concat()] {
                guest.driver.submit(
                    Role::ControlTransmit.queue(),
                    &Request::new().readable(message).pieces(1 + message.len() / 3),
                );
            }
        }
    }
    // Buffers the wrong way round.
    guest.driver.submit(Role::ControlTransmit.queue(), &Request::new().writable(8));
    guest.try_send(0, &Request::new().writable(100));
    assert_eq!(guest.hear(), 0);
    assert!(!guest.driver.needs_reset());
    guest.write(0, b"still here");
    assert_eq!(read_now(&mut streams.text), b"still here");
}

#[test]
fn receive_buffers_of_any_shape() {
    let (port, mut theirs) = Port::named("in").pipe().unwrap();
    let mut guest = Guest::boot(MockDriver::builder(Console::new(vec![Port::console(), port]).unwrap()).queue_size(8));
    // The eight pages that are there are used up first.
    guest.open(1);
    theirs.write_all(&pattern(8 * PAGE, 1)).unwrap();
    let mut got = Vec::new();
    while got.len() < 8 * PAGE {
        got.extend(guest.take(1));
    }
    theirs.write_all(b"abcdefghij").unwrap();
    assert_eq!(guest.take(1), b"");
    // Readable bytes only: no room, and no harm.
    let queue = Role::Receive(1).queue();
    let head = guest.driver.post(queue, &Request::new().readable(b"huh"));
    guest.driver.kick(queue);
    let used = guest.driver.wait(queue);
    assert_eq!((used.head, used.len), (head, 0));
    guest.give(1, &Request::new().writable(1));
    guest.give(1, &Request::new().readable(b"x").writable(2).writable(2).indirect());
    assert_eq!(guest.take(1), b"abcde");
    guest.give(1, &Request::new().writable(100));
    assert_eq!(guest.take(1), b"fghij");
}

#[test]
fn chains_of_no_use_between_others() {
    let ((mut stdout, stdout_ours), (stdin_ours, mut stdin)) = (io::pipe().unwrap(), io::pipe().unwrap());
    let port = Port::named("both").input_fd(stdin_ours).unwrap().output_fd(stdout_ours).unwrap();
    let mut guest = Guest::boot(MockDriver::builder(Console::new(vec![Port::console(), port]).unwrap()).queue_size(8));
    guest.open(1);
    // More than the pipe takes, with chains in between that have nothing to be read.
    let data = pattern(90_000, 6);
    for piece in data.chunks(30_000) {
        assert!(guest.try_send(1, &Request::new().readable(piece)));
        assert!(guest.try_send(1, &Request::new().writable(10)));
    }
    guest.driver.turn();
    let mut got = Vec::new();
    while got.len() < data.len() {
        got.extend(read_now(&mut stdout));
        guest.driver.turn();
    }
    assert!(got == data);
    assert_eq!(guest.taken(1), 6);
    // Receive buffers, every other of them without room, before there is anything to put into them.
    stdin.write_all(&pattern(8 * PAGE, 1)).unwrap();
    while !guest.take(1).is_empty() {}
    let queue = Role::Receive(1).queue();
    for request in [Request::new().writable(4), Request::new().readable(b"-"), Request::new().writable(4)] {
        guest.driver.post(queue, &request);
    }
    guest.driver.kick(queue);
    guest.driver.turn();
    stdin.write_all(b"abcdef").unwrap();
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(guest.driver.wait(queue).data);
    }
    assert_eq!(got, [b"abcd".to_vec(), Vec::new(), b"ef".to_vec()], "used in order");
    assert!(!guest.driver.needs_reset());
}

#[test]
fn mistakes_are_told_in_words() {
    let told = |ports| Console::new(ports).unwrap_err().to_string();
    assert!(told(vec![]).contains("at least one port"));
    assert!(told(vec![Port::named("")]).contains("it is empty"));
    assert!(told(vec![Port::named("x".repeat(256))]).contains("it is too long"));
    assert!(told(vec![Port::named("a\nb")]).contains("control character"));
    assert!(told(vec![Port::named("a"), Port::named("b"), Port::named("a")]).contains("two ports are named \"a\""));
    assert!(told((0..4097).map(|n| Port::named(n.to_string())).collect()).contains("at most 4096"));
}

#[test]
fn events_and_words_that_come_too_early_or_twice() {
    let streams = streams();
    let handle = streams.console.handle();
    let mut driver = MockDriver::builder(streams.console).build();
    driver.initialise();
    let mut guest_says = |event: u8, id: u8| {
        driver.submit(Role::ControlTransmit.queue(), &Request::new().readable([id, 0, 0, 0, event, 0, 1, 0]));
    };
    // A port is opened that was never announced.
    guest_says(Event::PortOpen as u8, 1);
    assert!(!handle.status(1).unwrap().guest_open);
    guest_says(Event::DeviceReady as u8, 0);
    guest_says(Event::DeviceReady as u8, 0);
    for _ in 0..40 {
        driver.post(Role::ControlReceive.queue(), &Request::new().writable(PAGE));
        driver.kick(Role::ControlReceive.queue());
        driver.turn();
        if driver.ring(Role::ControlReceive.queue()).next_available() >= 32 {
            break;
        }
    }
    let mut messages = 0;
    while driver.used(Role::ControlReceive.queue()).is_some() {
        messages += 1;
    }
    assert_eq!(messages, 9, "the handshake, once");
}
