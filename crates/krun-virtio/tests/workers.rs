//! Workers that misbehave, wait, and answer elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, numbers are small"
)]

mod common;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::script::{Script, device, eventually, works};
use krun_virtio::testing::{MockDriver, Request};
use krun_virtio::{Chain, Context, Step, Task, VirtioDevice, Worker};

#[test]
fn a_panic_costs_the_guest_its_device_until_the_reset() {
    let panics = Arc::new(AtomicU32::new(3));
    let left = panics;
    let bad = Script {
        queue: Some(Box::new(move |cx| {
            let queue = cx.queues.iter().next().unwrap();
            queue.drain(|chain| {
                if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    panic!("a bug, met by a guest");
                }
                Step::Done(chain)
            });
        })),
        ..Script::default()
    };
    let mut driver = MockDriver::threaded(device("panics", vec![bad, Script::default()]));
    works(&mut driver, 0);
    works(&mut driver, 0);
    driver.post(0, &Request::new().writable(1));
    driver.kick(0);
    eventually("the device needs a reset", || driver.needs_reset());
    // The other worker goes on, the bad one is left alone, pauses are fine.
    works(&mut driver, 1);
    driver.transport().pause();
    driver.transport().resume().unwrap();
    works(&mut driver, 1);
    driver.kick(0);
    assert_eq!(driver.wait_for(0, Duration::from_millis(50)), None);
    driver.initialise();
    assert!(!driver.needs_reset());
    works(&mut driver, 0);
    works(&mut driver, 1);
}

#[test]
fn a_panic_in_every_call_is_survived() {
    fn boom<R>() -> R {
        panic!("boom")
    }
    let scripts = [
        Script { start: Some(Box::new(move |_| boom())), ..Script::default() },
        Script { quiesce: Some(Box::new(move |_| boom())), ..Script::default() },
        Script { reset: Some(Box::new(boom)), ..Script::default() },
    ];
    // A quiesce that fails is forgiven by the reset that follows it.
    for (script, needs_reset) in scripts.into_iter().zip([true, false, true]) {
        let mut driver = MockDriver::new(device("boom", vec![script]));
        driver.transport().pause();
        driver.transport().resume().unwrap();
        driver.initialise();
        driver.turn();
        assert_eq!(driver.needs_reset(), needs_reset);
    }
}

#[test]
fn a_worker_that_cannot_start_says_so() {
    let mut tries = 0;
    let script = Script {
        start: Some(Box::new(move |_| {
            tries += 1;
            if tries == 1 { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
        })),
        ..Script::default()
    };
    let mut driver = MockDriver::new(device("no-start", vec![script]));
    assert!(driver.needs_reset());
    driver.initialise();
    assert!(!driver.needs_reset());
    works(&mut driver, 0);
}

#[test]
fn kicks_during_a_pause_are_served_after_it() {
    for threads in [false, true] {
        let builder = MockDriver::builder(device("pause", vec![Script::default()]));
        let mut driver = if threads { builder.threads().start() } else { builder.start() };
        driver.transport().pause();
        driver.post(0, &Request::new().writable(1));
        driver.kick(0);
        assert_eq!(driver.wait_for(0, Duration::from_millis(20)), None);
        driver.transport().resume().unwrap();
        driver.wait(0);
        // Paused before it ever ran: it waits for the resume as well.
        driver.transport().pause();
        driver.initialise();
        driver.post(0, &Request::new().writable(1));
        driver.kick(0);
        assert_eq!(driver.wait_for(0, Duration::from_millis(20)), None);
        driver.transport().resume().unwrap();
        driver.wait(0);
    }
}

#[test]
fn a_reset_waits_for_chains_on_a_pool() {
    // Each chain goes to a "pool" that completes it 30 ms later; quiesce collects them.
    let (give, take) = mpsc::channel::<Chain>();
    let (give_back, collect) = mpsc::channel::<Chain>();
    let pool = std::thread::Builder::new().name("pool".into()).spawn(move || {
        for chain in take {
            std::thread::sleep(Duration::from_millis(30));
            if give_back.send(chain).is_err() {
                break;
            }
        }
    });
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let script = Script {
        queue: Some(Box::new(move |cx| {
            cx.queues.iter().next().unwrap().drain(|chain| {
                count.fetch_add(1, Ordering::Relaxed);
                give.send(chain).unwrap();
                Step::Kept
            });
        })),
        quiesce: Some(Box::new(move |cx| {
            let queue = cx.queues.iter().next().unwrap();
            while queue.in_flight() > 0 {
                let chain = collect.recv().unwrap();
                queue.complete(chain);
            }
        })),
        ..Script::default()
    };
    let mut driver = MockDriver::threaded(device("pooled", vec![script]));
    for round in 0..3 {
        for _ in 0..3 {
            driver.post(0, &Request::new().writable(8));
        }
        driver.kick(0);
        eventually("they are with the pool", || sent.load(Ordering::Relaxed) == 3 * (round + 1));
        driver.transport().pause();
        assert_eq!(driver.used_index(0), 3, "a pause publishes what it collected");
        driver.transport().resume().unwrap();
        driver.initialise();
    }
    assert!(!driver.needs_reset());
    drop(driver);
    pool.unwrap().join().unwrap();
}

#[test]
fn a_worker_may_answer_on_another_queue() {
    struct Crossing;
    impl Worker for Crossing {
        fn queue_event(&mut self, _index: u16, cx: &mut Context<'_>) {
            assert!(matches!(cx.queues.both(4, 0), [None, Some(_)]));
            assert!(matches!(cx.queues.both(1, 1), [Some(_), None]));
            let [Some(from), Some(to)] = cx.queues.both(0, 1) else { return };
            from.drain(|question| {
                let Some(mut answer) = to.pop() else { return Step::Stop(question) };
                krun_virtio::Sink::write(&mut answer.writer(), b"answer").unwrap();
                to.complete(answer);
                Step::Done(question)
            });
            to.flush();
        }
    }
    struct Two;
    impl VirtioDevice for Two {
        fn device_type(&self) -> u32 {
            1
        }
        fn features(&self) -> u64 {
            0
        }
        fn queue_sizes(&self) -> &[u16] {
            &[4, 4]
        }
        fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
        fn tasks(&mut self) -> Vec<Task> {
            vec![Task::new(0..2, Crossing)]
        }
    }
    let mut driver = MockDriver::new(Two);
    driver.post(0, &Request::new().readable(b"question"));
    driver.kick(0);
    assert_eq!(driver.wait_for(0, Duration::ZERO), None);
    assert_eq!(driver.request(1, b"", 32), b"answer");
    driver.wait(0);
}
