//! Virtual files and directories, and read-only views, by plain requests.
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

use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{OverlayFs, PassthroughFs, ReadOnly};
use support::{Client, ROOT, array, errno};

const VIRTUAL: u64 = 1 << 63;

fn overlay(share: &std::path::Path) -> Client<OverlayFs<PassthroughFs>> {
    let share = PassthroughFs::builder(share).build().expect("a share");
    let overlay = OverlayFs::builder()
        .file("/init.krun", b"#!init", 0o755)
        .hidden_file("/hidden", b"unlisted", 0o600)
        .dir("/proc", 0o555)
        .dir("/tmp", 0o1777)
        .dir("/var/lib/volume", 0o700)
        .file("/var/run/deep/file", b"deep", 0o444)
        .build(share)
        .expect("an overlay");
    Client::new(overlay)
}

fn share() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(dir.path().join("var/lib")).expect("mkdir");
    fs::create_dir(dir.path().join("tmp")).expect("mkdir");
    fs::write(dir.path().join("tmp/real"), "real").expect("write");
    fs::write(dir.path().join("init.krun"), "the share's own").expect("write");
    fs::write(dir.path().join("var/lib/data"), "data").expect("write");
    dir
}

#[test]
fn virtual_names_appear_in_their_places() {
    let dir = share();
    let client = overlay(dir.path());
    assert_eq!(client.content("init.krun").expect("virtual"), b"#!init");
    assert_eq!(client.content("hidden").expect("virtual"), b"unlisted");
    assert_eq!(client.content("var/run/deep/file").expect("virtual"), b"deep");
    assert_eq!(client.content("tmp/real").expect("real"), b"real");
    assert_eq!(client.content("var/lib/data").expect("real"), b"data");
    let init = client.lookup(ROOT, "init.krun").expect("virtual");
    assert_eq!((init.attr.mode, init.attr.size, init.attr.uid), (libc::S_IFREG | 0o755, 6, 0));
    assert_eq!(client.lookup(ROOT, "proc").expect("virtual").attr.mode, libc::S_IFDIR | 0o555);
    let volume = client.walk("var/lib/volume").expect("virtual");
    assert!(volume.node & VIRTUAL != 0 && volume.attr.mode == libc::S_IFDIR | 0o700);
    assert_eq!(client.lookup(volume.node, "x").expect_err("empty"), libc::ENOENT);
    assert!(client.lookup(ROOT, "tmp").expect("real").node & VIRTUAL == 0, "a directory of the share stays");
    assert_eq!(client.names(ROOT), [".", "..", "init.krun", "proc", "tmp", "var"]);
    assert_eq!(client.names(client.walk("var").expect("real").node), [".", "..", "lib", "run"]);
    assert_eq!(client.names(client.walk("var/lib").expect("real").node), [".", "..", "data", "volume"]);
    assert_eq!(client.names(client.walk("var/run").expect("virtual").node), [".", "..", "deep"]);
    // Reads of a virtual file at any place.
    let fh = client.open(init.node, libc::O_RDONLY).expect("open").fh;
    assert_eq!(client.read(init.node, fh, 2, 3).expect("read"), b"ini");
    for offset in [6, 7, 1 << 63, u64::MAX] {
        assert_eq!(client.read(init.node, fh, offset, 100).expect("beyond"), b"", "{offset}");
    }
    // They come and go with the share's directories.
    fs::remove_dir_all(dir.path().join("var")).expect("remove");
    assert_eq!(client.content("var/run/deep/file").expect("virtual"), b"deep");
    assert!(client.walk("var").expect("virtual").node & VIRTUAL != 0);
    fs::create_dir(dir.path().join("proc")).expect("mkdir");
    assert!(client.lookup(ROOT, "proc").expect("real").node & VIRTUAL == 0);
    assert_eq!(client.names(ROOT), [".", "..", "init.krun", "proc", "tmp", "var"]);
}

#[test]
fn listings_of_any_size_have_every_name_once() {
    let dir = share();
    for i in 0..30 {
        fs::write(dir.path().join(format!("file{i}")), "").expect("write");
    }
    let client = overlay(dir.path());
    for plus in [false, true] {
        for size in [200, 256, 300, 1000, 65536] {
            let mut names: Vec<_> = client.list(ROOT, size, plus).into_iter().map(|l| l.name).collect();
            names.sort();
            let before = names.len();
            names.dedup();
            assert_eq!((before, names.len()), (36, 36), "{size} {plus}");
            assert!(!names.contains(&"hidden".to_owned()));
        }
    }
    // References that a listing took for the share's own `init.krun` were given back.
    let known = client.list(ROOT, 4096, true);
    let init = known.iter().find(|l| l.name == "init.krun").expect("listed");
    assert!(init.node & VIRTUAL != 0 && init.attr.size == 6);
    client.call(Opcode::Destroy, 0, &[]).expect("DESTROY");
    client.init();
    let listed = client.list(ROOT, 4096, true);
    assert_eq!(
        client.server.file_system().below().in_use().0,
        listed.iter().filter(|l| l.node & !VIRTUAL != 0 && l.node & VIRTUAL == 0).count()
    );
    listed.iter().for_each(|l| client.forget(l.node, 1));
    assert_eq!(client.server.file_system().below().in_use(), (0, 0));
    // A listing tells a directory's node, and the guest goes on from there without a LOOKUP.
    let var = client.list(ROOT, 4096, true).into_iter().find(|l| l.name == "var").expect("listed").node;
    assert_eq!(client.names(var), [".", "..", "lib", "run"]);
}

#[test]
fn virtual_names_cannot_be_changed() {
    let dir = share();
    let client = overlay(dir.path());
    let init = client.lookup(ROOT, "init.krun").expect("virtual").node;
    let volume = client.walk("var/lib/volume").expect("virtual").node;
    let lib = client.walk("var/lib").expect("real").node;
    for (parent, text) in [(ROOT, "init.krun"), (ROOT, "proc"), (ROOT, "hidden"), (lib, "volume")] {
        assert_eq!(client.mkdir(parent, text, 0o755).expect_err("taken"), libc::EEXIST);
        assert_eq!(client.mknod(parent, text, libc::S_IFREG, 0).expect_err("taken"), libc::EEXIST);
        assert_eq!(client.symlink(parent, text, "t").expect_err("taken"), libc::EEXIST);
        assert_eq!(client.create(parent, text, libc::O_RDWR, 0o644).expect_err("taken"), libc::EEXIST);
        assert_eq!(errno(client.unlink(parent, text)), libc::EBUSY);
        assert_eq!(errno(client.rmdir(parent, text)), libc::EBUSY);
        assert_eq!(errno(client.rename((parent, text), (ROOT, "new"), 0)), libc::EBUSY);
        for flags in [0, libc::RENAME_EXCHANGE, libc::RENAME_NOREPLACE] {
            assert_eq!(errno(client.rename((ROOT, "tmp"), (parent, text), flags)), libc::EBUSY);
        }
    }
    // Directories on the way to virtual names are held, as by a mount.
    assert_eq!(errno(client.rename((ROOT, "var"), (ROOT, "v"), 0)), libc::EBUSY);
    let var = client.lookup(ROOT, "var").expect("real").node;
    assert_eq!(errno(client.rmdir(var, "lib")), libc::EBUSY);
    // Nothing is made in virtual directories.
    assert_eq!(client.mkdir(volume, "d", 0o755).expect_err("virtual"), libc::EROFS);
    assert_eq!(client.create(volume, "f", libc::O_RDWR, 0o644).expect_err("virtual"), libc::EROFS);
    assert_eq!(errno(client.rename((ROOT, "tmp"), (volume, "t"), 0)), libc::EROFS);
    assert_eq!(errno(client.unlink(volume, "nothing")), libc::ENOENT);
    let data = client.walk("var/lib/data").expect("real").node;
    assert_eq!(client.link(data, volume, "hard").expect_err("virtual"), libc::EROFS);
    assert_eq!(client.link(init, ROOT, "hard").expect_err("another file system"), libc::EXDEV);
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(client.open(init, flags).expect_err("virtual"), libc::EROFS);
    }
    let change = abi::SetattrIn { valid: abi::fattr::SIZE | abi::fattr::MODE, ..Default::default() };
    assert_eq!(client.setattr(init, change).expect_err("virtual"), libc::EROFS);
    let fh = client.open(init, libc::O_RDONLY).expect("open").fh;
    assert_eq!(client.write(init, fh, 0, b"x").expect_err("virtual"), libc::EBADF);
    let how = abi::FallocateIn { fh, length: 10, ..Default::default() };
    assert_eq!(errno(client.call(Opcode::Fallocate, init, &[&how.encode()])), libc::EROFS);
    let set = abi::SetxattrIn { size: 1, ..Default::default() }.encode();
    assert_eq!(errno(client.call(Opcode::Setxattr, init, &[&set, b"user.x\0v"])), libc::EROFS);
    assert_eq!(errno(client.call(Opcode::Removexattr, init, &[b"user.x\0"])), libc::EROFS);
    let (made, to) = client.create(ROOT, "made", libc::O_RDWR, 0o644).expect("beside them");
    let copy = abi::CopyFileRangeIn { fh_in: fh, nodeid_out: made.node, fh_out: to, len: 6, ..Default::default() };
    assert_eq!(errno(client.call(Opcode::CopyFileRange, init, &[&copy.encode()])), libc::EXDEV);
    let seek = |offset, whence: i32| {
        let how = abi::LseekIn { fh, offset, whence: whence.cast_unsigned(), padding: 0 };
        client.call(Opcode::Lseek, init, &[&how.encode()]).map(|out| u64::from_le_bytes(array(&out, 0)))
    };
    assert_eq!((seek(2, libc::SEEK_DATA), seek(2, libc::SEEK_HOLE)), (Ok(2), Ok(6)));
    assert_eq!(seek(6, libc::SEEK_DATA), Err(libc::ENXIO));
    assert_eq!(seek(0, libc::SEEK_SET), Err(libc::EINVAL));
    // Numbers of virtual nodes that are none.
    for node in [VIRTUAL, VIRTUAL | 1000, u64::MAX] {
        assert_eq!(client.getattr(node).expect_err("none"), libc::ESTALE);
        assert_eq!(client.lookup(node, "x").expect_err("none"), libc::ESTALE);
        assert!(client.opendir(node).is_err() && client.mkdir(node, "d", 0).is_err());
    }
    client.forget(init, u64::MAX);
    client.getattr(init).expect("virtual nodes stay");
    // An empty directory of the share under a virtual directory's name is the share's own affair.
    fs::remove_file(dir.path().join("tmp/real")).expect("remove");
    client.rmdir(ROOT, "tmp").expect("real");
    assert!(client.lookup(ROOT, "tmp").expect("virtual now").node & VIRTUAL != 0);
    assert_eq!(fs::read(dir.path().join("init.krun")).expect("read"), b"the share's own");
}

#[test]
fn read_only_refuses_every_change() {
    let dir = share();
    let share = ReadOnly::new(PassthroughFs::builder(dir.path()).build().expect("a share"));
    let client = Client::new(OverlayFs::builder().dir("/proc", 0o555).build(share).expect("an overlay"));
    assert_eq!(client.content("tmp/real").expect("read"), b"real");
    let real = client.walk("tmp/real").expect("there").node;
    let refused = |answer: Result<(), i32>| assert_eq!(answer.expect_err("read-only"), libc::EROFS);
    for flags in
        [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC, libc::O_ACCMODE, libc::O_WRONLY | libc::O_APPEND]
    {
        refused(client.open(real, flags).map(drop));
    }
    let fh = client.open(real, libc::O_RDONLY).expect("open").fh;
    refused(client.write(real, fh, 0, b"x").map(drop));
    refused(client.mkdir(ROOT, "d", 0o755).map(drop));
    refused(client.mknod(ROOT, "n", libc::S_IFREG, 0).map(drop));
    refused(client.symlink(ROOT, "l", "t").map(drop));
    refused(client.link(real, ROOT, "h").map(drop));
    refused(client.create(ROOT, "f", libc::O_RDONLY, 0o644).map(drop));
    refused(client.unlink(ROOT, "init.krun").map(drop));
    refused(client.rmdir(ROOT, "tmp").map(drop));
    refused(client.rename((ROOT, "init.krun"), (ROOT, "x"), 0).map(drop));
    for valid in [0, abi::fattr::SIZE, abi::fattr::MODE, abi::fattr::UID, abi::fattr::ATIME, abi::fattr::MTIME_NOW] {
        refused(client.setattr(real, abi::SetattrIn { valid, ..Default::default() }).map(drop));
    }
    let set = abi::SetxattrIn { size: 1, ..Default::default() }.encode();
    refused(client.call(Opcode::Setxattr, real, &[&set, b"user.x\0v"]).map(drop));
    refused(client.call(Opcode::Removexattr, real, &[b"user.x\0"]).map(drop));
    let allocate = abi::FallocateIn { fh, length: 10, ..Default::default() };
    refused(client.call(Opcode::Fallocate, real, &[&allocate.encode()]).map(drop));
    let copy = abi::CopyFileRangeIn { fh_in: fh, nodeid_out: real, fh_out: fh, len: 6, ..Default::default() };
    refused(client.call(Opcode::CopyFileRange, real, &[&copy.encode()]).map(drop));
    let tmpfile = abi::CreateIn { flags: libc::O_RDWR.cast_unsigned(), mode: 0o600, ..Default::default() };
    refused(client.call(Opcode::Tmpfile, ROOT, &[&tmpfile.encode(), b"/\0"]).map(drop));
    refused(client.call(Opcode::Access, real, &[&abi::AccessIn { mask: 2, padding: 0 }.encode()]).map(drop));
    client.call(Opcode::Access, real, &[&abi::AccessIn { mask: 4, padding: 0 }.encode()]).expect("may be read");
    // The client keeps locks to itself.
    assert_eq!(client.init().flags & (1 << 1 | 1 << 10), 0);
}

#[test]
fn reading_a_read_only_share_leaves_times_alone() {
    use std::time::{Duration, SystemTime};
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("f"), "content").expect("write");
    // Long before the last change: then even `relatime` mounts mark an access.
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for path in [dir.path(), &dir.path().join("f")] {
        let file = fs::File::open(path).expect("open");
        file.set_times(fs::FileTimes::new().set_accessed(past)).expect("our own");
    }
    let accessed = |path: &std::path::Path| fs::metadata(path).and_then(|stat| stat.accessed()).expect("a time");
    let read = |share: Client<ReadOnly<PassthroughFs>>| {
        let node = share.lookup(ROOT, "f").expect("there").node;
        let fh = share.open(node, libc::O_RDONLY).expect("open").fh;
        assert_eq!(share.read(node, fh, 0, 100).expect("read"), b"content");
        let fh = share.opendir(ROOT).expect("open");
        assert_eq!(share.readdir_once(ROOT, fh, 0, 4096, false).expect("list").len(), 3);
    };
    read(Client::new(ReadOnly::new(PassthroughFs::builder(dir.path()).build().expect("a share"))));
    assert_eq!((accessed(dir.path()), accessed(&dir.path().join("f"))), (past, past));
}
