//! The protocol's numbers, lengths and orders, right and wrong.
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
use std::os::unix::fs::MetadataExt;

use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{Locks, OpenOptions, PassthroughFs};
use support::arena::Arena;
use support::{Client, ROOT, array, errno, lock, name, open_descriptors, request};

#[test]
fn one_request_moves_a_bounded_amount() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::File::create(dir.path().join("from")).and_then(|file| file.set_len(1 << 33)).expect("a sparse file");
    let client = Client::share(dir.path());
    let from = client.lookup(ROOT, "from").expect("there").node;
    let open = abi::OpenIn { flags: libc::O_RDWR.cast_unsigned(), open_flags: 0 }.encode();
    let fh = abi::OpenOut::decode(&array(&client.call(Opcode::Open, from, &[&open]).expect("OPEN"), 0)).fh;
    let (to, fh_out) = client.create(ROOT, "to", libc::O_RDWR, 0o644).expect("CREATE");
    let copy = |off, len| {
        let how = abi::CopyFileRangeIn {
            fh_in: fh,
            off_in: off,
            nodeid_out: to.node,
            fh_out,
            off_out: off,
            len,
            ..Default::default()
        };
        client.call(Opcode::CopyFileRange, from, &[&how.encode()]).map(|out| u32::from_le_bytes(array(&out, 0)))
    };
    assert_eq!(copy(0, u64::MAX >> 1), Ok(16 << 20));
    assert_eq!(copy(16 << 20, 5000), Ok(5000), "it goes on where the short one ended");
    assert_eq!(fs::metadata(dir.path().join("to")).expect("there").len(), (16 << 20) + 5000);
    let read = abi::ReadIn { fh, size: u32::MAX, ..Default::default() }.encode();
    let read = client.call_with_room(Opcode::Read, from, &[&read], 64 << 20).expect("READ");
    assert_eq!(read.len(), 16 << 20);
}

#[test]
fn references_are_counted_exactly() {
    let arena = Arena::new();
    for i in 0..300 {
        fs::write(arena.share().join(format!("file{i}")), "x").expect("write");
    }
    let client = Client::share(&arena.share());
    let fs = client.server.file_system().clone();
    let sweep = |size| {
        let mut listed: Vec<_> = client.list(ROOT, size, true).into_iter().filter(|l| l.node != 0).collect();
        assert_eq!(listed.len(), 300);
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        listed.dedup_by(|a, b| a.name == b.name);
        assert_eq!(listed.len(), 300, "each once");
        listed
    };
    let before = open_descriptors();
    for round in 0..5 {
        // Small replies end in the middle: what did not fit must not count.
        let listed = sweep([200, 333, 1000, 4096, 100_000][round]);
        assert!(listed.iter().all(|l| l.ino == l.attr.ino && l.attr.size == 1));
        if round % 2 == 0 {
            let mut batch = abi::BatchForgetIn { count: 300, dummy: 0 }.encode().to_vec();
            for l in &listed {
                batch.extend(abi::ForgetOne { nodeid: l.node, nlookup: 1 }.encode());
            }
            let bytes = request(Opcode::BatchForget as u32, 0, 1, (0, 0), &[&batch]);
            assert!(client.raw(&bytes, 100, true).1.is_empty());
        } else {
            listed.iter().for_each(|l| client.forget(l.node, 1));
        }
        assert_eq!(fs.in_use(), (0, 0), "round {round}");
    }
    // Other tests of this process open files too, so this is a bound, not a number.
    assert!(open_descriptors() < before + 200);
    // A count that promises more than is there.
    let node = client.lookup(ROOT, "file1").expect("there").node;
    let mut batch = abi::BatchForgetIn { count: u32::MAX, dummy: 0 }.encode().to_vec();
    batch.extend(abi::ForgetOne { nodeid: node, nlookup: 1 }.encode());
    let _ = client.raw(&request(Opcode::BatchForget as u32, 0, 1, (0, 0), &[&batch]), 100, true);
    assert_eq!(fs.in_use(), (0, 0));
}

#[test]
fn listings_start_anywhere_and_end() {
    let arena = Arena::new();
    for i in 0..50 {
        fs::write(arena.share().join(format!("file{i}")), "").expect("write");
    }
    let client = Client::share(&arena.share());
    let fh = client.opendir(ROOT).expect("opendir");
    let all = client.readdir_once(ROOT, fh, 0, 1 << 16, false).expect("all");
    assert_eq!(all.len(), 52);
    // From each cookie on, and back again, the same entries follow.
    for at in [51, 3, 40, 0, 17, 16] {
        let rest = client.readdir_once(ROOT, fh, all[at].offset, 1 << 16, false).expect("the rest");
        let names: Vec<_> = rest.iter().map(|l| &l.name).collect();
        assert_eq!(names, all[at + 1..].iter().map(|l| &l.name).collect::<Vec<_>>());
    }
    // No room for one entry is an error, not the end.
    for (size, plus) in [(0, false), (1, false), (23, false), (24, false), (1, true), (151, true)] {
        assert_eq!(client.readdir_once(ROOT, fh, 0, size, plus).expect_err("no room"), libc::EINVAL, "{size}");
    }
    assert_eq!(client.server.file_system().in_use().0, 0, "what did not fit does not count");
    // Cookies that nobody gave out: anything but a crash.
    for offset in [1, 12345, i64::MAX as u64, 1 << 63, u64::MAX, 0x7fff_ffff_0000_0001] {
        let _ = client.readdir_once(ROOT, fh, offset, 4096, false);
    }
    assert_eq!(client.readdir_once(ROOT, fh, 0, 1 << 16, false).expect("all").len(), 52);
    // What lies above the root is not told.
    let dots: Vec<_> = all.iter().filter(|l| l.name.starts_with('.')).map(|l| l.ino).collect();
    assert_eq!(dots, [fs::metadata(arena.share()).expect("stat").ino(); 2]);
}

#[test]
fn places_out_of_range() {
    let arena = Arena::new();
    let client = Client::share(&arena.share());
    let (file, fh) = client.create(ROOT, "f", libc::O_RDWR, 0o644).expect("create");
    client.write(file.node, fh, 0, b"content").expect("write");
    for offset in [1 << 63, u64::MAX, u64::MAX - 1, i64::MAX as u64 + 1] {
        assert_eq!(errno(client.read(file.node, fh, offset, 10)), libc::EINVAL);
        assert!(client.write(file.node, fh, offset, b"x").is_err());
        for whence in [libc::SEEK_DATA, libc::SEEK_HOLE, 0, 1, 2, 99] {
            let how = abi::LseekIn { fh, offset, whence: whence.cast_unsigned(), padding: 0 };
            assert_eq!(errno(client.call(Opcode::Lseek, file.node, &[&how.encode()])), libc::EINVAL);
        }
        let how = abi::FallocateIn { fh, offset, length: 1, ..Default::default() };
        assert!(client.call(Opcode::Fallocate, file.node, &[&how.encode()]).is_err());
        let how = abi::FallocateIn { fh, offset: 0, length: offset, ..Default::default() };
        assert!(client.call(Opcode::Fallocate, file.node, &[&how.encode()]).is_err());
        let how = abi::CopyFileRangeIn {
            fh_in: fh,
            off_in: offset,
            nodeid_out: file.node,
            fh_out: fh,
            len: 1,
            ..Default::default()
        };
        assert!(client.call(Opcode::CopyFileRange, file.node, &[&how.encode()]).is_err());
        let change = abi::SetattrIn { valid: abi::fattr::SIZE, size: offset, ..Default::default() };
        assert_eq!(client.setattr(file.node, change).expect_err("too large"), libc::EINVAL);
    }
    let how = abi::CopyFileRangeIn {
        fh_in: fh,
        nodeid_out: file.node,
        fh_out: fh,
        len: 1,
        flags: 1 << 40,
        ..Default::default()
    };
    assert_eq!(errno(client.call(Opcode::CopyFileRange, file.node, &[&how.encode()])), libc::EINVAL);
    assert_eq!(client.read(file.node, fh, 1 << 40, 10).expect("beyond the end"), b"");
    assert_eq!(client.read(file.node, fh, 3, u32::MAX).expect("all there is"), b"tent");
    assert_eq!(fs::read(arena.share().join("f")).expect("read"), b"content");
}

#[test]
fn only_what_was_said_is_written() {
    let arena = Arena::new();
    let client = Client::share(&arena.share());
    let (file, fh) = client.create(ROOT, "f", libc::O_RDWR, 0o644).expect("create");
    // The descriptors hold more than `size` says, and more than the header says.
    let how = abi::WriteIn { fh, size: 4, ..Default::default() }.encode();
    let answer = client.call(Opcode::Write, file.node, &[&how, b"0123456789"]).expect("write");
    assert_eq!(abi::WriteOut::decode(&array(&answer, 0)).size, 4);
    let mut bytes = request(Opcode::Write as u32, file.node, 9, (0, 0), &[&how, b"abcd"]);
    bytes.extend(b"beyond the header's length");
    let _ = client.raw(&bytes, 4096, true);
    assert_eq!(fs::read(arena.share().join("f")).expect("read"), b"abcd");
    // `size` says more than there is.
    let how = abi::WriteIn { fh, size: 5, ..Default::default() }.encode();
    assert_eq!(errno(client.call(Opcode::Write, file.node, &[&how, b"1234"])), libc::EINVAL);
    assert_eq!(fs::read(arena.share().join("f")).expect("read"), b"abcd");
}

#[test]
fn lengths_that_do_not_fit() {
    let arena = Arena::new();
    let client = Client::share(&arena.share());
    let whole = request(Opcode::Lookup as u32, ROOT, 7, (0, 0), &[b"name\0"]);
    // A header that is cut off has no reply; a request that is cut off has an error.
    for length in 0..whole.len() {
        let (_, reply) = client.raw(&whole[..length], 4096, true);
        match length {
            0..40 => assert!(reply.is_empty(), "{length}"),
            _ => assert_eq!(support::parse(&reply, 7), Err(libc::EINVAL), "{length}"),
        }
    }
    for len in [0, 1, 39, 46, 1000, u32::MAX] {
        let mut bytes = whole.clone();
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        assert_eq!(support::parse(&client.raw(&bytes, 4096, true).1, 7), Err(libc::EINVAL), "{len}");
    }
    // Extensions longer than the request.
    let mut bytes = whole.clone();
    bytes[36..38].copy_from_slice(&u16::MAX.to_le_bytes());
    assert_eq!(support::parse(&client.raw(&bytes, 4096, true).1, 7), Err(libc::EINVAL));
    // No room for a reply, for a part of it, for all of it.
    for room in 0..=144 {
        let (_, reply) = client.raw(&request(Opcode::Mkdir as u32, ROOT, 7, (0, 0), &[&[0; 8], b"d\0"]), room, true);
        assert!(reply.len() <= room);
        match room {
            0..16 => assert!(reply.is_empty()),
            16..144 => assert_eq!(support::parse(&reply, 7), Err(libc::EINVAL), "{room}"),
            _ => assert!(support::parse(&reply, 7).is_ok()),
        }
    }
    // Unknown operations.
    for opcode in [0, 7, 19, 53, 4096, u32::MAX] {
        let (_, reply) = client.raw(&request(opcode, ROOT, 7, (0, 0), &[&[0; 64]]), 4096, true);
        assert_eq!(support::parse(&reply, 7), Err(libc::ENOSYS));
    }
    assert_eq!(errno(client.call(Opcode::Ioctl, ROOT, &[&abi::IoctlIn::default().encode()])), libc::ENOTTY);
}

#[test]
fn sessions_have_an_order() {
    let arena = Arena::new();
    fs::write(arena.share().join("f"), "x").expect("write");
    let client = Client::share(&arena.share());
    let unborn = Client::unborn(client.server.clone());
    let node = client.lookup(ROOT, "f").expect("there").node;
    let fh = client.open(node, 0).expect("open").fh;
    client.call(Opcode::Destroy, 0, &[]).expect("DESTROY");
    assert_eq!(client.lookup(ROOT, "f").expect_err("no session"), libc::EIO);
    assert_eq!(client.server.file_system().in_use(), (0, 0));
    unborn.init();
    assert_eq!(client.getattr(node).expect_err("another life"), libc::ESTALE);
    assert_eq!(errno(client.read(node, fh, 0, 1)), libc::EBADF);
    client.lookup(ROOT, "f").expect("there");
    // INIT again without DESTROY: the client has rebooted.
    unborn.init();
    assert_eq!(client.server.file_system().in_use(), (0, 0));
    let init = |major, minor| {
        let init = abi::InitIn { major, minor, ..Default::default() };
        client.call(Opcode::Init, 0, &[&init.encode()]).map(|out| abi::InitOut::decode(&array(&out, 0)))
    };
    assert_eq!(init(6, 99).expect_err("too old"), libc::EPROTO);
    assert_eq!(init(7, 10).expect_err("too old"), libc::EPROTO);
    assert_eq!(init(8, 0).expect("which version").major, 7);
    let out = init(7, 45).expect("newer");
    assert_eq!((out.minor, out.max_write, out.max_pages), (abi::MINOR, 1 << 20, 0x100));
}

#[test]
fn locks_of_owners_that_are_made_up_end() {
    let arena = Arena::new();
    let share = PassthroughFs::builder(arena.share()).max_files(64).build().expect("a share");
    let client = Client::new(share);
    let (file, fh) = client.create(ROOT, "f", libc::O_RDWR, 0o644).expect("create");
    let mut granted = 0;
    for owner in 0..1000 {
        granted += usize::from(client.setlk(file.node, fh, owner, 0, (owner, owner), false).is_ok());
    }
    assert_eq!(granted, 8, "an eighth of the files");
    assert_eq!(errno(client.setlk(file.node, fh, 0, 1, (0, 5), false)), libc::EAGAIN, "others hold it");
    client.setlk(file.node, fh, 0, 2, (0, i64::MAX as u64), false).expect("unlock");
    for (kind, start, end) in [(3, 0, 1), (u32::MAX, 0, 1), (0, 5, 4), (1, 0, u64::MAX), (1, u64::MAX, u64::MAX)] {
        assert_eq!(errno(client.setlk(file.node, fh, 1, kind, (start, end), false)), libc::EINVAL);
    }
    // FLUSH ends the locks of an owner, and makes room for another's.
    let flush = abi::FlushIn { fh, lock_owner: 1, ..Default::default() };
    client.call(Opcode::Flush, file.node, &[&flush.encode()]).expect("FLUSH");
    client.setlk(file.node, fh, 77, 0, (0, 5), false).expect("room again");
    let answer = client.call(Opcode::Getlk, file.node, &[&lock(fh, 5, 1, (0, 100), false)]).expect("GETLK");
    let found = abi::FileLock::decode(&array(&answer, 0));
    assert_eq!((found.kind, found.pid), (0, 0), "a shared lock of somebody");
}

#[test]
fn an_interrupted_lock_gives_up() {
    let arena = Arena::new();
    let client = Client::share(&arena.share());
    let (file, fh) = client.create(ROOT, "f", libc::O_RDWR, 0o644).expect("create");
    client.setlk(file.node, fh, 1, 1, (0, 9), false).expect("held");
    let bytes = request(Opcode::Setlkw as u32, file.node, 501, (0, 0), &[&lock(fh, 2, 1, (0, 9), false)]);
    let (handled, reply) = client.raw(&bytes, 4096, true);
    assert_eq!((handled, reply.len()), (krun_virtio_fs::Handled::Wait, 0));
    let interrupt = abi::InterruptIn { unique: 501 }.encode();
    let _ = client.raw(&request(Opcode::Interrupt as u32, 0, 503, (0, 0), &[&interrupt]), 4096, true);
    assert_eq!(support::parse(&client.raw(&bytes, 4096, true).1, 501), Err(libc::EINTR));
    assert_eq!(client.raw(&bytes, 4096, true).0, krun_virtio_fs::Handled::Wait, "one interrupt, one answer");
    client.setlk(file.node, fh, 1, 2, (0, 9), false).expect("unlock");
    assert_eq!(support::parse(&client.raw(&bytes, 4096, true).1, 501), Ok(vec![]));
}

#[test]
fn values_of_any_size_are_bounded() {
    let arena = Arena::new();
    let client = Client::share(&arena.share());
    let get =
        |size| client.call(Opcode::Getxattr, ROOT, &[&abi::GetxattrIn { size, padding: 0 }.encode(), &name("user.x")]);
    for size in [1, 65536, u32::MAX] {
        assert_eq!(errno(get(size)), libc::ENODATA, "{size}");
    }
    let set = |size, value: &[u8]| {
        let how = abi::SetxattrIn { size, ..Default::default() }.encode();
        client.call(Opcode::Setxattr, ROOT, &[&how, b"user.x\0", value])
    };
    assert_eq!(errno(set(u32::MAX, b"x")), libc::E2BIG);
    assert_eq!(errno(set(65537, &[0; 65537])), libc::E2BIG);
    assert_eq!(errno(set(5, b"four")), libc::EINVAL);
    set(4, b"four and more").expect("four");
    assert_eq!(get(100).expect("get"), b"four");
    assert_eq!(errno(get(3)), libc::ERANGE);
    let how = abi::SetxattrIn { size: 0, ..Default::default() }.encode();
    assert!(client.call(Opcode::Setxattr, ROOT, &[&how, b"\0"]).is_err(), "no name");
    assert!(client.call(Opcode::Setxattr, ROOT, &[&how, b"user.y"]).is_err(), "no NUL");
}

#[test]
fn locks_may_be_left_to_the_guest() {
    let arena = Arena::new();
    for locks in [Locks::Everywhere, Locks::Guest] {
        let client = Client::new(PassthroughFs::builder(arena.share()).locks(locks).build().expect("a share"));
        let offered = client.init().flags & (1 << 1 | 1 << 10);
        assert_eq!(offered, if locks == Locks::Guest { 0 } else { 1 << 1 | 1 << 10 });
        let (file, fh) = client.create(ROOT, "f", libc::O_RDWR, 0o644).expect("create");
        let taken = client.setlk(file.node, fh, 1, 1, (0, 9), false);
        assert_eq!(taken.err(), (locks == Locks::Guest).then_some(libc::ENOSYS));
        // A directory of the tests is on a file system of this machine: closing tells nothing, written or not.
        for flags in [libc::O_RDONLY, libc::O_RDWR] {
            let open = client.open(file.node, flags).expect("open");
            let quiet = open.open_flags & OpenOptions::NOFLUSH.bits() != 0;
            assert_eq!(quiet, locks == Locks::Guest, "{locks:?}");
        }
        fs::remove_file(arena.share().join("f")).expect("remove");
    }
}

#[test]
fn content_is_kept_over_opens_while_nobody_changes_it() {
    let arena = Arena::new();
    let path = arena.share().join("f");
    fs::write(&path, "first").expect("write");
    let client = Client::share(&arena.share());
    let node = client.lookup(ROOT, "f").expect("there").node;
    let kept = |flags| {
        let open = client.open(node, flags).expect("open");
        client.release(node, open.fh).expect("release");
        open.open_flags & OpenOptions::KEEP_CACHE.bits() != 0
    };
    // Just written: whoever writes again within the same tick would not be noticed.
    assert!(!kept(libc::O_RDONLY) && !kept(libc::O_RDONLY));
    std::thread::sleep(std::time::Duration::from_millis(3100));
    assert!(!kept(libc::O_RDONLY), "not known yet");
    assert!(kept(libc::O_RDONLY) && kept(libc::O_RDWR));
    fs::write(&path, "other").expect("write");
    assert!(!kept(libc::O_RDONLY), "changed");
    // Times that were set back do not hide a change.
    let old = std::time::SystemTime::UNIX_EPOCH;
    let file = fs::File::options().write(true).open(&path).expect("open");
    file.set_modified(old).expect("utimens");
    assert!(!kept(libc::O_RDONLY) && !kept(libc::O_RDONLY));
    std::thread::sleep(std::time::Duration::from_millis(3100));
    assert!(!kept(libc::O_RDONLY) && kept(libc::O_RDONLY));
    fs::write(&path, "third").expect("write");
    file.set_modified(old).expect("utimens");
    assert!(!kept(libc::O_RDONLY), "changed, whatever its time says");
    assert!(!kept(libc::O_RDWR | libc::O_TRUNC), "emptied");
}
