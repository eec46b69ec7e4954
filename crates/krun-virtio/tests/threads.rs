//! Executors, their threads, and what their event loops watch.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, numbers are small"
)]

mod common;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::script::{Script, device, eventually, works};
use krun_virtio::testing::MockDriver;
use krun_virtio::{Executor, Hosted, Ready, Task, ThreadPerWorker};

#[test]
fn threads_have_names_and_are_set_up() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let executor = ThreadPerWorker::with_setup(move |name| {
        assert_eq!(std::thread::current().name(), Some(name));
        log.lock().unwrap().push(name.to_owned());
        Ok(())
    });
    let device = device("a-device-with-a-long-name", vec![Script::default(), Script::default()]);
    let mut driver = MockDriver::builder(device).executor(Arc::new(executor)).start();
    works(&mut driver, 1);
    assert_eq!(*seen.lock().unwrap(), ["a-device-with-0", "a-device-with-1"]);
}

#[test]
fn threads_leave_signals_to_the_host() {
    let mask = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let before = mask();
    let (tell, told) = mpsc::channel();
    let executor = ThreadPerWorker::with_setup(move |_| {
        tell.send(mask()).unwrap();
        Ok(())
    });
    let driver = MockDriver::builder(device("signals", vec![Script::default()])).executor(Arc::new(executor)).start();
    let blocked = |signal: i32, mask: u64| mask >> (signal - 1) & 1 == 1;
    let (pipe, term, segv) = (13, 15, 11);
    let theirs = told.recv().unwrap();
    assert!(blocked(pipe, theirs) && blocked(term, theirs) && !blocked(segv, theirs));
    assert_eq!(mask(), before);
    drop(driver);
}

#[test]
fn a_thread_that_cannot_be_set_up_runs_nothing() {
    let allow = Arc::new(AtomicU32::new(0));
    let allowed = allow.clone();
    let executor = ThreadPerWorker::with_setup(move |_| match allowed.load(Ordering::Relaxed) {
        0 => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    });
    let mut driver =
        MockDriver::builder(device("sandbox", vec![Script::default()])).executor(Arc::new(executor)).start();
    assert!(driver.needs_reset());
    // The worker is unharmed: it runs when it may.
    allow.store(1, Ordering::Relaxed);
    driver.initialise();
    assert!(!driver.needs_reset());
    works(&mut driver, 0);
}

#[test]
fn executors_give_back_what_they_cannot_start() {
    struct Never;
    impl Executor for Never {
        fn start(&self, _: &str, task: Task) -> Result<Box<dyn krun_virtio::Running>, krun_virtio::NotStarted> {
            Err(krun_virtio::NotStarted { task: Box::new(task), source: io::ErrorKind::OutOfMemory.into() })
        }
    }
    let driver = MockDriver::builder(device("never", vec![Script::default()])).executor(Arc::new(Never)).start();
    assert!(driver.needs_reset());
    driver.transport().pause();
    let error = driver.transport().resume().unwrap_err();
    assert!(matches!(&error, krun_virtio::Error::Start { worker, .. } if worker == "never"));
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let (reading, mut end) = UnixStream::pair().unwrap();
    let (entered, wait) = mpsc::channel();
    let script = Script {
        start: Some(Box::new(move |_| {
            let _ = entered.send(());
            let _ = (&reading).read(&mut [0]);
            Ok(())
        })),
        ..Script::default()
    };
    let mut hosted = Hosted::new(Box::new(device("stuck", vec![script])), Arc::new(ThreadPerWorker::new())).unwrap();
    let helper = MockDriver::new(device("helper", vec![Script::default()]));
    let ring = helper.ring(0);
    let state = krun_virtio::QueueState {
        max_size: ring.size,
        size: ring.size,
        ready: true,
        desc_table: ring.descriptors,
        avail_ring: ring.available,
        used_ring: ring.used,
        ..Default::default()
    };
    let interrupt = helper.transport().interrupt();
    let kick = helper.transport().kicks()[0].try_clone().unwrap();
    let queue = krun_virtio::VirtQueue::new(0, state, helper.ram().clone(), kick, interrupt.clone()).unwrap();
    let session = krun_virtio::Session { features: 0, ram: helper.ram().clone(), interrupt, shared: None };
    hosted.attach(&session, vec![queue]).unwrap();
    wait.recv().unwrap();
    hosted.set_patience(Duration::from_millis(50));
    let start = Instant::now();
    drop(hosted);
    assert!(start.elapsed() < Duration::from_secs(2));
    // The thread is only let go: when its call returns, it ends.
    end.write_all(b"x").unwrap();
}

/// Registers `files` with tokens 0, 1, 2... and counts events of each.
fn watching(files: Vec<(OwnedFd, Ready)>, counts: Arc<Vec<AtomicUsize>>, limit: usize) -> Script {
    Script {
        start: Some(Box::new(move |cx| {
            (0u32..).zip(&files).try_for_each(|(token, (file, ready))| cx.watch.add(file.as_fd(), token, *ready))
        })),
        io: Some(Box::new(move |token, ready, cx| {
            assert!(!ready.is_none());
            if counts[token as usize].fetch_add(1, Ordering::Relaxed) + 1 == limit {
                cx.watch.change(token, Ready::NONE).unwrap();
            }
        })),
        ..Script::default()
    }
}

fn counts(n: usize) -> Arc<Vec<AtomicUsize>> {
    Arc::new((0..n).map(|_| AtomicUsize::new(0)).collect())
}

fn loads(counts: &[AtomicUsize]) -> Vec<usize> {
    counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

#[test]
fn files_are_always_ready_until_nobody_cares_and_starve_nobody() {
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").unwrap().into();
    let file: OwnedFd = File::open("/proc/self/exe").unwrap().into();
    let (pipe, mut other) = UnixStream::pair().unwrap();
    let seen = counts(3);
    let files = vec![(null, Ready::OUT), (file, Ready::IN), (pipe.into(), Ready::IN)];
    let mut driver = MockDriver::new(device("files", vec![watching(files, seen.clone(), 5)]));
    other.write_all(b"x").unwrap();
    works(&mut driver, 0);
    // `turn` comes to rest only because interest was dropped.
    driver.turn();
    assert_eq!(loads(&seen), [5, 5, 5]);
}

#[test]
fn a_dropped_interest_costs_no_cpu() {
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").unwrap().into();
    let (pipe, other) = UnixStream::pair().unwrap();
    let seen = counts(2);
    // A hang-up is told even to those who asked for nothing, if they are in the epoll set at all.
    drop(other);
    let files = vec![(null, Ready::OUT), (pipe.into(), Ready::IN)];
    let mut driver = MockDriver::threaded(device("idle", vec![watching(files, seen.clone(), 1)]));
    works(&mut driver, 0);
    eventually("both were told", || loads(&seen) == [1, 1]);
    let before = cpu("idle");
    std::thread::sleep(Duration::from_millis(300));
    assert!(cpu("idle") - before <= 5, "ticks of 10 ms");
    assert_eq!(loads(&seen), [1, 1]);
}

/// Processor time of the thread of this name, in ticks of 10 ms.
fn cpu(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("stat")).ok());
    let stat = stats.into_iter().find(|stat| stat.contains(&format!("({name})"))).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_worker_out_of_service_costs_no_cpu() {
    // Both stay ready, one in the epoll set and one without it; the panic comes in an event, or in the start.
    for (name, in_start) in [("fails-later", false), ("fails-at-once", true)] {
        let null: OwnedFd = File::options().write(true).open("/dev/null").unwrap().into();
        let (pipe, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"x").unwrap();
        let script = Script {
            start: Some(Box::new(move |cx| {
                cx.watch.add(null.as_fd(), 0, Ready::OUT)?;
                cx.watch.add(pipe.as_fd(), 1, Ready::IN)?;
                if in_start { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
            })),
            io: Some(Box::new(|_, _, _| panic!("a bug, met by a guest"))),
            ..Script::default()
        };
        let driver = MockDriver::threaded(device(name, vec![script]));
        eventually("it fails", || driver.needs_reset());
        driver.kick(0);
        let before = cpu(name);
        std::thread::sleep(Duration::from_millis(200));
        assert!(cpu(name) - before <= 5, "ticks of 10 ms");
        driver.transport().pause();
    }
}

#[test]
fn one_open_file_may_be_watched_twice() {
    let (tty, mut other) = UnixStream::pair().unwrap();
    let (input, output): (OwnedFd, OwnedFd) = (tty.try_clone().unwrap().into(), tty.into());
    let seen = counts(3);
    let again = input.try_clone().unwrap();
    let files = vec![(input, Ready::IN), (output, Ready::OUT), (again, Ready::IN)];
    let mut driver = MockDriver::new(device("tty", vec![watching(files, seen.clone(), 1)]));
    driver.turn();
    assert_eq!(loads(&seen), [0, 1, 0]);
    other.write_all(b"x").unwrap();
    works(&mut driver, 0);
    assert_eq!(loads(&seen), [1, 1, 1]);
}

#[test]
fn tokens_and_descriptors_may_come_and_go() {
    let (steps, done) = mpsc::channel();
    let script = Script {
        start: Some(Box::new(move |cx| {
            let expect = |what: &str, result: io::Result<()>, kind: Option<io::ErrorKind>| {
                assert_eq!(result.err().map(|e| e.kind()), kind, "{what}");
                let _ = steps.send(());
            };
            let (a, b) = UnixStream::pair()?;
            expect("add", cx.watch.add(a.as_fd(), 7, Ready::IN), None);
            expect("token taken", cx.watch.add(b.as_fd(), 7, Ready::IN), Some(io::ErrorKind::AlreadyExists));
            expect("token too high", cx.watch.add(b.as_fd(), 1 << 31, Ready::IN), Some(io::ErrorKind::InvalidInput));
            expect("no such token", cx.watch.change(8, Ready::IN), Some(io::ErrorKind::NotFound));
            expect("not ours", cx.watch.remove(1 << 31), Some(io::ErrorKind::NotFound));
            // The worker may close first: the loop has its own.
            drop(a);
            expect("change after close", cx.watch.change(7, Ready::OUT), None);
            b.set_nonblocking(true)?;
            assert_eq!((&b).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "still open");
            expect("remove after close", cx.watch.remove(7), None);
            assert_eq!((&b).read(&mut [0]).unwrap(), 0, "now the peer sees the end");
            expect("removed", cx.watch.remove(7), Some(io::ErrorKind::NotFound));
            // The number of the loop's own is used again at once.
            for _ in 0..3 {
                cx.watch.add(b.as_fd(), 9, Ready::IN)?;
                cx.watch.remove(9)?;
            }
            let (a, _b) = UnixStream::pair()?;
            expect("again", cx.watch.add(a.as_fd(), 7, Ready::IN | Ready::OUT), None);
            expect("remove", cx.watch.remove(7), None);
            Ok(())
        })),
        ..Script::default()
    };
    let mut driver = MockDriver::new(device("tokens", vec![script]));
    assert!(!driver.needs_reset());
    assert_eq!(done.try_iter().count(), 10);
    works(&mut driver, 0);
}
