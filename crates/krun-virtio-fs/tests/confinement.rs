//! A hostile client against a share: whatever it sends, nothing outside is opened, read or changed.
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
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{Error, MountPoints, PassthroughFs};
use support::arena::Arena;
use support::{Client, ROOT, errno};

#[test]
fn names_that_are_paths_are_refused_by_every_operation() {
    let arena = Arena::new();
    fs::write(arena.share().join("f"), "x").expect("write");
    let client = Client::share(&arena.share());
    let file = client.lookup(ROOT, "f").expect("there").node;
    let bad: [&[u8]; 10] = [
        b"../outside/secret\0",
        b"..\0",
        b".\0",
        b"\0",
        b"a/b\0",
        b"/etc/passwd\0",
        b"no NUL",
        b"two\0strings\0",
        b"f\0\0",
        b"",
    ];
    let long = [&[b'x'; 256][..], b"\0"].concat();
    for bytes in bad.into_iter().chain([&long[..]]) {
        let wanted = if bytes.len() > 256 { libc::ENAMETOOLONG } else { libc::EINVAL };
        let mknod = abi::MknodIn { mode: libc::S_IFREG | 0o644, ..Default::default() }.encode();
        let mkdir = abi::MkdirIn { mode: 0o755, umask: 0 }.encode();
        let create = abi::CreateIn { flags: 0o102, mode: 0o644, ..Default::default() }.encode();
        let link = abi::LinkIn { oldnodeid: file }.encode();
        let rename = abi::Rename2In { newdir: ROOT, ..Default::default() }.encode();
        let requests: [(Opcode, Vec<&[u8]>); 9] = [
            (Opcode::Lookup, vec![bytes]),
            (Opcode::Unlink, vec![bytes]),
            (Opcode::Rmdir, vec![bytes]),
            (Opcode::Mknod, vec![&mknod, bytes]),
            (Opcode::Mkdir, vec![&mkdir, bytes]),
            (Opcode::Create, vec![&create, bytes]),
            (Opcode::Link, vec![&link, bytes]),
            (Opcode::Rename2, vec![&rename, b"f\0", bytes]),
            (Opcode::Rename2, vec![&rename, bytes, b"g\0"]),
        ];
        for (opcode, parts) in requests {
            let error = errno(client.call(opcode, ROOT, &parts));
            let two_names = opcode == Opcode::Rename2 && [libc::EINVAL, libc::ENAMETOOLONG].contains(&error);
            assert!(error == wanted || two_names, "{opcode:?} {bytes:?}: {error}");
        }
        // SYMLINK: the name is first, the target may be anything.
        let error = errno(client.call(Opcode::Symlink, ROOT, &[bytes, b"target\0"]));
        assert!([libc::EINVAL, libc::ENAMETOOLONG, libc::ENOENT].contains(&error), "{bytes:?}");
    }
    assert_eq!(client.names(ROOT), [".", "..", "f"]);
    arena.check();
}

#[test]
fn links_are_data() {
    let arena = Arena::new();
    let client = Client::share(&arena.share());
    let secret = arena.outside().join("secret");
    let target = secret.to_str().expect("UTF-8");
    let link = client.symlink(ROOT, "link", target).expect("a link");
    let dir_link = client.symlink(ROOT, "dir", arena.outside().to_str().expect("UTF-8")).expect("a link");
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(client.readlink(link.node).expect("target"), target.as_bytes());
    // Opened as a file, listed as a directory, walked through, truncated, relabelled: never what it points to.
    assert_eq!(client.open(link.node, libc::O_RDONLY).expect_err("a link"), libc::ELOOP);
    assert_eq!(client.open(link.node, libc::O_RDWR | libc::O_TRUNC).expect_err("a link"), libc::ELOOP);
    assert_eq!(client.opendir(dir_link.node).expect_err("a link"), libc::ENOTDIR);
    assert_eq!(client.lookup(dir_link.node, "secret").expect_err("a link"), libc::ENOTDIR);
    assert_eq!(client.mkdir(dir_link.node, "d", 0o755).expect_err("a link"), libc::ENOTDIR);
    assert_eq!(errno(client.unlink(dir_link.node, "secret")), libc::ENOTDIR);
    let into = client.rename((ROOT, "link"), (dir_link.node, "link"), 0);
    assert_eq!(errno(into), libc::ENOTDIR);
    let change = abi::SetattrIn { valid: abi::fattr::SIZE, size: 0, ..Default::default() };
    assert_eq!(client.setattr(link.node, change).expect_err("a link"), libc::EINVAL);
    let change = abi::SetattrIn { valid: abi::fattr::MODE, mode: 0o777, ..Default::default() };
    assert_eq!(client.setattr(link.node, change).expect_err("a link"), libc::EOPNOTSUPP);
    let change = abi::SetattrIn { valid: abi::fattr::MTIME, mtime: 1000, ..Default::default() };
    client.setattr(link.node, change).expect("the link's own time");
    if support::is_root() {
        let change = abi::SetattrIn { valid: abi::fattr::UID, uid: 99, ..Default::default() };
        assert_eq!(client.setattr(link.node, change).expect("the link's own owner").uid, 99);
    }
    // CREATE over a link: Linux would follow it.
    assert_eq!(client.create(ROOT, "link", libc::O_RDWR, 0o644).expect_err("a link"), libc::ELOOP);
    let hard = client.link(link.node, ROOT, "hard").expect("a link to the link");
    assert_eq!(hard.node, link.node);
    let value = abi::SetxattrIn { size: 1, ..Default::default() }.encode();
    assert!(client.call(Opcode::Setxattr, link.node, &[&value, b"user.x\0v"]).is_err());
    let secret_meta = fs::metadata(&secret).expect("stat");
    assert!(secret_meta.mtime() > 1000 && secret_meta.uid() != 99);
    arena.check();
}

#[test]
fn numbers_that_were_made_up_name_nothing() {
    let arena = Arena::new();
    fs::write(arena.share().join("a"), "a").expect("write");
    fs::write(arena.share().join("b"), "b").expect("write");
    let client = Client::share(&arena.share());
    let (a, b) = (client.lookup(ROOT, "a").expect("a").node, client.lookup(ROOT, "b").expect("b").node);
    for node in [0, 2, 3, a ^ 1 << 32, a + 1000, 2 << 32, 1 << 63, u64::MAX, u64::MAX - 1] {
        assert!(client.getattr(node).is_err(), "{node:#x}");
        assert!(client.lookup(node, "a").is_err());
        assert!(client.open(node, 0).is_err());
        assert!(client.opendir(node).is_err());
        client.forget(node, u64::MAX);
    }
    // A handle is good for its own file alone, and for its own kind.
    let fh = client.open(a, libc::O_RDONLY).expect("open").fh;
    let dir = client.opendir(ROOT).expect("opendir");
    assert_eq!(errno(client.read(b, fh, 0, 10)), libc::EBADF);
    assert_eq!(errno(client.read(ROOT, dir, 0, 10)), libc::EISDIR);
    assert_eq!(errno(client.read(a, dir, 0, 10)), libc::EBADF);
    assert_eq!(client.readdir_once(a, fh, 0, 4096, false).expect_err("a file"), libc::ENOTDIR);
    assert_eq!(errno(client.releasedir(a, fh)), libc::EBADF);
    assert_eq!(errno(client.release(ROOT, dir)), libc::EBADF);
    for handle in [0, 1, fh + 1, fh ^ 1 << 32, u64::MAX] {
        assert_eq!(errno(client.read(a, handle, 0, 10)), libc::EBADF);
    }
    assert_eq!(client.write(a, fh, 0, b"x").expect_err("read only"), libc::EBADF);
    client.release(a, fh).expect("once");
    assert_eq!(errno(client.release(a, fh)), libc::EBADF);
    assert_eq!(errno(client.read(a, fh, 0, 10)), libc::EBADF);
    // Forgotten once, twice, too often.
    client.forget(a, 1);
    assert_eq!(client.getattr(a).expect_err("forgotten"), libc::ESTALE);
    client.forget(a, 1);
    client.forget(b, u64::MAX);
    assert_eq!(client.getattr(b).expect_err("forgotten"), libc::ESTALE);
    let again = client.lookup(ROOT, "a").expect("a").node;
    assert_ne!(again, a, "numbers are not used twice");
    client.forget(ROOT, u64::MAX);
    client.getattr(ROOT).expect("the root stays");
}

#[test]
fn special_files_are_never_opened() {
    let arena = Arena::new();
    let client = Client::share(&arena.share());
    let fifo = client.mknod(ROOT, "fifo", libc::S_IFIFO | 0o666, 0).expect("a pipe").node;
    let socket = client.mknod(ROOT, "socket", libc::S_IFSOCK | 0o666, 0).expect("a socket").node;
    let start = Instant::now();
    for node in [fifo, socket] {
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_PATH, libc::O_TRUNC] {
            assert_eq!(client.open(node, flags).expect_err("special"), libc::ENXIO);
        }
        assert_eq!(client.opendir(node).expect_err("special"), libc::ENOTDIR);
    }
    assert_eq!(client.create(ROOT, "fifo", libc::O_RDONLY, 0o644).expect_err("special"), libc::ENXIO);
    let change = abi::SetattrIn { valid: abi::fattr::SIZE, ..Default::default() };
    assert_eq!(client.setattr(fifo, change).expect_err("special"), libc::EINVAL);
    let change = abi::SetattrIn { valid: abi::fattr::MODE, mode: 0o600, ..Default::default() };
    assert_eq!(client.setattr(fifo, change).expect("its mode").mode, libc::S_IFIFO | 0o600);
    client.call(Opcode::Syncfs, fifo, &[&[0; 8]]).expect("of its file system");
    assert!(start.elapsed() < Duration::from_secs(5), "nothing waited for the other end");
    for (mode, rdev) in [(libc::S_IFBLK, 0x800), (libc::S_IFCHR, 0x103), (libc::S_IFBLK, 0)] {
        assert_eq!(client.mknod(ROOT, "device", mode | 0o666, rdev).expect_err("a device"), libc::EPERM);
    }
    for mode in [libc::S_IFDIR, libc::S_IFLNK, 0o170_000] {
        assert_eq!(client.mknod(ROOT, "odd", mode, 0).expect_err("no such kind"), libc::EINVAL);
    }
}

#[test]
fn open_flags_that_mean_something_else_are_dropped() {
    let arena = Arena::new();
    fs::write(arena.share().join("f"), "content").expect("write");
    let client = Client::share(&arena.share());
    let node = client.lookup(ROOT, "f").expect("there").node;
    for odd in
        [libc::O_PATH, libc::O_CREAT, libc::O_EXCL, libc::O_TMPFILE, libc::O_DIRECT, libc::O_ASYNC, libc::O_DIRECTORY]
    {
        let fh = client.open(node, libc::O_RDONLY | odd).expect("opens").fh;
        assert_eq!(client.read(node, fh, 0, 3).expect("reads"), b"con", "{odd:#o}");
    }
    assert_eq!(client.open(node, libc::O_ACCMODE).expect_err("no mode"), libc::EINVAL);
    assert!(client.open(node, !3).is_ok(), "all flags at once");
}

#[test]
fn exhaustion_is_an_error_and_passes() {
    let arena = Arena::new();
    for i in 0..40 {
        fs::write(arena.share().join(format!("{i}")), "").expect("write");
    }
    let share = PassthroughFs::builder(arena.share()).max_files(20).build().expect("a share");
    let client = Client::new(share);
    // A listing still has all names; those that cannot be known have no node.
    let listed = client.list(ROOT, 4096, true);
    assert_eq!(listed.len(), 42);
    assert_eq!(listed.iter().filter(|l| l.node != 0).count(), 20);
    let unknown = listed.iter().find(|l| l.node == 0 && l.name != "." && l.name != "..").expect("one of them");
    assert_eq!(client.lookup(ROOT, &unknown.name).expect_err("full"), libc::ENFILE);
    let known = listed.iter().find(|l| l.node != 0).expect("one of them").node;
    let mut handles = Vec::new();
    let error = loop {
        match client.open(known, 0) {
            Ok(open) => handles.push(open.fh),
            Err(error) => break error,
        }
    };
    assert_eq!((error, handles.len()), (libc::ENFILE, 5));
    handles.into_iter().for_each(|fh| drop(client.release(known, fh)));
    listed.iter().for_each(|l| client.forget(l.node, 1));
    client.lookup(ROOT, &unknown.name).expect("room again");
}

/// Swaps a directory for a link to the outside and back, as fast as it can.
fn swap(share: &Path, outside: &Path, stop: &AtomicBool) {
    symlink(outside, share.join("trap")).expect("symlink");
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    while !stop.load(Ordering::Relaxed) {
        let (dir, trap) = (share.join("dir"), share.join("trap"));
        let _ = rustix::fs::renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &trap, flags);
    }
}

#[test]
fn a_directory_that_turns_into_a_link_leads_nowhere() {
    let arena = Arena::new();
    fs::create_dir(arena.share().join("dir")).expect("mkdir");
    fs::write(arena.share().join("dir/inside"), "inside").expect("write");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = std::thread::Builder::new();
        let (share, outside, stop_ref) = (arena.share(), arena.outside(), &stop);
        let swapper = swapper.spawn_scoped(scope, move || swap(&share, &outside, stop_ref)).expect("a thread");
        let client = Client::share(&arena.share());
        let (mut dirs, mut links) = (0, 0);
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            let Ok(found) = client.lookup(ROOT, "dir") else { continue };
            if found.attr.mode & libc::S_IFMT == libc::S_IFLNK {
                links += 1
            } else {
                dirs += 1
            }
            // Whatever it was: what is found in it is never the outside.
            assert!(client.lookup(found.node, "secret").is_err());
            if let Ok(file) = client.lookup(found.node, "inside") {
                let fh = client.open(file.node, libc::O_RDONLY).expect("open").fh;
                assert_eq!(client.read(file.node, fh, 0, 100).expect("read"), b"inside");
                client.release(file.node, fh).expect("release");
                client.forget(file.node, 1);
            }
            if let Ok((made, fh)) = client.create(found.node, "made", libc::O_RDWR, 0o644) {
                client.write(made.node, fh, 0, b"x").expect("write");
                let _ = client.rename((found.node, "made"), (found.node, "renamed"), 0);
                client.release(made.node, fh).expect("release");
                client.forget(made.node, 1);
            }
            let _ = client.unlink(found.node, "secret");
            let _ = client.unlink(found.node, "renamed");
            let _ = client.rename((found.node, "secret"), (ROOT, "stolen"), 0);
            let _ = client.mkdir(found.node, "d", 0o755).map(|d| client.forget(d.node, 1));
            let _ = client.rmdir(found.node, "d");
            client.forget(found.node, 1);
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().expect("joins");
        assert!(dirs > 10 && links > 10, "both were met: {dirs} {links}");
    });
    assert!(!arena.share().join("stolen").exists());
    arena.check();
}

#[test]
fn a_directory_that_was_moved_out_stays_a_dead_end_upwards() {
    let arena = Arena::new();
    fs::create_dir_all(arena.share().join("a/b")).expect("mkdir");
    let client = Client::share(&arena.share());
    let b = client.walk("a/b").expect("there").node;
    fs::rename(arena.share().join("a/b"), arena.outside().join("b")).expect("move");
    // The client keeps what it knows; from there it finds no way to what lies around.
    assert!(client.lookup(b, "..").is_err());
    let listed = client.list(b, 4096, true);
    assert!(listed.iter().all(|l| l.node == 0), "dots are not looked up: {listed:?}");
    fs::remove_dir(arena.outside().join("b")).expect("rmdir");
    arena.check();
}

#[test]
fn mounts_are_crossed_only_when_asked() {
    if !support::is_root() {
        eprintln!("SKIPPED: mounting needs root");
        return;
    }
    let arena = Arena::new();
    for dir in ["tmpfs", "proc"] {
        fs::create_dir(arena.share().join(dir)).expect("mkdir");
        if rustix::mount::mount("none", arena.share().join(dir), dir, rustix::mount::MountFlags::empty(), None).is_err()
        {
            eprintln!("SKIPPED: cannot mount {dir} here");
            return;
        }
    }
    struct Unmount<'a>(&'a Arena);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            for dir in ["tmpfs", "proc"] {
                let _ = rustix::mount::unmount(self.0.share().join(dir), rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
    let unmount = Unmount(&arena);
    fs::write(arena.share().join("tmpfs/f"), "mounted").expect("write");
    let stay = Client::share(&arena.share());
    assert_eq!(stay.lookup(ROOT, "tmpfs").expect_err("a mount"), libc::EXDEV);
    assert!(stay.list(ROOT, 4096, true).iter().any(|l| l.name == "tmpfs" && l.node == 0), "the name is there");
    for mounts in [MountPoints::Cross, MountPoints::Announce] {
        let share = PassthroughFs::builder(arena.share()).mount_points(mounts).build().expect("a share");
        let client = Client::new(share);
        let dir = client.lookup(ROOT, "tmpfs").expect("a mount");
        assert_eq!(dir.attr.flags & abi::ATTR_SUBMOUNT != 0, mounts == MountPoints::Announce);
        assert_eq!(client.content("tmpfs/f").expect("read"), b"mounted");
        let ino = fs::metadata(arena.share().join("tmpfs")).expect("stat").ino();
        assert_eq!(dir.attr.ino == ino, mounts == MountPoints::Announce, "one device, distinct numbers");
        // Never into procfs: its files are this process.
        assert_eq!(client.lookup(ROOT, "proc").expect_err("procfs"), libc::EXDEV);
    }
    let error = PassthroughFs::builder("/proc/self").build().err();
    assert!(matches!(error, Some(Error::RootOnProc { .. })), "{error:?}");
    drop(unmount);
}

#[test]
fn what_cannot_be_shared_is_said() {
    let arena = Arena::new();
    let secret = arena.outside().join("secret");
    let error = PassthroughFs::builder(&secret).build().expect_err("a file");
    assert!(error.to_string().contains("secret"), "{error}");
    let error = PassthroughFs::builder(arena.share().join("missing")).build().expect_err("missing");
    assert!(matches!(error, Error::OpenRoot { .. }));
    let dir = fs::File::open(arena.share()).expect("open");
    Client::new(PassthroughFs::builder_fd(dir.into()).build().expect("a share")).getattr(ROOT).expect("works");
}

#[test]
fn ids_that_exist_nowhere_make_no_files() {
    let arena = Arena::new();
    fs::set_permissions(arena.share(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let mut client = Client::share(&arena.share());
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        (client.uid, client.gid) = (uid, gid);
        assert_eq!(client.mkdir(ROOT, "d", 0o755).expect_err("nobody"), libc::EOVERFLOW);
        assert!(client.create(ROOT, "f", libc::O_RDWR, 0o644).is_err());
        assert!(client.symlink(ROOT, "l", "t").is_err());
        assert!(client.mknod(ROOT, "n", libc::S_IFREG, 0).is_err());
    }
    assert_eq!(client.names(ROOT), [".", ".."]);
}

#[test]
fn a_process_without_privileges_acts_as_itself() {
    if !support::is_root() {
        eprintln!("SKIPPED: giving privileges up needs some");
        return;
    }
    let arena = Arena::new();
    std::os::unix::fs::chown(arena.share(), Some(1234), Some(1234)).expect("chown");
    fs::set_permissions(arena.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::write(arena.share().join("private"), "root's").expect("write");
    fs::set_permissions(arena.share().join("private"), fs::Permissions::from_mode(0o600)).expect("chmod");
    let path = arena.share();
    // Users and capabilities belong to a thread: this one gives them up for good.
    let thread = std::thread::Builder::new().name("unprivileged".into()).spawn(move || {
        let (uid, gid) = (rustix::process::Uid::from_raw(1234), rustix::process::Gid::from_raw(1234));
        rustix::thread::set_thread_groups(&[]).expect("no groups");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("a group");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("a user");
        let mut client = Client::share(&path);
        (client.uid, client.gid) = (0, 0);
        let dir = client.mkdir(ROOT, "dir", 0o777).expect("mkdir");
        let (file, fh) = client.create(dir.node, "file", libc::O_RDWR, 0o666).expect("create");
        assert_eq!((dir.attr.uid, file.attr.uid, file.attr.gid), (1234, 1234, 1234), "its own, whoever asked");
        assert_eq!((dir.attr.mode & 0o777, file.attr.mode & 0o777), (0o755, 0o644), "the request's umask");
        client.write(file.node, fh, 0, b"content").expect("write");
        let change = abi::SetattrIn { valid: abi::fattr::UID, uid: 0, ..Default::default() };
        assert_eq!(client.setattr(file.node, change).expect_err("not to be had"), libc::EPERM);
        let change = abi::SetattrIn { valid: abi::fattr::UID, uid: 1234, ..Default::default() };
        client.setattr(file.node, change).expect("no change");
        // What the host denies this user, it denies the guest's root too.
        let private = client.lookup(ROOT, "private").expect("may be seen").node;
        assert_eq!(client.open(private, libc::O_RDONLY).expect_err("root's"), libc::EACCES);
        client.setlk(file.node, fh, 1, 1, (0, 9), false).expect("a lock");
        client.call(Opcode::Syncfs, ROOT, &[&[0; 8]]).expect("syncfs");
    });
    thread.expect("a thread").join().expect("joins");
    assert_eq!(fs::metadata(arena.share().join("dir/file")).expect("stat").uid(), 1234);
    arena.check();
}
