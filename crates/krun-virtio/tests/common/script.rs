//! Devices out of closures.

use std::io;
use std::time::{Duration, Instant};

use krun_virtio::testing::MockDriver;
use krun_virtio::{Context, Ready, Step, Task, VirtioDevice, Worker};

pub(crate) type Hook<T> = Box<dyn FnMut(&mut Context<'_>) -> T + Send>;
pub(crate) type IoHook = Box<dyn FnMut(u32, Ready, &mut Context<'_>) + Send>;

/// A worker out of closures.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) start: Option<Hook<io::Result<()>>>,
    pub(crate) queue: Option<Hook<()>>,
    pub(crate) io: Option<IoHook>,
    pub(crate) quiesce: Option<Hook<()>>,
    pub(crate) reset: Option<Box<dyn FnMut() + Send>>,
}

impl Worker for Script {
    fn start(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.start.as_mut().map_or(Ok(()), |f| f(cx))
    }

    fn queue_event(&mut self, index: u16, cx: &mut Context<'_>) {
        match &mut self.queue {
            Some(f) => f(cx),
            None => {
                cx.queues.get(index).unwrap().drain(Step::Done);
            }
        }
    }

    fn io_event(&mut self, token: u32, ready: Ready, cx: &mut Context<'_>) {
        if let Some(f) = &mut self.io {
            f(token, ready, cx);
        }
    }

    fn quiesce(&mut self, cx: &mut Context<'_>) {
        if let Some(f) = &mut self.quiesce {
            f(cx);
        }
    }

    fn reset(&mut self) {
        if let Some(f) = &mut self.reset {
            f();
        }
    }
}

pub(crate) struct Device {
    name: &'static str,
    workers: Vec<Script>,
    sizes: Vec<u16>,
}

/// A device with one queue for each worker.
pub(crate) fn device(name: &'static str, workers: Vec<Script>) -> Device {
    Device { name, sizes: vec![16; workers.len()], workers }
}

impl VirtioDevice for Device {
    fn device_type(&self) -> u32 {
        1
    }

    fn name(&self) -> String {
        self.name.into()
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn tasks(&mut self) -> Vec<Task> {
        (0u16..).zip(self.workers.drain(..)).map(|(i, worker)| Task::new(i..i + 1, worker)).collect()
    }
}

pub(crate) fn works(driver: &mut MockDriver, queue: u16) {
    driver.request(queue, b"?", 0);
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
