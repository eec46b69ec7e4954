//! The host's end of the conversation: no I/O, no threads, no clock.

use std::fmt;

use crate::protocol::{
    Decoder, Exit, Failed, Frame, MAX_TO_HOST, Resize, Scope, Signal, Stage, Store, ToGuest, ToHost,
};
use crate::{Error, GuestFault, Start};

/// Requests that the guest has not taken yet may pile up to this many bytes.
const MAX_BACKLOG: usize = 4096;

/// The host's end of the control protocol.
///
/// Bytes from the guest go into [`receive`](Self::receive), bytes for the guest come out of
/// [`outgoing`](Self::outgoing). The guest's bytes are hostile: whatever they are, they cost at most one small frame
/// of memory, and what does not belong ends the conversation for good. A guest that opens the channel anew after it
/// has been closed (a root process can unbind the driver) is not listened to: tell [`close`](Self::close).
#[derive(Debug)]
pub struct Host {
    state: State,
    /// Whether the program is to take PID 1's place.
    becomes_init: bool,
    decoder: Decoder<Vec<u8>>,
    /// The `Start` frame until `Hello` has come, then what is to be sent.
    outgoing: Vec<u8>,
    /// Bytes of `outgoing` that have been sent.
    sent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Until `Hello`.
    Greeting,
    /// `Start` was given out, until `Started`.
    Starting,
    /// Until `Exited`.
    Running,
    /// After `HandingOver`, until `Failed` or the end of the channel.
    HandingOver,
    /// After the last frame.
    Ended,
    /// After a fault, or after `close`.
    Broken,
}

/// What the guest told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// PID 1 runs; `Start` is now in [`Host::outgoing`].
    Greeted {
        /// The feature bits of its greeting.
        features: u64,
    },
    /// The program runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// The program could not be run. Nothing follows.
    Failed(Failure),
    /// The workload has ended. Nothing follows.
    Exited(Exit),
    /// The program runs as PID 1, as [`Start::becomes_init`] asked for. Nothing follows: the machine ends when the
    /// guest restarts it.
    HandedOver,
}

/// Why the program could not be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was attempted.
    pub stage: Stage,
    /// Linux's error number, 0 if it was not the kernel that refused.
    pub errno: u32,
    /// On what. Bytes from the guest: escape them before they meet a terminal, as `Display` does.
    pub detail: Vec<u8>,
}

impl Failure {
    /// The exit status a shell or container engine would show: 127 for a program that is not there, 126 for one that
    /// cannot be run, 125 for everything before that.
    pub const fn status(&self) -> u8 {
        const ENOENT: u32 = 2;
        match (self.stage, self.errno) {
            (Stage::Exec, ENOENT) => 127,
            (Stage::Exec | Stage::Interpreter, _) => 126,
            _ => 125,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest's init could not {} {}", self.stage.text(), self.detail.escape_ascii())?;
        match i32::try_from(self.errno) {
            Ok(errno @ 1..) => write!(f, ": {}", std::io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }
}

impl Host {
    /// A conversation that will ask for `start`.
    ///
    /// # Errors
    ///
    /// Those of [`Start::encode`].
    pub fn new(start: &Start) -> Result<Self, Error> {
        Ok(Self {
            state: State::Greeting,
            becomes_init: start.becomes_init,
            decoder: Decoder::new(MAX_TO_HOST, Vec::new()),
            outgoing: start.encode()?,
            sent: 0,
        })
    }

    /// Takes bytes off the front of `input` until they tell something, or are used up (`None`).
    ///
    /// # Errors
    ///
    /// A [`GuestFault`] ends the conversation; later calls answer [`GuestFault::AfterEnd`].
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Event>, GuestFault> {
        let event = self.step(input);
        if event.is_err() {
            self.end(State::Broken);
        }
        event
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Event>, GuestFault> {
        while !input.is_empty() {
            if matches!(self.state, State::Ended | State::Broken) {
                return Err(GuestFault::AfterEnd);
            }
            let Some(frame) = self.decoder.next(input)? else { break };
            let Some((state, event)) = told(self.state, self.becomes_init, &frame)? else { continue };
            self.state = state;
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// What is to be sent to the guest now. [`sent`](Self::sent) takes it away.
    pub fn outgoing(&self) -> &[u8] {
        match self.state {
            State::Starting | State::Running => self.outgoing.get(self.sent..).unwrap_or_default(),
            State::Greeting | State::HandingOver | State::Ended | State::Broken => &[],
        }
    }

    /// The first `count` bytes of [`outgoing`](Self::outgoing) have been sent.
    pub fn sent(&mut self, count: usize) {
        self.sent += count.min(self.outgoing().len());
        if self.sent == self.outgoing.len() {
            self.outgoing = Vec::new();
            self.sent = 0;
        }
    }

    /// Asks for a signal to the workload.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchSignal`], [`Error::NotRunning`], or [`Error::Backlog`] if the guest takes nothing.
    pub fn signal(&mut self, number: u8, scope: Scope) -> Result<(), Error> {
        if !(1..=64).contains(&number) {
            return Err(Error::NoSuchSignal(number));
        }
        self.request(ToGuest::Signal(Signal { number, scope }))
    }

    /// Tells the workload's terminal its size.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], or [`Error::Backlog`] if the guest takes nothing.
    pub fn resize(&mut self, size: Resize) -> Result<(), Error> {
        self.request(ToGuest::Resize(size))
    }

    fn request(&mut self, request: ToGuest<'_>) -> Result<(), Error> {
        if self.state != State::Running {
            return Err(Error::NotRunning);
        }
        let waiting = self.outgoing().len();
        if waiting >= MAX_BACKLOG {
            return Err(Error::Backlog(waiting));
        }
        self.outgoing.drain(..self.sent);
        self.sent = 0;
        request.encode(&mut self.outgoing);
        Ok(())
    }

    /// The channel is closed: the guest's driver let go of the port, or was reset. Nothing is believed from then on.
    ///
    /// [`Event::HandedOver`], if that is how the guest tells it.
    pub fn close(&mut self) -> Option<Event> {
        if self.state == State::HandingOver && self.decoder.is_at_boundary() {
            self.end(State::Ended);
            return Some(Event::HandedOver);
        }
        self.end(State::Broken);
        None
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.outgoing = Vec::new();
        self.sent = 0;
    }

    /// Whether the conversation is over, for whatever reason.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Ended | State::Broken)
    }
}

/// The state after a frame, and what it tells the host's program.
type Told = (State, Option<Event>);

/// What `frame` means in `state`.
fn told(state: State, becomes_init: bool, frame: &Frame<'_>) -> Result<Option<Told>, GuestFault> {
    let Some(frame) = ToHost::decode(frame)? else { return Ok(None) };
    let name = match (state, frame) {
        (State::Greeting, ToHost::Hello(hello)) => {
            return Ok(Some((State::Starting, Some(Event::Greeted { features: hello.features }))));
        }
        (State::Starting, ToHost::Started(started)) if !becomes_init => {
            return Ok(Some((State::Running, Some(Event::Started { pid: started.pid }))));
        }
        (State::Starting, ToHost::HandingOver) if becomes_init => return Ok(Some((State::HandingOver, None))),
        (State::Starting | State::HandingOver, ToHost::Failed(failed)) => {
            return Ok(Some((State::Ended, Some(Event::Failed(failed.into())))));
        }
        (State::Running, ToHost::Exited(exit)) => return Ok(Some((State::Ended, Some(Event::Exited(exit))))),
        (_, ToHost::Hello(_)) => "hello",
        (_, ToHost::Started(_)) => "started",
        (_, ToHost::Failed(_)) => "failed",
        (_, ToHost::Exited(_)) => "exited",
        (_, ToHost::HandingOver) => "handing over",
    };
    let expected = match state {
        State::Greeting => "hello",
        State::Starting if becomes_init => "handing over or failed",
        State::Starting => "started or failed",
        State::HandingOver => "failed",
        State::Running => "exited",
        State::Ended | State::Broken => "nothing",
    };
    Err(GuestFault::OutOfOrder { frame: name, expected })
}

impl From<Failed<'_>> for Failure {
    fn from(failed: Failed<'_>) -> Self {
        Self { stage: failed.stage, errno: failed.errno, detail: failed.detail.to_vec() }
    }
}

impl Store for Vec<u8> {
    fn clear(&mut self) {
        Self::clear(self);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}
