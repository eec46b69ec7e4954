//! The data path: one thread serves all ports, and no port can make it wait.

use crate::config::{F_MULTIPORT, F_SIZE, Role};
use crate::control::{ResizeOrder, Size};
use crate::handle::{Phase, Shared};
use crate::port::Port;
use crate::port_io::PortIo;
use crate::protocol::{Change, Handshake, HostSide, Protocol};
use crate::stall::Stalls;
use crate::status::{PortEvent, PortStatus};
use crate::sys::{SigpipeGuard, sigpipe_is_blocked};
use crate::transmit::Turn;
use krun_virtio::{Context, Ready, Worker};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens of the worker's own descriptors; those of the ports follow.
const WAKE: u32 = 0;
const TIMER: u32 = 1;

/// Control messages handled before the ports have their turn.
const CONTROL_TURN: usize = 256;

/// How long a reset waits for the readers of consoles, in all.
const RESET_PATIENCE: Duration = Duration::from_secs(1);

/// The worker of a console device.
pub(crate) struct ConsoleWorker {
    pub(crate) ports: Vec<PortIo>,
    pub(crate) protocol: Protocol,
    shared: Arc<Shared>,
    stalls: Stalls,
    /// The driver of this session knows of more than the first port.
    multiport: bool,
    /// The last flush that was asked for.
    flush: u64,
    /// This thread never sees SIGPIPE.
    sigpipe_blocked: bool,
    changes: Vec<usize>,
}

impl ConsoleWorker {
    pub(crate) fn new(ports: Vec<Port>, handshake: Handshake, order: ResizeOrder, shared: Arc<Shared>) -> Self {
        let mut protocol = Protocol::new(handshake, order);
        for port in &ports {
            protocol.add_port(port.name.as_deref(), port.console, port.size);
        }
        Self {
            ports: ports.into_iter().enumerate().map(|(at, port)| PortIo::new(at, port)).collect(),
            protocol,
            shared,
            stalls: Stalls::default(),
            multiport: false,
            flush: 0,
            sigpipe_blocked: false,
            changes: Vec::new(),
        }
    }

    /// The size that a snapshot brought is what the configuration space shows.
    pub(crate) fn restored(&mut self) {
        self.shared.set_size(self.protocol.size(0));
    }

    fn is_guest_open(&self, at: usize) -> bool {
        if self.multiport { self.protocol.is_guest_open(at) } else { at == 0 }
    }

    /// Whether this session's driver has queues for the port.
    fn has_queues(&self, at: usize) -> bool {
        self.multiport || at == 0
    }

    /// Bytes towards the guest.
    fn receive(&mut self, at: usize, cx: &mut Context<'_>) {
        let open = self.is_guest_open(at);
        let has_queues = self.has_queues(at);
        let Some(port) = self.ports.get_mut(at) else { return };
        let was_live = port.receive.is_live();
        let queue = cx.queues.get(Role::Receive(at).queue()).filter(|_| has_queues);
        let turn = port.receive.turn(queue, open, cx.watch);
        if turn == Turn::More {
            port.more = true;
            self.shared.wake();
        }
        if was_live && !port.receive.is_live() {
            let error = port.receive.failure().cloned();
            // A peer that has gone for good takes nothing either: then the guest may know of both.
            let both = port.transmit.is_live() && port.transmit.is_gone();
            if both {
                port.transmit.peer_gone(cx.watch);
            }
            let failure = port.transmit.failure().filter(|_| both).cloned();
            self.shared.tell(at, &PortEvent::InputEnded(error));
            if let Some(failure) = failure {
                self.shared.tell(at, &PortEvent::OutputFailed(failure));
            }
            self.side_changed(at, cx);
            if both {
                // What the guest has queued goes nowhere now, and neither its writers nor a flush must wait for it.
                self.transmit(at, cx);
            }
        }
    }

    /// Bytes from the guest.
    fn transmit(&mut self, at: usize, cx: &mut Context<'_>) {
        let _guard = (!self.sigpipe_blocked).then(SigpipeGuard::new);
        let has_queues = self.has_queues(at);
        let flush = self.flush;
        let Some(port) = self.ports.get_mut(at) else { return };
        let was_live = port.transmit.is_live();
        let queue = cx.queues.get(Role::Transmit(at).queue()).filter(|_| has_queues);
        let turn = port.transmit.turn(queue, cx.watch);
        match (turn, port.patience) {
            (Turn::Held, Some(patience)) => self.stalls.held(at, port.transmit.progress(), patience),
            _ => self.stalls.released(at),
        }
        if turn == Turn::More {
            port.more = true;
            self.shared.wake();
        }
        let flushed = turn == Turn::Drained && port.flushed < flush;
        if flushed {
            port.flushed = flush;
        }
        let failed = was_live && !port.transmit.is_live();
        let failure = port.transmit.failure().filter(|_| failed).cloned();
        if let Some(error) = failure {
            self.shared.tell(at, &PortEvent::OutputFailed(error));
            self.side_changed(at, cx);
        }
        self.publish(at, failed);
        if flushed {
            if let Some(at) = self.shared.board().flushed.get_mut(at) {
                *at = flush;
            }
            self.shared.announce();
        }
    }

    /// One of a port's ends has come or gone.
    fn side_changed(&mut self, at: usize, cx: &mut Context<'_>) {
        let Some(port) = self.ports.get(at) else { return };
        self.protocol.set_host_side(at, port.host_side());
        self.publish(at, true);
        self.send_control(cx);
    }

    /// Brings the board up to date with a port, where it is not.
    fn publish(&mut self, at: usize, ends_changed: bool) {
        let now_open = self.is_guest_open(at) && self.has_queues(at);
        let now_ready = if self.multiport { self.protocol.is_ready(at) } else { at == 0 };
        let Some(port) = self.ports.get_mut(at) else { return };
        let now = (now_ready, now_open, port.transmit.lost());
        let before = std::mem::replace(&mut port.told, now);
        if before == now && !ends_changed {
            return;
        }
        let status = PortStatus {
            ready: now_ready,
            guest_open: now_open,
            input: port.input_side(),
            output: port.output_side(),
            lost: now.2,
        };
        if let Some(entry) = self.shared.board().status.get_mut(at) {
            *entry = status;
        }
        self.shared.announce();
        if before.1 != now_open {
            self.shared.tell(at, if now_open { &PortEvent::GuestOpened } else { &PortEvent::GuestClosed });
        }
    }

    /// Control messages from the guest.
    fn hear_control(&mut self, cx: &mut Context<'_>) {
        let Some(queue) = cx.queues.get(Role::ControlTransmit.queue()).filter(|_| self.multiport) else { return };
        self.changes.clear();
        let (protocol, changes) = (&mut self.protocol, &mut self.changes);
        // The driver waits actively for each of these, so all are given back before anything is done about them.
        queue.drain(|mut chain| {
            if let Change::Port(at) = protocol.receive(&mut chain.reader()) {
                changes.push(at);
            }
            krun_virtio::Step::Done(chain)
        });
        self.send_control(cx);
        let changes = std::mem::take(&mut self.changes);
        for &at in &changes {
            self.publish(at, false);
            self.receive(at, cx);
        }
        self.changes = changes;
    }

    /// Control messages to the guest: as many as there are buffers for, with one interrupt.
    fn send_control(&mut self, cx: &mut Context<'_>) {
        let Some(queue) = cx.queues.get(Role::ControlReceive.queue()).filter(|_| self.multiport) else { return };
        queue.arm(false);
        for _ in 0..CONTROL_TURN {
            let Some(message) = self.protocol.next_message() else {
                // With nothing to say, more buffers are no news.
                return queue.flush();
            };
            let Some(mut chain) = queue.pop() else {
                if queue.arm(true) {
                    queue.arm(false);
                    continue;
                }
                return queue.flush();
            };
            if message.write(&mut chain.writer()).is_ok() {
                self.protocol.sent();
            } else {
                queue.report("a control buffer is too small for a message");
            }
            queue.complete(chain);
        }
        queue.flush();
        // It can only fail when the counter is full: then it is signalled anyway.
        let _ = queue.kick().write(1);
    }

    /// What the host has asked for since the last look.
    fn look_at_board(&mut self, cx: &mut Context<'_>) {
        let mut board = self.shared.board();
        let wishes: Vec<_> = board.wishes.iter_mut().map(std::mem::take).collect();
        let flush = board.flush_wanted;
        drop(board);
        for (at, wish) in wishes.into_iter().enumerate() {
            if let Some(size) = wish.size {
                self.resize(at, size, cx);
            }
            if wish.close {
                self.close(at, cx);
            }
        }
        self.send_control(cx);
        if flush > self.flush {
            self.flush = flush;
            (0..self.ports.len()).for_each(|at| self.transmit(at, cx));
        }
    }

    fn resize(&mut self, at: usize, size: Size, cx: &mut Context<'_>) {
        self.protocol.set_size(at, size);
        if at == 0 && self.shared.size() != size {
            self.shared.set_size(size);
            if cx.session.features & F_SIZE != 0 {
                cx.session.interrupt.config();
            }
        }
    }

    fn close(&mut self, at: usize, cx: &mut Context<'_>) {
        let Some(port) = self.ports.get_mut(at).filter(|port| !port.closed) else { return };
        port.closed = true;
        port.receive.hang_up(cx.watch);
        port.transmit.hang_up(cx.watch);
        self.side_changed(at, cx);
        // What the guest has queued goes nowhere now, and its writers must not wait for it.
        self.transmit(at, cx);
    }

    /// Turns that ended early go on.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        for at in 0..self.ports.len() {
            let more = self.ports.get_mut(at).is_some_and(|port| std::mem::take(&mut port.more));
            if more {
                self.transmit(at, cx);
                self.receive(at, cx);
            }
        }
    }

    /// Readers that have taken nothing for too long are not waited for.
    fn give_up(&mut self, cx: &mut Context<'_>) {
        let ports = &self.ports;
        let stalled = self.stalls.due(|at| ports.get(at).map_or(0, |port| port.transmit.progress()));
        for at in stalled {
            if let Some(port) = self.ports.get_mut(at) {
                port.transmit.give_up_waiting();
                self.shared.tell(at, &PortEvent::OutputStalled);
            }
            self.transmit(at, cx);
        }
    }
}

impl Worker for ConsoleWorker {
    fn start(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.sigpipe_blocked = sigpipe_is_blocked();
        self.multiport = cx.session.features & F_MULTIPORT != 0;
        cx.watch.add(self.shared.wake.as_fd(), WAKE, Ready::IN)?;
        let timed = self.ports.iter().any(|port| port.console && port.had_output && port.patience.is_some());
        if let Some(timer) = self.stalls.start(timed)? {
            cx.watch.add(timer, TIMER, Ready::IN)?;
        }
        self.shared.board().phase = Phase::Active;
        for at in 0..self.ports.len() {
            if let Some(port) = self.ports.get_mut(at) {
                port.receive.start();
                port.transmit.start();
                self.protocol.set_host_side(at, port.host_side());
            }
            self.publish(at, true);
        }
        self.look_at_board(cx);
        Ok(())
    }

    fn queue_event(&mut self, index: u16, cx: &mut Context<'_>) {
        match Role::of(index) {
            Role::Receive(at) => self.receive(at, cx),
            Role::Transmit(at) => self.transmit(at, cx),
            Role::ControlReceive => self.send_control(cx),
            Role::ControlTransmit => self.hear_control(cx),
        }
    }

    fn io_event(&mut self, token: u32, _ready: Ready, cx: &mut Context<'_>) {
        match token {
            WAKE => {
                let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
                self.look_at_board(cx);
                self.go_on(cx);
            }
            TIMER => self.give_up(cx),
            _ => {
                let Ok(at) = usize::try_from(token / 2 - 1) else { return };
                if token.is_multiple_of(2) { self.receive(at, cx) } else { self.transmit(at, cx) }
            }
        }
    }

    // Nothing to quiesce: no chain outlives the call that popped it.

    fn failed(&mut self) {
        self.shared.board().phase = Phase::Gone;
        self.shared.announce();
    }

    fn reset(&mut self) {
        let ports = &self.ports;
        self.protocol.reset(|at| ports.get(at).map_or(HostSide::Open, PortIo::host_side));
        self.multiport = false;
        self.stalls.clear();
        for at in 0..self.ports.len() {
            if let Some(port) = self.ports.get_mut(at) {
                port.receive.reset();
                port.transmit.reset();
                port.more = false;
            }
        }
        for at in 0..self.ports.len() {
            self.publish_reset(at);
        }
        self.write_out();
        // Only now: a flush that finds no driver has nothing to wait for.
        self.shared.board().phase = Phase::Idle;
        self.shared.announce();
    }

    fn save(&self) -> Option<Vec<u8>> {
        Some(crate::state::save(self))
    }

    fn restore(&mut self, state: &[u8]) -> io::Result<()> {
        crate::state::restore(self, state)
    }
}

impl ConsoleWorker {
    /// Text taken from a driver that has gone is not left for the next, who may never come. The virtual CPU that asked
    /// for the reset waits meanwhile, so there is one end to it for all ports.
    fn write_out(&mut self) {
        let _guard = SigpipeGuard::new();
        let deadline = Instant::now() + RESET_PATIENCE;
        for (at, port) in self.ports.iter_mut().enumerate() {
            let was_live = port.transmit.is_live();
            let patience = port.patience.unwrap_or(RESET_PATIENCE);
            port.transmit.write_out(Instant::now().checked_add(patience).map_or(deadline, |end| end.min(deadline)));
            port.told.2 = port.transmit.lost();
            if let Some(status) = self.shared.board().status.get_mut(at) {
                (status.lost, status.output) = (port.transmit.lost(), port.output_side());
            }
            if let Some(error) = port.transmit.failure().filter(|_| was_live && !port.transmit.is_live()) {
                self.shared.tell(at, &PortEvent::OutputFailed(error.clone()));
            }
        }
    }

    /// Without a driver no port is ready or open.
    fn publish_reset(&mut self, at: usize) {
        let Some(port) = self.ports.get_mut(at) else { return };
        let was_open = port.told.1;
        port.told = (false, false, port.told.2);
        if let Some(status) = self.shared.board().status.get_mut(at) {
            (status.ready, status.guest_open) = (false, false);
        }
        if was_open {
            self.shared.tell(at, &PortEvent::GuestClosed);
        }
    }
}

impl Drop for ConsoleWorker {
    fn drop(&mut self) {
        self.shared.board().phase = Phase::Gone;
        self.shared.announce();
    }
}
