//! A port as the host describes it.

use crate::backlog::Backlog;
use crate::control::Size;
use crate::host_fd::HostFd;
use crate::tail::Tail;
use crate::transmit::Text;
use crate::{Error, Input, Output};
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Bytes of console output that wait for a slow reader.
const BACKLOG: usize = 1 << 20;

/// How long a console's reader may take nothing before output is thrown away.
const PATIENCE: Duration = Duration::from_secs(1);

/// A port of a console device, with its ends on the host.
///
/// There are two kinds. A **console** port is a terminal of the guest (`/dev/hvc0`). Linux's driver for it waits actively,
/// with interrupts off, until the device has taken its bytes, so the device takes them at once into a backlog of 1 MiB.
/// If that is full and the reader has taken nothing for a second, output is thrown away until it goes on
/// ([`Port::patience`] changes this).
///
/// A **generic** port has a name and is a character device in the guest (`/dev/vport0p1`, its name in
/// `/sys/class/virtio-ports/vport0p1/name`). Bytes go from guest memory to the host with no copy in between, and what
/// the host does not take stays in the guest: its writer waits, nothing is lost.
///
/// A port without an output takes what the guest sends and throws it away. Without an input, the guest's readers wait.
/// A port has no half-closed state in the protocol: where the input of a two-way port ends while its output still has
/// somebody to go to, the guest is not told. Use two ports where the guest has to see the end (standard input and
/// output).
#[must_use]
pub struct Port {
    pub(crate) name: Option<String>,
    pub(crate) console: bool,
    pub(crate) input: Option<Box<dyn Input>>,
    pub(crate) output: Option<Box<dyn Output>>,
    pub(crate) size: Size,
    pub(crate) patience: Option<Duration>,
    backlog: usize,
    pub(crate) tail: Option<Tail>,
}

impl Port {
    fn new(name: Option<String>, console: bool) -> Self {
        Self {
            name,
            console,
            input: None,
            output: None,
            size: Size::default(),
            patience: Some(PATIENCE),
            backlog: BACKLOG,
            tail: None,
        }
    }

    /// A text console. The first one is the guest's `/dev/hvc0`.
    pub fn console() -> Self {
        Self::new(None, true)
    }

    /// A generic port that the guest finds by its name: 1 to 255 bytes without control characters.
    pub fn named(name: impl Into<String>) -> Self {
        Self::new(Some(name.into()), false)
    }

    /// A name, for a console that is to be found by one too (Linux has it in the same place as a generic port's).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where the bytes for the guest come from.
    pub fn input(mut self, input: impl Input + 'static) -> Self {
        self.input = Some(Box::new(input));
        self
    }

    /// Where the bytes from the guest go.
    pub fn output(mut self, output: impl Output + 'static) -> Self {
        self.output = Some(Box::new(output));
        self
    }

    /// A descriptor of any kind as the input; see [`HostFd`].
    ///
    /// # Errors
    /// As [`HostFd::input`].
    pub fn input_fd(self, fd: impl Into<OwnedFd>) -> Result<Self, Error> {
        Ok(self.input(HostFd::input(fd)?))
    }

    /// A descriptor of any kind as the output; see [`HostFd`].
    ///
    /// # Errors
    /// As [`HostFd::output`].
    pub fn output_fd(self, fd: impl Into<OwnedFd>) -> Result<Self, Error> {
        Ok(self.output(HostFd::output(fd)?))
    }

    /// Both directions over a socket pair; the caller has the other end.
    ///
    /// # Errors
    /// [`Error::Create`] if the sockets cannot be made.
    pub fn pipe(self) -> Result<(Self, UnixStream), Error> {
        let failed = |source| Error::Create { what: "a socket pair", source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let input = ours.try_clone().map_err(failed)?;
        Ok((self.input_fd(input)?.output_fd(ours)?, theirs))
    }

    /// The size of a console's terminal; 0 by 0 (the default) where there is none.
    pub fn size(mut self, cols: u16, rows: u16) -> Self {
        self.size = Size { cols, rows };
        self
    }

    /// How long a console's reader may take nothing, with `backlog` bytes waiting for it, before output is thrown away.
    /// `None` waits for ever and stops the guest's virtual CPU meanwhile. Generic ports never throw anything away.
    ///
    /// When the driver resets the device, readers get a second at most to take what waits for them.
    pub fn patience(mut self, backlog: usize, patience: Option<Duration>) -> Self {
        (self.backlog, self.patience) = (backlog.max(1), patience);
        self
    }

    /// Remembers the last `bytes` bytes of a console's output, whatever becomes of them, for
    /// [`ConsoleHandle::tail`](crate::ConsoleHandle::tail): the words of a kernel that has died.
    pub fn remember(mut self, bytes: usize) -> Self {
        self.tail = (bytes > 0).then(|| Tail::new(bytes));
        self
    }

    /// What the transmitter needs to know of a console.
    pub(crate) fn text(&self) -> Option<Text> {
        self.console.then(|| Text { backlog: Backlog::new(self.backlog), discarding: false, tail: self.tail.clone() })
    }

    /// Whether a driver without multiport would do just as well with it.
    pub(crate) fn is_plain_console(&self) -> bool {
        self.console && self.name.is_none()
    }

    pub(crate) fn check_name(&self) -> Result<(), Error> {
        let Some(name) = &self.name else { return Ok(()) };
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > crate::control::MAX_NAME_LEN {
            "it is too long"
        } else if name.chars().any(char::is_control) {
            "it has a control character"
        } else {
            return Ok(());
        };
        Err(Error::Name { name: name.clone(), reason })
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("name", &self.name)
            .field("console", &self.console)
            .field("input", &self.input.is_some())
            .field("output", &self.output.is_some())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
