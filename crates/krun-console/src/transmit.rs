//! From the guest to the host: one port's transmit queue and its output.

use crate::Output;
use crate::backlog::Backlog;
use crate::interest::Interest;
use crate::tail::Tail;
use krun_virtio::{Chain, Iov, Ready, Source, VirtQueue, Watch, gather};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most chains that one system call empties.
const BATCH: usize = 32;

/// Bytes moved for one port before the others have their turn.
const TURN: usize = 1 << 20;

/// What a call is counted as besides the bytes it moves, so that turns end whatever the driver does.
const COST: usize = 256;

/// Where a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Everything the guest has queued is on the host, and the queue kicks when there is more.
    Drained,
    /// The host takes nothing now; the turn goes on when the descriptor is ready.
    Blocked,
    /// The same, and the driver may be spinning until its bytes are taken.
    Held,
    /// There is more to do, after the others.
    More,
}

/// What makes a console's output different from a generic port's.
///
/// Linux's hvc driver puts a chain on the queue and spins, with interrupts off, until it comes back: a reader that stalls
/// would stop a virtual CPU. So text is taken from the guest at once, and a backlog takes up the difference.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) backlog: Backlog,
    /// Whether bytes that find the backlog full are thrown away. Set when a reader has stalled for too long.
    pub(crate) discarding: bool,
    pub(crate) tail: Option<Tail>,
}

/// One port's output.
pub(crate) struct Transmitter {
    output: Option<Box<dyn Output>>,
    text: Option<Text>,
    interest: Interest,
    /// Bytes of the next chain that were taken already.
    offset: usize,
    /// All bytes the host has taken: tells a slow reader from a stalled one.
    progress: u64,
    /// Bytes thrown away although there is (or was) an output.
    lost: u64,
    failure: Option<Arc<io::Error>>,
    chains: Vec<Chain>,
    scratch: Vec<Iov>,
}

impl Transmitter {
    /// `token` is what the event loop will say when the output can take bytes.
    pub(crate) fn new(output: Option<Box<dyn Output>>, text: Option<Text>, token: u32) -> Self {
        Self {
            output,
            text,
            interest: Interest::new(token, Ready::OUT),
            offset: 0,
            progress: 0,
            lost: 0,
            failure: None,
            chains: Vec::new(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.output.is_some()
    }

    /// Whether it is known that nobody will take another byte.
    pub(crate) fn is_gone(&self) -> bool {
        self.output.as_ref().is_none_or(|output| output.is_gone())
    }

    pub(crate) fn failure(&self) -> Option<&Arc<io::Error>> {
        self.failure.as_ref()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress
    }

    /// Moves what there is. Called when the guest has kicked, when the host can take more, and at the start.
    pub(crate) fn turn(&mut self, queue: Option<&mut VirtQueue>, watch: &mut dyn Watch) -> Turn {
        let mut end = match queue {
            Some(queue) => {
                queue.arm(false);
                let end = if self.text.is_some() { self.move_text(queue) } else { self.move_chains(queue) };
                queue.flush();
                end
            }
            None => self.write_backlog().err().unwrap_or(Turn::Drained),
        };
        if matches!(end, Turn::Blocked | Turn::Held) {
            let fd = self.output.as_ref().and_then(|output| output.fd());
            if let Err(error) = self.interest.on(fd, watch) {
                self.fail(error);
                end = Turn::More;
            }
        } else {
            self.interest.off(watch);
        }
        if self.output.is_none() {
            self.interest.remove(watch);
        }
        end
    }

    /// A generic port: bytes go from guest memory to the host, many chains with one call. What the host does not take
    /// stays in the queue, so the guest's writer waits, and nobody else.
    fn move_chains(&mut self, queue: &mut VirtQueue) -> Turn {
        let mut budget = TURN;
        while budget > 0 {
            budget = budget.saturating_sub(COST);
            if self.output.is_none() {
                return self.discard(queue);
            }
            self.collect(queue);
            if self.chains.is_empty() {
                if queue.arm(true) {
                    queue.arm(false);
                    continue;
                }
                return Turn::Drained;
            }
            let result = self.write_chains();
            self.settle(queue);
            match result {
                Ok(count) => {
                    self.progress += count as u64;
                    budget = budget.saturating_sub(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.fail(error),
            }
        }
        Turn::More
    }

    /// Pops the next chains. One without a byte (left) is done when its turn comes; between others it ends the batch,
    /// because chains can be put back in order only.
    fn collect(&mut self, queue: &mut VirtQueue) {
        for _ in 0..BATCH {
            let Some(mut chain) = queue.pop() else { return };
            self.pass_taken(&mut chain);
            if chain.reader().remaining() > 0 {
                self.chains.push(chain);
            } else if self.chains.is_empty() {
                queue.complete(chain);
            } else {
                return queue.put_back(chain);
            }
        }
    }

    /// Moves a chain's reader behind the bytes that were taken before the chain was put back.
    fn pass_taken(&mut self, chain: &mut Chain) {
        let taken = std::mem::take(&mut self.offset).min(chain.readable());
        let _ = chain.reader().skip(taken);
    }

    fn write_chains(&mut self) -> io::Result<usize> {
        let Some(output) = &mut self.output else { return Ok(0) };
        let count = gather(&mut self.chains, &mut self.scratch, |source| {
            let before = source.remaining();
            output.write(source).map(|_| before - source.remaining())
        })?;
        if count > 0 { Ok(count) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Completes the chains that have been written and puts the others back; a half-written one goes on where it
    /// stopped.
    fn settle(&mut self, queue: &mut VirtQueue) {
        let whole = self.chains.iter_mut().map(Chain::reader).take_while(|reader| reader.remaining() == 0).count();
        if let Some(chain) = self.chains.get_mut(whole) {
            self.offset = chain.readable() - chain.reader().remaining();
        }
        for chain in self.chains.drain(whole..).rev() {
            queue.put_back(chain);
        }
        for chain in self.chains.drain(..) {
            queue.complete(chain);
        }
    }

    /// Nobody is there to take the bytes: the guest's writers must not wait for them.
    fn discard(&mut self, queue: &mut VirtQueue) -> Turn {
        let mut budget = TURN / COST;
        while budget > 0 {
            budget -= 1;
            let Some(mut chain) = queue.pop() else {
                if queue.arm(true) {
                    queue.arm(false);
                    continue;
                }
                return Turn::Drained;
            };
            self.pass_taken(&mut chain);
            if self.failure.is_some() {
                self.lost += chain.reader().remaining() as u64;
            }
            queue.complete(chain);
        }
        Turn::More
    }

    /// A console port: text is copied and given back at once, then written.
    fn move_text(&mut self, queue: &mut VirtQueue) -> Turn {
        let mut budget = TURN;
        loop {
            // What was there before goes first.
            let written = self.write_backlog();
            if budget == 0 {
                return Turn::More;
            }
            budget = budget.saturating_sub(COST);
            let Some(mut chain) = queue.pop() else {
                if queue.arm(true) {
                    queue.arm(false);
                    continue;
                }
                return written.err().unwrap_or(Turn::Drained);
            };
            self.pass_taken(&mut chain);
            let before = chain.reader().remaining();
            self.take_text(&mut chain);
            let left = chain.reader().remaining();
            budget = budget.saturating_sub(before - left);
            if left == 0 {
                queue.complete(chain);
                continue;
            }
            self.offset = chain.readable() - left;
            queue.put_back(chain);
            if written.is_err() {
                return Turn::Held;
            }
        }
    }

    /// Takes as much of a chain as there is room for.
    fn take_text(&mut self, chain: &mut Chain) {
        let Some(text) = &mut self.text else { return };
        let mut reader = chain.reader();
        if self.output.is_none() {
            let all = reader.remaining();
            if let Some(tail) = &text.tail {
                tail.fill(&mut reader);
            }
            let _ = reader.skip(reader.remaining());
            self.lost += if self.failure.is_some() { all as u64 } else { 0 };
            return;
        }
        text.backlog.fill(&mut reader, |piece| {
            if let Some(tail) = &text.tail {
                tail.push(piece);
            }
        });
        if text.discarding {
            let rest = reader.remaining();
            let _ = reader.skip(rest);
            self.lost += rest as u64;
        }
    }

    /// Writes what was taken earlier.
    fn write_backlog(&mut self) -> Result<(), Turn> {
        let (Some(text), Some(output)) = (&mut self.text, &mut self.output) else { return Ok(()) };
        if text.backlog.is_empty() {
            return Ok(());
        }
        let (count, result) = text.backlog.drain(&mut **output);
        self.progress += count as u64;
        if count > 0 {
            text.discarding = false;
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Turn::Blocked),
            Err(error) => {
                self.fail(error);
                Ok(())
            }
        }
    }

    /// Writes what was taken earlier and waits for the reader, until `deadline`. What is left then is lost.
    pub(crate) fn write_out(&mut self, deadline: Instant) {
        while self.write_backlog().is_err() {
            let left = deadline.saturating_duration_since(Instant::now());
            let fd = self.output.as_ref().and_then(|output| output.fd());
            if left.is_zero() || fd.is_none_or(|fd| !becomes_writable(fd, left)) {
                break;
            }
        }
        if let Some(text) = &mut self.text {
            self.lost += text.backlog.clear() as u64;
        }
    }

    /// The reader has taken nothing for too long: the guest does not wait for it any longer.
    pub(crate) fn give_up_waiting(&mut self) {
        if let Some(text) = &mut self.text {
            text.discarding = true;
        }
    }

    /// The output is of no use any more.
    fn fail(&mut self, error: io::Error) {
        self.close();
        self.failure = Some(Arc::new(error));
    }

    /// Lets go of the output: whoever reads it sees the end, once the event loop has let go of it too.
    fn close(&mut self) {
        self.output = None;
        if let Some(text) = &mut self.text {
            self.lost += text.backlog.clear() as u64;
        }
    }

    /// The host closes the output.
    pub(crate) fn hang_up(&mut self, watch: &mut dyn Watch) {
        self.interest.remove(watch);
        self.close();
    }

    /// The port's peer is known to have gone.
    pub(crate) fn peer_gone(&mut self, watch: &mut dyn Watch) {
        self.interest.remove(watch);
        self.fail(io::ErrorKind::BrokenPipe.into());
    }

    /// A new event loop: nothing is registered with it.
    pub(crate) fn start(&mut self) {
        self.interest.forget();
    }

    /// The driver has reset the device: a chain that was half taken will not come again.
    pub(crate) fn reset(&mut self) {
        self.offset = 0;
        // Only a panic leaves chains here. They are of rings that are no more.
        self.chains.clear();
    }

    /// What a snapshot has to keep: bytes taken of the next chain, and bytes the host has not taken yet.
    pub(crate) fn save(&self) -> (u64, Vec<u8>) {
        (self.offset as u64, self.text.as_ref().map(|text| text.backlog.to_vec()).unwrap_or_default())
    }

    pub(crate) fn restore(&mut self, offset: usize, backlog: &[u8]) {
        self.offset = offset;
        if let Some(text) = &mut self.text {
            text.backlog.restore(backlog);
        }
    }
}

/// Waits until `fd` takes bytes, or fails; `false` if it did neither in time.
fn becomes_writable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).ok();
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], timeout.as_ref()) {
        Ok(count) => count > 0,
        Err(error) => error == rustix::io::Errno::INTR,
    }
}
