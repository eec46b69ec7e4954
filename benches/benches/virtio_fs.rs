//! What a request costs in the server, beside the fewest system calls that do the same, in the same run.
//!
//! `krun` is parsing, checking, the system calls and the reply; `raw` is the system calls alone. The ratio `krun / raw`
//! is what the guest pays for being confined. Below a microsecond the difference says more than the ratio. `ring` is
//! the same request through the device, its rings and the mock driver, without threads: the mock's own copies and
//! allocations are in it, so it compares only with itself.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::ffi::CString;
use std::fs::File;
use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use krun_virtio::testing::{MockDriver, Request};
use krun_virtio::{Sink, VecSink};
use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{FsDevice, FuseServer, Handled, PassthroughFs};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

const ROOT: u64 = abi::ROOT_ID;

struct Guest {
    server: FuseServer<PassthroughFs>,
    reply: VecSink,
}

fn request(opcode: Opcode, node: u64, parts: &[&[u8]]) -> Vec<u8> {
    let args = parts.concat();
    let len = u32::try_from(40 + args.len()).unwrap();
    [&abi::InHeader { len, opcode: opcode as u32, nodeid: node, ..Default::default() }.encode()[..], &args].concat()
}

fn init() -> Vec<u8> {
    let init = abi::InitIn { major: 7, minor: 38, max_readahead: 1 << 17, flags: u32::MAX };
    request(Opcode::Init, 0, &[&init.encode(), &[0; 48]])
}

impl Guest {
    fn new(share: &std::path::Path) -> Self {
        let server = FuseServer::new(Arc::new(PassthroughFs::builder(share).build().unwrap()));
        let mut guest = Self { server, reply: VecSink::new((1 << 20) + 4096) };
        guest.call(&init());
        guest
    }

    fn call(&mut self, request: &[u8]) -> &[u8] {
        self.reply.truncate(0);
        let handled = self.server.handle(&mut &*request, &mut self.reply, false);
        assert_eq!(handled, Handled::Replied);
        self.reply.as_slice()
    }

    fn number(&mut self, request: &[u8], at: usize) -> u64 {
        let reply = self.call(request);
        assert!(reply.len() >= 16 + at + 8, "an error: {reply:?}");
        u64::from_le_bytes(reply[16 + at..][..8].try_into().unwrap())
    }

    fn lookup(&mut self, name: &[u8]) -> u64 {
        self.number(&request(Opcode::Lookup, ROOT, &[name]), 0)
    }

    fn open(&mut self, node: u64, flags: i32) -> u64 {
        self.number(&open(node, flags), 0)
    }
}

fn open(node: u64, flags: i32) -> Vec<u8> {
    request(Opcode::Open, node, &[&abi::OpenIn { flags: flags.cast_unsigned(), open_flags: 0 }.encode()])
}

fn forget(node: u64) -> Vec<u8> {
    request(Opcode::Forget, node, &[&1u64.to_le_bytes()])
}

fn statx(fd: impl AsFd, name: &std::ffi::CStr) -> rustix::io::Result<rustix::fs::Statx> {
    let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    rustix::fs::statx(fd, name, flags, StatxFlags::BASIC_STATS)
}

fn path_fd(dir: impl AsFd, name: &std::ffi::CStr) -> OwnedFd {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn metadata(c: &mut Criterion) {
    let share = tempfile::tempdir().unwrap();
    std::fs::write(share.path().join("file"), "content").unwrap();
    let root = path_fd(CWD, &CString::new(share.path().to_str().unwrap()).unwrap());
    let proc_fd = path_fd(CWD, c"/proc/self/fd");
    let file = path_fd(&root, c"file");
    let file_name = CString::new(file.as_raw_fd().to_string()).unwrap();
    let mut guest = Guest::new(share.path());
    let lookup = request(Opcode::Lookup, ROOT, &[b"file\0"]);

    let mut group = c.benchmark_group("LOOKUP new and FORGET");
    group.bench_function("krun", |b| {
        b.iter(|| {
            let node = guest.number(&lookup, 0);
            guest.call(&forget(node)).len()
        });
    });
    group.bench_function("raw", |b| {
        b.iter(|| {
            let fd = path_fd(&root, c"file");
            statx(&fd, c"").unwrap()
        });
    });
    group.finish();

    let node = guest.lookup(b"file\0");
    let mut group = c.benchmark_group("LOOKUP known");
    group.bench_function("krun", |b| b.iter(|| guest.call(&lookup).len()));
    group.bench_function("raw", |b| b.iter(|| statx(&root, c"file").unwrap()));
    group.finish();

    let missing = request(Opcode::Lookup, ROOT, &[b"missing\0"]);
    let mut group = c.benchmark_group("LOOKUP missing");
    group.bench_function("krun", |b| b.iter(|| guest.call(&missing).len()));
    group.bench_function("raw", |b| b.iter(|| statx(&root, c"missing").unwrap_err()));
    group.finish();

    let getattr = request(Opcode::Getattr, node, &[&[0; 16]]);
    let mut group = c.benchmark_group("GETATTR");
    group.bench_function("krun", |b| b.iter(|| guest.call(&getattr).len()));
    group.bench_function("raw", |b| b.iter(|| statx(&file, c"").unwrap()));
    group.finish();

    let open = open(node, libc::O_RDONLY);
    let mut group = c.benchmark_group("OPEN and RELEASE");
    group.bench_function("krun", |b| {
        b.iter(|| {
            let fh = guest.number(&open, 0);
            let release = request(Opcode::Release, node, &[&abi::ReleaseIn { fh, ..Default::default() }.encode()]);
            guest.call(&release).len()
        });
    });
    group.bench_function("raw", |b| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        b.iter(|| rustix::fs::openat(&proc_fd, &*file_name, flags, Mode::empty()).unwrap());
    });
    group.finish();
}

fn content(c: &mut Criterion) {
    let share = tempfile::tempdir().unwrap();
    std::fs::write(share.path().join("file"), vec![7; 1 << 20]).unwrap();
    let raw = File::options().read(true).write(true).open(share.path().join("file")).unwrap();
    let mut guest = Guest::new(share.path());
    let node = guest.lookup(b"file\0");
    let fh = guest.open(node, libc::O_RDWR);
    let device = FsDevice::new("bench", PassthroughFs::builder(share.path()).build().unwrap()).unwrap();
    let mut driver = MockDriver::builder(device).queue_size(1024).start();
    let number = |reply: Vec<u8>| u64::from_le_bytes(reply[16..24].try_into().unwrap());
    driver.submit(1, &Request::new().readable(init()).writable(80));
    let lookup = request(Opcode::Lookup, ROOT, &[b"file\0"]);
    let ring_node = number(driver.submit(1, &Request::new().readable(lookup).writable(144)));
    let ring_fh = number(driver.submit(1, &Request::new().readable(open(ring_node, libc::O_RDWR)).writable(32)));

    for (name, size) in [("4 KiB", 4096u32), ("64 KiB", 65536), ("1 MiB", 1 << 20)] {
        let bytes = usize::try_from(size).unwrap();
        let mut group = c.benchmark_group("READ");
        group.throughput(Throughput::Bytes(size.into()));
        let read = |node, fh| request(Opcode::Read, node, &[&abi::ReadIn { fh, size, ..Default::default() }.encode()]);
        let own = read(node, fh);
        group.bench_function(BenchmarkId::new("krun", name), |b| b.iter(|| guest.call(&own).len()));
        let mut buffer = vec![0; bytes];
        group.bench_function(BenchmarkId::new("raw", name), |b| b.iter(|| raw.read_at(&mut buffer, 0).unwrap()));
        let shape = Request::new().readable(read(ring_node, ring_fh)).writable(16).writable(bytes).pieces(4096);
        group.bench_function(BenchmarkId::new("ring", name), |b| b.iter(|| driver.submit(1, &shape).len()));
        group.finish();

        let mut group = c.benchmark_group("WRITE");
        group.throughput(Throughput::Bytes(size.into()));
        let data = vec![1; bytes];
        let write = request(Opcode::Write, node, &[&abi::WriteIn { fh, size, ..Default::default() }.encode(), &data]);
        group.bench_function(BenchmarkId::new("krun", name), |b| b.iter(|| guest.call(&write).len()));
        group.bench_function(BenchmarkId::new("raw", name), |b| b.iter(|| raw.write_at(&data, 0).unwrap()));
        group.finish();
    }
}

fn listing(c: &mut Criterion) {
    let share = tempfile::tempdir().unwrap();
    for i in 0..1000 {
        std::fs::write(share.path().join(format!("file{i:04}")), "").unwrap();
    }
    let mut guest = Guest::new(share.path());
    let fh = guest.number(&request(Opcode::Opendir, ROOT, &[&[0; 8]]), 0);
    let mut sweep = |size: u32| {
        let (mut offset, mut entries) = (0, 0);
        loop {
            let how = abi::ReadIn { fh, offset, size, ..Default::default() };
            let mut left = &guest.call(&request(Opcode::Readdirplus, ROOT, &[&how.encode()]))[16..];
            if left.is_empty() {
                return entries;
            }
            while let Some(head) = left.first_chunk() {
                let entry = abi::DirentPlus::decode(head);
                offset = entry.dirent.off;
                entries += 1;
                left = &left[(abi::DirentPlus::SIZE + entry.dirent.namelen as usize).next_multiple_of(8)..];
            }
        }
    };
    assert_eq!(sweep(32 << 10), 1002);
    let mut group = c.benchmark_group("READDIRPLUS of 1000 known files");
    group.bench_function(BenchmarkId::new("krun", "4 KiB replies"), |b| b.iter(|| sweep(4 << 10)));
    group.bench_function(BenchmarkId::new("krun", "32 KiB replies"), |b| b.iter(|| sweep(32 << 10)));
    let dir = File::open(share.path()).unwrap();
    group.bench_function("raw", |b| {
        b.iter(|| {
            rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(0)).unwrap();
            let mut buffer = Vec::with_capacity(32 << 10);
            let mut entries = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
            let mut count = 0;
            while let Some(entry) = entries.next() {
                black_box(statx(&dir, entry.unwrap().file_name()).unwrap());
                count += 1;
            }
            count
        });
    });
    group.finish();
}

fn making(c: &mut Criterion) {
    let share = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(share.path());
    let dir = path_fd(CWD, &CString::new(share.path().to_str().unwrap()).unwrap());
    let how = abi::CreateIn { flags: libc::O_RDWR.cast_unsigned(), mode: 0o644, umask: 0o022, open_flags: 0 };
    let create = request(Opcode::Create, ROOT, &[&how.encode(), b"new\0"]);
    let unlink = request(Opcode::Unlink, ROOT, &[b"new\0"]);
    let mut group = c.benchmark_group("CREATE, RELEASE, UNLINK and FORGET");
    group.bench_function("krun", |b| {
        b.iter(|| {
            let reply = guest.call(&create);
            let number = |at: usize| u64::from_le_bytes(reply[at..at + 8].try_into().unwrap());
            let (node, fh) = (number(16), number(16 + abi::EntryOut::SIZE));
            guest.call(&request(Opcode::Release, node, &[&abi::ReleaseIn { fh, ..Default::default() }.encode()]));
            guest.call(&unlink);
            guest.call(&forget(node)).len()
        });
    });
    group.bench_function("raw", |b| {
        b.iter(|| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&dir, c"new", flags, Mode::from_raw_mode(0o644)).unwrap();
            statx(&file, c"").unwrap();
            rustix::fs::unlinkat(&dir, c"new", AtFlags::empty()).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, metadata, content, listing, making);
criterion_main!(benches);
