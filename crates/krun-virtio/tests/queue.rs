//! The queue's promises, one by one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, numbers are small"
)]

mod common;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use common::Recorder;
use krun_virtio::testing::{Descriptor, GuestAddress, GuestMemoryMmap};
use krun_virtio::vm_memory::{Address, ByteValued, Bytes};
use krun_virtio::{
    Chain, End, EventFd, GuestFault, QueueState, Ram, RingFault, Sink, Source, Step, VirtQueue, gather, scatter,
};

const SIZE: u16 = 8;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;

/// A ring of eight, and the guest's hand in it.
struct Guest {
    memory: Arc<GuestMemoryMmap>,
    ram: Ram,
    queue: VirtQueue,
    interrupt: Arc<Recorder>,
    available: AtomicU16,
}

fn memory() -> Arc<GuestMemoryMmap> {
    Arc::new(GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap())
}

fn state(event_idx_enabled: bool) -> QueueState {
    QueueState {
        max_size: SIZE,
        size: SIZE,
        ready: true,
        event_idx_enabled,
        desc_table: TABLE,
        avail_ring: AVAILABLE,
        used_ring: USED,
        ..QueueState::default()
    }
}

impl Guest {
    fn new(event_idx: bool) -> Self {
        let memory = memory();
        let (ram, interrupt) = (Ram::new(memory.clone()), Recorder::new());
        let kick = EventFd::new(krun_virtio::EFD_NONBLOCK).unwrap();
        let queue = VirtQueue::new(3, state(event_idx), ram.clone(), kick, interrupt.clone()).unwrap();
        Self { memory, ram, queue, interrupt, available: AtomicU16::new(0) }
    }

    fn put<T: ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64) -> u16 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    fn descriptor(&self, index: u16, d: Descriptor) {
        let at = TABLE + 16 * u64::from(index);
        self.put(at, d.address);
        self.put(at + 8, d.len);
        self.put(at + 12, d.flags);
        self.put(at + 14, d.next);
    }

    fn offer(&self, head: u16) {
        let index = self.available.fetch_add(1, Ordering::Relaxed);
        self.put(AVAILABLE + 4 + 2 * u64::from(index % SIZE), head);
        self.put(AVAILABLE + 2, index.wrapping_add(1));
    }

    /// A chain of one descriptor, of 64 bytes at a place of its own.
    fn post(&self, head: u16, flags: u16) {
        self.descriptor(head, Descriptor { address: BUFFERS + 0x1000 * u64::from(head), len: 64, flags, next: 0 });
        self.offer(head);
    }

    fn used(&self, entry: u16) -> (u32, u32) {
        let at = USED + 4 + 8 * u64::from(entry);
        (self.memory.read_obj(GuestAddress(at)).unwrap(), self.memory.read_obj(GuestAddress(at + 4)).unwrap())
    }

    fn used_index(&self) -> u16 {
        self.get(USED + 2)
    }

    fn assert_fault(&self, fault: RingFault) {
        assert_eq!(self.queue.fault(), Some(fault));
        assert_eq!(self.interrupt.resets_asked(), 1);
        assert_eq!(*self.interrupt.faults.lock().unwrap(), [GuestFault::Ring { queue: 3, fault }]);
    }
}

fn write(chain: &mut Chain, bytes: &[u8]) {
    chain.writer().write(bytes).unwrap();
}

#[test]
fn chains_complete_in_any_order_and_are_published_at_once() {
    let mut guest = Guest::new(false);
    (0..3).for_each(|head| guest.post(head, Descriptor::WRITE));
    let mut chains: Vec<Chain> = std::iter::from_fn(|| guest.queue.pop()).collect();
    assert_eq!((chains.len(), guest.queue.in_flight()), (3, 3));
    for (chain, len) in chains.iter_mut().zip([1, 2, 3]) {
        write(chain, &vec![7; len]);
    }
    for at in [1, 1, 0] {
        guest.queue.complete(chains.remove(at));
    }
    assert_eq!((guest.used_index(), guest.interrupt.queue_interrupts()), (0, 0));
    guest.queue.flush();
    assert_eq!((guest.used_index(), guest.interrupt.queue_interrupts()), (3, 1));
    assert_eq!([guest.used(0), guest.used(1), guest.used(2)], [(1, 2), (2, 3), (0, 1)]);
    guest.queue.flush();
    assert_eq!(guest.interrupt.queue_interrupts(), 1);
}

#[test]
fn the_last_ones_popped_can_be_put_back() {
    let mut guest = Guest::new(false);
    (0..3).for_each(|head| guest.post(head, 0));
    let (a, mut b, c) = (guest.queue.pop().unwrap(), guest.queue.pop().unwrap(), guest.queue.pop().unwrap());
    b.reader().read(&mut [0; 60]).unwrap();
    guest.queue.put_back(c);
    guest.queue.put_back(b);
    guest.queue.complete(a);
    let mut b = guest.queue.pop().unwrap();
    assert_eq!((b.head(), b.reader().remaining()), (1, 64));
    let c = guest.queue.pop().unwrap();
    assert_eq!(c.head(), 2);
    // Not the last one: that one is lost, and no driver would get it back.
    guest.queue.put_back(b);
    guest.assert_fault(RingFault::Lost);
    guest.queue.complete(c);
}

#[test]
fn a_lost_chain_fails_its_queue_once() {
    let mut guest = Guest::new(false);
    (0..3).for_each(|head| guest.post(head, 0));
    drop(guest.queue.pop());
    assert!(guest.queue.pop().is_none());
    assert!(guest.queue.pop().is_none());
    assert!(!guest.queue.arm(true));
    guest.queue.flush();
    guest.assert_fault(RingFault::Lost);
}

#[test]
fn a_chain_from_before_a_reset_is_harmless() {
    let mut guest = Guest::new(false);
    guest.post(0, Descriptor::WRITE);
    guest.post(1, Descriptor::WRITE);
    let (mut old, dropped) = (guest.queue.pop().unwrap(), guest.queue.pop().unwrap());
    let fresh = VirtQueue::new(3, state(false), guest.ram.clone(), EventFd::new(0).unwrap(), guest.interrupt.clone());
    guest.queue = fresh.unwrap();
    // Its memory is still there, and is written; nobody is told.
    write(&mut old, b"late");
    guest.queue.complete(old);
    drop(dropped);
    guest.queue.flush();
    assert_eq!((guest.used_index(), guest.queue.fault(), guest.queue.in_flight()), (0, None, 0));
    assert_eq!(guest.queue.pop().unwrap().head(), 0);
}

#[test]
fn a_chain_outlives_its_memory_map() {
    let mut guest = Guest::new(false);
    guest.post(0, Descriptor::WRITE);
    let mut chain = guest.queue.pop().unwrap();
    let old = Arc::downgrade(&guest.memory);
    let replacement = memory();
    let mut ring = vec![0; 0x4000];
    guest.memory.read_slice(&mut ring, GuestAddress(0)).unwrap();
    replacement.write_slice(&ring, GuestAddress(0)).unwrap();
    guest.ram.replace(replacement.clone());
    guest.memory = replacement;
    assert!(old.upgrade().is_some(), "the chain keeps it");
    write(&mut chain, b"to the old map");
    guest.queue.complete(chain);
    guest.queue.flush();
    // The used ring is that of the new map.
    assert_eq!((guest.used_index(), guest.used(0)), (1, (0, 14)));
    guest.post(1, 0);
    assert_eq!(guest.queue.pop().map(|chain| guest.queue.complete(chain)), Some(()));
    assert!(old.upgrade().is_none(), "nobody needs it any more");
}

#[test]
fn a_memory_map_without_the_ring_fails_it() {
    let mut guest = Guest::new(false);
    let tiny = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0x10_0000), 0x1000)]).unwrap();
    guest.ram.replace(Arc::new(tiny));
    assert!(guest.queue.pop().is_none());
    guest.assert_fault(RingFault::Address);
}

#[test]
fn no_more_chains_than_entries() {
    let mut guest = Guest::new(false);
    (0..SIZE).for_each(|head| guest.post(head, 0));
    let mut held: Vec<Chain> = std::iter::from_fn(|| guest.queue.pop()).collect();
    assert_eq!(held.len(), usize::from(SIZE));
    // All are in flight: another one cannot be.
    guest.offer(0);
    assert!(guest.queue.pop().is_none());
    guest.assert_fault(RingFault::Index);
    held.drain(..).for_each(|chain| guest.queue.complete(chain));
    guest.queue.flush();
    assert_eq!(guest.used_index(), 0, "a failed ring is silent");
}

#[test]
fn each_way_to_break_a_ring_has_its_name() {
    let long = Descriptor { address: BUFFERS, len: 0x10_0000, flags: Descriptor::NEXT, next: 0 };
    let indirect = |len, flags| Descriptor { address: 0x4001, len, flags: Descriptor::INDIRECT | flags, next: 0 };
    let one = |d| vec![d];
    let cases = [
        (one(Descriptor { address: 0x1f_ffff, len: 2, flags: 0, next: 0 }), RingFault::Address),
        (one(Descriptor { address: u64::MAX, len: 2, flags: 0, next: 0 }), RingFault::Address),
        (one(Descriptor { address: BUFFERS, len: 2, flags: Descriptor::NEXT, next: SIZE }), RingFault::Descriptor),
        (one(Descriptor { address: BUFFERS, len: 2, flags: Descriptor::NEXT, next: 0 }), RingFault::Loop),
        (one(long), RingFault::Loop),
        (
            vec![
                Descriptor { address: BUFFERS, len: 2, flags: Descriptor::NEXT | Descriptor::WRITE, next: 1 },
                Descriptor { address: BUFFERS, len: 2, flags: 0, next: 0 },
            ],
            RingFault::Order,
        ),
        (one(indirect(0, 0)), RingFault::Descriptor),
        (one(indirect(17, 0)), RingFault::Descriptor),
        (one(indirect(16, Descriptor::NEXT)), RingFault::Descriptor),
        (one(Descriptor { address: 0x1f_fff8, len: 16, flags: Descriptor::INDIRECT, next: 0 }), RingFault::Address),
    ];
    for (table, fault) in cases {
        let mut guest = Guest::new(false);
        (0u16..).zip(&table).for_each(|(i, d)| guest.descriptor(i, *d));
        guest.offer(0);
        guest.offer(0);
        assert_eq!(guest.queue.drain(|_| panic!("no chain is whole")), End::Failed, "{table:?}");
        assert_eq!(guest.queue.drain(|_| panic!("no chain is whole")), End::Failed);
        guest.assert_fault(fault);
    }
    let mut guest = Guest::new(false);
    guest.offer(SIZE);
    assert!(guest.queue.pop().is_none());
    guest.assert_fault(RingFault::Descriptor);
}

#[test]
fn halves_of_four_gigabytes_are_refused() {
    // Nine descriptors of half a gigabyte, all over the same memory, by an indirect table.
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x2100_0000)]).unwrap();
    let interrupt = Recorder::new();
    let guest = Guest::new(false);
    for i in 0..9u64 {
        let at = GuestAddress(0x4000 + 16 * i);
        memory.write_obj(0x100_0000u64, at).unwrap();
        memory.write_obj(0x2000_0000u64 | u64::from(i < 8) << 32 | (i + 1) << 48, at.unchecked_add(8)).unwrap();
    }
    memory.write_obj(0x4000u64, GuestAddress(TABLE)).unwrap();
    memory.write_obj((9 * 16) | (4u64 << 32), GuestAddress(TABLE + 8)).unwrap();
    memory.write_obj(1u16, GuestAddress(AVAILABLE + 2)).unwrap();
    let ram = Ram::new(Arc::new(memory));
    let mut queue = VirtQueue::new(3, state(false), ram, EventFd::new(0).unwrap(), interrupt).unwrap();
    assert!(queue.pop().is_none());
    assert_eq!(queue.fault(), Some(RingFault::Length));
    drop(guest);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let make = |state| {
        let ram = Ram::new(memory());
        VirtQueue::new(0, state, ram, EventFd::new(0).unwrap(), Recorder::new()).map(drop)
    };
    assert_eq!(make(state(true)), Ok(()));
    for size in [0, 3, 16, u16::MAX] {
        assert_eq!(make(QueueState { size, ..state(true) }), Err(RingFault::Size), "{size}");
    }
    for (table, available, used) in
        [(8, 0, 0), (0, 1, 0), (0, 0, 2), (0x20_0000, 0, 0), (0, u64::MAX - 1, 0), (0, 0, 0x1f_fffc), (1 << 63, 0, 0)]
    {
        let bad = QueueState { desc_table: table, avail_ring: available, used_ring: used, ..state(true) };
        assert_eq!(make(bad), Err(RingFault::Address), "{table:#x} {available:#x} {used:#x}");
    }
}

#[test]
fn no_interrupt_is_honoured() {
    let mut guest = Guest::new(false);
    for (flag, interrupts) in [(1u16, 0), (0, 1)] {
        guest.put(AVAILABLE, flag);
        guest.post(0, 0);
        let chain = guest.queue.pop().unwrap();
        guest.queue.complete(chain);
        guest.queue.flush();
        assert_eq!(guest.interrupt.queue_interrupts(), interrupts);
    }
    assert_eq!(guest.used_index(), 2);
}

#[test]
fn event_idx_is_honoured_both_ways() {
    let mut guest = Guest::new(true);
    let used_event = AVAILABLE + 4 + 2 * u64::from(SIZE);
    let available_event = USED + 4 + 8 * u64::from(SIZE);
    let round = |guest: &mut Guest, batch: u16| {
        (0..batch).for_each(|head| guest.post(head, 0));
        while let Some(chain) = guest.queue.pop() {
            guest.queue.complete(chain);
        }
        guest.queue.flush();
        guest.interrupt.queue_interrupts()
    };
    // An interrupt when the index passes 2, that is for the third chain.
    guest.put(used_event, 2u16);
    assert_eq!(round(&mut guest, 2), 0);
    assert_eq!(round(&mut guest, 3), 1);
    assert_eq!(round(&mut guest, 3), 1);
    // Around the end of the numbers.
    for _ in 0..0x2000u32 {
        round(&mut guest, SIZE);
    }
    assert_eq!(guest.interrupt.queue_interrupts(), 2, "once more in 65,536");
    assert!(!guest.queue.arm(true));
    assert_eq!(guest.get(available_event), guest.queue.state().next_avail);
    guest.post(0, 0);
    assert!(guest.queue.arm(true), "it came before the wish");
}

#[test]
fn without_event_idx_kicks_are_asked_for_by_flag() {
    let mut guest = Guest::new(false);
    guest.queue.arm(false);
    assert_eq!(guest.get(USED), 1);
    assert!(!guest.queue.arm(true));
    assert_eq!(guest.get(USED), 0);
}

#[test]
fn drain_says_why_it_ended() {
    let mut guest = Guest::new(false);
    (0..3).for_each(|head| guest.post(head, 0));
    let mut kept = Vec::new();
    let end = guest.queue.drain(|chain| match chain.head() {
        0 => Step::Done(chain),
        1 => {
            kept.push(chain);
            Step::Kept
        }
        _ => Step::Stop(chain),
    });
    assert_eq!((end, guest.used_index(), guest.queue.in_flight()), (End::Stopped, 1, 1));
    assert_eq!(guest.get(USED), 1, "no kicks while nobody wants chains");
    assert_eq!(guest.queue.drain(Step::Done), End::Empty);
    assert_eq!((guest.get(USED), guest.used_index()), (0, 2));
    kept.drain(..).for_each(|chain| guest.queue.complete(chain));
    guest.queue.flush();
    assert_eq!(guest.used_index(), 3);
}

#[test]
fn drain_cannot_be_kept_for_ever() {
    let mut guest = Guest::new(false);
    guest.post(0, 0);
    let (memory, available) = (guest.memory.clone(), &guest.available);
    let mut served = 0;
    let end = guest.queue.drain(|chain| {
        served += 1;
        // A driver that is always one ahead.
        let next = available.fetch_add(1, Ordering::Relaxed) + 1;
        memory.write_obj(next, GuestAddress(AVAILABLE + 2)).unwrap();
        Step::Done(chain)
    });
    assert_eq!((end, served), (End::Again, 4 * usize::from(SIZE)));
    assert_eq!(guest.queue.kick().read().unwrap(), 1, "it will be called again");
    assert_eq!(guest.used_index(), 4 * SIZE);
}

#[test]
fn one_call_fills_many_chains() {
    let mut guest = Guest::new(false);
    (0..4).for_each(|head| guest.post(head, Descriptor::WRITE));
    let mut chains: Vec<Chain> = std::iter::from_fn(|| guest.queue.pop()).collect();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut sent: &[u8] = &[b'x'; 130];
    sent.send(theirs.as_fd(), 0, 130).unwrap();
    let mut scratch = Vec::new();
    let moved = scatter(&mut chains, 12, &mut scratch, |sink| {
        assert_eq!(sink.remaining(), 4 * 52);
        sink.recv(ours.as_fd(), 0, usize::MAX)
    });
    assert_eq!(moved.unwrap(), 130);
    assert_eq!(chains.iter().map(Chain::written).collect::<Vec<_>>(), [64, 64, 38, 0]);
    chains[0].writer().patch(0, &[1; 12]).unwrap();
    // An error changes nothing, and a header without room is one.
    let failed = scatter(&mut chains[3..], 12, &mut scratch, |sink| sink.recv(ours.as_fd(), 0, usize::MAX));
    assert_eq!(failed.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(scatter(&mut chains[3..], 65, &mut scratch, |_| -> std::io::Result<()> { panic!("not called") }).is_err());
    assert_eq!((chains[3].written(), scratch.len()), (0, 0));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = scatter(&mut chains[3..], 12, &mut scratch, |_| -> std::io::Result<()> { panic!("in the call") });
    }));
    assert!(panicked.is_err() && scratch.is_empty(), "no address outlives the call");
    // What lies there is what was sent, behind each header.
    let sent: Vec<u8> = (0..3u64)
        .flat_map(|i| {
            let mut bytes = vec![0; 64];
            guest.memory.read_slice(&mut bytes, GuestAddress(BUFFERS + 0x1000 * i)).unwrap();
            bytes.split_off(12)
        })
        .take(130)
        .collect();
    assert_eq!(sent, [b'x'; 130]);
    chains.into_iter().for_each(|chain| guest.queue.complete(chain));
}

#[test]
fn one_call_empties_many_chains() {
    let mut guest = Guest::new(false);
    (0..3).for_each(|head| guest.post(head, 0));
    let mut chains: Vec<Chain> = std::iter::from_fn(|| guest.queue.pop()).collect();
    chains[0].reader().skip(60).unwrap();
    let mut scratch = Vec::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let moved = gather(&mut chains, &mut scratch, |source| {
        assert_eq!(source.remaining(), 132);
        source.send(ours.as_fd(), 0, 70)
    });
    assert_eq!(moved.unwrap(), 70);
    let mut sink = krun_virtio::VecSink::new(100);
    assert_eq!(sink.recv(theirs.as_fd(), 0, 100).unwrap(), 70);
    let left: Vec<usize> = chains.iter_mut().map(|chain| chain.reader().remaining()).collect();
    assert_eq!(left, [0, 0, 62]);
    chains.into_iter().for_each(|chain| guest.queue.complete(chain));
}

#[test]
fn pieces_that_touch_are_one() {
    let mut guest = Guest::new(false);
    let next = |address, next| Descriptor { address, len: 16, flags: Descriptor::NEXT, next };
    guest.descriptor(0, next(BUFFERS, 1));
    guest.descriptor(1, next(BUFFERS + 16, 2));
    guest.descriptor(2, Descriptor { flags: Descriptor::NEXT | Descriptor::WRITE, ..next(BUFFERS + 32, 3) });
    guest.descriptor(3, Descriptor { flags: Descriptor::WRITE, ..next(BUFFERS + 48, 0) });
    guest.offer(0);
    let mut chain = guest.queue.pop().unwrap();
    let (mut reader, mut writer) = chain.split();
    assert_eq!(reader.lend(usize::MAX, &mut |iovs| Ok(iovs.len())).unwrap(), 1);
    assert_eq!(writer.lend(usize::MAX, &mut |iovs| Ok(iovs.len())).unwrap(), 1);
    assert_eq!((reader.remaining(), writer.remaining()), (31, 31));
    guest.queue.complete(chain);
}

#[test]
fn what_is_written_is_marked_dirty_and_nothing_else() {
    use krun_virtio::vm_memory::bitmap::{AtomicBitmap, Bitmap};
    use krun_virtio::vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

    type Tracked = GuestMemoryMmap<AtomicBitmap>;
    let guest = Guest::new(true);
    guest.post(1, Descriptor::WRITE);
    guest.post(2, Descriptor::WRITE);
    // The same bytes, in memory that keeps track; the second region is where chain 2 lies.
    let split = BUFFERS + 0x2000;
    let ranges = [(GuestAddress(0), split as usize), (GuestAddress(split), 0x10000)];
    let tracked = Arc::new(Tracked::from_ranges(&ranges).unwrap());
    let mut bytes = vec![0; 0x2000];
    guest.memory.read_slice(&mut bytes, GuestAddress(TABLE)).unwrap();
    tracked.write_slice(&bytes, GuestAddress(TABLE)).unwrap();
    let dirty = |memory: &Tracked| -> Vec<u64> {
        let pages = (0..0x1_f000u64 + 0x4000).step_by(0x1000);
        let dirty = pages.filter(|page| {
            let found = memory.to_region_addr(GuestAddress(*page));
            found.is_some_and(|(region, at)| region.bitmap().dirty_at(at.raw_value() as usize))
        });
        dirty.collect()
    };
    let ram = Ram::new(tracked.clone());
    let mut queue = VirtQueue::new(0, state(true), ram, EventFd::new(0).unwrap(), Recorder::new()).unwrap();
    let (first, mut second) = (queue.pop().unwrap(), queue.pop().unwrap());
    assert_eq!(dirty(&tracked), [TABLE, AVAILABLE], "as it was set up");
    // Nothing is written to the first; the ring is, by completing it.
    queue.complete(first);
    assert_eq!(dirty(&tracked), [TABLE, AVAILABLE, USED]);
    write(&mut second, b"x");
    queue.complete(second);
    queue.flush();
    assert_eq!(dirty(&tracked), [TABLE, AVAILABLE, USED, split]);
}

#[test]
fn chains_go_to_other_threads() {
    let mut guest = Guest::new(false);
    guest.post(0, Descriptor::WRITE);
    let mut chain = guest.queue.pop().unwrap();
    let chain = std::thread::scope(|scope| {
        let pool = scope.spawn(move || {
            write(&mut chain, b"from a pool");
            chain
        });
        pool.join().unwrap()
    });
    guest.queue.complete(chain);
    guest.queue.flush();
    assert_eq!(guest.used(0), (0, 11));
}
