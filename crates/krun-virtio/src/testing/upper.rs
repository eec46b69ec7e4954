//! The toy device of the crate's front page, for other examples to lean on.

use crate::{Context, Sink, Source, Step, Task, VirtioDevice, Worker};

/// The toy device of the crate's front page: it answers each request with its bytes in upper case.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upper;

#[derive(Debug)]
struct UpperWorker;

impl Worker for UpperWorker {
    fn queue_event(&mut self, index: u16, cx: &mut Context<'_>) {
        let Some(queue) = cx.queues.get(index) else { return };
        queue.drain(|mut chain| {
            let (mut from, mut to) = chain.split();
            let mut bytes = vec![0; from.remaining().min(to.remaining())];
            if from.read(&mut bytes).is_ok() {
                bytes.make_ascii_uppercase();
                let _ = to.write(&bytes);
            }
            Step::Done(chain)
        });
    }
}

impl VirtioDevice for Upper {
    fn device_type(&self) -> u32 {
        0x2a
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn tasks(&mut self) -> Vec<Task> {
        vec![Task::new(0..1, UpperWorker)]
    }
}
