//! Benchmarks of `krun-init`.
//!
//! The control protocol is never a hot path; what matters is that a start with 128 KiB of arguments costs nothing next
//! to the boot it is part of. Each measurement stands beside a plain copy of as many bytes: the ratio says how much
//! the protocol adds to moving the bytes at all.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says so")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use krun_init::protocol::{Decoder, Fields, MAX_TO_GUEST, MAX_TO_HOST, Started, ToGuest, ToHost};
use krun_init::{Host, Start};

/// 128 KiB of arguments, the shape of a long command line.
fn long_start() -> Start {
    Start::new((0..2048).map(|number| format!("{number:-<63}")))
}

fn start_frame(criterion: &mut Criterion) {
    let start = long_start();
    let frame = start.encode().unwrap();
    let mut group = criterion.benchmark_group("start of 128 KiB");
    group.throughput(Throughput::Bytes(u64::try_from(frame.len()).unwrap()));
    group.bench_function("copy", |bencher| bencher.iter(|| black_box(&frame).clone()));
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&start).encode().unwrap()));
    group.bench_function("decode", |bencher| {
        let mut decoder = Decoder::new(MAX_TO_GUEST, Vec::new());
        bencher.iter(|| {
            let mut input = black_box(&frame[..]);
            let frame = decoder.next(&mut input).unwrap().unwrap();
            let Ok(Some(ToGuest::Start(fields))) = ToGuest::decode(&frame) else { unreachable!() };
            fields.iter().count()
        });
    });
    group.bench_function("walk", |bencher| {
        let fields = Fields::parse(&frame[krun_init::protocol::Header::SIZE..]).unwrap();
        bencher.iter(|| black_box(&fields).iter().count());
    });
    group.finish();
}

fn small_frames(criterion: &mut Criterion) {
    let mut frame = Vec::new();
    ToHost::Started(Started { pid: 1 }).encode(&mut frame);
    let mut group = criterion.benchmark_group("started");
    group.throughput(Throughput::Bytes(u64::try_from(frame.len()).unwrap()));
    group.bench_function("copy", |bencher| bencher.iter(|| black_box(&frame).clone()));
    group.bench_function("decode", |bencher| {
        let mut decoder = Decoder::new(MAX_TO_HOST, Vec::new());
        bencher.iter(|| {
            let mut input = black_box(&frame[..]);
            let frame = decoder.next(&mut input).unwrap().unwrap();
            matches!(ToHost::decode(&frame), Ok(Some(ToHost::Started(_))))
        });
    });
    group.bench_function("decode byte by byte", |bencher| {
        let mut decoder = Decoder::new(MAX_TO_HOST, Vec::new());
        bencher.iter(|| {
            let mut seen = 0;
            for mut input in black_box(&frame[..]).chunks(1) {
                seen += usize::from(decoder.next(&mut input).unwrap().is_some());
            }
            seen
        });
    });
    group.bench_function("new host", |bencher| {
        let start = Start::new(["true"]);
        bencher.iter(|| Host::new(black_box(&start)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, start_frame, small_frames);
criterion_main!(benches);
