//! Nothing is allocated per request, once a queue has seen a few.
#![allow(unsafe_code, clippy::unwrap_used, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Arc;

use krun_virtio::testing::{MockDriver, Request};
use krun_virtio::{
    Chain, EventFd, GuestFault, Interrupt, QueueState, Sink, Source, Step, VirtQueue, gather, mmio::registers, scatter,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: it is the system's allocator; counting touches a plain thread-local that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Quiet;

impl Interrupt for Quiet {
    fn queue(&self, _index: u16) {}
    fn config(&self) {}
    fn needs_reset(&self) {}
    fn report(&self, fault: &GuestFault) {
        unreachable!("{fault}");
    }
}

/// A guest whose ring is full, and a queue over it that has its own idea of where it stands.
fn queue(driver: &mut MockDriver) -> VirtQueue {
    for _ in 0..16 {
        driver.post(0, &Request::new().readable([1; 300]).writable(300).pieces(40).indirect());
    }
    let ring = driver.ring(0);
    let state = QueueState {
        max_size: ring.size,
        size: ring.size,
        ready: true,
        desc_table: ring.descriptors,
        avail_ring: ring.available,
        used_ring: ring.used,
        ..QueueState::default()
    };
    VirtQueue::new(0, state, driver.ram().clone(), EventFd::new(0).unwrap(), Arc::new(Quiet)).unwrap()
}

fn count(f: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    f();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn requests_allocate_nothing() {
    let mut driver = MockDriver::builder(krun_virtio::testing::Upper).queue_size(16).build();
    let mut queue = queue(&mut driver);
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let zero = std::fs::File::open("/dev/zero").unwrap();
    let available = driver.ring(0).available + 2;
    let mut index = 16u16;
    let mut scratch = Vec::new();
    let mut held: Vec<Chain> = Vec::with_capacity(16);
    let mut round = || {
        queue.drain(|mut chain| {
            let (mut from, mut to) = chain.split();
            from.skip(10).unwrap();
            from.write_to(null.as_fd(), usize::MAX).unwrap();
            to.skip(4).unwrap();
            to.read_from(zero.as_fd(), 100).unwrap();
            to.patch(0, &[1; 4]).unwrap();
            held.push(chain);
            if held.len() == 5 { Step::Done(held.remove(2)) } else { Step::Kept }
        });
        scatter(&mut held, 8, &mut scratch, |sink| sink.read_from(zero.as_fd(), 500)).unwrap();
        gather(&mut held, &mut scratch, |source| source.write_to(null.as_fd(), 500)).unwrap();
        held.drain(..).rev().for_each(|chain| queue.complete(chain));
        queue.flush();
        // The same sixteen heads once more.
        index = index.wrapping_add(16);
        driver.write_memory(available, &index.to_le_bytes());
    };
    (0..3).for_each(|_| round());
    let allocations = count(|| (0..1000).for_each(|_| round()));
    assert_eq!(allocations, 0);
    assert_eq!(driver.used_index(0), 1003u16.wrapping_mul(16));
}

#[test]
fn registers_allocate_nothing() {
    let driver = MockDriver::new(krun_virtio::testing::Upper);
    let accesses = || {
        driver.kick(0);
        driver.acknowledge();
        driver.status();
        driver.read(registers::CONFIG_GENERATION);
        driver.config::<4>(0);
    };
    accesses();
    assert_eq!(count(|| (0..100).for_each(|_| accesses())), 0);
}
