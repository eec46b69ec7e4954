//! The protocol core: which ports the driver knows, what it said about them, and what it still has to be told.
//!
//! No rings, no descriptors, no clock. What is to be said is not a queue of messages but a set of debts per port, and a
//! message is made at the moment it is sent. So the state has a fixed size however often a driver repeats itself, and a
//! driver that was slow to post buffers is told the present, not the past.

use crate::control::{Event, Header, Message, ResizeOrder, Size};
use bitflags::bitflags;
use krun_virtio::Source;

bitflags! {
    /// Messages that a port's driver has not been sent yet, in the order of sending.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(crate) struct Owed: u8 {
        const ADD = 1;
        const CONSOLE = 1 << 1;
        const NAME = 1 << 2;
        const SIZE = 1 << 3;
        const OPEN = 1 << 4;
        const REMOVE = 1 << 5;
    }
}

bitflags! {
    /// What has happened to a port in this session.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(crate) struct Known: u8 {
        /// The driver has been told that the port exists.
        const ADDED = 1;
        /// The driver could not set the port up.
        const REFUSED = 1 << 1;
        /// The guest's side is open.
        const GUEST_OPEN = 1 << 2;
        /// The driver has been told (or is owed the word) that the port has gone.
        const REMOVED = 1 << 3;
        /// The driver has set the port up.
        const READY = 1 << 4;
    }
}

/// Whether the host's side of a port takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostSide {
    /// Connected.
    Open,
    /// Disconnected: a guest process reads the end of file once it has read all that was sent.
    Closed,
    /// Taken away: a guest process gets `ENODEV`.
    Removed,
}

/// The part of a port that the protocol knows.
#[derive(Debug, Clone)]
struct Port {
    name: Option<Box<str>>,
    console: bool,
    size: Size,
    host: HostSide,
    known: Known,
    owed: Owed,
}

/// What the driver's message changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// What the guest says of this port: that it can be used or not, that somebody has it open or not.
    Port(usize),
    /// Nothing that matters to a port: the driver's own readiness, repetitions, unknown ports, garbage.
    Nothing,
}

/// How much of the handshake is sent before the driver has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Handshake {
    /// Everything about every port at once, as soon as the driver can take control messages: one interrupt for the whole
    /// handshake. For drivers that handle control messages one after the other, as those of Linux and FreeBSD do.
    #[default]
    Batched,
    /// A port's name and state only when the driver has said that the port is ready, for drivers that set ports up in
    /// the background (Windows). Costs an interrupt per port.
    Stepwise,
}

/// The control state of all ports.
#[derive(Debug, Clone)]
pub struct Protocol {
    ports: Vec<Port>,
    handshake: Handshake,
    order: ResizeOrder,
    driver_ready: bool,
    /// Ports below this one owe nothing.
    first: usize,
}

impl Protocol {
    /// A protocol without ports.
    pub fn new(handshake: Handshake, order: ResizeOrder) -> Self {
        Self { ports: Vec::new(), handshake, order, driver_ready: false, first: 0 }
    }

    /// Adds a port of the next number. A console port has a size; any port may have a name.
    pub fn add_port(&mut self, name: Option<&str>, console: bool, size: Size) {
        self.ports.push(Port {
            name: name.map(Into::into),
            console,
            size,
            host: HostSide::Open,
            known: Known::empty(),
            owed: Owed::empty(),
        });
    }

    /// Takes one message from the driver. Whatever it contains, the worst that happens is nothing.
    pub fn receive(&mut self, from: &mut dyn Source) -> Change {
        let Some(header) = Header::read(from) else { return Change::Nothing };
        match header.event {
            Event::DeviceReady => {
                self.driver_ready = header.value == 1;
                if self.driver_ready {
                    (0..self.ports.len()).for_each(|at| self.announce(at));
                }
                Change::Nothing
            }
            Event::PortReady => self.port_ready(header.id, header.value == 1),
            Event::PortOpen => self.port_open(header.id, header.value != 0),
            // The rest are the device's to send.
            Event::PortAdd | Event::PortRemove | Event::ConsolePort | Event::Resize | Event::PortName => {
                Change::Nothing
            }
        }
    }

    fn announce(&mut self, at: usize) {
        let rest = match self.handshake {
            Handshake::Batched => self.description(at),
            Handshake::Stepwise => Owed::empty(),
        };
        if let Some(port) = self.ports.get_mut(at)
            && !port.known.intersects(Known::ADDED | Known::REMOVED)
            && port.host != HostSide::Removed
        {
            port.owed |= Owed::ADD | rest;
            self.first = self.first.min(at);
        }
    }

    /// Everything there is to say about a port besides that it exists.
    fn description(&self, at: usize) -> Owed {
        let Some(port) = self.ports.get(at) else { return Owed::empty() };
        let mut owed = Owed::OPEN;
        owed.set(Owed::CONSOLE, port.console);
        owed.set(Owed::SIZE, port.console && port.size != Size::default());
        owed.set(Owed::NAME, port.name.is_some());
        owed
    }

    /// A port that the driver may talk about.
    fn live(&mut self, id: u32) -> Option<(usize, &mut Port)> {
        let at = usize::try_from(id).ok()?;
        let port = self.ports.get_mut(at)?;
        (port.known.contains(Known::ADDED) && !port.known.contains(Known::REMOVED)).then_some((at, port))
    }

    fn port_ready(&mut self, id: u32, ready: bool) -> Change {
        let stepwise = self.handshake == Handshake::Stepwise;
        let Some((at, port)) = self.live(id) else { return Change::Nothing };
        let before = port.known;
        port.known.set(Known::READY, ready);
        port.known.set(Known::REFUSED, !ready);
        if !ready {
            port.owed = Owed::empty();
            port.known.remove(Known::GUEST_OPEN);
        }
        let changed = port.known != before;
        let untold = before.contains(Known::REFUSED) || (stepwise && !before.contains(Known::READY));
        if ready && untold {
            self.owe(at, self.description(at));
        }
        if changed { Change::Port(at) } else { Change::Nothing }
    }

    fn port_open(&mut self, id: u32, open: bool) -> Change {
        let Some((at, port)) = self.live(id) else { return Change::Nothing };
        let before = port.known;
        port.known.set(Known::GUEST_OPEN, open);
        if port.known != before { Change::Port(at) } else { Change::Nothing }
    }

    /// Adds to what a port is owed, unless its driver does not know the port or does not want it.
    fn owe(&mut self, at: usize, what: Owed) {
        let ready_matters = self.handshake == Handshake::Stepwise;
        if let Some(port) = self.ports.get_mut(at) {
            let told = port.known.contains(Known::ADDED) && (!ready_matters || port.known.contains(Known::READY));
            let will_be_told = port.owed.contains(Owed::ADD) && !ready_matters;
            if (told || will_be_told) && !port.known.intersects(Known::REFUSED | Known::REMOVED) {
                port.owed |= what;
                self.first = self.first.min(at);
            }
        }
    }

    /// The size of a console port has changed.
    pub fn set_size(&mut self, at: usize, size: Size) {
        let Some(port) = self.ports.get_mut(at).filter(|port| port.console && port.size != size) else { return };
        port.size = size;
        self.owe(at, Owed::SIZE);
    }

    /// The size of a console port.
    pub fn size(&self, at: usize) -> Size {
        self.ports.get(at).map(|port| port.size).unwrap_or_default()
    }

    /// The host's side of a port has changed. A removed port stays removed.
    pub fn set_host_side(&mut self, at: usize, side: HostSide) {
        let Some(port) = self.ports.get_mut(at) else { return };
        if port.host == side || port.host == HostSide::Removed {
            return;
        }
        port.host = side;
        if side != HostSide::Removed {
            return self.owe(at, Owed::OPEN);
        }
        // A port that the driver has never heard of vanishes without a word.
        if port.known.contains(Known::ADDED) && !port.known.contains(Known::REMOVED) {
            port.owed = Owed::REMOVE;
            self.first = self.first.min(at);
        } else {
            port.owed = Owed::empty();
        }
        port.known.insert(Known::REMOVED);
        port.known.remove(Known::GUEST_OPEN | Known::READY);
    }

    /// Whether the guest's side of a port is open.
    pub fn is_guest_open(&self, at: usize) -> bool {
        self.ports.get(at).is_some_and(|port| port.known.contains(Known::GUEST_OPEN))
    }

    /// Whether the driver has set a port up.
    pub fn is_ready(&self, at: usize) -> bool {
        self.ports.get(at).is_some_and(|port| port.known.contains(Known::READY))
    }

    /// The next message for the driver. It stays the next one until [`Self::sent`].
    pub fn next_message(&mut self) -> Option<Message<'_>> {
        while self.ports.get(self.first)?.owed.is_empty() {
            self.first += 1;
        }
        let port = self.ports.get(self.first)?;
        let id = u32::try_from(self.first).ok()?;
        let plain = |event, value| Message::Plain(Header { id, event, value });
        Some(match next_owed(port.owed) {
            Owed::ADD => plain(Event::PortAdd, 1),
            Owed::CONSOLE => plain(Event::ConsolePort, 1),
            Owed::NAME => Message::Name { id, name: port.name.as_deref().unwrap_or_default() },
            Owed::SIZE => Message::Resize { id, size: port.size, order: self.order },
            Owed::OPEN => plain(Event::PortOpen, (port.host == HostSide::Open).into()),
            _ => plain(Event::PortRemove, 1),
        })
    }

    /// The message that [`Self::next_message`] gave has been sent.
    pub fn sent(&mut self) {
        if let Some(port) = self.ports.get_mut(self.first) {
            let sent = next_owed(port.owed);
            port.owed.remove(sent);
            if sent == Owed::ADD {
                port.known.insert(Known::ADDED);
            }
        }
    }

    /// The driver has reset the device: it knows nothing any more. Sizes, and which host sides are closed, stay;
    /// a port that was only removed for want of a reader comes back if `revive` says so.
    pub fn reset(&mut self, mut revive: impl FnMut(usize) -> HostSide) {
        self.driver_ready = false;
        self.first = 0;
        for (at, port) in self.ports.iter_mut().enumerate() {
            port.known = Known::empty();
            port.owed = Owed::empty();
            port.host = revive(at);
        }
    }

    /// What the driver was told and is owed, per port: the session state of a snapshot.
    pub(crate) fn session(&self) -> (bool, impl Iterator<Item = (Known, Owed, HostSide, Size)>) {
        (self.driver_ready, self.ports.iter().map(|port| (port.known, port.owed, port.host, port.size)))
    }

    /// Takes over what [`Self::session`] gave, for one port.
    pub(crate) fn restore(&mut self, at: usize, known: Known, owed: Owed, host: HostSide, size: Size) {
        if let Some(port) = self.ports.get_mut(at) {
            (port.known, port.owed, port.host, port.size) = (known, owed, host, size);
        }
        self.first = 0;
    }

    pub(crate) fn restore_ready(&mut self, ready: bool) {
        self.driver_ready = ready;
    }
}

/// The lowest bit: debts are paid in the order of their bits.
fn next_owed(owed: Owed) -> Owed {
    owed.iter().next().unwrap_or_default()
}
