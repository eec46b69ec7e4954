//! What a queue costs, beside virtio-queue's own over the same ring in the same run.
//!
//! `walk` pops a chain, has the host address and length of every piece of it, and completes it; nothing is moved. For
//! virtio-queue that is a descriptor chain whose every descriptor is turned into volatile slices. The ratio
//! `virtio-queue / krun` is how many times cheaper a request's bookkeeping is here.
//!
//! `read 1 MiB` fills a chain of 256 pages from a file in memory, beside the bare `preadv` into as many buffers: what is
//! above 1 is the price of the ring. `round trip` is one request through the mock driver, the event loop, the device and
//! back without threads, beside the system calls in it alone. `register` is one read by a vCPU.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a bench that cannot run says so")]

use std::fs::File;
use std::hint::black_box;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use krun_virtio::testing::{MockDriver, Request, Upper};
use krun_virtio::virtio_queue::{Queue, QueueState, QueueT};
use krun_virtio::vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use krun_virtio::{EFD_NONBLOCK, EventFd, GuestFault, Interrupt, Ram, Sink, VirtQueue, mmio::registers};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

const SIZE: u16 = 256;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x8000;
const USED: u64 = 0x9000;
const INDIRECT: u64 = 0x1_0000;
const BUFFERS: u64 = 0x10_0000;

struct Quiet;

impl Interrupt for Quiet {
    fn queue(&self, _index: u16) {}
    fn config(&self) {}
    fn needs_reset(&self) {
        panic!("the bench's ring is broken");
    }
    fn report(&self, fault: &GuestFault) {
        panic!("the bench's ring is broken: {fault}");
    }
}

/// A ring whose every entry is a chain of `descriptors` pages, the first `readable` of them readable.
fn ring(descriptors: u16, readable: u16, indirect: bool) -> Arc<GuestMemoryMmap> {
    let memory = Arc::new(GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap());
    let put = |table: u64, first: u16| {
        for i in 0..descriptors {
            let address = BUFFERS + u64::from(i) * 0x2000;
            let write = if i >= readable { 2 } else { 0 };
            let next = u16::from(i + 1 < descriptors);
            let word = u64::from(0x1000u32) | u64::from(write | next) << 32 | u64::from(first + i + 1) << 48;
            let at = table + 16 * u64::from(first + i);
            memory.write_obj(address, GuestAddress(at)).unwrap();
            memory.write_obj(word, GuestAddress(at + 8)).unwrap();
        }
    };
    if indirect {
        put(INDIRECT, 0);
        memory.write_obj(INDIRECT, GuestAddress(TABLE)).unwrap();
        memory.write_obj((u64::from(descriptors) * 16) | (4 << 32), GuestAddress(TABLE + 8)).unwrap();
    } else {
        (0..SIZE / descriptors).for_each(|chain| put(TABLE, chain * descriptors));
    }
    for entry in 0..SIZE {
        let head = if indirect { 0 } else { entry % (SIZE / descriptors) * descriptors };
        memory.write_obj(head, GuestAddress(AVAILABLE + 4 + 2 * u64::from(entry))).unwrap();
    }
    memory
}

fn state() -> QueueState {
    QueueState {
        max_size: SIZE,
        size: SIZE,
        ready: true,
        desc_table: TABLE,
        avail_ring: AVAILABLE,
        used_ring: USED,
        ..QueueState::default()
    }
}

fn walk(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk");
    for (name, descriptors, indirect) in
        [("4 descriptors", 4, false), ("4 indirect", 4, true), ("1 MiB in 256 pages", 256, true)]
    {
        group.throughput(Throughput::Elements(u64::from(descriptors)));
        let memory = ring(descriptors, descriptors / 2, indirect);
        let offer = |index: &AtomicU16| {
            let next = index.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            memory.store(next, GuestAddress(AVAILABLE + 2), Ordering::Release).unwrap();
        };

        group.bench_function(BenchmarkId::new("krun", name), |b| {
            let index = AtomicU16::new(0);
            let kick = EventFd::new(0).unwrap();
            let mut queue = VirtQueue::new(0, state(), Ram::new(memory.clone()), kick, Arc::new(Quiet)).unwrap();
            b.iter(|| {
                offer(&index);
                let mut chain = queue.pop().unwrap();
                black_box(chain.split());
                queue.complete(chain);
                if queue.state().next_used.is_multiple_of(64) {
                    queue.flush();
                }
            });
        });
        group.bench_function(BenchmarkId::new("virtio-queue", name), |b| {
            let index = AtomicU16::new(0);
            let mut queue = Queue::try_from(state()).unwrap();
            let memory = &*memory;
            b.iter(|| {
                offer(&index);
                let chain = queue.pop_descriptor_chain(memory).unwrap();
                let head = chain.head_index();
                for descriptor in chain {
                    let access = if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
                    for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize, access).unwrap() {
                        black_box(slice.unwrap());
                    }
                }
                queue.add_used(memory, head, 0).unwrap();
                if queue.next_used().is_multiple_of(64) {
                    black_box(queue.needs_notification(memory).unwrap());
                }
            });
        });
    }
    group.finish();
}

/// A mebibyte in memory.
fn file() -> File {
    let file = File::from(rustix::fs::memfd_create("mebibyte", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    rustix::io::pwrite(&file, &vec![7; 1 << 20], 0).unwrap();
    file
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read 1 MiB");
    group.throughput(Throughput::Bytes(1 << 20));
    let file = file();
    group.bench_function("krun", |b| {
        let memory = ring(256, 0, true);
        let index = AtomicU16::new(0);
        let kick = EventFd::new(0).unwrap();
        let mut queue = VirtQueue::new(0, state(), Ram::new(memory.clone()), kick, Arc::new(Quiet)).unwrap();
        b.iter(|| {
            let next = index.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            memory.store(next, GuestAddress(AVAILABLE + 2), Ordering::Release).unwrap();
            let mut chain = queue.pop().unwrap();
            assert_eq!(chain.writer().pread(file.as_fd(), 0, 0, usize::MAX).unwrap(), 1 << 20);
            queue.complete(chain);
            queue.flush();
        });
    });
    group.bench_function("preadv", |b| {
        // As the guest's: page by page, a page apart, each touched before.
        let mut memory = vec![1u8; 257 * 0x2000];
        let start = memory.as_ptr().align_offset(0x1000);
        let buffers = &mut memory[start..start + 256 * 0x2000];
        b.iter(|| {
            let mut slices: Vec<_> =
                buffers.chunks_mut(0x2000).map(|page| IoSliceMut::new(&mut page[..0x1000])).collect();
            assert_eq!(rustix::io::preadv(&file, &mut slices, 0).unwrap(), 1 << 20);
        });
    });
    group.finish();
}

/// What a request without threads cannot do without: a kick, its event, its read, an interrupt and its read.
fn system_calls(c: &mut Criterion) {
    let (kick, line) = (EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
    let set = Epoll::new().unwrap();
    set.ctl(ControlOperation::Add, kick.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    c.bench_function("round trip/its system calls alone", |b| {
        let mut events = [EpollEvent::default(); 8];
        b.iter(|| {
            kick.write(1).unwrap();
            black_box(set.wait(0, &mut events).unwrap());
            black_box(set.wait(0, &mut events).unwrap());
            kick.read().unwrap();
            line.write(1).unwrap();
        });
    });
}

fn transport(c: &mut Criterion) {
    system_calls(c);
    let mut driver = MockDriver::new(Upper);
    c.bench_function("register/interrupt status", |b| b.iter(|| driver.read(registers::INTERRUPT_STATUS)));
    c.bench_function("register/status", |b| b.iter(|| driver.read(registers::STATUS)));
    let request = Request::new().readable([b'a'; 64]).writable(64);
    c.bench_function("round trip/64 bytes inline", |b| b.iter(|| driver.submit(0, &request)));
}

criterion_group!(benches, walk, read, transport);
criterion_main!(benches);
