//! From the host to the guest: one port's input and its receive queue.

use crate::Input;
use crate::interest::Interest;
use crate::transmit::Turn;
use krun_virtio::{Chain, Iov, Ready, VirtQueue, Watch, scatter};
use std::io;
use std::sync::Arc;

/// Room offered to one system call, in bytes: what a pipe holds. More chains than that are left in the queue.
const ROOM: usize = 64 << 10;

/// Most chains that one system call fills.
const BATCH: usize = 32;

/// Bytes moved for one port before the others have their turn.
const TURN: usize = 1 << 20;

/// What a call is counted as besides the bytes it moves, so that turns end whatever the driver does.
const COST: usize = 256;

/// One port's input.
pub(crate) struct Receiver {
    input: Option<Box<dyn Input>>,
    interest: Interest,
    /// There was an input and it has ended.
    ended: bool,
    failure: Option<Arc<io::Error>>,
    chains: Vec<Chain>,
    scratch: Vec<Iov>,
}

impl Receiver {
    /// `token` is what the event loop will say when there is something to read.
    pub(crate) fn new(input: Option<Box<dyn Input>>, token: u32) -> Self {
        let interest = Interest::new(token, Ready::IN);
        Self { input, interest, ended: false, failure: None, chains: Vec::new(), scratch: Vec::new() }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.input.is_some()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn failure(&self) -> Option<&Arc<io::Error>> {
        self.failure.as_ref()
    }

    /// Moves what there is, if the guest has its side open: a driver throws away what comes earlier, so until then the
    /// bytes stay where they are on the host.
    ///
    /// [`Turn::Drained`] means that nothing is to be done before the guest's next kick.
    pub(crate) fn turn(&mut self, queue: Option<&mut VirtQueue>, open: bool, watch: &mut dyn Watch) -> Turn {
        let Some(queue) = queue else {
            self.interest.off(watch);
            return Turn::Drained;
        };
        // Buffers are news only to one who has bytes for them.
        queue.arm(false);
        if !open || self.input.is_none() {
            self.interest.off(watch);
            return Turn::Drained;
        }
        let mut end = self.move_chains(queue);
        queue.flush();
        if end == Turn::Blocked {
            let fd = self.input.as_ref().and_then(|input| input.fd());
            if let Err(error) = self.interest.on(fd, watch) {
                self.end(Some(error));
                end = Turn::Drained;
            }
        } else {
            // Data may wait, but not for us: interest in it would keep the thread busy.
            self.interest.off(watch);
        }
        if self.ended {
            self.interest.remove(watch);
            self.input = None;
        }
        end
    }

    fn move_chains(&mut self, queue: &mut VirtQueue) -> Turn {
        let mut budget = TURN;
        while budget > 0 && !self.ended {
            budget = budget.saturating_sub(COST);
            self.collect(queue);
            if self.chains.is_empty() {
                if queue.arm(true) {
                    queue.arm(false);
                    continue;
                }
                return Turn::Drained;
            }
            let result = self.read_chains();
            self.settle(queue);
            match result {
                Ok(0) => self.end(None),
                Ok(count) => budget = budget.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.end(Some(error)),
            }
        }
        if self.ended { Turn::Drained } else { Turn::More }
    }

    /// Pops chains for one call. One without room goes back empty when its turn comes; between others it ends the batch,
    /// because chains can be put back in order only.
    fn collect(&mut self, queue: &mut VirtQueue) {
        let mut room = 0;
        for _ in 0..BATCH {
            if room >= ROOM {
                return;
            }
            let Some(chain) = queue.pop() else { return };
            if chain.writable() > 0 {
                room += chain.writable();
                self.chains.push(chain);
            } else if self.chains.is_empty() {
                queue.complete(chain);
            } else {
                return queue.put_back(chain);
            }
        }
    }

    fn read_chains(&mut self) -> io::Result<usize> {
        let Some(input) = &mut self.input else { return Ok(0) };
        scatter(&mut self.chains, 0, &mut self.scratch, |sink| input.read(sink).map(|_| sink.written()))
    }

    /// Gives the chains that hold bytes to the guest and keeps the others for the next call.
    fn settle(&mut self, queue: &mut VirtQueue) {
        let filled = self.chains.iter().take_while(|chain| chain.written() > 0).count();
        for chain in self.chains.drain(filled..).rev() {
            queue.put_back(chain);
        }
        for chain in self.chains.drain(..) {
            queue.complete(chain);
        }
    }

    /// No more will come. The end of a terminal is an error to the one who reads it; to us it is an end.
    fn end(&mut self, error: Option<io::Error>) {
        self.ended = true;
        self.failure = error.filter(|error| error.raw_os_error() != Some(libc::EIO)).map(Arc::new);
    }

    /// The host closes the input: bytes that were not read are left unread.
    pub(crate) fn hang_up(&mut self, watch: &mut dyn Watch) {
        self.interest.remove(watch);
        self.ended |= self.input.take().is_some();
    }

    /// A new event loop: nothing is registered with it.
    pub(crate) fn start(&mut self) {
        self.interest.forget();
    }

    /// The driver has reset the device. Only a panic leaves chains here: they are of rings that are no more.
    pub(crate) fn reset(&mut self) {
        self.chains.clear();
    }
}
