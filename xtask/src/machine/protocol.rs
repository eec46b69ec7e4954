//! What xtask on the host and xtask inside a nested machine say to each other, over any byte stream that loses nothing.
//!
//! A frame is a magic byte, a kind byte, the payload's length (4 bytes, little endian) and the payload. One command
//! runs at a time. Standard input flows against credit ([`Reply::Room`]), so that a serial port is never overrun.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

/// The first byte of every frame: a stream that lost a byte is found out at once.
const MAGIC: u8 = 0xa5;
/// The longest payload that is believed.
const MAX_PAYLOAD: usize = 1 << 20;
/// How many bytes of standard input may be under way unread.
pub(crate) const INPUT_WINDOW: usize = 16 << 10;
/// The largest piece of output in one frame.
pub(crate) const OUTPUT_PIECE: usize = 16 << 10;

/// A command to run in the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Command {
    /// Program and arguments.
    pub(crate) arguments: Vec<Vec<u8>>,
    /// `NAME=VALUE` pairs; nothing else is in the environment.
    pub(crate) environment: Vec<Vec<u8>>,
    /// Whether standard input will be sent; it is empty otherwise.
    pub(crate) input: bool,
    /// Rows and columns of a terminal to run it on.
    pub(crate) terminal: Option<(u16, u16)>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Host to machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Run this.
    Run(Command),
    /// The next bytes of standard input.
    Input(Vec<u8>),
    /// Standard input ends.
    InputEnd,
    /// Send this signal to the command's process group.
    Signal(i32),
    /// Switch off.
    PowerOff,
}

/// Machine to host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The machine is up.
    Ready,
    /// The command wrote this to its standard output.
    Output(Vec<u8>),
    /// The command wrote this to its standard error.
    Errors(Vec<u8>),
    /// So many bytes of standard input were taken.
    Room(u32),
    /// The command has ended and everything it wrote was sent.
    Ended(End),
    /// The command could not be started, and why.
    NotStarted(String),
}

/// What travels in one direction.
pub(crate) trait Message: Sized {
    /// Kind byte and payload.
    fn encode(&self) -> (u8, Vec<u8>);
    /// The reverse of `encode`.
    fn decode(kind: u8, payload: Vec<u8>) -> Result<Self>;
}

/// Writes one message as one write.
pub(crate) fn send(mut writer: impl Write, message: &impl Message) -> Result<()> {
    let (kind, payload) = message.encode();
    ensure!(payload.len() <= MAX_PAYLOAD, "a message of {} bytes is too long", payload.len());
    let mut frame = Vec::with_capacity(6 + payload.len());
    frame.extend([MAGIC, kind]);
    frame.extend(u32::try_from(payload.len())?.to_le_bytes());
    frame.extend(payload);
    writer.write_all(&frame).and_then(|()| writer.flush()).context("cannot write to the other end")
}

/// Reads the next message; `None` at a clean end of the stream.
pub(crate) fn receive<M: Message>(mut reader: impl Read) -> Result<Option<M>> {
    let mut head = [0; 6];
    let mut filled = 0;
    while filled < head.len() {
        match reader.read(&mut head[filled..]).context("cannot read from the other end")? {
            0 if filled == 0 => return Ok(None),
            0 => bail!("the stream ended inside a message"),
            count => filled += count,
        }
    }
    let [magic, kind, length @ ..] = head;
    ensure!(magic == MAGIC, "the stream is out of step: byte {magic:#04x} where a message starts");
    let length = usize::try_from(u32::from_le_bytes(length))?;
    ensure!(length <= MAX_PAYLOAD, "the stream is out of step: a message of {length} bytes");
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).context("the stream ended inside a message")?;
    M::decode(kind, payload).map(Some)
}

impl Message for Request {
    fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Run(command) => (1, encode_command(command)),
            Self::Input(bytes) => (2, bytes.clone()),
            Self::InputEnd => (3, Vec::new()),
            Self::Signal(number) => (4, number.to_le_bytes().to_vec()),
            Self::PowerOff => (5, Vec::new()),
        }
    }

    fn decode(kind: u8, payload: Vec<u8>) -> Result<Self> {
        Ok(match kind {
            1 => Self::Run(decode_command(&payload)?),
            2 => Self::Input(payload),
            3 => Self::InputEnd,
            4 => Self::Signal(number(&payload)?),
            5 => Self::PowerOff,
            _ => bail!("no request has the kind {kind}"),
        })
    }
}

impl Message for Reply {
    fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Ready => (129, Vec::new()),
            Self::Output(bytes) => (130, bytes.clone()),
            Self::Errors(bytes) => (131, bytes.clone()),
            Self::Room(count) => (132, count.to_le_bytes().to_vec()),
            Self::Ended(End::Code(code)) => (133, code.to_le_bytes().to_vec()),
            Self::Ended(End::Signal(signal)) => (134, signal.to_le_bytes().to_vec()),
            Self::NotStarted(reason) => (135, reason.clone().into_bytes()),
        }
    }

    fn decode(kind: u8, payload: Vec<u8>) -> Result<Self> {
        Ok(match kind {
            129 => Self::Ready,
            130 => Self::Output(payload),
            131 => Self::Errors(payload),
            132 => Self::Room(u32::from_le_bytes(payload.as_slice().try_into().context("a count has 4 bytes")?)),
            133 => Self::Ended(End::Code(number(&payload)?)),
            134 => Self::Ended(End::Signal(number(&payload)?)),
            135 => Self::NotStarted(String::from_utf8_lossy(&payload).into_owned()),
            _ => bail!("no reply has the kind {kind}"),
        })
    }
}

fn number(payload: &[u8]) -> Result<i32> {
    Ok(i32::from_le_bytes(payload.try_into().context("a number has 4 bytes")?))
}

/// Two flags and a terminal's size, then two lists; every list and every item of it is preceded by its length.
fn encode_command(command: &Command) -> Vec<u8> {
    let (rows, columns) = command.terminal.unwrap_or_default();
    let mut bytes = vec![u8::from(command.input), u8::from(command.terminal.is_some())];
    bytes.extend(rows.to_le_bytes());
    bytes.extend(columns.to_le_bytes());
    for list in [&command.arguments, &command.environment] {
        bytes.extend((list.len() as u64).to_le_bytes());
        for item in list {
            bytes.extend((item.len() as u64).to_le_bytes());
            bytes.extend(item);
        }
    }
    bytes
}

fn decode_command(payload: &[u8]) -> Result<Command> {
    let mut cursor = Cursor(payload);
    let [input, has_terminal] = cursor.array()?;
    let rows = u16::from_le_bytes(cursor.array()?);
    let columns = u16::from_le_bytes(cursor.array()?);
    let arguments = cursor.list()?;
    let environment = cursor.list()?;
    ensure!(cursor.0.is_empty(), "a command has {} bytes too many", cursor.0.len());
    let terminal = (has_terminal != 0).then_some((rows, columns));
    Ok(Command { arguments, environment, input: input != 0, terminal })
}

/// The part of a payload that was not read yet.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("a command is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn count(&mut self) -> Result<usize> {
        Ok(usize::try_from(u64::from_le_bytes(self.array()?))?)
    }

    fn list(&mut self) -> Result<Vec<Vec<u8>>> {
        let count = self.count()?;
        let mut list = Vec::new();
        for _ in 0..count {
            let length = self.count()?;
            list.push(self.take(length)?.to_vec());
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<M: Message + PartialEq + std::fmt::Debug>(messages: &[M]) {
        let mut stream = Vec::new();
        for message in messages {
            send(&mut stream, message).unwrap();
        }
        let mut reader = stream.as_slice();
        for message in messages {
            assert_eq!(&receive::<M>(&mut reader).unwrap().unwrap(), message);
        }
        assert!(receive::<M>(&mut reader).unwrap().is_none());
    }

    fn command() -> Command {
        Command {
            arguments: vec![b"/bin/echo".to_vec(), b"".to_vec(), b"a\nb\xff".to_vec()],
            environment: vec![b"A=1".to_vec()],
            input: true,
            terminal: Some((24, 80)),
        }
    }

    #[test]
    fn every_message_comes_through() {
        round_trip(&[
            Request::Run(command()),
            Request::Run(Command::default()),
            Request::Input(vec![0; 5000]),
            Request::InputEnd,
            Request::Signal(15),
            Request::PowerOff,
        ]);
        round_trip(&[
            Reply::Ready,
            Reply::Output(b"out".to_vec()),
            Reply::Errors(Vec::new()),
            Reply::Room(7),
            Reply::Ended(End::Code(-1)),
            Reply::Ended(End::Signal(9)),
            Reply::NotStarted("no such file".into()),
        ]);
    }

    #[test]
    fn a_lost_byte_is_noticed() {
        let mut stream = Vec::new();
        send(&mut stream, &Reply::Output(b"abc".to_vec())).unwrap();
        send(&mut stream, &Reply::Ready).unwrap();
        for lost in 0..9 {
            let mut damaged = stream.clone();
            damaged.remove(lost);
            let mut reader = damaged.as_slice();
            let read: Vec<_> = std::iter::from_fn(|| receive::<Reply>(&mut reader).transpose()).take(3).collect();
            assert!(read.iter().any(Result::is_err), "byte {lost} lost: {read:?}");
        }
    }

    #[test]
    fn a_command_cut_short_or_too_long_is_refused() {
        let whole = encode_command(&command());
        for length in 0..whole.len() {
            assert!(decode_command(&whole[..length]).is_err(), "{length}");
        }
        let mut long = whole;
        long.push(0);
        assert!(decode_command(&long).is_err());
    }
}
