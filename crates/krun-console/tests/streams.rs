//! Long streams: every byte, once, in order, whoever is slow and whatever happens to the device meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]

mod guest;

use guest::{Guest, pattern};
use krun_console::{Console, ConsoleHandle, Error, Port, PortEvent, Side};
use krun_virtio::mmio::registers;
use krun_virtio::testing::Request;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

struct Echo {
    guest: Guest,
    handle: ConsoleHandle,
    stdin: io::PipeWriter,
    stdout: io::PipeReader,
}

fn echo() -> Echo {
    let ((stdin_ours, stdin), (stdout, stdout_ours)) = (io::pipe().unwrap(), io::pipe().unwrap());
    let console = Console::new(vec![
        Port::console(),
        Port::named("stdin").input_fd(stdin_ours).unwrap(),
        Port::named("stdout").output_fd(stdout_ours).unwrap(),
    ])
    .unwrap();
    let handle = console.handle();
    let mut guest = Guest::threaded(console);
    guest.open(1);
    guest.open(2);
    Echo { guest, handle, stdin, stdout }
}

/// Writes `data` in pieces of many sizes, then closes.
fn feed(mut to: impl Write + Send + 'static, data: Arc<Vec<u8>>) -> thread::JoinHandle<()> {
    let body = move || {
        let mut rest = data.as_slice();
        let mut step = 1;
        while !rest.is_empty() {
            step = step * 7 % 131_071;
            let (piece, after) = rest.split_at(step.min(rest.len()));
            to.write_all(piece).unwrap();
            rest = after;
        }
    };
    thread::Builder::new().spawn(body).unwrap()
}

/// Reads to the end, in pieces of many sizes.
fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    let body = move || {
        let (mut all, mut step) = (Vec::new(), 1);
        let mut buffer = vec![0; 131_071];
        loop {
            step = step * 11 % 131_071;
            match from.read(&mut buffer[..step]).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    };
    thread::Builder::new().spawn(body).unwrap()
}

/// Sends what comes on port 1 back on port 2, in chains of many shapes, until the host has closed port 1 and all of
/// `total` bytes have gone. Calls `disturb` now and then.
fn run_echo(guest: &mut Guest, total: usize, mut disturb: impl FnMut(&mut Guest, usize)) {
    let mut waiting: Vec<u8> = Vec::new();
    let (mut sent, mut shape, mut rounds) = (0, 1usize, 0);
    let end = Instant::now() + Duration::from_secs(120);
    while sent < total {
        assert!(Instant::now() < end, "only {sent} bytes after two minutes");
        rounds += 1;
        disturb(guest, rounds);
        let new = guest.read(1);
        guest.hear();
        waiting.extend(new);
        let mut at = 0;
        while at < waiting.len() {
            shape = shape * 13 % 32_749;
            let len = shape.min(waiting.len() - at);
            let mut request = Request::new().readable(&waiting[at..at + len]).pieces(1 + len / (1 + shape % 7));
            if shape % 3 == 0 {
                request = request.indirect();
            }
            if !guest.try_send(2, &request) {
                break;
            }
            at += len;
        }
        waiting.drain(..at);
        sent += at;
        guest.taken(2);
        if at == 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

#[test]
fn sixty_four_mebibytes_there_and_back() {
    let data = Arc::new(pattern(64 << 20, 42));
    let mut echo = echo();
    let (feeder, collector) = (feed(echo.stdin, data.clone()), collect(echo.stdout));
    run_echo(&mut echo.guest, data.len(), |_, _| {});
    echo.handle.flush(Some(LONG)).unwrap();
    echo.handle.close(2).unwrap();
    feeder.join().unwrap();
    let got = collector.join().unwrap();
    assert_eq!(got.len(), data.len());
    assert!(got == *data, "the bytes differ");
    assert!(!echo.guest.driver.needs_reset());
}

#[test]
fn pauses_lose_nothing() {
    let data = Arc::new(pattern(4 << 20, 43));
    let mut echo = echo();
    let (feeder, collector) = (feed(echo.stdin, data.clone()), collect(echo.stdout));
    run_echo(&mut echo.guest, data.len(), |guest, round| {
        if round % 5 == 0 {
            guest.driver.transport().pause();
            guest.driver.transport().resume().unwrap();
        }
    });
    echo.handle.flush(Some(LONG)).unwrap();
    echo.handle.close(2).unwrap();
    feeder.join().unwrap();
    assert!(collector.join().unwrap() == *data);
}

#[test]
fn a_reset_under_load_keeps_the_ports() {
    let mut echo = echo();
    let mut stdout = echo.stdout;
    for round in 0..10u64 {
        // The output is stuck in the middle of a chain, and there is input that no guest has asked for yet.
        echo.guest.close(1);
        while echo.guest.try_send(2, &Request::new().readable(pattern(30_000, 7))) {}
        echo.stdin.write_all(&pattern(20_000, round)).unwrap();
        thread::sleep(Duration::from_millis(5));
        echo.guest.initialise();
        assert_eq!(echo.guest.ports.len(), 3);
        assert_eq!(echo.guest.port("stdout"), 2);
        // What the old session left in the pipe, then a mark of the new one.
        let mark = format!("<mark {round}>");
        echo.guest.open(2);
        assert!(echo.guest.try_send(2, &Request::new().readable(mark.as_bytes())));
        let mut all = Vec::new();
        let mut buffer = [0; 100_000];
        while !all.ends_with(mark.as_bytes()) {
            let count = stdout.read(&mut buffer).unwrap();
            assert!(count > 0);
            all.extend_from_slice(&buffer[..count]);
        }
        let left = &all[..all.len() - mark.len()];
        let sent = pattern(30_000, 7).repeat(left.len() / 30_000 + 1);
        assert!(left == &sent[..left.len()], "the half-written chain is not gone on with");
        // Input that no guest took is still there for the next.
        echo.guest.open(1);
        let mut got = Vec::new();
        let end = Instant::now() + LONG;
        while got.len() < 20_000 && Instant::now() < end {
            got.extend(echo.guest.read(1));
        }
        assert!(got == pattern(20_000, round));
    }
}

#[test]
fn a_stalled_reader_stalls_its_own_port_only() {
    let ((slow, slow_ours), (mut quick, quick_ours)) = (UnixStream::pair().unwrap(), io::pipe().unwrap());
    let console = Console::new(vec![
        Port::console(),
        Port::named("slow").output_fd(slow_ours).unwrap(),
        Port::named("quick").output_fd(quick_ours).unwrap(),
    ])
    .unwrap();
    let handle = console.handle();
    let mut guest = Guest::threaded(console);
    guest.open(1);
    guest.open(2);
    // The slow one's socket and ring are filled to the brim.
    let (mut queued, mut number) = (0, 0);
    let brim = Instant::now() + Duration::from_millis(300);
    while Instant::now() < brim {
        if guest.try_send(1, &Request::new().readable(pattern(20_000, number))) {
            (queued, number) = (queued + 20_000, number + 1);
        }
        guest.taken(1);
    }
    assert!(matches!(handle.flush(Some(SOON)), Err(Error::FlushTimeout { port: 1, .. })));
    // The other goes on.
    for round in 0..200u64 {
        let piece = pattern(5000, round);
        assert!(guest.try_send(2, &Request::new().readable(&piece)));
        let mut got = vec![0; piece.len()];
        quick.read_exact(&mut got).unwrap();
        assert!(got == piece);
        guest.taken(2);
    }
    // And when the slow one reads at last, nothing is missing.
    let mut slow = slow;
    for number in 0..queued / 20_000 {
        let mut got = vec![0; 20_000];
        slow.read_exact(&mut got).unwrap();
        assert!(got == pattern(20_000, number), "chain {number}");
    }
    handle.flush(Some(LONG)).unwrap();
}

#[test]
fn flush_waits_for_the_last_byte() {
    let mut echo = echo();
    let data = pattern(200_000, 11);
    for piece in data.chunks(30_000) {
        assert!(echo.guest.try_send(2, &Request::new().readable(piece)));
    }
    assert!(matches!(echo.handle.flush(Some(SOON)), Err(Error::FlushTimeout { port: 2, waited }) if waited >= SOON));
    let handle = echo.handle.clone();
    let waiter = thread::Builder::new().spawn(move || handle.flush(None)).unwrap();
    thread::sleep(SOON);
    assert!(!waiter.is_finished());
    let mut got = vec![0; data.len()];
    echo.stdout.read_exact(&mut got).unwrap();
    waiter.join().unwrap().unwrap();
    assert!(got == data);
    // Without a driver there is nothing to wait for, and without a device nobody to wait with.
    echo.guest.driver.reset();
    echo.handle.flush(None).unwrap();
    drop(echo.guest);
    assert!(matches!(echo.handle.flush(None), Err(Error::Gone)));
}

#[test]
fn flush_does_not_wait_for_a_driver_that_took_its_queues_away() {
    let mut echo = echo();
    for queue in 0..8 {
        echo.guest.driver.write(registers::QUEUE_SEL, queue);
        echo.guest.driver.write(registers::QUEUE_READY, 0);
    }
    echo.handle.flush(Some(LONG)).unwrap();
    // And the host is heard.
    echo.handle.close(2).unwrap();
    assert!(echo.handle.wait_until(2, LONG, |status| matches!(status.output, Side::Ended)).unwrap());
    echo.guest.initialise();
    assert_eq!(echo.guest.ports.len(), 2);
}

/// A console whose reader does not read, with room for 10,000 bytes.
fn stalled_console(patience: Option<Duration>) -> (Guest, ConsoleHandle, UnixStream, Arc<AtomicU64>) {
    let (reader, ours) = UnixStream::pair().unwrap();
    let stalls = Arc::new(AtomicU64::new(0));
    let count = stalls.clone();
    let port = Port::console().output_fd(ours).unwrap().patience(10_000, patience);
    let console = Console::new(vec![port, Port::named("other")]).unwrap().on_event(move |_, event| {
        if matches!(event, PortEvent::OutputStalled) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let handle = console.handle();
    (Guest::threaded(console), handle, reader, stalls)
}

/// Sends until the device keeps a chain back, as hvc does: one at a time. Says how much was taken, and whether the
/// last one came back within two seconds.
fn send_until_held(guest: &mut Guest, limit: usize) -> (usize, bool) {
    let mut sent = 0;
    while sent < limit {
        assert!(guest.try_send(0, &Request::new().readable(pattern(1000, sent as u64))));
        let end = Instant::now() + Duration::from_secs(2);
        while guest.taken(0) == 0 {
            if Instant::now() > end {
                return (sent, false);
            }
            thread::sleep(Duration::from_micros(100));
        }
        sent += 1000;
    }
    (sent, true)
}

#[test]
fn a_consoles_guest_is_not_kept_waiting_for_ever() {
    let (mut guest, handle, mut reader, stalls) = stalled_console(Some(SOON));
    let (sent, returned) = send_until_held(&mut guest, 2_000_000);
    assert!(returned, "after {sent} bytes the guest spins");
    assert_eq!(stalls.load(Ordering::Relaxed), 1);
    let lost = handle.status(0).unwrap().lost as usize;
    assert!(lost > 0 && lost < sent);
    // What was kept is a beginning of what was sent, in whole.
    reader.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut got = Vec::new();
    let error = reader.read_to_end(&mut got).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(got.len() + lost, sent);
    for (number, piece) in got.chunks(1000).enumerate() {
        assert!(piece == &pattern(1000, number as u64 * 1000)[..piece.len()]);
    }
    // The reader goes on, and so does the output.
    handle.flush(Some(LONG)).unwrap();
    assert!(guest.try_send(0, &Request::new().readable(b"and on")));
    let mut six = [0; 6];
    reader.read_exact(&mut six).unwrap();
    assert_eq!(&six, b"and on");
}

#[test]
fn a_console_may_be_told_to_lose_nothing() {
    let (mut guest, handle, mut reader, stalls) = stalled_console(None);
    let (sent, returned) = send_until_held(&mut guest, 2_000_000);
    assert!(!returned);
    let mut got = vec![0; sent + 1000];
    reader.read_exact(&mut got).unwrap();
    for (number, piece) in got.chunks(1000).enumerate() {
        assert!(piece == pattern(1000, number as u64 * 1000));
    }
    assert_eq!((handle.status(0).unwrap().lost, stalls.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn patience_may_be_longer_than_time_itself() {
    let (mut guest, handle, _reader, stalls) = stalled_console(Some(Duration::MAX));
    let (_, returned) = send_until_held(&mut guest, 2_000_000);
    assert!(!returned);
    assert!(!guest.driver.needs_reset());
    assert_eq!((handle.status(0).unwrap().lost, stalls.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn a_reset_writes_out_what_a_console_has_taken() {
    for reads in [true, false] {
        let (mut guest, handle, mut reader, _stalls) = stalled_console(None);
        let (sent, returned) = send_until_held(&mut guest, 2_000_000);
        assert!(!returned);
        let collector = move || {
            thread::sleep(SOON);
            let mut got = Vec::new();
            reader.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            if reads {
                let _ = reader.read_to_end(&mut got);
            }
            (got.len(), reader)
        };
        let collector = thread::Builder::new().spawn(collector).unwrap();
        let begin = Instant::now();
        guest.driver.reset();
        assert!(begin.elapsed() < Duration::from_secs(5));
        handle.flush(None).unwrap();
        let lost = handle.status(0).unwrap().lost as usize;
        drop(guest);
        let (got, mut reader) = collector.join().unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        // The chain that was held may have been taken in part.
        let all = got + rest.len() + lost;
        assert!((sent..sent + 1000).contains(&all), "{all} of {sent}");
        assert_eq!(lost == 0, reads, "{lost}");
    }
}

#[test]
fn a_slow_reader_is_not_a_stalled_one() {
    let (mut guest, handle, mut reader, stalls) = stalled_console(Some(Duration::from_millis(400)));
    let collector = thread::Builder::new()
        .spawn(move || {
            let mut got = vec![0; 600_000];
            for piece in got.chunks_mut(30_000) {
                thread::sleep(Duration::from_millis(20));
                reader.read_exact(piece).unwrap();
            }
            got
        })
        .unwrap();
    let (sent, returned) = send_until_held(&mut guest, 600_000);
    assert!(returned);
    let got = collector.join().unwrap();
    assert_eq!(got.len(), sent);
    assert_eq!((handle.status(0).unwrap().lost, stalls.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn a_stalled_guest_loses_nothing() {
    let mut echo = echo();
    let data = Arc::new(pattern(1 << 20, 77));
    let feeder = feed(echo.stdin, data.clone());
    let mut got = Vec::new();
    while got.len() < data.len() {
        // The guest takes its time; until then its buffers are full and bytes wait on the host.
        thread::sleep(Duration::from_millis(2));
        got.extend(echo.guest.read(1));
    }
    feeder.join().unwrap();
    assert!(got == *data);
    echo.guest.settle(|guest| !guest.ports[&1].host_open);
}
