//! Requests: posted, kicked, waited for.

use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EpollEvent;

use super::{MockDriver, Request, Used};
use crate::mmio::registers as reg;

/// How long [`MockDriver::wait`] waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Turns of an inline device before it counts as one that never rests.
const TURNS: usize = 10_000;

impl MockDriver {
    /// Posts a request, without a kick. Answers its head, by which it is known until it is used.
    ///
    /// # Panics
    /// If the ring has not enough free descriptors.
    pub fn post(&mut self, queue: u16, request: &Request) -> u16 {
        let head = self.try_post(queue, request);
        head.unwrap_or_else(|| panic!("queue {queue} has no descriptors left for the request"))
    }

    /// Posts a request, if the ring has enough free descriptors.
    ///
    /// # Panics
    /// If there is no such queue, or the request is empty.
    pub fn try_post(&mut self, queue: u16, request: &Request) -> Option<u16> {
        let (ring, memory, heap) = self.ring_mut(queue);
        ring.post(memory, heap, request)
    }

    /// Kicks a queue, wanted or not.
    pub fn kick(&self, queue: u16) {
        self.write(reg::QUEUE_NOTIFY, u32::from(queue));
    }

    /// Kicks a queue if the device asks for it, all that was posted since its index was `old` considered
    /// ([`Ring::next_available`](super::Ring::next_available)). Answers whether it did.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn kick_if_wanted(&self, queue: u16, old: u16) -> bool {
        let wanted = self.ring(queue).wants_kick(&self.memory, old);
        if wanted {
            self.kick(queue);
        }
        wanted
    }

    /// Lets a device without threads run until it rests. With threads: does nothing.
    ///
    /// # Panics
    /// If it never rests.
    pub fn turn(&self) {
        if let Some(inline) = &self.inline {
            assert!(inline.settle(TURNS), "the device does not come to rest");
        }
    }

    /// The next chain that the device has used, if there is one.
    ///
    /// # Panics
    /// If the device used a chain that it was not given, or claims more bytes than there was room for.
    pub fn used(&mut self, queue: u16) -> Option<Used> {
        let (ring, memory, heap) = self.ring_mut(queue);
        ring.take_used(memory, heap)
    }

    /// The next chain that the device uses, within ten seconds.
    ///
    /// # Panics
    /// If it uses none, and as [`MockDriver::used`].
    pub fn wait(&mut self, queue: u16) -> Used {
        let used = self.wait_for(queue, PATIENCE);
        used.unwrap_or_else(|| panic!("the device used nothing of queue {queue} (status {:#x})", self.status()))
    }

    /// The next chain that the device uses, within `patience`. Without threads the device gets as many turns as it
    /// wants, and no time passes.
    ///
    /// # Panics
    /// As [`MockDriver::used`].
    pub fn wait_for(&mut self, queue: u16, patience: Duration) -> Option<Used> {
        if self.inline.is_some() {
            self.turn();
            return self.used(queue);
        }
        let end = Instant::now() + patience;
        loop {
            if let Some(used) = self.used(queue) {
                return Some(used);
            }
            let left = end.checked_duration_since(Instant::now())?;
            // Interrupts may be off: have a look now and then.
            let timeout = left.as_millis().min(10) as i32;
            let _ = self.epoll.wait(timeout, &mut [EpollEvent::default()]);
            self.interrupts();
        }
    }

    /// One request from beginning to end: `readable` (left out if it is empty) and room for `writable` bytes (left out
    /// if it is 0). Answers what the device wrote.
    ///
    /// # Panics
    /// As [`MockDriver::post`] and [`MockDriver::wait`].
    pub fn request(&mut self, queue: u16, readable: &[u8], writable: usize) -> Vec<u8> {
        let mut request = Request::new();
        if !readable.is_empty() {
            request = request.readable(readable);
        }
        if writable > 0 {
            request = request.writable(writable);
        }
        self.submit(queue, &request)
    }

    /// One request of any shape from beginning to end; answers what the device wrote. Other requests must not be
    /// pending on the queue.
    ///
    /// # Panics
    /// As [`MockDriver::post`] and [`MockDriver::wait`], or if another chain is used first.
    pub fn submit(&mut self, queue: u16, request: &Request) -> Vec<u8> {
        let head = self.post(queue, request);
        self.kick(queue);
        let used = self.wait(queue);
        assert_eq!(used.head, head, "another chain was used first");
        used.data
    }
}
