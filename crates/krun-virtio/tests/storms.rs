//! Pauses, single queues coming and going, snapshots and resets in the middle of traffic: not a byte is lost, nor a
//! kick.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, numbers are small"
)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use krun_virtio::testing::{MockDriver, Request};
use krun_virtio::{
    Chain, Context, MmioTransport, Ram, Ready, Session, Sink, Source, Task, VirtQueue, VirtioDevice, Worker,
};

const TO_HOST: u16 = 0;
const TO_GUEST: u16 = 1;
const STREAM: u32 = 0;

/// Copies between a stream and two queues, with backpressure both ways.
struct Pipe {
    stream: UnixStream,
    /// Bytes of the first chain that are gone already, should it be put back and come again.
    gone: usize,
    wanted: Ready,
    /// Hold a chain for a while, as a pool does.
    held: Option<Chain>,
}

impl Pipe {
    /// Guest to host; answers whether the stream is full.
    fn push(&mut self, queue: &mut VirtQueue) -> bool {
        let mut full = false;
        if let Some(chain) = self.held.take() {
            queue.complete(chain);
        }
        loop {
            queue.arm(false);
            while let Some(mut chain) = queue.pop() {
                let mut reader = chain.reader();
                reader.skip(self.gone).unwrap();
                while reader.remaining() > 0 {
                    match reader.send(self.stream.as_fd(), 0, usize::MAX) {
                        Ok(n) => self.gone += n,
                        Err(_) => break,
                    }
                }
                if reader.remaining() > 0 {
                    full = true;
                    queue.put_back(chain);
                    break;
                }
                self.gone = 0;
                if chain.head() % 3 == 0 && self.held.is_none() {
                    self.held = Some(chain);
                } else {
                    queue.complete(chain);
                }
            }
            if full || !queue.arm(true) {
                break;
            }
        }
        if let Some(chain) = self.held.take() {
            queue.complete(chain);
        }
        queue.flush();
        full
    }

    /// Host to guest; answers whether there is room for more.
    fn pull(&mut self, queue: &mut VirtQueue) -> bool {
        loop {
            let Some(mut chain) = queue.pop() else {
                if queue.arm(true) {
                    continue;
                }
                queue.flush();
                return false;
            };
            match chain.writer().recv(self.stream.as_fd(), 0, usize::MAX) {
                Ok(n) if n > 0 => queue.complete(chain),
                _ => {
                    queue.put_back(chain);
                    queue.flush();
                    return true;
                }
            }
        }
    }

    fn both(&mut self, cx: &mut Context<'_>) {
        let mut wanted = Ready::NONE;
        if cx.queues.get(TO_HOST).is_some_and(|queue| self.push(queue)) {
            wanted |= Ready::OUT;
        }
        if cx.queues.get(TO_GUEST).is_some_and(|queue| self.pull(queue)) {
            wanted |= Ready::IN;
        }
        if wanted != self.wanted {
            self.wanted = wanted;
            cx.watch.change(STREAM, wanted).unwrap();
        }
    }
}

impl Worker for Pipe {
    fn start(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.wanted = Ready::NONE;
        cx.watch.add(self.stream.as_fd(), STREAM, Ready::NONE)
    }

    fn queue_event(&mut self, _index: u16, cx: &mut Context<'_>) {
        self.both(cx);
    }

    fn io_event(&mut self, _token: u32, _ready: Ready, cx: &mut Context<'_>) {
        self.both(cx);
    }

    fn reset(&mut self) {
        self.gone = 0;
        self.held = None;
    }

    fn save(&self) -> Option<Vec<u8>> {
        Some(self.gone.to_le_bytes().to_vec())
    }

    fn restore(&mut self, state: &[u8]) -> io::Result<()> {
        self.gone = usize::from_le_bytes(state.try_into().map_err(|_| io::ErrorKind::InvalidData)?);
        Ok(())
    }
}

struct PipeDevice(Option<UnixStream>);

impl VirtioDevice for PipeDevice {
    fn device_type(&self) -> u32 {
        3
    }

    fn name(&self) -> String {
        "pipe".into()
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 16]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn tasks(&mut self) -> Vec<Task> {
        let stream = self.0.take().unwrap();
        vec![Task::new(0..2, Pipe { stream, gone: 0, wanted: Ready::NONE, held: None })]
    }
}

/// Echoes what the device sends, in its own pace, until the device is gone.
fn echo(stream: UnixStream) -> std::thread::JoinHandle<()> {
    let body = move || {
        let mut from = stream.try_clone().unwrap();
        let _ = io::copy(&mut from, &mut &stream);
    };
    std::thread::Builder::new().name("echo".into()).spawn(body).unwrap()
}

fn byte(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 8) as u8
}

/// Sends a stream of bytes through the device and back, while `storm` does its worst on another thread.
fn survives(without: u64, total: usize, storm: impl Fn(&MmioTransport, &Ram, u64, u32) + Sync) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let echo = echo(theirs);
    let mut driver = MockDriver::builder(PipeDevice(Some(ours))).threads().without(without).start();
    let (transport, ram, features) = (driver.transport().clone(), driver.ram().clone(), driver.features());
    let done = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                storm(&transport, &ram, features, round);
                round += 1;
                std::thread::sleep(Duration::from_micros(u64::from(round % 7) * 100));
            }
            round
        });
        let (mut sent, mut got) = (0, 0);
        let end = Instant::now() + Duration::from_secs(60);
        while got < total {
            assert!(Instant::now() < end, "stuck at {got} of {sent}, status {:#x}", driver.status());
            let before = driver.ring(TO_HOST).next_available();
            while sent < total && driver.ring(TO_HOST).free() >= 3 {
                let len = 1 + (sent * 7919) % 9000;
                let bytes: Vec<u8> = (sent..total.min(sent + len)).map(byte).collect();
                let mut request = Request::new().readable(&bytes).pieces(bytes.len() / 3 + 1);
                if sent % 2 == 0 {
                    request = request.indirect();
                }
                driver.post(TO_HOST, &request);
                sent += bytes.len();
            }
            driver.kick_if_wanted(TO_HOST, before);
            let before = driver.ring(TO_GUEST).next_available();
            while driver.ring(TO_GUEST).free() >= 2 {
                driver.post(TO_GUEST, &Request::new().writable(1500).pieces(1000));
            }
            driver.kick_if_wanted(TO_GUEST, before);
            while driver.used(TO_HOST).is_some() {}
            while let Some(used) = driver.wait_for(TO_GUEST, Duration::from_millis(1)) {
                for byte_got in used.data {
                    assert_eq!(byte_got, byte(got), "at {got}");
                    got += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        storm.join().unwrap()
    });
    assert!(rounds > 10, "the storm was a breeze: {rounds}");
    assert_eq!((driver.needs_reset(), driver.transport().faults()), (false, 0));
    drop((driver, transport));
    echo.join().unwrap();
}

fn pause(transport: &MmioTransport, _ram: &Ram, _features: u64, round: u32) {
    transport.pause();
    if round.is_multiple_of(3) {
        std::thread::sleep(Duration::from_micros(300));
    }
    transport.resume().unwrap();
}

fn single_queues(transport: &MmioTransport, ram: &Ram, features: u64, round: u32) {
    let index = (round % 2) as u16;
    let session = Session { features, ram: ram.clone(), interrupt: transport.interrupt(), shared: None };
    let state = transport.with_hosted(|hosted| hosted.detach(index)).unwrap().unwrap();
    std::thread::sleep(Duration::from_micros(200));
    let kick = transport.kicks()[usize::from(index)].try_clone().unwrap();
    let queue = VirtQueue::new(index, state, ram.clone(), kick, transport.interrupt()).unwrap();
    transport.with_hosted(|hosted| hosted.attach(&session, vec![queue])).unwrap();
}

fn snapshots(transport: &MmioTransport, _ram: &Ram, _features: u64, _round: u32) {
    transport.pause();
    let state = transport.save().unwrap();
    transport.restore(&state).unwrap();
    assert_eq!(transport.save().unwrap(), state);
    transport.resume().unwrap();
}

const EVENT_IDX: u64 = krun_virtio::mmio::registers::F_EVENT_IDX;

#[test]
fn pauses_lose_nothing() {
    survives(0, 2_000_000, pause);
}

#[test]
fn pauses_lose_nothing_without_event_idx() {
    survives(EVENT_IDX, 2_000_000, pause);
}

#[test]
fn single_queues_come_and_go() {
    survives(0, 2_000_000, single_queues);
}

#[test]
fn snapshots_go_on_where_they_were() {
    survives(EVENT_IDX, 2_000_000, snapshots);
}

fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.trim() == name).count()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Named(PipeDevice, &'static str);

impl VirtioDevice for Named {
    fn device_type(&self) -> u32 {
        self.0.device_type()
    }

    fn name(&self) -> String {
        self.1.into()
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 16]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn tasks(&mut self) -> Vec<Task> {
        self.0.tasks()
    }
}

#[test]
fn resets_in_the_middle_of_traffic() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let keep: OwnedFd = theirs.try_clone().unwrap().into();
    let echo = echo(theirs);
    let mut driver = MockDriver::threaded(Named(PipeDevice(Some(ours)), "reset-storm"));
    for round in 0..300u32 {
        for _ in 0..4 {
            driver.post(TO_GUEST, &Request::new().writable(100));
            driver.post(TO_HOST, &Request::new().readable([round as u8; 50]));
        }
        driver.kick(TO_HOST);
        driver.kick(TO_GUEST);
        if round % 3 == 0 {
            driver.wait(TO_HOST);
        }
        if round % 5 == 0 {
            // One queue alone: reset and brought back, its ring empty.
            driver.write(krun_virtio::mmio::registers::QUEUE_SEL, u32::from(TO_GUEST));
            driver.write(krun_virtio::mmio::registers::QUEUE_RESET, 1);
            driver.set_up(TO_GUEST);
            driver.post(TO_GUEST, &Request::new().writable(100));
            driver.kick(TO_GUEST);
        }
        driver.initialise();
        // A new thread takes its name by itself, a little later; one that was joined leaves /proc a little later.
        eventually("one thread at most", || threads("reset-storm") <= 1);
    }
    // It works as on the first day. What was under way at the last reset comes first.
    driver.post(TO_HOST, &Request::new().readable([0xee; 10]));
    driver.kick(TO_HOST);
    let end = Instant::now() + Duration::from_secs(20);
    let mut last = Vec::new();
    while !last.ends_with(&[0xee; 10]) {
        assert!(Instant::now() < end);
        driver.post(TO_GUEST, &Request::new().writable(100));
        driver.kick(TO_GUEST);
        last.extend(driver.wait_for(TO_GUEST, Duration::from_millis(100)).map(|used| used.data).unwrap_or_default());
    }
    assert_eq!((driver.needs_reset(), driver.transport().faults()), (false, 0));
    drop(driver);
    eventually("dropping a device ends its threads", || threads("reset-storm") == 0);
    drop(keep);
    echo.join().unwrap();
}

/// The state goes to another device, in another guest's memory at the same addresses.
#[test]
fn a_snapshot_moves_to_another_device() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut driver = MockDriver::threaded(PipeDevice(Some(ours)));
    driver.request(TO_HOST, b"before", 0);
    driver.post(TO_GUEST, &Request::new().writable(64));
    driver.transport().pause();
    let state = driver.transport().save().unwrap();

    let (ours, theirs_too) = UnixStream::pair().unwrap();
    let executor = Arc::new(krun_virtio::ThreadPerWorker::new());
    let moved = MmioTransport::new(Box::new(PipeDevice(Some(ours))), executor, driver.ram().clone()).unwrap();
    moved.restore(&state).unwrap();
    // It stands still until it is resumed; then the buffer that was posted before is filled, without a kick.
    io::Write::write_all(&mut &theirs_too, b"after").unwrap();
    moved.resume().unwrap();
    let used = driver.wait(TO_GUEST);
    assert_eq!(used.data, b"after");
    assert!(moved.line().event().read().is_ok(), "the new device interrupts on its own line");
    let mut got = [0; 6];
    io::Read::read_exact(&mut theirs, &mut got).unwrap();
    assert_eq!(&got, b"before");
}

#[test]
fn a_device_that_needs_a_reset_can_be_restored() {
    let mut driver = MockDriver::builder(PipeDevice(Some(UnixStream::pair().unwrap().0))).build();
    driver.negotiate();
    driver.set_up(0);
    driver.write(krun_virtio::mmio::registers::QUEUE_SEL, 1);
    driver.write(krun_virtio::mmio::registers::QUEUE_DESC_HIGH, 1);
    driver.write(krun_virtio::mmio::registers::QUEUE_READY, 1);
    driver.go();
    assert!(driver.needs_reset());
    driver.transport().pause();
    let state = driver.transport().save().unwrap();
    driver.transport().reset();
    assert!(!driver.needs_reset());
    driver.transport().restore(&state).unwrap();
    assert!(driver.needs_reset());
    driver.transport().resume().unwrap();
    driver.initialise();
    assert!(!driver.needs_reset());
}

#[test]
fn states_of_other_devices_are_refused() {
    let driver = MockDriver::new(PipeDevice(Some(UnixStream::pair().unwrap().0)));
    let transport = driver.transport();
    assert!(matches!(transport.save(), Err(krun_virtio::Error::NotPaused { .. })));
    transport.pause();
    let good = transport.save().unwrap();
    let mut bad = Vec::new();
    let mut with = |f: &dyn Fn(&mut krun_virtio::MmioState)| {
        let mut state = good.clone();
        f(&mut state);
        bad.push(state);
    };
    with(&|state| state.queues.truncate(1));
    with(&|state| state.workers.clear());
    with(&|state| state.workers[0].truncate(3));
    with(&|state| state.status = 4);
    with(&|state| state.driver_features |= 1);
    with(&|state| state.driver_features = 0);
    with(&|state| state.queues[0].desc_table = 1);
    with(&|state| state.queues[1].size = 0);
    with(&|state| state.queues[0].used_ring = 1 << 40);
    for state in bad {
        assert!(transport.restore(&state).is_err(), "{state:?}");
        assert_eq!(driver.status(), 0, "a refused state leaves a device that was reset");
    }
    transport.restore(&good).unwrap();
    assert_eq!(transport.save().unwrap(), good);
}
