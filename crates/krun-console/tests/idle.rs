//! A device that can do nothing does nothing. Alone in its process, because it looks at the process's threads.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]

mod guest;

use guest::{Guest, PAGE, pattern};
use krun_console::{Console, Port};
use krun_virtio::testing::Request;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

#[test]
fn waiting_data_does_not_keep_the_thread_busy() {
    let ((stdin_ours, mut stdin), (_stdout, stdout_ours)) = (io::pipe().unwrap(), io::pipe().unwrap());
    let (gone, gone_ours) = io::pipe().unwrap();
    let console = Console::new(vec![
        Port::console(),
        Port::named("stdin").input_fd(stdin_ours).unwrap(),
        Port::named("stdout").output_fd(stdout_ours).unwrap(),
        Port::named("idle").output_fd(gone_ours).unwrap(),
    ])
    .unwrap();
    let mut guest = Guest::threaded(console);
    (1..4).for_each(|id| guest.open(id));
    // A pipe whose reader has gone, and nothing to write to it.
    drop(gone);
    // More input than the guest has buffers for, and more output than the pipe takes.
    let feeder = move || while stdin.write_all(&pattern(PAGE, 1)).is_ok() {};
    thread::Builder::new().spawn(feeder).unwrap();
    let full = (0..1000).any(|_| !guest.try_send(2, &Request::new().readable(pattern(30_000, 7))));
    assert!(full);
    thread::sleep(Duration::from_millis(200));
    let before = worker_ticks();
    thread::sleep(Duration::from_millis(300));
    let spent = worker_ticks() - before;
    assert!(spent <= 2, "the worker used {spent} of 30 ticks while nothing could move");
    assert!(!guest.read(1).is_empty(), "there was something to read");
}

/// Processor time of this process's console threads, in ticks of 10 ms.
fn worker_ticks() -> u64 {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        if let Some((_, rest)) = stat.split_once("(console) ") {
            let fields: Vec<&str> = rest.split(' ').collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    ticks
}
