//! Random rings, most of them hostile: the queue against a naive model and against virtio-queue's own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, numbers are small"
)]

mod common;

use std::sync::Arc;

use common::Recorder;
use krun_virtio::testing::Descriptor;
use krun_virtio::virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use krun_virtio::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use krun_virtio::{EventFd, Ram, Sink, Source, VirtQueue};
use proptest::prelude::*;

/// Two regions that touch, and one apart.
const REGIONS: [(u64, u64); 3] = [(0, 0x1_0000), (0x1_0000, 0x1_0000), (0x4_0000, 0x4000)];
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2002;
const USED: u64 = 0x3004;
/// Indirect tables, at odd addresses; the last one runs across two regions.
const INDIRECT: [u64; 3] = [0x4001, 0x4_0103, 0xffe8];
const ENTRIES: usize = 6;

#[derive(Debug, Clone)]
struct Case {
    size: u16,
    next: u16,
    event_idx: bool,
    used_event: u16,
    table: Vec<Descriptor>,
    indirect: Vec<Vec<Descriptor>>,
    heads: Vec<u16>,
    surplus: u16,
}

fn descriptor(count: u16, indirect: bool) -> impl Strategy<Value = Descriptor> {
    let near = |at: u64| (0u64..64).prop_map(move |d| at.wrapping_sub(32).wrapping_add(d));
    let address = prop_oneof![
        12 => 0x5000u64..0xe000,
        3 => near(0x1_0000),
        2 => near(0x2_0000),
        2 => near(0x4_0000),
        1 => near(0),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![10 => 0u32..200, 2 => 0u32..0x4000, 1 => any::<u32>()];
    let flags = prop_oneof![10 => 0u16..4, 1 => any::<u16>()];
    let plain = (address, len, flags, 0..=count).prop_map(|(address, len, flags, next)| Descriptor {
        address,
        len,
        flags: flags & !Descriptor::INDIRECT,
        next,
    });
    let table = (
        0..INDIRECT.len(),
        prop_oneof![8 => 1..=ENTRIES as u32, 1 => Just(0u32), 1 => Just(1000u32)],
        0u32..9,
        0u16..4,
    )
        .prop_map(|(table, entries, odd, flags)| Descriptor {
            address: INDIRECT[table],
            len: entries * 16 + u32::from(odd == 8),
            flags: Descriptor::INDIRECT | if flags == 3 { Descriptor::NEXT } else { flags & Descriptor::WRITE },
            next: 0,
        });
    if indirect { prop_oneof![12 => plain, 1 => table].boxed() } else { prop_oneof![5 => plain, 1 => table].boxed() }
}

/// Makes most descriptors of a table into what a sane driver writes: runs that end, writable ones last.
fn tame(table: &mut [Descriptor], seeds: &[u8]) {
    let last = table.len().saturating_sub(1);
    let mut writing = false;
    for (i, (d, seed)) in table.iter_mut().zip(seeds.iter().cycle()).enumerate() {
        writing |= seed & 3 == 0;
        let end = i == last || seed & 0x1c == 0;
        if seed & 0xe0 != 0 {
            if d.flags & Descriptor::INDIRECT == 0 {
                let write = if writing { Descriptor::WRITE } else { 0 };
                let next = if end { 0 } else { Descriptor::NEXT };
                let address = if d.address > 0x2_0000 { 0xff80 + u64::from(*seed) } else { d.address };
                *d = Descriptor { address, len: d.len % 300, flags: write | next, next: i as u16 + 1 };
            } else if d.len % 16 == 0 && d.len / 16 <= ENTRIES as u32 {
                d.flags &= !Descriptor::NEXT;
            }
        }
        writing &= !end;
    }
}

fn case() -> impl Strategy<Value = Case> {
    prop_oneof![Just(1u16), Just(2), Just(4), Just(8), Just(16)].prop_flat_map(|size| {
        (
            any::<u16>(),
            any::<bool>(),
            any::<u16>(),
            prop::collection::vec(descriptor(size, false), usize::from(size)),
            prop::collection::vec(prop::collection::vec(descriptor(ENTRIES as u16, true), ENTRIES), INDIRECT.len()),
            prop::collection::vec(prop_oneof![20 => 0..size, 1 => Just(size)], 0..=usize::from(size)),
            prop_oneof![30 => Just(0u16), 1 => any::<u16>()],
            prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 8..40)),
        )
            .prop_map(move |(next, event_idx, used_event, mut table, mut indirect, heads, surplus, seeds)| {
                if let Some(seeds) = &seeds {
                    tame(&mut table, seeds);
                    indirect.iter_mut().for_each(|table| tame(table, seeds.get(3..).unwrap()));
                }
                // Near the index, or it says nothing.
                let used_event = next.wrapping_add(used_event % 24).wrapping_sub(4);
                Case { size, next, event_idx, used_event, table, indirect, heads, surplus }
            })
    })
}

fn bytes_of(d: &Descriptor) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&d.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&d.len.to_le_bytes());
    bytes[12..14].copy_from_slice(&d.flags.to_le_bytes());
    bytes[14..].copy_from_slice(&d.next.to_le_bytes());
    bytes
}

impl Case {
    fn memory(&self) -> Arc<GuestMemoryMmap> {
        let ranges = REGIONS.map(|(base, len)| (GuestAddress(base), len as usize));
        let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
        for (base, len) in REGIONS {
            let noise: Vec<u8> = (0..len).map(|i| (base + i).wrapping_mul(0x9e37) as u8).collect();
            memory.write_slice(&noise, GuestAddress(base)).unwrap();
        }
        for (table, base) in self.indirect.iter().zip(INDIRECT) {
            for (i, d) in table.iter().enumerate() {
                memory.write_slice(&bytes_of(d), GuestAddress(base + 16 * i as u64)).unwrap();
            }
        }
        for (i, d) in self.table.iter().enumerate() {
            memory.write_slice(&bytes_of(d), GuestAddress(TABLE + 16 * i as u64)).unwrap();
        }
        for i in 0..self.size {
            memory.write_obj(0u16, GuestAddress(AVAILABLE + 4 + 2 * u64::from(i))).unwrap();
        }
        for (i, head) in (0u16..).zip(&self.heads) {
            let slot = u64::from(self.next.wrapping_add(i) % self.size);
            memory.write_obj(*head, GuestAddress(AVAILABLE + 4 + 2 * slot)).unwrap();
        }
        memory.write_obj(0u16, GuestAddress(AVAILABLE)).unwrap();
        memory.write_obj(self.available(), GuestAddress(AVAILABLE + 2)).unwrap();
        let event = AVAILABLE + 4 + 2 * u64::from(self.size);
        memory.write_obj(self.used_event, GuestAddress(event)).unwrap();
        memory.write_slice(&vec![0; 6 + 8 * usize::from(self.size)], GuestAddress(USED)).unwrap();
        Arc::new(memory)
    }

    fn available(&self) -> u16 {
        self.next.wrapping_add(self.heads.len() as u16).wrapping_add(self.surplus)
    }

    fn state(&self) -> QueueState {
        QueueState {
            max_size: 16,
            size: self.size,
            ready: true,
            next_avail: self.next,
            next_used: self.next,
            event_idx_enabled: self.event_idx,
            desc_table: TABLE,
            avail_ring: AVAILABLE,
            used_ring: USED,
        }
    }
}

type Range = (u64, u64);

/// A chain by the book. `None` if it breaks a rule.
fn model(memory: &GuestMemoryMmap, size: u16, head: u16) -> Option<Vec<Descriptor>> {
    let load = |table: u64, i: u32| -> Option<Descriptor> {
        let mut b = [0; 16];
        memory.read_slice(&mut b, GuestAddress(table + 16 * u64::from(i))).ok()?;
        Some(Descriptor {
            address: u64::from_le_bytes(b[..8].try_into().unwrap()),
            len: u32::from_le_bytes(b[8..12].try_into().unwrap()),
            flags: u16::from_le_bytes(b[12..14].try_into().unwrap()),
            next: u16::from_le_bytes(b[14..].try_into().unwrap()),
        })
    };
    let (mut table, mut count, mut i) = (TABLE, u32::from(size), u32::from(head));
    let mut chain: Vec<Descriptor> = Vec::new();
    loop {
        let d = (i < count).then(|| load(table, i)).flatten()?;
        if d.flags & Descriptor::INDIRECT != 0 {
            let one_piece =
                REGIONS.iter().any(|(base, len)| d.address >= *base && d.address + u64::from(d.len) <= base + len);
            if table != TABLE || d.flags & Descriptor::NEXT != 0 || d.len == 0 || d.len % 16 != 0 || !one_piece {
                return None;
            }
            (table, count, i) = (d.address, d.len / 16, 0);
            continue;
        }
        let last = chain.last().is_some_and(|last| last.flags & Descriptor::WRITE != 0);
        if (last && d.flags & Descriptor::WRITE == 0) || chain.len() > 1100 {
            return None;
        }
        chain.push(d);
        if d.flags & Descriptor::NEXT == 0 {
            break;
        }
        i = u32::from(d.next);
    }
    // A direct chain longer than the table has a loop; so has an indirect one, and that one ended.
    let direct = if table == TABLE { chain.len() } else { 0 };
    let mapped = |d: &Descriptor| {
        (0..u64::from(d.len)).step_by(1).all(|k| {
            d.address.checked_add(k).is_some_and(|a| REGIONS.iter().any(|(base, len)| a >= *base && a < base + len))
        })
    };
    // Ranges are checked by their ends and by regions, or a 4 GiB one takes all day.
    let plausible = |d: &Descriptor| d.len <= 0x2_0000 && mapped(d);
    (direct <= usize::from(size) && chain.iter().all(plausible)).then_some(chain)
}

fn half(chain: &[Descriptor], write: bool) -> Vec<Range> {
    let wanted = chain.iter().filter(|d| (d.flags & Descriptor::WRITE != 0) == write);
    wanted.map(|d| (d.address, u64::from(d.len))).collect()
}

fn dump(memory: &GuestMemoryMmap) -> Vec<Vec<u8>> {
    REGIONS
        .iter()
        .map(|(base, len)| {
            let mut bytes = vec![0; *len as usize];
            memory.read_slice(&mut bytes, GuestAddress(*base)).unwrap();
            bytes
        })
        .collect()
}

fn gather(memory: &GuestMemoryMmap, ranges: &[Range]) -> Vec<u8> {
    let mut all = Vec::new();
    for (at, len) in ranges {
        let mut bytes = vec![0; *len as usize];
        memory.read_slice(&mut bytes, GuestAddress(*at)).unwrap();
        all.extend(bytes);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn pops_what_the_book_says(case in case()) {
        let memory = case.memory();
        let interrupt = Recorder::new();
        let ram = Ram::new(memory.clone());
        let mut queue = VirtQueue::new(0, case.state(), ram, EventFd::new(0).unwrap(), interrupt.clone()).unwrap();
        let before = dump(&memory);
        let mut writable: Vec<Range> = vec![(USED, 6 + 8 * u64::from(case.size))];

        let expected: Vec<_> = match case.available().wrapping_sub(case.next) {
            waiting if waiting > case.size => Vec::new(),
            waiting => (0..waiting)
                .map(|i| {
                    let slot = u64::from(case.next.wrapping_add(i) % case.size);
                    memory.read_obj::<u16>(GuestAddress(AVAILABLE + 4 + 2 * slot)).unwrap()
                })
                .collect(),
        };
        // Chains may overlap each other and the tables: each is modelled when it is popped, and only read.
        let (mut held, mut served) = (Vec::new(), 0);
        let mut broken = expected.is_empty() && case.available() != case.next;
        for head in &expected {
            let book = model(&memory, case.size, *head);
            let popped = queue.pop();
            prop_assert_eq!(book.is_some(), popped.is_some(), "chain {} {:?}", head, queue.fault());
            let (Some(book), Some(mut chain)) = (book, popped) else {
                broken = true;
                break;
            };
            served += 1;
            let (read, write) = (half(&book, false), half(&book, true));
            let mut bytes = vec![0; chain.readable()];
            chain.reader().read(&mut bytes).unwrap();
            prop_assert_eq!(bytes, gather(&memory, &read));
            prop_assert_eq!(chain.writable() as u64, write.iter().map(|r| r.1).sum::<u64>());
            prop_assert_eq!(chain.head(), *head);
            writable.extend(write);
            held.push(chain);
        }
        prop_assert!(queue.pop().is_none());
        prop_assert_eq!(queue.fault().is_some(), broken);
        prop_assert_eq!(interrupt.resets_asked(), u64::from(broken));
        prop_assert_eq!(usize::from(queue.in_flight()), served);

        // All of it written, nothing else.
        while let Some(mut chain) = held.pop() {
            let room = chain.writable();
            chain.writer().write(&vec![0xa5; room]).unwrap();
            queue.complete(chain);
        }
        queue.flush();
        let mut after = dump(&memory);
        for (((base, len), before), after) in REGIONS.iter().zip(&before).zip(&mut after) {
            // What may have changed is set back; the rest must be the same.
            for (start, length) in &writable {
                let from = (*start).clamp(*base, base + len) - base;
                let to = (start + length).clamp(*base, base + len) - base;
                after[from as usize..to as usize].copy_from_slice(&before[from as usize..to as usize]);
            }
            prop_assert!(before == after, "bytes outside of the writable ranges changed");
        }
    }

    #[test]
    fn agrees_with_virtio_queue(case in case()) {
        let (ours, theirs) = (case.memory(), case.memory());
        let interrupt = Recorder::new();
        let ram = Ram::new(ours.clone());
        let mut queue = VirtQueue::new(0, case.state(), ram, EventFd::new(0).unwrap(), interrupt.clone()).unwrap();
        let mut other = Queue::try_from(case.state()).unwrap();
        let mut completed = 0;
        while let Some(chain) = queue.pop() {
            // What we accept, the other reads just so.
            let theirs_chain = other.iter(&*theirs).unwrap().next().unwrap();
            prop_assert_eq!(theirs_chain.head_index(), chain.head());
            let descriptors: Vec<_> = theirs_chain.collect();
            let sum = |write| -> usize { descriptors.iter().filter(|d| d.is_write_only() == write).map(|d| d.len() as usize).sum() };
            prop_assert_eq!((chain.readable(), chain.writable()), (sum(false), sum(true)));
            other.add_used(&*theirs, chain.head(), 0).unwrap();
            queue.complete(chain);
            completed += 1;
        }
        if queue.fault().is_none() {
            queue.flush();
            let len = 4 + 8 * u64::from(case.size);
            prop_assert_eq!(gather(&ours, &[(USED, len)]), gather(&theirs, &[(USED, len)]));
            if case.event_idx && completed > 0 {
                prop_assert_eq!(interrupt.queue_interrupts() == 1, other.needs_notification(&*theirs).unwrap());
            }
            prop_assert_eq!((queue.state().next_avail, queue.state().next_used), (other.next_avail(), other.next_used()));
        }
    }
}
