//! Fuzzes `krun-virtio`: a guest that does anything at all with the registers and rings of a device.
#![expect(clippy::expect_used, reason = "what fails here is what the fuzzer looks for")]

use krun_virtio::mmio::registers as reg;
use krun_virtio::testing::{Descriptor, MockDriver, Request};
use krun_virtio::{Chain, Context, Sink, Source, Step, Task, VirtioDevice, Worker, read_config_bytes};

/// Steps of one input.
const STEPS: usize = 256;
/// Room for the device's answers, so that overlapping 4 GiB chains do not take all day.
const ANSWER: usize = 1 << 16;
const MEMORY: [(u64, usize); 2] = [(0, 2 << 20), (4 << 20, 1 << 20)];

/// Reads, answers, patches, keeps and gives back in every way that a device may.
#[derive(Debug, Default)]
struct Mirror {
    kept: Vec<Chain>,
    buffer: Vec<u8>,
}

impl Mirror {
    fn answer(&mut self, chain: &mut Chain) {
        let (mut from, mut to) = chain.split();
        self.buffer.resize(from.remaining().min(ANSWER), 0);
        from.read(&mut self.buffer).expect("so many bytes remain");
        let header = to.remaining().min(8);
        to.skip(header).expect("so much room remains");
        let len = to.remaining().min(self.buffer.len());
        to.write(&self.buffer[..len]).expect("so much room remains");
        to.patch(0, &[0x5a; 8][..header]).expect("it was skipped");
        if len % 7 == 3 {
            to.truncate(header);
        }
    }
}

impl Worker for Mirror {
    fn queue_event(&mut self, index: u16, cx: &mut Context<'_>) {
        let Some(queue) = cx.queues.get(index) else { return };
        for chain in self.kept.drain(..) {
            // Some are of another queue, which is no harm: those are nobody's any more.
            queue.complete(chain);
        }
        let mut kept = Vec::new();
        queue.drain(|mut chain| {
            self.answer(&mut chain);
            match chain.head() % 5 {
                4 if kept.is_empty() => Step::Stop(chain),
                3 if index == 0 => {
                    kept.push(chain);
                    Step::Kept
                }
                _ => Step::Done(chain),
            }
        });
        if index == 0 {
            self.kept = kept;
        }
    }

    fn quiesce(&mut self, cx: &mut Context<'_>) {
        if let Some(queue) = cx.queues.get(0) {
            self.kept.drain(..).for_each(|chain| queue.complete(chain));
        }
    }

    fn reset(&mut self) {
        self.kept.clear();
    }
}

#[derive(Debug)]
struct Device([u8; 16]);

impl VirtioDevice for Device {
    fn device_type(&self) -> u32 {
        63
    }

    fn features(&self) -> u64 {
        0x5
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 8]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.0, offset, data);
    }

    fn tasks(&mut self) -> Vec<Task> {
        vec![Task::new(0..2, Mirror::default())]
    }
}

/// Little-endian numbers off the front; zeros when there are no more.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let n = self.0.len().min(N);
        bytes[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        bytes
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// Mostly an address with something behind it.
    fn address(&mut self) -> u64 {
        match self.byte() {
            0 => self.long(),
            1 => MEMORY[0].1 as u64 - u64::from(self.byte()),
            2 => MEMORY[1].0 + u64::from(self.byte()),
            _ => u64::from(self.word() & 0x1f_ffff),
        }
    }
}

fn step(driver: &mut MockDriver, input: &mut Input<'_>) {
    let code = input.byte();
    let queue = u16::from(code >> 7);
    match code & 0x7f {
        0 => driver.write(u64::from(input.byte()) * 4, input.word()),
        1 => {
            let (offset, len) = (u64::from(input.half()), usize::from(input.byte() % 17));
            driver.transport().write(offset, &input.take::<16>()[..len.min(16)]);
        }
        2 => {
            let mut data = [0; 16];
            let (offset, len) = (u64::from(input.half()), usize::from(input.byte() % 17));
            driver.transport().read(offset, &mut data[..len]);
        }
        3 => {
            let index = input.half() % driver.ring(queue).size;
            let (address, len, flags) = (input.address(), input.word(), input.half());
            driver.set_descriptor(queue, index, Descriptor { address, len, flags, next: input.half() });
        }
        4 => driver.offer(queue, input.half()),
        5 => driver.set_available_index(queue, input.half()),
        6 => {
            let (readable, writable) = (usize::from(input.byte()), usize::from(input.half() % 5000));
            let mut request = Request::new().readable(vec![code; readable]).writable(writable);
            request = request.pieces(1 + usize::from(input.byte()) * 16);
            if input.byte() & 1 == 1 {
                request = request.indirect();
            }
            driver.try_post(queue, &request);
        }
        7 => driver.kick(queue),
        8 => driver.turn(),
        9 => drop(driver.initialise()),
        10 => driver.transport().pause(),
        11 => drop(driver.transport().resume()),
        12 => {
            driver.transport().pause();
            if let Ok(mut state) = driver.transport().save() {
                if input.byte() & 1 == 1 {
                    // A snapshot from a file may say anything.
                    let index = usize::from(queue);
                    state.status = u32::from(input.byte());
                    state.queues[index].next_avail = input.half();
                    state.queues[index].next_used = input.half();
                    state.queues[index].size = input.half();
                    state.queues[index].used_ring = input.address();
                }
                let _ = driver.transport().restore(&state);
            }
            let _ = driver.transport().resume();
        }
        13 => drop(driver.transport().with_hosted(|hosted| hosted.detach(queue))),
        14 => driver.write_memory(u64::from(input.word() & 0xf_ffff), &input.take::<16>()),
        15 => {
            driver.write(reg::QUEUE_SEL, u32::from(queue));
            driver.write(reg::QUEUE_RESET, 1);
            driver.set_up(queue);
        }
        _ => driver.transport().interrupt().config(),
    }
}

/// A guest's steps, one after the other; in the end the device must still work for a guest that behaves.
pub fn mmio(data: &[u8]) {
    let mut driver = MockDriver::builder(Device([7; 16])).memory(&MEMORY).build();
    let mut input = Input(data);
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        step(&mut driver, &mut input);
    }
    driver.transport().resume().expect("there are threads and descriptors enough");
    driver.initialise();
    // Head 0, which this device neither keeps nor puts back.
    let answer = driver.request(1, b"still there?", 64);
    assert_eq!(&answer[8..], b"still there?");
    assert!(!driver.needs_reset());
}
