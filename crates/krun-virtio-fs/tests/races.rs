//! Several queues at once: what one forgets, another looks up; what one closes, another reads.
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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{FuseServer, PassthroughFs};
use support::{Client, ROOT};

/// Runs each of the jobs on two threads for half a second.
fn contend(jobs: &[&(dyn Fn(usize) + Sync)]) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for job in jobs.iter().chain(jobs) {
            let stop = &stop;
            let run = move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    job(round);
                    round += 1;
                }
                assert!(round > 10, "it ran: {round}");
            };
            thread::Builder::new().name("queue".into()).spawn_scoped(scope, run).expect("a thread");
        }
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
    });
}

fn client(dir: &tempfile::TempDir) -> Client<PassthroughFs> {
    Client::with_server(Arc::new(FuseServer::new(Arc::new(
        PassthroughFs::builder(dir.path()).build().expect("a share"),
    ))))
}

#[test]
fn lookups_and_forgets_of_the_same_files() {
    let dir = tempfile::tempdir().expect("a directory");
    for i in 0..4 {
        fs::write(dir.path().join(i.to_string()), vec![b'x'; i]).expect("write");
    }
    let client = client(&dir);
    let look = |round: usize| {
        let found = client.lookup(ROOT, &(round % 4).to_string()).expect("there");
        // It is held by the reference just got, whatever others forget.
        assert_eq!(client.getattr(found.node).expect("known").size as usize, round % 4);
        client.forget(found.node, 1);
    };
    let list = |round: usize| {
        for listed in client.list(ROOT, [200, 1000, 4096][round % 3], true) {
            client.forget(listed.node, u64::from(listed.node != 0));
        }
    };
    contend(&[&look, &list]);
    assert_eq!(client.server.file_system().in_use(), (0, 0), "every reference was given back");
}

#[test]
fn reads_of_handles_that_others_close() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("f"), "content").expect("write");
    fs::write(dir.path().join("g"), "other").expect("write");
    let client = client(&dir);
    let (f, g) = (client.lookup(ROOT, "f").expect("f").node, client.lookup(ROOT, "g").expect("g").node);
    let handles: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    let open = |round: usize| {
        let fh = client.open(if round.is_multiple_of(2) { f } else { g }, libc::O_RDONLY).expect("open").fh;
        let old = handles[round % 8].swap(fh, Ordering::Relaxed);
        for node in [f, g] {
            let _ = client.release(node, old);
        }
    };
    let read = |round: usize| {
        let fh = handles[round % 8].load(Ordering::Relaxed);
        // The file that was asked for, or an error; never another file.
        for (node, content) in [(f, &b"content"[..]), (g, b"other")] {
            match client.read(node, fh, 0, 100) {
                Ok(read) => assert_eq!(read, content),
                Err(error) => assert_eq!(error, libc::EBADF),
            }
        }
    };
    contend(&[&open, &read]);
    for fh in &handles {
        for node in [f, g] {
            let _ = client.release(node, fh.load(Ordering::Relaxed));
        }
    }
    assert_eq!(client.server.file_system().in_use(), (2, 0));
}

#[test]
fn sessions_that_end_under_requests() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("f"), "content").expect("write");
    let client = client(&dir);
    let work = |round: usize| {
        let _ = client.lookup(ROOT, "f").and_then(|found| {
            let open = client.open(found.node, libc::O_RDWR)?;
            if let Ok(read) = client.read(found.node, open.fh, 0, 100) {
                assert_eq!(read, b"content");
            }
            client.setlk(found.node, open.fh, round as u64, 1, (0, 9), false)
        });
        let _ = client.create(ROOT, &format!("new{}", round % 5), libc::O_RDWR, 0o644);
        let _ = client.unlink(ROOT, &format!("new{}", round % 5));
    };
    let end = |round: usize| {
        match round % 3 {
            0 => client.server.reset(),
            1 => drop(client.call(Opcode::Destroy, 0, &[])),
            _ => {}
        }
        let init = abi::InitIn { major: 7, minor: 39, ..Default::default() };
        client.call(Opcode::Init, 0, &[&init.encode()]).expect("INIT");
    };
    contend(&[&work, &end]);
    client.server.reset();
    let left: Vec<_> = fs::read_dir(dir.path()).expect("list").map(|e| e.expect("an entry").file_name()).collect();
    assert!(left.iter().any(|name| name == "f"), "{left:?}");
    client.server.reset();
    assert_eq!(client.server.file_system().in_use(), (0, 0));
}
