//! Benchmarks of `krun-console`.
//!
//! `output`: what it costs to bring a guest's bytes to a pipe. `port` is the whole way (ring, worker, one `writev`);
//! `write(2)` is the raw system call with the same bytes. Their ratio is the price of the device; the reader's part is
//! the same on both sides. `input` is the same towards the guest, against `read(2)`.
//!
//! `handshake`: from a driver's first control message to the last port's description, by number of ports.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to say")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use krun_console::config::Role;
use krun_console::control::{Event, Header};
use krun_console::{Console, Port};
use krun_virtio::testing::{MockDriver, Request};
use std::hint::black_box;
use std::io::{self, PipeReader, PipeWriter, Read, Write};

const SIZES: [usize; 3] = [64, 4096, 32 << 10];

/// One generic port over two pipes: the host's ends of input and output.
fn port() -> (MockDriver, PipeWriter, PipeReader) {
    let ((input, feed), (drain, output)) = (io::pipe().unwrap(), io::pipe().unwrap());
    let port = Port::named("bench").input_fd(input).unwrap().output_fd(output).unwrap();
    let mut driver = MockDriver::new(Console::new(vec![Port::console(), port]).unwrap());
    for (event, id) in [(Event::DeviceReady, 0), (Event::PortReady, 1), (Event::PortOpen, 1)] {
        for _ in 0..8 {
            driver.post(Role::ControlReceive.queue(), &Request::new().writable(64));
        }
        driver.kick(Role::ControlReceive.queue());
        driver
            .submit(Role::ControlTransmit.queue(), &Request::new().readable(Header { id, event, value: 1 }.to_bytes()));
        while driver.used(Role::ControlReceive.queue()).is_some() {}
    }
    (driver, feed, drain)
}

fn output(c: &mut Criterion) {
    let mut group = c.benchmark_group("output");
    for size in SIZES {
        let bytes = vec![0x61; size];
        let mut sink = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("port", size), |b| {
            let (mut driver, _feed, mut drain) = port();
            let (queue, request) = (Role::Transmit(1).queue(), Request::new().readable(&bytes));
            b.iter(|| {
                driver.post(queue, &request);
                driver.kick(queue);
                driver.turn();
                drain.read_exact(&mut sink).unwrap();
                driver.used(queue).unwrap()
            });
        });
        // What the mock driver itself costs: the same request, into a port that throws it away.
        group.bench_function(BenchmarkId::new("discarded", size), |b| {
            let mut driver = MockDriver::new(Console::new(vec![Port::console(), Port::named("none")]).unwrap());
            let (queue, request) = (Role::Transmit(1).queue(), Request::new().readable(&bytes));
            b.iter(|| {
                driver.post(queue, &request);
                driver.kick(queue);
                driver.turn();
                driver.used(queue).unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("write(2)", size), |b| {
            let (mut reader, mut writer) = io::pipe().unwrap();
            b.iter(|| {
                writer.write_all(black_box(&bytes)).unwrap();
                reader.read_exact(&mut sink).unwrap();
            });
        });
    }
    group.finish();
}

fn batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch of 32");
    let bytes = vec![0x61; 1024];
    let mut sink = vec![0; 32 * 1024];
    group.throughput(Throughput::Bytes(32 * 1024));
    group.bench_function("port", |b| {
        let (mut driver, _feed, mut drain) = port();
        let (queue, request) = (Role::Transmit(1).queue(), Request::new().readable(&bytes));
        b.iter(|| {
            for _ in 0..32 {
                driver.post(queue, &request);
            }
            driver.kick(queue);
            driver.turn();
            drain.read_exact(&mut sink).unwrap();
            while driver.used(queue).is_some() {}
        });
    });
    group.bench_function("write(2)", |b| {
        let (mut reader, mut writer) = io::pipe().unwrap();
        b.iter(|| {
            (0..32).for_each(|_| writer.write_all(black_box(&bytes)).unwrap());
            reader.read_exact(&mut sink).unwrap();
        });
    });
    group.finish();
}

fn input(c: &mut Criterion) {
    let mut group = c.benchmark_group("input");
    for size in SIZES {
        let bytes = vec![0x61; size];
        let mut sink = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("port", size), |b| {
            let (mut driver, mut feed, _drain) = port();
            let (queue, request) = (Role::Receive(1).queue(), Request::new().writable(4096));
            let pages = size.div_ceil(4096);
            b.iter(|| {
                for _ in 0..pages {
                    driver.post(queue, &request);
                }
                driver.kick(queue);
                feed.write_all(&bytes).unwrap();
                driver.turn();
                let got: usize = std::iter::from_fn(|| driver.used(queue)).map(|used| used.data.len()).sum();
                assert_eq!(got, size);
            });
        });
        group.bench_function(BenchmarkId::new("read(2)", size), |b| {
            let (mut reader, mut writer) = io::pipe().unwrap();
            b.iter(|| {
                writer.write_all(&bytes).unwrap();
                reader.read_exact(black_box(&mut sink)).unwrap();
            });
        });
    }
    group.finish();
}

fn handshake(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    for count in [2, 8] {
        let ports = (1..count).map(|n| Port::named(format!("port{n}")));
        let mut driver = MockDriver::new(Console::new([Port::console()].into_iter().chain(ports).collect()).unwrap());
        let ready = Header { id: 0, event: Event::DeviceReady, value: 1 }.to_bytes();
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                driver.initialise();
                for _ in 0..32 {
                    driver.post(Role::ControlReceive.queue(), &Request::new().writable(64));
                }
                driver.submit(Role::ControlTransmit.queue(), &Request::new().readable(ready));
                let messages = std::iter::from_fn(|| driver.used(Role::ControlReceive.queue())).count();
                assert_eq!(messages, 3 * count);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, output, batch, input, handshake);
criterion_main!(benches);
