//! The queue itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use virtio_queue::{Queue, QueueState};
use vmm_sys_util::eventfd::EventFd;

use super::raw::Rings;
use super::walk::walk;
use super::{Chain, RingFault};
use crate::bytes::Iov;
use crate::error::GuestFault;
use crate::interrupt::Interrupt;
use crate::memory::Ram;

/// Pieces that the vectors kept for reuse may hold in all (16 bytes each).
const SPARE_PIECES: usize = 1 << 16;

/// What [`VirtQueue::drain`] is to do with the chain that it gave out.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Complete it.
    Done(Chain),
    /// Nothing: the worker keeps it, and completes it later.
    Kept,
    /// Put it back, and stop.
    Stop(Chain),
}

/// Why [`VirtQueue::drain`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every chain was served; the driver will kick for the next.
    Empty,
    /// The closure said so. Kicks are off: nothing is asked of the driver.
    Stopped,
    /// Many chains were served, and there are more. The queue has kicked itself, so that the worker is called again
    /// after it had a chance to hear of other things.
    Again,
    /// The ring is broken, now or since earlier.
    Failed,
}

/// One split ring, seen from the device.
///
/// A worker takes chains with [`pop`](Self::pop), gives them back with [`complete`](Self::complete) in any order, and
/// publishes a batch with [`flush`](Self::flush). Between batches, [`arm`](Self::arm) asks the driver for kicks.
/// [`drain`](Self::drain) is the usual loop over these.
///
/// The first fault of a ring is latched: it is reported once, the device needs a reset, and from then on the queue is
/// empty.
pub struct VirtQueue {
    index: u16,
    state: QueueState,
    ram: Ram,
    /// Generation of the memory map that `rings` lie in.
    generation: u64,
    rings: Arc<Rings>,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
    /// The driver's index when it was last looked at.
    available: u16,
    in_flight: u16,
    /// The used index when the driver was last told of it.
    signalled: u16,
    fault: Option<RingFault>,
    spare: Vec<Vec<Iov>>,
    spare_pieces: usize,
}

impl VirtQueue {
    /// A queue that goes on where `state` stands. `kick` is signalled by the driver.
    ///
    /// # Errors
    /// [`RingFault::Size`] or [`RingFault::Address`] if `state` cannot be: it may come from a guest or a file.
    pub fn new(
        index: u16,
        state: QueueState,
        ram: Ram,
        kick: EventFd,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<Self, RingFault> {
        Queue::try_from(state).map_err(|error| match error {
            virtio_queue::Error::InvalidSize | virtio_queue::Error::InvalidMaxSize => RingFault::Size,
            _ => RingFault::Address,
        })?;
        let generation = ram.generation();
        let rings = Arc::new(Rings::new(&state, ram.regions(), Arc::new(AtomicBool::new(false)))?);
        Ok(Self {
            index,
            state,
            ram,
            generation,
            rings,
            kick,
            interrupt,
            available: state.next_avail,
            in_flight: 0,
            signalled: state.next_used,
            fault: None,
            spare: Vec::new(),
            spare_pieces: 0,
        })
    }

    /// Its number in the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.state.size
    }

    /// What the driver (or [`End::Again`]) signals.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Chains popped and not given back.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The first fault, if there was one.
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Where the ring stands: for a snapshot, for vhost-user's GET_VRING_BASE, to be attached again.
    /// Exact with nothing in flight and everything flushed, as after [`Worker::quiesce`](crate::Worker::quiesce).
    pub fn state(&self) -> QueueState {
        self.state
    }

    /// Latches a fault: reports it, and says that the device needs a reset. Only the first one counts.
    pub fn fail(&mut self, fault: RingFault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.interrupt.report(&GuestFault::Ring { queue: self.index, fault });
            self.interrupt.needs_reset();
        }
    }

    /// Counts and logs a request that made no sense; the queue goes on.
    pub fn report(&self, what: &'static str) {
        self.interrupt.report(&GuestFault::Request { queue: self.index, what });
    }

    /// Looks for a lost chain and a replaced memory map; `false` if the queue has failed.
    fn refresh(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if self.rings.lost.load(Ordering::Acquire) {
            self.fail(RingFault::Lost);
            return false;
        }
        let generation = self.ram.generation();
        if generation != self.generation {
            match Rings::new(&self.state, self.ram.regions(), self.rings.lost.clone()) {
                Ok(rings) => {
                    self.rings = Arc::new(rings);
                    self.generation = generation;
                }
                Err(fault) => {
                    self.fail(fault);
                    return false;
                }
            }
        }
        true
    }

    /// Chains that wait, by a fresh look at the driver's index.
    fn look(&mut self) -> u16 {
        if !self.refresh() {
            return 0;
        }
        let available = self.rings.available_index();
        let waiting = available.wrapping_sub(self.state.next_avail);
        // Each chain has a descriptor of its own: no more than `size` can be there, waiting or in flight.
        if waiting > self.state.size.saturating_sub(self.in_flight) {
            self.fail(RingFault::Index);
            return 0;
        }
        self.available = available;
        waiting
    }

    /// The next chain, or `None` if there is none, or the ring has failed (see [`VirtQueue::fault`]).
    pub fn pop(&mut self) -> Option<Chain> {
        let position = self.state.next_avail;
        let known = self.available != position && self.refresh();
        if !known && self.look() == 0 {
            return None;
        }
        let head = self.rings.available_entry(position);
        let mut iovs = self.spare.pop().unwrap_or_default();
        self.spare_pieces -= iovs.capacity();
        match walk(&self.rings, self.state.size, head, &mut iovs) {
            Ok(halves) => {
                self.state.next_avail = position.wrapping_add(1);
                self.in_flight += 1;
                Some(Chain::new(head, position, iovs, halves, self.rings.clone()))
            }
            Err(fault) => {
                self.fail(fault);
                None
            }
        }
    }

    /// Takes the chain out of flight; `false` if it is from before a reset, or of another queue.
    fn take_back(&mut self, chain: &mut Chain) -> bool {
        let Some(rings) = chain.rings.take() else { return false };
        if !Arc::ptr_eq(&rings.lost, &self.rings.lost) {
            return false;
        }
        self.in_flight -= 1;
        if rings.regions.tracks_writes() {
            chain.written_pieces().for_each(|piece| rings.regions.mark_dirty(&piece));
        }
        let mut iovs = std::mem::take(&mut chain.iovs);
        if self.spare_pieces + iovs.capacity() <= SPARE_PIECES {
            iovs.clear();
            self.spare_pieces += iovs.capacity();
            self.spare.push(iovs);
        }
        true
    }

    /// Gives a chain back as used, with the length that its writer has written. Chains may come in any order; they are
    /// published by [`VirtQueue::flush`]. A chain from before a reset is dropped: nobody waits for it.
    pub fn complete(&mut self, mut chain: Chain) {
        if !self.take_back(&mut chain) || !self.refresh() {
            return;
        }
        // A half is below 4 GiB: the walk saw to it.
        let written = u32::try_from(chain.written()).unwrap_or(u32::MAX);
        self.rings.set_used_entry(self.state.next_used, chain.head, written);
        self.state.next_used = self.state.next_used.wrapping_add(1);
    }

    /// Un-pops the chain that was popped last (then the one before it, and so on). It comes again with the next pop,
    /// from its start. Any other chain cannot be put back: that loses it, and the queue fails.
    pub fn put_back(&mut self, mut chain: Chain) {
        if !self.take_back(&mut chain) {
            return;
        }
        if chain.position.wrapping_add(1) != self.state.next_avail {
            return self.fail(RingFault::Lost);
        }
        self.state.next_avail = chain.position;
    }

    /// Publishes what was completed: one index update and at most one interrupt, as the driver wants it.
    pub fn flush(&mut self) {
        let (new, old) = (self.state.next_used, self.signalled);
        if new == old || !self.refresh() {
            return;
        }
        self.rings.set_used_index(new);
        self.signalled = new;
        // The driver sets its wish, then looks at the index; we the other way round. One of the two sees the other.
        fence(Ordering::SeqCst);
        let wanted = if self.state.event_idx_enabled {
            // Section 2.7.7.1: whether the index passed the one the driver named.
            new.wrapping_sub(self.rings.used_event()).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            !self.rings.no_interrupt()
        };
        if wanted {
            self.interrupt.queue(self.index);
        }
    }

    /// Asks for kicks, or not to be kicked. Answers whether chains wait: with `true` they may have come before the
    /// driver saw the wish, and no kick will come for them. With `on == false` the answer is always `false`.
    pub fn arm(&mut self, on: bool) -> bool {
        if !self.refresh() {
            return false;
        }
        if !self.state.event_idx_enabled {
            self.rings.set_no_notify(!on);
        } else if on {
            self.rings.set_available_event(self.state.next_avail);
        }
        if !on {
            return false;
        }
        // The driver publishes, then looks at the wish; we the other way round. One of the two sees the other.
        fence(Ordering::SeqCst);
        self.look() > 0
    }

    /// The usual loop over [`pop`](Self::pop), [`complete`](Self::complete), [`arm`](Self::arm) and
    /// [`flush`](Self::flush). Ends after a bounded number of chains, so that no driver can keep its worker from
    /// everything else.
    pub fn drain(&mut self, mut serve: impl FnMut(Chain) -> Step) -> End {
        let mut budget = 4 * u32::from(self.state.size);
        let end = 'ring: loop {
            self.arm(false);
            while let Some(chain) = self.pop() {
                match serve(chain) {
                    Step::Done(chain) => self.complete(chain),
                    Step::Kept => {}
                    Step::Stop(chain) => {
                        self.put_back(chain);
                        break 'ring End::Stopped;
                    }
                }
                budget = budget.saturating_sub(1);
                if budget == 0 {
                    // It can only fail when the counter is full: then it is signalled anyway.
                    let _ = self.kick.write(1);
                    break 'ring End::Again;
                }
            }
            if !self.arm(true) {
                break if self.fault.is_some() { End::Failed } else { End::Empty };
            }
        };
        self.flush();
        end
    }
}

impl fmt::Debug for VirtQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtQueue")
            .field("index", &self.index)
            .field("state", &self.state)
            .field("in_flight", &self.in_flight)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}
