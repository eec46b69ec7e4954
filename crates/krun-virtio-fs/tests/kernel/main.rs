//! A real kernel as the client: the server behind `/dev/fuse`, mounted, used by ordinary programs.
//!
//! Needs root and `/dev/fuse`. Where they are missing, each test says so and passes.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stderr,
    reason = "a test fails loudly, and numbers are made up"
)]

mod mount;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use krun_virtio_fs::{CachePolicy, Locks, OverlayFs, PassthroughFs, ReadOnly};
use mount::{Mounted, mount};
use rustix::fs::FlockOperation;

const TRY: FlockOperation = FlockOperation::NonBlockingLockExclusive;

/// Mounts a share, or leaves the test.
macro_rules! mounted {
    ($fs:expr) => {
        match mount($fs) {
            Some(mounted) => mounted,
            None => return,
        }
    };
}

struct Share {
    host: tempfile::TempDir,
    mounted: Mounted,
}

impl Share {
    fn guest(&self, path: &str) -> std::path::PathBuf {
        self.mounted.path().join(path)
    }

    fn host(&self, path: &str) -> std::path::PathBuf {
        self.host.path().join(path)
    }
}

fn share() -> Option<Share> {
    let host = tempfile::tempdir().expect("a directory");
    let mounted = mount(PassthroughFs::builder(host.path()).build().expect("a share"))?;
    Some(Share { host, mounted })
}

fn hash_tree(root: &Path) -> BTreeMap<String, u64> {
    let (mut all, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            let mut hash = DefaultHasher::new();
            if kind.is_dir() {
                todo.push(path.clone());
            } else if kind.is_symlink() {
                fs::read_link(&path).expect("a link").hash(&mut hash);
            } else {
                fs::read(&path).expect("a file").hash(&mut hash);
            }
            let name = path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned();
            assert!(all.insert(name, hash.finish()).is_none(), "listed once");
        }
    }
    all
}

#[test]
fn both_sides_see_what_the_other_does() {
    let Some(share) = share() else { return };
    fs::write(share.guest("from-guest"), "guest").expect("write");
    assert_eq!(fs::read(share.host("from-guest")).expect("read"), b"guest");
    fs::write(share.host("from-host"), "host").expect("write");
    assert_eq!(fs::read(share.guest("from-host")).expect("read"), b"host");

    fs::create_dir(share.guest("d")).expect("mkdir");
    fs::rename(share.guest("from-guest"), share.guest("d/moved")).expect("rename");
    assert!(share.host("d/moved").is_file());
    fs::hard_link(share.guest("d/moved"), share.guest("linked")).expect("link");
    assert_eq!(fs::metadata(share.host("linked")).expect("stat").nlink(), 2);
    assert_eq!(
        fs::metadata(share.guest("linked")).expect("stat").ino(),
        fs::metadata(share.guest("d/moved")).expect("stat").ino()
    );
    symlink("d/moved", share.guest("link")).expect("symlink");
    assert_eq!(fs::read_link(share.host("link")).expect("readlink"), Path::new("d/moved"));
    assert_eq!(fs::read(share.guest("link")).expect("read through it"), b"guest");
    // A hard link to a symbolic link is one to the link, not to what it means.
    fs::hard_link(share.guest("link"), share.guest("link2")).expect("link");
    assert!(fs::symlink_metadata(share.host("link2")).expect("stat").is_symlink());

    fs::set_permissions(share.guest("linked"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    assert_eq!(fs::metadata(share.host("linked")).expect("stat").mode() & 0o7777, 0o4751);
    std::os::unix::fs::chown(share.guest("linked"), Some(12), Some(34)).expect("chown");
    let meta = fs::metadata(share.host("linked")).expect("stat");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12, 34, 0o751), "a new owner, no set-id");
    std::os::unix::fs::lchown(share.guest("link"), Some(56), None).expect("lchown");
    assert_eq!(fs::symlink_metadata(share.host("link")).expect("stat").uid(), 56);
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    File::options().write(true).open(share.guest("linked")).expect("open").set_modified(time).expect("utimens");
    assert_eq!(fs::metadata(share.host("linked")).expect("stat").modified().expect("time"), time);

    fs::remove_file(share.guest("link")).expect("unlink");
    let busy = fs::remove_dir(share.guest("d")).expect_err("not empty");
    assert_eq!(busy.raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_dir_all(share.guest("d")).expect("remove");
    assert!(!share.host("d").exists());
}

#[test]
fn content_of_any_size_at_any_place() {
    let Some(share) = share() else { return };
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(share.guest("big"), &data).expect("write");
    assert!(fs::read(share.host("big")).expect("read") == data);
    assert!(fs::read(share.guest("big")).expect("read") == data);

    let file = OpenOptions::new().read(true).write(true).open(share.guest("big")).expect("open");
    file.write_all_at(b"in the middle", 4_096_001).expect("pwrite");
    file.set_len(4_096_005).expect("truncate");
    let mut tail = [0; 8];
    assert_eq!(file.read_at(&mut tail, 4_096_001).expect("pread"), 4);
    assert_eq!(&tail[..4], b"in t");
    file.set_len(9_000_000).expect("grow");
    assert_eq!(file.read_at(&mut tail, 8_999_990).expect("pread"), 8);
    assert_eq!(tail, [0; 8]);
    file.sync_all().expect("fsync");
    file.sync_data().expect("fdatasync");

    let mut appender = OpenOptions::new()
        .append(true)
        .open(share.guest("log"))
        .or_else(|_| OpenOptions::new().append(true).create(true).open(share.guest("log")));
    let appender = appender.as_mut().expect("open");
    appender.write_all(b"one ").expect("append");
    // Somebody on the host appends too.
    OpenOptions::new().append(true).open(share.host("log")).expect("open").write_all(b"two ").expect("append");
    appender.write_all(b"three").expect("append");
    assert_eq!(fs::read(share.host("log")).expect("read"), b"one two three");
    File::create(share.guest("log")).expect("truncate by open");
    assert_eq!(fs::metadata(share.host("log")).expect("stat").len(), 0);
}

#[test]
fn sparse_files_and_copies_in_the_server() {
    let Some(share) = share() else { return };
    let mut file = File::create_new(share.guest("sparse")).expect("create");
    file.set_len(1 << 20).expect("grow");
    file.write_all_at(&[1; 4096], 512 << 10).expect("pwrite");
    let seek = |whence| rustix::fs::seek(&file, whence).expect("seek");
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), 512 << 10);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(512 << 10)), (512 << 10) + 4096);
    file.seek(SeekFrom::Start(0)).expect("seek");

    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 512 << 10, 4096).expect("punch a hole");
    assert!(fs::read(share.host("sparse")).expect("read").iter().all(|b| *b == 0));
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 1 << 20, 4096).expect("allocate");
    assert_eq!(fs::metadata(share.host("sparse")).expect("stat").len(), (1 << 20) + 4096);

    fs::write(share.guest("from"), vec![7; 100_000]).expect("write");
    let (from, to) = (File::open(share.guest("from")).expect("open"), File::create(share.guest("to")).expect("create"));
    let (mut from_at, mut to_at) = (10, 5);
    let copied = rustix::fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), 50_000).expect("copy");
    assert!(copied > 0);
    assert_eq!(fs::metadata(share.host("to")).expect("stat").len(), 5 + copied as u64);
}

#[test]
fn files_without_a_name() {
    let Some(share) = share() else { return };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(share.guest(""))
        .expect("O_TMPFILE");
    file.write_all(b"unnamed").expect("write");
    assert_eq!(fs::read_dir(share.host("")).expect("list").count(), 0);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(
        rustix::fs::CWD,
        &*path,
        rustix::fs::CWD,
        share.guest("named"),
        rustix::fs::AtFlags::SYMLINK_FOLLOW,
    )
    .expect("a name for it");
    assert_eq!(fs::read(share.host("named")).expect("read"), b"unnamed");

    // An open file outlives its name.
    let mut open = File::options().read(true).write(true).open(share.guest("named")).expect("open");
    fs::remove_file(share.guest("named")).expect("unlink");
    open.write_all(b"still he").expect("write");
    open.rewind().expect("seek");
    let mut text = String::new();
    open.read_to_string(&mut text).expect("read");
    assert_eq!(text, "still he");
    assert_eq!(open.metadata().expect("fstat").nlink(), 0);
}

#[test]
fn names_exchanged_and_kept() {
    let Some(share) = share() else { return };
    fs::write(share.guest("a"), "a").expect("write");
    fs::write(share.guest("b"), "b").expect("write");
    let rename = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(rustix::fs::CWD, share.guest(from), rustix::fs::CWD, share.guest(to), flags)
    };
    rename("a", "b", rustix::fs::RenameFlags::EXCHANGE).expect("exchange");
    assert_eq!(fs::read(share.host("a")).expect("read"), b"b");
    let taken = rename("a", "b", rustix::fs::RenameFlags::NOREPLACE).expect_err("taken");
    assert_eq!(taken, rustix::io::Errno::EXIST);
    rename("a", "b", rustix::fs::RenameFlags::empty()).expect("replace");
    assert_eq!(fs::read_dir(share.host("")).expect("list").count(), 1);
    let long = "n".repeat(255);
    fs::write(share.guest(&long), "").expect("255 bytes");
    let longer = fs::write(share.guest(&"n".repeat(256)), "").expect_err("256 bytes");
    assert_eq!(longer.raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn extended_attributes() {
    let Some(share) = share() else { return };
    fs::write(share.guest("f"), "").expect("write");
    let path = share.guest("f");
    let mut value = vec![0; 70_000];
    for size in [0, 1, 500, 600, 2000] {
        let set = vec![b'v'; size];
        rustix::fs::setxattr(&path, "user.test", &set, rustix::fs::XattrFlags::empty()).expect("set");
        let length = rustix::fs::getxattr(&path, "user.test", &mut value[..]).expect("get");
        assert_eq!(value[..length], set);
        assert_eq!(rustix::fs::getxattr(share.host("f"), "user.test", &mut value[..]).expect("get"), size);
    }
    let exists = rustix::fs::setxattr(&path, "user.test", b"x", rustix::fs::XattrFlags::CREATE).expect_err("exists");
    assert_eq!(exists, rustix::io::Errno::EXIST);
    let short = rustix::fs::getxattr(&path, "user.test", &mut [0u8; 3][..]).expect_err("2000 bytes");
    assert_eq!(short, rustix::io::Errno::RANGE);
    rustix::fs::setxattr(&path, "user.second", b"2", rustix::fs::XattrFlags::empty()).expect("set");
    // Labels of the host are no business of the guest, in lists neither.
    let refused = rustix::fs::setxattr(&path, "trusted.x", b"1", rustix::fs::XattrFlags::empty()).expect_err("refused");
    assert_eq!(refused, rustix::io::Errno::OPNOTSUPP);
    rustix::fs::setxattr(share.host("f"), "trusted.host", b"1", rustix::fs::XattrFlags::empty()).expect("on the host");
    let length = rustix::fs::listxattr(&path, &mut value[..]).expect("list");
    let mut names: Vec<_> = value[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    assert_eq!(names, [&b"user.second"[..], b"user.test"]);
    rustix::fs::removexattr(&path, "user.test").expect("remove");
    let gone = rustix::fs::getxattr(&path, "user.test", &mut value[..]).expect_err("gone");
    assert_eq!(gone, rustix::io::Errno::NODATA);
}

#[test]
fn special_files_are_names_only() {
    let Some(share) = share() else { return };
    let make = |name: &str, kind, device| {
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, share.guest(name), kind, mode, device)
    };
    make("pipe", rustix::fs::FileType::Fifo, 0).expect("mkfifo");
    assert!(fs::symlink_metadata(share.host("pipe")).expect("stat").file_type().is_fifo());
    // Both ends are in the guest: nothing on the host is opened.
    let reader = std::thread::Builder::new().name("reader".into());
    let path = share.guest("pipe");
    let reader = reader.spawn(move || fs::read(path).expect("read")).expect("a thread");
    fs::write(share.guest("pipe"), "through the pipe").expect("write");
    assert_eq!(reader.join().expect("joins"), b"through the pipe");

    let socket = std::os::unix::net::UnixListener::bind(share.guest("socket"));
    socket.expect("bind");
    assert!(fs::symlink_metadata(share.host("socket")).expect("stat").file_type().is_socket());
    let denied = make("disk", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(8, 0)).expect_err("denied");
    assert_eq!(denied, rustix::io::Errno::PERM);
    make("whiteout", rustix::fs::FileType::CharacterDevice, 0).expect("overlayfs needs it");
}

#[test]
fn callers_own_what_they_make() {
    let Some(share) = share() else { return };
    fs::set_permissions(share.host(""), fs::Permissions::from_mode(0o777)).expect("chmod");
    let script = "umask 027; echo x >file; mkdir dir; ln -s file link; mkfifo pipe; umask 0; echo y >open";
    let status = Command::new("setpriv")
        .args(["--reuid=1234", "--regid=4321", "--clear-groups", "sh", "-ec", script])
        .current_dir(share.guest(""))
        .status();
    let Ok(status) = status else {
        eprintln!("SKIPPED: no setpriv");
        return;
    };
    assert!(status.success());
    for (name, mode) in [("file", 0o640), ("dir", 0o750), ("link", 0o777), ("pipe", 0o640), ("open", 0o666)] {
        let meta = fs::symlink_metadata(share.host(name)).expect("stat");
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (1234, 4321, mode), "{name}");
    }
    // Set-id bits go when somebody without privileges writes.
    fs::set_permissions(share.host("open"), fs::Permissions::from_mode(0o6777)).expect("chmod");
    std::thread::sleep(Duration::from_millis(1100));
    let status = Command::new("setpriv")
        .args(["--reuid=1234", "--regid=4321", "--clear-groups", "sh", "-ec", "echo z >>open"])
        .current_dir(share.guest(""))
        .status();
    assert!(status.expect("runs").success());
    assert_eq!(fs::metadata(share.host("open")).expect("stat").mode() & 0o7777, 0o777);
}

#[test]
fn no_link_and_no_name_leads_out() {
    let Some(share) = share() else { return };
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("secret"), "secret").expect("write");
    // The guest's kernel resolves links in its own tree; here that is the host's, so only the server is asked.
    symlink(outside.path(), share.host("abs")).expect("symlink");
    symlink("../../../../../etc", share.host("rel")).expect("symlink");
    assert!(fs::symlink_metadata(share.guest("abs")).expect("stat").is_symlink());
    let nofollow = |path: &str| {
        File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(share.guest(path)).expect_err("a link")
    };
    assert_eq!(nofollow("abs").raw_os_error(), Some(libc::ELOOP));
    assert_eq!(nofollow("rel").raw_os_error(), Some(libc::ELOOP));
    assert_eq!(fs::metadata(share.guest("..")).expect("stat").ino(), {
        let parent = share.mounted.path().parent().expect("a parent");
        fs::metadata(parent).expect("stat").ino()
    });
}

#[test]
fn a_tree_of_5000_files() {
    let Some(share) = share() else { return };
    let source = tempfile::tempdir().expect("a directory");
    for dir in 0..50 {
        let dir = source.path().join(format!("dir{dir}"));
        fs::create_dir(&dir).expect("mkdir");
        for file in 0..100 {
            fs::write(dir.join(format!("file{file}")), format!("{dir:?} {file}").repeat(file)).expect("write");
        }
        symlink("file1", dir.join("link")).expect("symlink");
    }
    let run = |command: &mut Command| assert!(command.status().expect("runs").success(), "{command:?}");
    run(Command::new("cp").arg("-a").arg(source.path()).arg(share.guest("tree")));
    let expected = hash_tree(source.path());
    assert_eq!(expected.len(), 50 * 102);
    assert!(hash_tree(&share.host("tree")) == expected);
    assert!(hash_tree(&share.guest("tree")) == expected);
    run(Command::new("cp").arg("-a").arg(share.guest("tree")).arg(share.guest("copy")));
    run(Command::new("diff").arg("-r").arg(share.guest("tree")).arg(share.host("copy")));
    run(Command::new("rm").arg("-r").arg(share.guest("tree")).arg(share.guest("copy")));
    assert_eq!(fs::read_dir(share.host("")).expect("list").count(), 0);
}

#[test]
fn version_control_works() {
    let Some(share) = share() else { return };
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]);
        command.args(args).current_dir(share.guest("")).env("HOME", "/nonexistent").output()
    };
    let Ok(first) = git(&["init", "-q"]) else {
        eprintln!("SKIPPED: no git");
        return;
    };
    assert!(first.status.success(), "{first:?}");
    for i in 0..200 {
        fs::write(share.guest(&format!("file{i}")), format!("{i}\n").repeat(i)).expect("write");
    }
    let done = |args: &[&str]| {
        let output = git(args).expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    done(&["add", "."]);
    done(&["commit", "-q", "-m", "one"]);
    fs::write(share.guest("file7"), "changed").expect("write");
    fs::remove_file(share.guest("file8")).expect("remove");
    assert_eq!(done(&["status", "--porcelain"]), " M file7\n D file8\n");
    done(&["checkout", "-q", "."]);
    done(&["gc", "-q"]);
    done(&["fsck", "--strict"]);
    assert_eq!(done(&["status", "--porcelain"]), "");
}

#[test]
fn locks_exclude_within_and_without() {
    let Some(share) = share() else { return };
    fs::write(share.guest("lock"), "0123456789").expect("write");
    let guest = File::options().read(true).write(true).open(share.guest("lock")).expect("open");
    let host = File::options().read(true).write(true).open(share.host("lock")).expect("open");
    // flock: one open file of the guest against one of the host.
    rustix::fs::flock(&guest, TRY).expect("free");
    assert!(rustix::fs::flock(&host, TRY).is_err());
    rustix::fs::flock(&guest, FlockOperation::Unlock).expect("unlock");
    rustix::fs::flock(&host, TRY).expect("free");
    // A blocking lock waits until the host lets go, and other requests are served meanwhile.
    let waiter = {
        let guest = guest.try_clone().expect("clone");
        std::thread::Builder::new()
            .name("waiter".into())
            .spawn(move || rustix::fs::flock(&guest, FlockOperation::LockExclusive))
            .expect("a thread")
    };
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiter.is_finished());
    assert_eq!(fs::read(share.guest("lock")).expect("read"), b"0123456789");
    rustix::fs::flock(&host, FlockOperation::Unlock).expect("unlock");
    waiter.join().expect("joins").expect("the lock");
    assert!(rustix::fs::flock(&host, TRY).is_err());
    rustix::fs::flock(&guest, FlockOperation::Unlock).expect("unlock");

    // fcntl: ranges, of this process against the host's view of it.
    rustix::fs::fcntl_lock(&guest, FlockOperation::NonBlockingLockExclusive).expect("free");
    let other = "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\n";
    let python = |path| Command::new("python3").args(["-c", other]).arg(path).output();
    let Ok(held) = python(share.guest("lock")) else {
        eprintln!("SKIPPED: no python3");
        return;
    };
    assert!(!held.status.success(), "another process of the guest");
    assert!(!python(share.host("lock")).expect("runs").status.success(), "a process of the host");
    drop(guest);
    assert!(python(share.guest("lock")).expect("runs").status.success(), "closing ends the lock");
}

#[test]
fn closing_without_a_request_loses_nothing() {
    let host = tempfile::tempdir().expect("a directory");
    let share = PassthroughFs::builder(host.path()).locks(Locks::Guest).build().expect("a share");
    let mounted = mounted!(share);
    fs::write(mounted.path().join("f"), vec![b'.'; 10_000]).expect("write");
    assert_eq!(fs::metadata(host.path().join("f")).expect("stat").len(), 10_000);
    let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[5000:5005]=b'hello'\n";
    let Ok(status) = Command::new("python3").args(["-c", script]).arg(mounted.path().join("f")).status() else {
        eprintln!("SKIPPED: no python3");
        return;
    };
    assert!(status.success());
    assert_eq!(fs::read(host.path().join("f")).expect("read")[5000..5006], *b"hello.");
    let file = File::open(mounted.path().join("f")).expect("open");
    rustix::fs::flock(&file, TRY).expect("a lock");
    let other = File::open(mounted.path().join("f")).expect("open");
    assert!(rustix::fs::flock(&other, TRY).is_err(), "held within the guest");
    let outside = File::open(host.path().join("f")).expect("open");
    rustix::fs::flock(&outside, TRY).expect("and nowhere else");
}

#[test]
fn read_only_means_read_only() {
    let host = tempfile::tempdir().expect("a directory");
    fs::write(host.path().join("f"), "content").expect("write");
    let mounted = mounted!(ReadOnly::new(PassthroughFs::builder(host.path()).build().expect("a share")));
    let path = mounted.path().join("f");
    assert_eq!(fs::read(&path).expect("read"), b"content");
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.expect_err("refused").kind(), ErrorKind::ReadOnlyFilesystem);
    };
    refused(fs::write(&path, "x"));
    refused(fs::write(mounted.path().join("new"), "x"));
    refused(File::options().append(true).open(&path).map(drop));
    refused(fs::remove_file(&path));
    refused(fs::create_dir(mounted.path().join("d")));
    refused(symlink("a", mounted.path().join("l")));
    refused(fs::rename(&path, mounted.path().join("g")));
    refused(fs::hard_link(&path, mounted.path().join("g")));
    refused(fs::set_permissions(&path, fs::Permissions::from_mode(0o777)));
    refused(std::os::unix::fs::chown(&path, Some(1), None));
    // Locks are the guest's own.
    let file = File::open(&path).expect("open");
    rustix::fs::flock(&file, TRY).expect("a lock");
    assert!(rustix::fs::flock(File::open(&path).expect("open"), TRY).is_err());
    assert_eq!(hash_tree(host.path()).len(), 1);
}

#[test]
fn virtual_files_run_and_leave_nothing_behind() {
    let host = tempfile::tempdir().expect("a directory");
    fs::create_dir(host.path().join("tmp")).expect("mkdir");
    fs::write(host.path().join("tmp/real"), "real").expect("write");
    let program = fs::read("/bin/true").expect("a program");
    let share = PassthroughFs::builder(host.path()).build().expect("a share");
    let overlay = OverlayFs::builder()
        .hidden_file("/init.krun", &program, 0o755)
        .file("/etc/motd", "hello", 0o644)
        .dir("/tmp", 0o1777)
        .dir("/proc", 0o555)
        .build(share)
        .expect("an overlay");
    let mounted = mounted!(overlay);
    let at = |path: &str| mounted.path().join(path);
    assert!(Command::new(at("init.krun")).status().expect("runs").success());
    assert!(fs::read(at("init.krun")).expect("read") == program);
    assert_eq!(fs::read_to_string(at("etc/motd")).expect("read"), "hello");
    let mut names: Vec<_> =
        fs::read_dir(mounted.path()).expect("list").map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["etc", "proc", "tmp"]);
    assert_eq!(fs::read(at("tmp/real")).expect("read"), b"real");
    assert_eq!(fs::metadata(at("proc")).expect("stat").mode(), libc::S_IFDIR | 0o555);
    assert_eq!(fs::read_dir(at("proc")).expect("list").count(), 0);
    // Something may be mounted there.
    rustix::mount::mount("none", at("proc"), "tmpfs", rustix::mount::MountFlags::empty(), None).expect("mount");
    fs::write(at("proc/x"), "x").expect("write");
    rustix::mount::unmount(at("proc"), rustix::mount::UnmountFlags::empty()).expect("unmount");
    for (result, number) in [
        (fs::write(at("init.krun"), "x"), libc::EROFS),
        (fs::remove_file(at("init.krun")), libc::EBUSY),
        (fs::create_dir(at("proc")), libc::EEXIST),
        (fs::remove_dir(at("proc")), libc::EBUSY),
        (fs::rename(at("proc"), at("x")), libc::EBUSY),
        (fs::write(at("proc/new"), "x"), libc::EROFS),
        (fs::set_permissions(at("etc/motd"), fs::Permissions::from_mode(0o777)), libc::EROFS),
    ] {
        assert_eq!(result.expect_err("virtual").raw_os_error(), Some(number));
    }
    fs::write(at("real2"), "x").expect("the rest is as it was");
    let names: Vec<_> = hash_tree(host.path()).into_keys().collect();
    assert_eq!(names, ["real2", "tmp", "tmp/real"]);
}

#[test]
fn caches_or_none() {
    for policy in [CachePolicy::None, CachePolicy::Always] {
        let host = tempfile::tempdir().expect("a directory");
        let mounted = mounted!(PassthroughFs::builder(host.path()).cache(policy).build().expect("a share"));
        fs::write(host.path().join("f"), "first").expect("write");
        assert_eq!(fs::read(mounted.path().join("f")).expect("read"), b"first");
        fs::remove_file(host.path().join("f")).expect("remove");
        // Without a cache every change is seen. With everything cached this one is not.
        let seen = fs::metadata(mounted.path().join("f")).is_err();
        assert_eq!(seen, policy == CachePolicy::None, "{policy:?}");
        fs::write(host.path().join("g"), "g").expect("write");
        assert_eq!(fs::read(mounted.path().join("g")).expect("read"), b"g");
    }
}

#[test]
fn what_the_host_closed_is_seen_by_the_next_open() {
    let Some(share) = share() else { return };
    for round in 0..40 {
        // Of one length, so that the attributes (which are valid for a second) do not tell.
        let text = format!("{round:04}");
        fs::write(share.host("f"), &text).expect("write");
        assert_eq!(fs::read_to_string(share.guest("f")).expect("read"), text);
        assert_eq!(fs::read_to_string(share.guest("f")).expect("read"), text, "and again");
        if round % 10 == 0 {
            std::thread::sleep(Duration::from_millis(3100));
            assert_eq!(fs::read_to_string(share.guest("f")).expect("read"), text);
            assert_eq!(fs::read_to_string(share.guest("f")).expect("read"), text, "kept");
        }
    }
}

#[test]
fn an_unmounted_share_holds_nothing() {
    let Some(share) = share() else { return };
    for i in 0..100 {
        fs::write(share.guest(&format!("{i}")), "x").expect("write");
    }
    let server = share.mounted.server().clone();
    let (files, _) = server.file_system().in_use();
    assert!(files >= 100, "{files}");
    drop(share);
    assert_eq!(server.file_system().in_use(), (0, 0));
}

#[test]
fn the_file_system_tells_its_size() {
    let Some(share) = share() else { return };
    let (guest, host) =
        (rustix::fs::statvfs(share.guest("")).expect("statfs"), rustix::fs::statvfs(share.host("")).expect("statfs"));
    assert_eq!((guest.f_blocks, guest.f_frsize, guest.f_namemax), (host.f_blocks, host.f_frsize, host.f_namemax));
    rustix::fs::syncfs(File::open(share.guest("")).expect("open").as_fd()).expect("syncfs");
    let born = fs::metadata(share.guest("")).expect("stat").created();
    assert_eq!(born.ok(), fs::metadata(share.host("")).expect("stat").created().ok());
}
