//! One task's event loop, on event-manager.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::{Ready, Task, Watch};

// event-manager hands back 32 bits of ours. A task's end at 2^31 + 2^16: its worker's below 2^31, then one per queue.
const STOP: u32 = u32::MAX;
const PUMP: u32 = u32::MAX - 1;

fn io_error(error: event_manager::Error) -> io::Error {
    match error {
        event_manager::Error::Epoll(errno) => io::Error::from_raw_os_error(errno.errno()),
        error => io::Error::other(error),
    }
}

/// One registration. The descriptor is a duplicate of the worker's: event-manager dispatches by number, and the same
/// open file may be registered twice (a terminal is input and output at once).
#[derive(Debug)]
struct Registration {
    fd: OwnedFd,
    ready: Ready,
    /// Epoll refused it (regular files, `/dev/null`): it is always ready.
    always: bool,
    /// It is in the epoll set. Without interest it is not, or a hang-up would be told over and over.
    polled: bool,
}

impl Registration {
    fn events(&self, token: u32) -> Events {
        Events::with_data_raw(self.fd.as_raw_fd(), token, self.ready.events())
    }
}

/// All registrations of one loop.
#[derive(Debug)]
struct Registry {
    by_token: BTreeMap<u32, Registration>,
    /// Always readable. In the epoll set while something that is always ready is wanted: that makes the loop come
    /// round for it, and for everything else in turn.
    pump: EventFd,
    pumping: bool,
}

impl Registry {
    fn new() -> io::Result<Self> {
        let pump = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        pump.write(1)?;
        Ok(Self { by_token: BTreeMap::new(), pump, pumping: false })
    }
}

/// The registry with the epoll set it stands for.
struct Watcher<'a, 'b> {
    registry: &'a mut Registry,
    ops: &'a mut EventOps<'b>,
}

impl Watcher<'_, '_> {
    /// Brings the epoll set in line with one registration.
    fn update(&mut self, token: u32) -> io::Result<()> {
        let Some(registration) = self.registry.by_token.get_mut(&token) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let wanted = !registration.ready.is_none() && !registration.always;
        let done = match (registration.polled, wanted) {
            (false, true) => self.ops.add(registration.events(token)),
            (true, true) => self.ops.modify(registration.events(token)),
            (true, false) => self.ops.remove(registration.events(token)),
            (false, false) => Ok(()),
        };
        match done.map_err(io_error) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && !registration.polled => {
                registration.always = true;
            }
            Err(error) => return Err(error),
            Ok(()) => registration.polled = wanted,
        }
        if registration.always { self.update_pump() } else { Ok(()) }
    }

    /// Waits for nothing any more: nobody would serve it, and what stays ready would keep the thread busy.
    fn silence(&mut self) {
        let tokens: Vec<u32> = self.registry.by_token.keys().copied().collect();
        for token in tokens {
            let _ = self.change(token, Ready::NONE);
        }
    }

    /// After a change to one that is always ready: few workers have any, none has many.
    fn update_pump(&mut self) -> io::Result<()> {
        let wanted = self.registry.by_token.values().any(|r| r.always && !r.ready.is_none());
        if wanted != self.registry.pumping {
            let events = Events::with_data(&self.registry.pump, PUMP, EventSet::IN);
            let done = if wanted { self.ops.add(events) } else { self.ops.remove(events) };
            done.map_err(io_error)?;
            self.registry.pumping = wanted;
        }
        Ok(())
    }
}

impl Watch for Watcher<'_, '_> {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u32, ready: Ready) -> io::Result<()> {
        if self.registry.by_token.contains_key(&token) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let fd = fd.try_clone_to_owned()?;
        self.registry.by_token.insert(token, Registration { fd, ready, always: false, polled: false });
        self.update(token).inspect_err(|_| {
            self.registry.by_token.remove(&token);
        })
    }

    fn change(&mut self, token: u32, ready: Ready) -> io::Result<()> {
        let Some(registration) = self.registry.by_token.get_mut(&token) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if registration.ready == ready {
            return Ok(());
        }
        registration.ready = ready;
        self.update(token)
    }

    fn remove(&mut self, token: u32) -> io::Result<()> {
        let Some(registration) = self.registry.by_token.remove(&token) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if registration.polled {
            // Before the descriptor is closed: the manager would take its number's next owner for this one.
            self.ops.remove(registration.events(token)).map_err(io_error)?;
        }
        if registration.always { self.update_pump() } else { Ok(()) }
    }
}

/// The task as event-manager sees it.
#[derive(Debug)]
struct Seat {
    task: Task,
    registry: Registry,
    stop: EventFd,
    stopped: bool,
}

impl Seat {
    /// A task out of service only waits for its stop.
    fn silence_if_failed(&mut self, ops: &mut EventOps<'_>) {
        if self.task.failed() {
            Watcher { registry: &mut self.registry, ops }.silence();
        }
    }

    /// One round for everything that is always ready.
    fn pump(&mut self, ops: &mut EventOps<'_>) {
        let tokens: Vec<u32> = self.registry.by_token.iter().filter(|(_, r)| r.always).map(|(t, _)| *t).collect();
        for token in tokens {
            // Looked up again: the one before may have removed or changed it.
            match self.registry.by_token.get(&token) {
                Some(registration) if registration.always && !registration.ready.is_none() => {
                    let ready = registration.ready & (Ready::IN | Ready::OUT);
                    self.task.event(token, ready, &mut Watcher { registry: &mut self.registry, ops });
                }
                _ => {}
            }
        }
    }
}

impl MutEventSubscriber for Seat {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::with_data(&self.stop, STOP, EventSet::IN)) {
            self.task.fail(&format!("cannot be stopped, so it is not started: {error}"));
            self.stopped = true;
            return;
        }
        self.task.start(&mut Watcher { registry: &mut self.registry, ops });
        self.silence_if_failed(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        // What was ready together with the stop is not lost: it still is, when the task starts again.
        if self.stopped {
            return;
        }
        match events.data() {
            STOP => {
                self.task.stop(&mut Watcher { registry: &mut self.registry, ops });
                self.stopped = true;
            }
            PUMP => self.pump(ops),
            token => {
                let ready = Ready::from_events(events.event_set());
                self.task.event(token, ready, &mut Watcher { registry: &mut self.registry, ops });
            }
        }
        self.silence_if_failed(ops);
    }
}

/// Everything that a loop needs of the system, so that what can fail has failed before a task moves in.
pub(super) struct Parts {
    manager: EventManager<Seat>,
    registry: Registry,
    stop: EventFd,
}

impl Parts {
    /// A loop without a task, and what stops it.
    pub(super) fn new() -> io::Result<(Self, EventFd)> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let ours = stop.try_clone()?;
        let manager = EventManager::new().map_err(io_error)?;
        Ok((Self { manager, registry: Registry::new()?, stop: ours }, stop))
    }
}

/// One task's event loop.
pub(super) struct EventLoop {
    manager: EventManager<Seat>,
    id: SubscriberId,
}

impl EventLoop {
    /// Starts `task` on the calling thread.
    pub(super) fn start(parts: Parts, task: Task) -> Self {
        let Parts { mut manager, registry, stop } = parts;
        let id = manager.add_subscriber(Seat { task, registry, stop, stopped: false });
        Self { manager, id }
    }

    fn stopped(&mut self) -> bool {
        self.manager.subscriber_mut(self.id).map_or(true, |seat| seat.stopped)
    }

    /// Serves what is ready, without waiting; answers how many descriptors were.
    pub(super) fn turn(&mut self) -> usize {
        self.manager.run_with_timeout(0).unwrap_or(0)
    }

    /// Serves what becomes ready, until it is told to stop.
    pub(super) fn run(&mut self) {
        while !self.stopped() {
            if let Err(error) = self.manager.run() {
                if let Ok(seat) = self.manager.subscriber_mut(self.id) {
                    seat.task.fail(&format!("cannot wait for events: {error}"));
                }
                return;
            }
        }
    }

    /// The task. If nobody told the loop to stop, this does.
    pub(super) fn finish(mut self) -> Option<Task> {
        if let Ok(seat) = self.manager.subscriber_mut(self.id) {
            let _ = seat.stop.write(1);
        }
        // The stop may wait its turn behind other descriptors, but each round makes some of them quiet or is the last.
        for _ in 0..64 {
            if self.stopped() {
                break;
            }
            self.turn();
        }
        self.manager.remove_subscriber(self.id).ok().map(|seat| seat.task)
    }
}

/// Signals a loop's stop descriptor.
pub(super) fn signal(stop: &EventFd) {
    // It fails only when the counter is full: then the loop is being stopped already.
    let _ = stop.write(1);
}
