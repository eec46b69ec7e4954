//! The frames of both directions.

use super::field::Fields;
use super::header::{Frame, put_frame};
use super::wire::{Malformed, Put, Reader};

/// The longest detail text of [`Failed`], in bytes.
pub const MAX_DETAIL: usize = 1024;

const START: u8 = 0x01;
const SIGNAL: u8 = 0x02;
const RESIZE: u8 = 0x03;
const HELLO: u8 = 0x41;
const STARTED: u8 = 0x42;
const FAILED: u8 = 0x43;
const EXITED: u8 = 0x44;
const HANDING_OVER: u8 = 0x45;

/// What the host says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToGuest<'a> {
    /// Prepare the system and run a program.
    Start(Fields<'a>),
    /// Send a signal to the workload.
    Signal(Signal),
    /// The terminal has a new size.
    Resize(Resize),
}

/// A signal for the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Signal number, 1 to 64.
    pub number: u8,
    /// Who gets it.
    pub scope: Scope,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The workload's first process only, as container engines do.
    Process,
    /// The workload's process group.
    Group,
    /// The foreground process group of the workload's terminal, as its line discipline does for Ctrl-C; the
    /// workload's process group where there is no terminal.
    Foreground,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// What the guest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToHost<'a> {
    /// PID 1 runs and waits for `Start`.
    Hello(Hello),
    /// The program runs: its image has been loaded.
    Started(Started),
    /// The program could not be run. Last frame.
    Failed(Failed<'a>),
    /// The workload has ended. Last frame.
    Exited(Exit),
    /// The program takes the place of PID 1 next. `Failed` follows if it cannot, or else the end of the channel.
    HandingOver,
}

/// The guest's greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// What this guest can do beyond the version; no bit is defined yet.
    pub features: u64,
}

/// The program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its process id in the guest.
    pub pid: u32,
}

/// The program could not be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed<'a> {
    /// What was attempted.
    pub stage: Stage,
    /// Linux's error number; 0 if it was not the kernel that refused.
    pub errno: u32,
    /// On what: a path, a name, a number as text. Any bytes; at most [`MAX_DETAIL`].
    pub detail: &'a [u8],
}

/// How the workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself, with this code.
    Code(u8),
    /// It was ended by this signal.
    Signal(u8),
}

impl Exit {
    /// The status a shell would show: the code, or 128 and the signal.
    pub const fn status(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.wrapping_add(128),
        }
    }
}

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// What PID 1 was doing when it failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Stage {
            $($(#[$doc])* $name,)*
        }

        impl Stage {
            /// Every stage.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its number on the wire.
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $value,)* }
            }

            /// What was attempted, in words that go on with "of" or "for" what.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            const fn from_number(number: u16) -> Option<Self> {
                match number { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

stages! {
    /// Reading the `Start` frame.
    Protocol = 1, "understand the start request";
    /// Mounting a file system of PID 1's own or of the host's list. Detail: the target.
    Mount = 2, "mount";
    /// Setting the host name. Detail: the name.
    Hostname = 3, "set the host name";
    /// Bringing the loopback interface up. Detail: its name.
    Network = 4, "bring up the network interface";
    /// Connecting a standard stream. Detail: the port or device.
    Stdio = 5, "connect the standard stream";
    /// Taking the terminal as controlling terminal. Detail: the device.
    Terminal = 6, "take the terminal";
    /// Creating the workload's first process.
    Fork = 7, "create the process";
    /// Setting a resource limit. Detail: the resource's number.
    Rlimit = 8, "set the resource limit";
    /// Entering the working directory. Detail: its path.
    Directory = 9, "enter the working directory";
    /// Taking user, group and supplementary groups. Detail: the number.
    Ids = 10, "take the user or group id";
    /// Giving up the right to trace PID 1.
    Capabilities = 11, "drop the capability";
    /// Executing the program. Detail: the program.
    Exec = 12, "run";
    /// The program exists, but the interpreter or loader that it names does not. Detail: the program.
    Interpreter = 13, "find the interpreter or loader that is named by";
}

impl<'a> ToGuest<'a> {
    /// Reads a frame. `None`: a type this version does not know but may skip.
    ///
    /// # Errors
    ///
    /// [`Malformed`], if the type is unknown or the payload is not exactly what the type says.
    pub fn decode(frame: &Frame<'a>) -> Result<Option<Self>, Malformed> {
        match frame.kind {
            START => Fields::parse(frame.workload()?).map(Self::Start),
            SIGNAL => frame.read(Signal::parse).map(Self::Signal),
            RESIZE => frame.read(Resize::parse).map(Self::Resize),
            kind => return unknown(kind),
        }
        .map(Some)
    }

    /// Writes the frame.
    pub fn encode<P: Put>(&self, out: &mut P) {
        match *self {
            Self::Start(fields) => put_frame(out, START, |out| out.put(fields.as_bytes())),
            Self::Signal(signal) => put_frame(out, SIGNAL, |out| {
                out.put(&[signal.number, signal.scope as u8, 0, 0]);
            }),
            Self::Resize(size) => put_frame(out, RESIZE, |out| {
                out.put(&size.columns.to_le_bytes());
                out.put(&size.rows.to_le_bytes());
            }),
        }
    }
}

impl<'a> ToHost<'a> {
    /// Reads a frame. `None`: a type this version does not know but may skip.
    ///
    /// # Errors
    ///
    /// [`Malformed`], if the type is unknown or the payload is not exactly what the type says.
    pub fn decode(frame: &Frame<'a>) -> Result<Option<Self>, Malformed> {
        match frame.kind {
            HELLO => frame.read(Hello::parse).map(Self::Hello),
            STARTED => frame.read(Started::parse).map(Self::Started),
            FAILED => frame.read(Failed::parse).map(Self::Failed),
            EXITED => frame.read(Exit::parse).map(Self::Exited),
            HANDING_OVER => frame.read(|payload| payload.end(Self::HandingOver)),
            kind => return unknown(kind),
        }
        .map(Some)
    }

    /// Writes the frame. A detail text longer than [`MAX_DETAIL`] is cut.
    pub fn encode<P: Put>(&self, out: &mut P) {
        match *self {
            Self::Hello(hello) => put_frame(out, HELLO, |out| out.put(&hello.features.to_le_bytes())),
            Self::Started(started) => put_frame(out, STARTED, |out| out.put(&started.pid.to_le_bytes())),
            Self::Failed(failed) => put_frame(out, FAILED, |out| {
                out.put(&failed.stage.number().to_le_bytes());
                out.put(&[0, 0]);
                out.put(&failed.errno.to_le_bytes());
                out.put(failed.detail.get(..MAX_DETAIL).unwrap_or(failed.detail));
            }),
            Self::Exited(exit) => put_frame(out, EXITED, |out| {
                let (kind, value) = match exit {
                    Exit::Code(code) => (0, code),
                    Exit::Signal(signal) => (1, signal),
                };
                out.put(&[kind, value, 0, 0]);
            }),
            Self::HandingOver => put_frame(out, HANDING_OVER, |_| {}),
        }
    }
}

const fn unknown<T>(kind: u8) -> Result<Option<T>, Malformed> {
    if kind < super::SKIPPABLE { Err(Malformed::Type(kind)) } else { Ok(None) }
}

impl Signal {
    fn parse(mut payload: Reader<'_>) -> Option<Self> {
        let number = payload.u8().filter(|number| (1..=64).contains(number))?;
        let scope = match payload.u8()? {
            0 => Scope::Process,
            1 => Scope::Group,
            2 => Scope::Foreground,
            _ => return None,
        };
        payload.zero()?;
        payload.end(Self { number, scope })
    }
}

impl Resize {
    pub(super) fn parse(mut payload: Reader<'_>) -> Option<Self> {
        let size = Self { columns: payload.u16()?, rows: payload.u16()? };
        payload.end(size)
    }
}

impl Hello {
    fn parse(mut payload: Reader<'_>) -> Option<Self> {
        let hello = Self { features: payload.u64()? };
        payload.end(hello)
    }
}

impl Started {
    fn parse(mut payload: Reader<'_>) -> Option<Self> {
        let started = Self { pid: payload.u32()? };
        payload.end(started)
    }
}

impl<'a> Failed<'a> {
    fn parse(mut payload: Reader<'a>) -> Option<Self> {
        let stage = Stage::from_number(payload.u16()?)?;
        payload.zero()?;
        let errno = payload.u32()?;
        let detail = payload.rest();
        (detail.len() <= MAX_DETAIL).then_some(Self { stage, errno, detail })
    }
}

impl Exit {
    fn parse(mut payload: Reader<'_>) -> Option<Self> {
        let exit = match (payload.u8()?, payload.u8()?) {
            (0, code) => Self::Code(code),
            (1, signal @ 1..=64) => Self::Signal(signal),
            _ => return None,
        };
        payload.zero()?;
        payload.end(exit)
    }
}
