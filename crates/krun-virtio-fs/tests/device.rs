//! The device through its real registers and rings.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stderr,
    reason = "a test fails loudly, and numbers are made up"
)]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use krun_virtio::testing::{Descriptor, MockDriver, Request, Used};
use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{Error, Failure, FileSystem, FsDevice, FsResult, FuseServer, Handle, NodeId, PassthroughFs};
use rustix::fs::FlockOperation;
use support::{ROOT, array, lock, parse, request};

const TRY: FlockOperation = FlockOperation::NonBlockingLockExclusive;

const HIPRIO: u16 = 0;
const QUEUE: u16 = 1;

struct Guest {
    dir: tempfile::TempDir,
    driver: MockDriver,
    server: Arc<FuseServer<PassthroughFs>>,
    unique: u64,
}

impl Guest {
    fn new(threads: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let device = FsDevice::new("share", PassthroughFs::builder(dir.path()).build().expect("a share"));
        let device = device.expect("a device");
        let server = device.server().clone();
        let driver = if threads { MockDriver::threaded(device) } else { MockDriver::new(device) };
        let mut guest = Self { dir, driver, server, unique: 100 };
        guest.init();
        guest
    }

    fn init(&mut self) {
        let init = abi::InitIn { major: 7, minor: 38, max_readahead: 1 << 17, flags: u32::MAX };
        self.call(Opcode::Init, 0, &[&init.encode(), &[0; 48]]).expect("INIT");
    }

    fn post(&mut self, queue: u16, opcode: Opcode, node: u64, parts: &[&[u8]], room: usize) -> (u64, u16) {
        self.unique += 2;
        let bytes = request(opcode as u32, node, self.unique, (0, 0), parts);
        let mut chain = Request::new().readable(bytes);
        if room > 0 {
            chain = chain.writable(room);
        }
        (self.unique, self.driver.post(queue, &chain))
    }

    fn call(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> support::Answer {
        let (unique, head) = self.post(QUEUE, opcode, node, parts, 1 << 17);
        self.driver.kick(QUEUE);
        let used = self.driver.wait(QUEUE);
        assert_eq!(used.head, head);
        parse(&used.data, unique)
    }

    fn create(&mut self, text: &str) -> (u64, u64) {
        let how = abi::CreateIn { flags: libc::O_RDWR.cast_unsigned(), mode: 0o644, ..Default::default() };
        let answer = self.call(Opcode::Create, ROOT, &[&how.encode(), &support::name(text)]).expect("CREATE");
        let node = abi::EntryOut::decode(&array(&answer, 0)).nodeid;
        (node, abi::OpenOut::decode(&array(&answer, abi::EntryOut::SIZE)).fh)
    }

    fn write(&mut self, (node, fh): (u64, u64), data: &[u8]) {
        let how = abi::WriteIn { fh, size: u32::try_from(data.len()).expect("short"), ..Default::default() };
        self.call(Opcode::Write, node, &[&how.encode(), data]).expect("WRITE");
    }
}

fn read_in(fh: u64, offset: u64, size: u32) -> [u8; abi::ReadIn::SIZE] {
    abi::ReadIn { fh, offset, size, ..Default::default() }.encode()
}

#[test]
fn the_config_space_names_the_share() {
    let device = |tag: &str| {
        let dir = tempfile::tempdir().expect("a directory");
        FsDevice::new(tag, PassthroughFs::builder(dir.path()).build().expect("a share"))
    };
    let driver = MockDriver::new(device("/dev/root").expect("a device").request_queues(3).expect("three"));
    assert_eq!(driver.read(krun_virtio::mmio::registers::DEVICE_ID), 26);
    let tag: [u8; 36] = driver.config(0);
    assert_eq!(&tag[..10], b"/dev/root\0");
    assert_eq!(driver.config(36), 3u32.to_le_bytes());
    let longest = "t".repeat(36);
    assert_eq!(MockDriver::new(device(&longest).expect("fits")).config::<36>(0), *longest.as_bytes());
    for tag in ["", "a\0b", &"t".repeat(37)] {
        assert!(matches!(device(tag), Err(Error::Tag { .. })), "{tag:?}");
    }
    for count in [0, 256, u32::MAX] {
        assert!(matches!(device("t").expect("a device").request_queues(count), Err(Error::RequestQueues { .. })));
    }
}

#[test]
fn requests_may_be_cut_anywhere() {
    let mut guest = Guest::new(false);
    let file = guest.create("f");
    guest.write(file, b"0123456789abcdef");
    let bytes = |unique, opcode: Opcode, node, parts: &[&[u8]]| request(opcode as u32, node, unique, (0, 0), parts);
    for max in 1..80 {
        for indirect in [false, true] {
            let shape = |request: Request| if indirect { request.pieces(max).indirect() } else { request.pieces(max) };
            // The mock's ring has 256 descriptors: small pieces only for small requests.
            let lookup = bytes(7, Opcode::Lookup, ROOT, &[b"f\0"]);
            let reply = guest.driver.submit(QUEUE, &shape(Request::new().readable(lookup).writable(144)));
            let entry = abi::EntryOut::decode(&array(&parse(&reply, 7).expect("LOOKUP"), 0));
            assert_eq!(entry.nodeid, file.0);
            assert!([16, 20].contains(&entry.attr.size), "before and after the first WRITE");

            let data = [&[max as u8; 16][..], b"tail"].concat();
            let how = abi::WriteIn { fh: file.1, size: 20, ..Default::default() }.encode();
            let write = bytes(9, Opcode::Write, file.0, &[&how, &data]);
            let reply = guest.driver.submit(QUEUE, &shape(Request::new().readable(write).writable(24)));
            assert_eq!(parse(&reply, 9).expect("WRITE")[..4], 20u32.to_le_bytes());

            let read = bytes(11, Opcode::Read, file.0, &[&read_in(file.1, 1, 100)]);
            let reply = guest.driver.submit(QUEUE, &shape(Request::new().readable(read).writable(116)));
            assert_eq!(parse(&reply, 11).expect("READ"), data[1..], "{max} {indirect}");
        }
    }
    assert!(!guest.driver.needs_reset());
}

#[test]
fn content_moves_in_large_pieces() {
    let dir = tempfile::tempdir().expect("a directory");
    let data: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(dir.path().join("big"), &data).expect("write");
    let device = FsDevice::new("t", PassthroughFs::builder(dir.path()).build().expect("a share")).expect("a device");
    let driver = MockDriver::builder(device).queue_size(1024).start();
    let server = Arc::new(FuseServer::new(Arc::new(PassthroughFs::builder(dir.path()).build().expect("a share"))));
    let mut guest = Guest { dir, driver, server, unique: 0 };
    guest.init();
    let entry = guest.call(Opcode::Lookup, ROOT, &[b"big\0"]).expect("LOOKUP");
    let node = abi::EntryOut::decode(&array(&entry, 0)).nodeid;
    let open = guest.call(Opcode::Open, node, &[&abi::OpenIn { flags: 2, open_flags: 0 }.encode()]).expect("OPEN");
    let fh = abi::OpenOut::decode(&array(&open, 0)).fh;
    // As Linux does: one page per descriptor.
    let read = request(Opcode::Read as u32, node, 5, (0, 0), &[&read_in(fh, 0, 1 << 20)]);
    let reply = guest.driver.submit(QUEUE, &Request::new().readable(read).writable(16).writable(1 << 20).pieces(4096));
    assert!(parse(&reply, 5).expect("READ") == data);
    let how = abi::WriteIn { fh, size: 1 << 20, offset: 1 << 20, ..Default::default() }.encode();
    let write = request(Opcode::Write as u32, node, 7, (0, 0), &[&how, &data]);
    let reply = guest.driver.submit(QUEUE, &Request::new().readable(write).writable(24).pieces(4096).indirect());
    assert_eq!(parse(&reply, 7).expect("WRITE")[..4], (1u32 << 20).to_le_bytes());
    assert!(fs::read(guest.dir.path().join("big")).expect("read") == data.repeat(2));
}

#[test]
fn a_batch_has_one_interrupt() {
    let mut guest = Guest::new(false);
    guest.driver.acknowledge();
    let before = guest.driver.interrupts();
    for _ in 0..12 {
        guest.post(QUEUE, Opcode::Getattr, ROOT, &[&[0; 16]], 200);
    }
    let start = Instant::now();
    guest.driver.kick(QUEUE);
    for _ in 0..12 {
        guest.driver.wait(QUEUE);
    }
    let interrupts = guest.driver.interrupts() - before;
    // One for every 50 microseconds that it took on a busy machine, at most.
    let bound = 1 + u64::try_from(start.elapsed().as_micros() / 50).expect("short");
    assert!((1..=bound.min(12)).contains(&interrupts), "{interrupts} for 12 requests, {bound}");
}

#[test]
fn what_has_no_reply_is_used_with_length_0() {
    let mut guest = Guest::new(false);
    let file = guest.create("f");
    guest.post(HIPRIO, Opcode::Forget, file.0, &[&1u64.to_le_bytes()], 0);
    guest.driver.kick(HIPRIO);
    assert_eq!(guest.driver.wait(HIPRIO).len, 0);
    assert_eq!(guest.server.file_system().in_use(), (0, 1));
    // Too short for a header, with and without room; empty; a header without room for a reply.
    for chain in [
        Request::new().readable([0; 39]).writable(100),
        Request::new().readable([0; 39]),
        Request::new().writable(100),
        Request::new().readable(request(Opcode::Getattr as u32, ROOT, 1, (0, 0), &[&[0; 16]])).writable(15),
    ] {
        assert_eq!(guest.driver.submit(QUEUE, &chain), b"");
    }
    assert!(!guest.driver.needs_reset());
    guest.call(Opcode::Getattr, ROOT, &[&[0; 16]]).expect("goes on");
}

#[test]
fn what_blocks_does_not_hold_others_up() {
    let mut guest = Guest::new(true);
    let file = guest.create("f");
    guest.write(file, b"content");
    // Another open file holds the lock; the request that waits for it stays in the device.
    let owner = |owner, kind| lock(file.1, owner, kind, (0, 9), false);
    guest.call(Opcode::Setlk, file.0, &[&owner(1, 1)]).expect("locked");
    let (waiting, head) = guest.post(QUEUE, Opcode::Setlkw, file.0, &[&owner(2, 1)], 100);
    guest.driver.kick(QUEUE);
    for _ in 0..20 {
        let fsync = abi::FsyncIn { fh: file.1, ..Default::default() }.encode();
        guest.call(Opcode::Fsync, file.0, &[&fsync]).expect("others go on");
    }
    let (unique, unlock) = guest.post(QUEUE, Opcode::Setlk, file.0, &[&owner(1, 2)], 100);
    guest.driver.kick(QUEUE);
    let mut done: Vec<Used> = vec![guest.driver.wait(QUEUE), guest.driver.wait(QUEUE)];
    done.sort_by_key(|used| used.head != head);
    assert_eq!(parse(&done[0].data, waiting), Ok(vec![]));
    assert_eq!((done[1].head, parse(&done[1].data, unique)), (unlock, Ok(vec![])));
    // A lock that somebody on the host holds is found free a moment after it is.
    let host = fs::File::open(guest.dir.path().join("f")).expect("open");
    rustix::fs::flock(&host, FlockOperation::LockExclusive).expect("locked");
    let flock = lock(file.1, 3, 1, (0, i64::MAX as u64), true);
    let (unique, _) = guest.post(QUEUE, Opcode::Setlkw, file.0, &[&flock], 100);
    guest.driver.kick(QUEUE);
    std::thread::sleep(Duration::from_millis(50));
    rustix::fs::flock(&host, FlockOperation::Unlock).expect("unlocked");
    assert_eq!(parse(&guest.driver.wait(QUEUE).data, unique), Ok(vec![]));
    assert!(rustix::fs::flock(&host, TRY).is_err());
}

#[test]
fn a_reset_ends_the_session_and_not_the_device() {
    let mut guest = Guest::new(true);
    for round in 0..3 {
        let file = guest.create(&format!("f{round}"));
        assert_eq!(guest.server.file_system().in_use(), (1, 1));
        guest.call(Opcode::Setlk, file.0, &[&lock(file.1, 1, 1, (0, 9), false)]).expect("locked");
        // Requests are under way: one waits for a lock, others for the disk.
        guest.post(QUEUE, Opcode::Setlkw, file.0, &[&lock(file.1, 2, 1, (0, 9), false)], 100);
        for _ in 0..20 {
            let fsync = abi::FsyncIn { fh: file.1, ..Default::default() }.encode();
            guest.post(QUEUE, Opcode::Fsync, file.0, &[&fsync], 100);
        }
        guest.driver.kick(QUEUE);
        guest.driver.initialise();
        assert_eq!(guest.server.file_system().in_use(), (0, 0));
        let old = request(Opcode::Getattr as u32, ROOT, 3, (0, 0), &[&[0; 16]]);
        let reply = guest.driver.submit(QUEUE, &Request::new().readable(old).writable(200));
        assert_eq!(parse(&reply, 3), Err(libc::EIO), "INIT comes first");
        guest.init();
    }
    assert_eq!(fs::read_dir(guest.dir.path()).expect("list").count(), 3);
}

#[test]
fn a_pause_keeps_the_session() {
    let mut guest = Guest::new(true);
    let file = guest.create("f");
    guest.call(Opcode::Setlk, file.0, &[&lock(file.1, 1, 1, (0, 9), false)]).expect("locked");
    for _ in 0..3 {
        let (waiting, head) = guest.post(QUEUE, Opcode::Setlkw, file.0, &[&lock(file.1, 2, 1, (0, 9), false)], 100);
        guest.call(Opcode::Getattr, ROOT, &[&[0; 16]]).expect("a later request: the earlier one waits by now");
        let fsync = abi::FsyncIn { fh: file.1, ..Default::default() }.encode();
        let others: Vec<_> = (0..10).map(|_| guest.post(QUEUE, Opcode::Fsync, file.0, &[&fsync], 100)).collect();
        guest.driver.kick(QUEUE);
        // The wait for a lock ends, as by a signal; whatever else was under way is done or comes afterwards.
        guest.driver.transport().pause();
        guest.driver.transport().resume().expect("resumes");
        let mut answers: std::collections::HashMap<u16, Vec<u8>> =
            (0..11).map(|_| guest.driver.wait(QUEUE)).map(|used| (used.head, used.data)).collect();
        for (unique, head) in others {
            parse(&answers.remove(&head).expect("answered"), unique).expect("FSYNC");
        }
        let waited = parse(&answers.remove(&head).expect("answered"), waiting);
        assert_eq!(waited, Err(libc::EINTR));
        guest.write(file, b"the handle is still good");
    }
    assert_eq!(guest.server.file_system().in_use(), (1, 1));
    guest.driver.transport().pause();
    assert!(guest.driver.transport().save().is_err(), "open files cannot be saved");
}

/// A file system on a disk that takes a while.
#[derive(Debug)]
struct Slow;

impl FileSystem for Slow {
    fn fsync(&self, rq: &krun_virtio_fs::Request, _: NodeId, _: Handle, _: bool) -> FsResult<()> {
        if !rq.may_block {
            return Err(Failure::Again);
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }
}

#[test]
fn a_long_queue_holds_up_neither_pause_nor_reset_nor_end() {
    /// Half a minute of work, were all of it done.
    const LONG: usize = 250;
    let server = Arc::new(FuseServer::new(Arc::new(Slow)));
    let device = FsDevice::with_server("t", server.clone()).expect("a device").pool_threads(1);
    let mut driver = MockDriver::threaded(device);
    let init = abi::InitIn { major: 7, minor: 38, ..Default::default() };
    let init = request(Opcode::Init as u32, 0, 1, (0, 0), &[&init.encode()]);
    let init = Request::new().readable(init).writable(80);
    parse(&driver.submit(QUEUE, &init), 1).expect("INIT");
    let start = Instant::now();
    let sync = |driver: &mut MockDriver, count: usize| {
        for unique in 0..count {
            let fsync = abi::FsyncIn::default().encode();
            let fsync = request(Opcode::Fsync as u32, ROOT, 2 * unique as u64 + 10, (0, 0), &[&fsync]);
            // Two descriptors each, in an indirect table: the ring has 256.
            driver.post(QUEUE, &Request::new().readable(fsync).writable(16).indirect());
        }
        driver.kick(QUEUE);
    };
    let error = |used: &Used| abi::OutHeader::decode(&array(&used.data, 0)).error;
    // A few are all done before the pause, however short it is.
    sync(&mut driver, 8);
    driver.transport().pause();
    driver.transport().resume().expect("resumes");
    assert!((0..8).all(|_| error(&driver.wait(QUEUE)) == 0));
    // Of many, some are: all others are told that they were interrupted, and none is lost.
    sync(&mut driver, LONG);
    driver.transport().pause();
    driver.transport().resume().expect("resumes");
    let answers: Vec<_> = (0..LONG).map(|_| error(&driver.wait(QUEUE))).collect();
    assert!(answers.contains(&0) && answers.contains(&-libc::EINTR));
    assert!(answers.iter().all(|error| [0, -libc::EINTR].contains(error)), "{answers:?}");
    sync(&mut driver, LONG);
    driver.initialise();
    parse(&driver.submit(QUEUE, &init), 1).expect("INIT");
    sync(&mut driver, LONG);
    drop(driver);
    assert_eq!(Arc::strong_count(&server), 1, "no thread is left");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn several_queues_and_any_file_system() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("f"), "content").expect("write");
    let fs: Arc<dyn FileSystem> = Arc::new(PassthroughFs::builder(dir.path()).build().expect("a share"));
    let server: Arc<FuseServer<dyn FileSystem>> = Arc::new(FuseServer::new(fs));
    let device = FsDevice::with_server("t", server).expect("a device").request_queues(4).expect("four").pool_threads(1);
    let mut driver = MockDriver::threaded(device);
    let init = abi::InitIn { major: 7, minor: 38, ..Default::default() };
    let init = request(Opcode::Init as u32, 0, 1, (0, 0), &[&init.encode()]);
    parse(&driver.submit(3, &Request::new().readable(init).writable(80)), 1).expect("INIT");
    for queue in 1..=4 {
        let lookup = request(Opcode::Lookup as u32, ROOT, u64::from(queue), (0, 0), &[b"f\0"]);
        let reply = driver.submit(queue, &Request::new().readable(lookup).writable(144));
        assert_eq!(abi::EntryOut::decode(&array(&parse(&reply, queue.into()).expect("LOOKUP"), 0)).attr.size, 7);
    }
}

#[test]
fn a_request_that_changes_while_it_is_read_is_one_or_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let share = dir.path().join("share");
    fs::create_dir_all(share.join("a")).expect("mkdir");
    fs::write(share.join("a/b"), "not by this way").expect("write");
    fs::write(share.join("a_b"), "content").expect("write");
    let device = FsDevice::new("t", PassthroughFs::builder(&share).build().expect("a share")).expect("a device");
    let mut driver = MockDriver::threaded(device);
    let init = abi::InitIn { major: 7, minor: 38, ..Default::default() };
    let init = request(Opcode::Init as u32, 0, 1, (0, 0), &[&init.encode()]);
    parse(&driver.submit(QUEUE, &Request::new().readable(init).writable(80)), 1).expect("INIT");

    let lookup = request(Opcode::Lookup as u32, ROOT, 5, (0, 0), &[b"a_b\0"]);
    let (at, room) = (driver.allocate(lookup.len()), driver.allocate(144));
    driver.write_memory(at, &lookup);
    let length = u32::try_from(lookup.len()).expect("short");
    // The name to a path and back, the length of the request, and the end of the name.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (memory, stopped) = (driver.memory().clone(), stop.clone());
    let changer = std::thread::Builder::new().name("guest".into()).spawn(move || {
        use vm_memory::{Bytes, GuestAddress};
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for (offset, bytes) in [
                (41, &b"/"[..]),
                (0, &u32::MAX.to_le_bytes()),
                (41, b"_"),
                (0, &length.to_le_bytes()),
                (43, b"x"),
                (43, b"\0"),
            ] {
                memory.write_slice(bytes, GuestAddress(at + offset)).expect("memory");
            }
        }
    });
    let changer = changer.expect("a thread");
    let (mut found, mut refused) = (0, 0);
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        let next = |flags, address, len, next| Descriptor { address, len, flags, next };
        driver.set_descriptor(QUEUE, 0, next(Descriptor::NEXT, at, length, 1));
        driver.set_descriptor(QUEUE, 1, next(Descriptor::WRITE, room, 144, 0));
        driver.offer(QUEUE, 0);
        driver.kick(QUEUE);
        let used = driver.wait(QUEUE);
        match parse(&driver.read_memory(room, used.len as usize), 5) {
            Ok(entry) => {
                assert_eq!(abi::EntryOut::decode(&array(&entry, 0)).attr.size, 7, "the file, not the path");
                found += 1;
            }
            Err(error) => {
                assert_eq!(error, libc::EINVAL);
                refused += 1;
            }
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    changer.join().expect("joins");
    assert!(found > 0 && refused > 0, "both were met: {found} {refused}");
    assert!(!driver.needs_reset());
}
