//! The standard streams of the workload.

use core::ffi::CStr;

use crate::failure::{At, Failure};
use crate::mounts::Kernel;
use crate::ports;
use crate::protocol::{Field, Fields, Source, Stage, User};
use crate::relay::Relay;
use crate::sys::{self, Base, Errno, Fd};
use crate::workload;

/// The virtio console as a terminal.
const TERMINAL: &CStr = c"hvc0";
const CONSOLE: &CStr = c"console";

/// What the workload gets as its streams, and what PID 1 keeps to serve them.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// The workload's ends. Dropped once it has them.
    pub(crate) streams: [Option<Fd>; 3],
    /// Between a stream's pipe and its port.
    pub(crate) relays: [Option<Relay>; 3],
    /// The controlling terminal, if a stream is one.
    pub(crate) terminal: Option<Fd>,
}

impl Stdio {
    /// Opens what `fields` name.
    ///
    /// A stream that is a port is a pipe to the workload, and PID 1 carries the bytes: the driver lets nobody open a
    /// port twice, so with the port itself `/dev/stdin` and `/dev/stdout` could not be opened. A workload that becomes
    /// PID 1 has nobody to carry them, and gets the port.
    pub(crate) fn open(kernel: &Kernel, fields: &Fields<'_>, user: User) -> Result<Self, Failure> {
        let mut stdio = Self { streams: [const { None }; 3], relays: [const { None }; 3], terminal: None };
        let mut sources = [Source::Null; 3];
        for field in fields.iter() {
            if let Field::Stream(stream) = field
                && let Some(source) = sources.get_mut(usize::from(stream.descriptor))
            {
                *source = stream.source;
            }
        }
        for (index, source) in sources.into_iter().enumerate() {
            let (stream, relay) = match source {
                Source::Null => (device(kernel, c"null")?, None),
                Source::Console => (device(kernel, CONSOLE)?, None),
                Source::Terminal => (stdio.open_terminal(kernel, user)?, None),
                Source::Port(name) if workload::is_init(fields) => {
                    (port(kernel, index == 0, name.to_bytes()).at(Stage::Stdio, name.to_bytes())?, None)
                }
                Source::Port(name) => {
                    let (stream, relay) = pipe(kernel, index == 0, name.to_bytes(), user)?;
                    (stream, Some(relay))
                }
            };
            if let (Some(to), Some(relay_to)) = (stdio.streams.get_mut(index), stdio.relays.get_mut(index)) {
                *to = Some(stream);
                *relay_to = relay;
            }
        }
        Ok(stdio)
    }

    /// The console as a terminal of the workload's user.
    fn open_terminal(&mut self, kernel: &Kernel, user: User) -> Result<Fd, Failure> {
        let open = || match sys::open(Base::Tree(&kernel.dev.root), TERMINAL, sys::RDWR | sys::NOCTTY) {
            Err(Errno::NOENT | Errno::NODEV) => device(kernel, CONSOLE),
            answer => answer.at(Stage::Stdio, TERMINAL.to_bytes()),
        };
        if self.terminal.is_none() {
            let terminal = open()?;
            sys::change_owner(&terminal, user.uid, user.gid).at(Stage::Stdio, TERMINAL.to_bytes())?;
            self.terminal = Some(terminal);
        }
        open()
    }

    /// Ends the outputs that hold nothing. Only once nobody writes to them any more, for what is written later is lost.
    pub(crate) fn close_empty(&mut self) {
        for relay in self.relays.iter_mut().skip(1).flatten() {
            if relay.is_empty() {
                relay.close();
            }
        }
    }

    /// Whether every byte of the workload has gone its way. Only once the workload has ended.
    pub(crate) fn is_drained(&self) -> bool {
        self.relays.iter().skip(1).flatten().all(Relay::is_done)
    }
}

fn device(kernel: &Kernel, name: &CStr) -> Result<Fd, Failure> {
    sys::open(Base::Tree(&kernel.dev.root), name, sys::RDWR | sys::NOCTTY).at(Stage::Stdio, name.to_bytes())
}

/// A port, with the host at its other end.
fn port(kernel: &Kernel, is_input: bool, name: &[u8]) -> sys::Result<Fd> {
    let access = if is_input { sys::RDONLY } else { sys::WRONLY };
    let port = ports::open(&kernel.dev.root, &kernel.sys.root, name, access)?;
    if !is_input {
        ports::wait_for_host(&port)?;
    }
    Ok(port)
}

/// A pipe whose other end is carried to or from a port.
fn pipe(kernel: &Kernel, is_input: bool, name: &[u8], user: User) -> Result<(Fd, Relay), Failure> {
    let attempt = || {
        let port = port(kernel, is_input, name)?;
        let (read_end, write_end) = sys::pipe()?;
        let (stream, from, to) = if is_input { (read_end, port, write_end) } else { (write_end, read_end, port) };
        // So that its user may open /dev/stdout.
        sys::change_owner(&stream, user.uid, user.gid)?;
        Ok((stream, Relay::new(from, to)?))
    };
    attempt().at(Stage::Stdio, name)
}
