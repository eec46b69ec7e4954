//! A guest whose console driver behaves as Linux's does.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use krun_console::Console;
use krun_console::config::Role;
use krun_console::control::{Event, Header};
use krun_virtio::testing::{MockDriver, MockDriverBuilder, Request};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Bytes of a receive buffer: Linux gives a page.
pub const PAGE: usize = 4096;

/// What the guest knows of a port.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct GuestPort {
    pub name: Option<String>,
    pub console: bool,
    /// As it came: the first number, then the second.
    pub size: Option<(u16, u16)>,
    pub host_open: bool,
}

#[derive(Debug)]
pub struct Guest {
    pub driver: MockDriver,
    pub ports: BTreeMap<usize, GuestPort>,
    pub removed: Vec<usize>,
    /// Receive buffers that the device has, per queue.
    posted: HashMap<u16, usize>,
    /// Control messages that came, in all.
    pub heard: usize,
}

impl Guest {
    /// A guest without threads, its ports set up and its consoles open.
    pub fn new(console: Console) -> Self {
        Self::boot(MockDriver::builder(console))
    }

    pub fn threaded(console: Console) -> Self {
        Self::boot(MockDriver::builder(console).threads())
    }

    pub fn boot(builder: MockDriverBuilder) -> Self {
        let driver = builder.build();
        let mut guest = Self { driver, ports: BTreeMap::new(), removed: Vec::new(), posted: HashMap::new(), heard: 0 };
        guest.initialise();
        guest
    }

    /// From reset to the end of the handshake; may be repeated.
    pub fn initialise(&mut self) {
        let features = self.driver.initialise();
        self.ports.clear();
        self.removed.clear();
        self.posted.clear();
        if features & krun_console::config::F_MULTIPORT == 0 {
            self.ports.insert(0, GuestPort { console: true, host_open: true, ..GuestPort::default() });
            self.fill(0);
            return;
        }
        self.driver.set_no_interrupt(Role::ControlTransmit.queue(), true);
        self.top_up(Role::ControlReceive.queue(), PAGE);
        self.say(Event::DeviceReady, u32::MAX, 1);
        self.settle(|guest| guest.ports.values().all(|port| port.host_open) && !guest.ports.is_empty());
    }

    /// Hears control messages until `done`, or until the device rests.
    pub fn settle(&mut self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let heard = self.hear();
            if done(self) && heard == 0 {
                return;
            }
            assert!(Instant::now() < end, "the guest does not get to hear it: {:?}", self.ports);
            if heard == 0 {
                self.driver.turn();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    pub fn say(&mut self, event: Event, id: u32, value: u16) {
        let queue = Role::ControlTransmit.queue();
        let message = Request::new().readable(Header { id, event, value }.to_bytes());
        // As Linux does: the driver spins until the message has been taken.
        self.driver.submit(queue, &message);
    }

    /// Handles the control messages that have come and says how many there were.
    pub fn hear(&mut self) -> usize {
        let queue = Role::ControlReceive.queue();
        let mut count = 0;
        self.driver.turn();
        while let Some(used) = self.driver.used(queue) {
            count += 1;
            self.heard += 1;
            *self.posted.entry(queue).or_default() -= 1;
            self.message(&used.data);
        }
        self.top_up(queue, PAGE);
        count
    }

    fn message(&mut self, data: &[u8]) {
        let header = Header::read(&mut &data[..]).expect("a control message");
        let (id, payload) = (header.id as usize, &data[8..]);
        match header.event {
            Event::PortAdd => {
                assert!(self.ports.insert(id, GuestPort::default()).is_none(), "port {id} was added twice");
                self.fill(id);
                self.say(Event::PortReady, header.id, 1);
            }
            Event::ConsolePort => {
                self.ports.get_mut(&id).unwrap().console = true;
                self.say(Event::PortOpen, header.id, 1);
            }
            Event::PortName => {
                self.ports.get_mut(&id).unwrap().name = Some(String::from_utf8(payload.to_vec()).unwrap());
            }
            Event::PortOpen => self.ports.get_mut(&id).unwrap().host_open = header.value == 1,
            Event::Resize => {
                let size = (u16::from_le_bytes([payload[0], payload[1]]), u16::from_le_bytes([payload[2], payload[3]]));
                self.ports.get_mut(&id).unwrap().size = Some(size);
            }
            Event::PortRemove => {
                self.ports.remove(&id).expect("a port that is there");
                self.removed.push(id);
            }
            other => panic!("{other:?} is not the device's to send"),
        }
    }

    pub fn port(&self, name: &str) -> usize {
        let found = self.ports.iter().find(|(_, port)| port.name.as_deref() == Some(name));
        *found.unwrap_or_else(|| panic!("no port {name} in {:?}", self.ports)).0
    }

    pub fn open(&mut self, id: usize) {
        self.say(Event::PortOpen, id as u32, 1);
    }

    pub fn close(&mut self, id: usize) {
        self.say(Event::PortOpen, id as u32, 0);
    }

    /// Gives the device all the receive buffers that the queue can hold.
    pub fn fill(&mut self, id: usize) {
        self.top_up(Role::Receive(id).queue(), PAGE);
    }

    fn top_up(&mut self, queue: u16, len: usize) {
        let old = self.driver.ring(queue).next_available();
        let posted = self.posted.entry(queue).or_default();
        let mut added = false;
        while self.driver.try_post(queue, &Request::new().writable(len)).is_some() {
            *posted += 1;
            added = true;
        }
        if added {
            self.driver.kick_if_wanted(queue, old);
        }
    }

    /// Gives the device one receive buffer of this shape.
    pub fn give(&mut self, id: usize, request: &Request) {
        let queue = Role::Receive(id).queue();
        self.driver.post(queue, request);
        *self.posted.entry(queue).or_default() += 1;
        self.driver.kick(queue);
    }

    /// What has come for a port by now. The buffers go back to the device.
    pub fn read(&mut self, id: usize) -> Vec<u8> {
        let bytes = self.take(id);
        self.fill(id);
        bytes
    }

    /// What has come for a port by now. The buffers stay with the guest.
    pub fn take(&mut self, id: usize) -> Vec<u8> {
        let queue = Role::Receive(id).queue();
        self.driver.turn();
        let mut bytes = Vec::new();
        while let Some(used) = self.driver.used(queue) {
            *self.posted.entry(queue).or_default() -= 1;
            assert!(!used.data.is_empty(), "a buffer without a byte");
            bytes.extend(used.data);
        }
        bytes
    }

    /// Queues bytes of a port, in one chain of this shape; `false` if the ring is full.
    pub fn try_send(&mut self, id: usize, request: &Request) -> bool {
        let queue = Role::Transmit(id).queue();
        let old = self.driver.ring(queue).next_available();
        if self.driver.try_post(queue, request).is_none() {
            return false;
        }
        self.driver.kick_if_wanted(queue, old);
        true
    }

    /// Writes to a port and lets the device run; what it does not take stays queued.
    pub fn write(&mut self, id: usize, bytes: &[u8]) {
        assert!(self.try_send(id, &Request::new().readable(bytes)), "the ring is full");
        self.driver.turn();
    }

    /// How many queued chains of a port have been taken since the last time.
    pub fn taken(&mut self, id: usize) -> usize {
        self.driver.turn();
        let queue = Role::Transmit(id).queue();
        let mut count = 0;
        while self.driver.used(queue).is_some() {
            count += 1;
        }
        count
    }
}

/// Bytes in which no piece looks like another.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
