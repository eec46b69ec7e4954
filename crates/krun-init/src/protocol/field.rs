//! The fields of `Start`.

use core::ffi::CStr;

use super::frame::Resize;
use super::wire::{Count, Malformed, Put, Reader};

/// The longest port name in a [`Field::Stream`], in bytes.
pub const MAX_PORT_NAME: usize = 255;

/// A field with this flag may be skipped by a guest that does not know its tag.
const OPTIONAL: u16 = 1;

const ARGUMENT: u16 = 1;
const VARIABLE: u16 = 2;
const DIRECTORY: u16 = 3;
const USER: u16 = 4;
const GROUP: u16 = 5;
const LIMIT: u16 = 6;
const HOSTNAME: u16 = 7;
const MOUNT: u16 = 8;
const STREAM: u16 = 9;
const TERMINAL: u16 = 10;
const INIT: u16 = 11;

/// One field of `Start`: u16 tag, u16 flags, u32 length, body.
///
/// Strings end with their one NUL, so the guest hands them to the kernel where they lie. A flag of 1 marks a field
/// that a guest may skip if it does not know the tag; no field of version 1 has it.
///
/// | tag | field | body | how often |
/// |---|---|---|---|
/// | 1 | argument | string | once or more, in order; the first names the program |
/// | 2 | variable | string `NAME=VALUE` | any, in order |
/// | 3 | directory | string | at most once; `/` without it |
/// | 4 | user | u32 uid, u32 gid | at most once; 0, 0 without it |
/// | 5 | group | u32 gid | any |
/// | 6 | limit | u32 resource, u32 zero, u64 soft, u64 hard | any, in order |
/// | 7 | hostname | string | at most once; unchanged without it |
/// | 8 | mount | u64 flags, then strings source, target, type, options | any, in order |
/// | 9 | stream | u8 descriptor 0 to 2, u8 kind (0 null, 1 console, 2 terminal, 3 port), string name (port only) | one for each descriptor; null without it |
/// | 10 | terminal | u16 columns, u16 rows | at most once |
/// | 11 | init | none | at most once; without it the program is a child of PID 1 |
///
/// Where "at most once" is not kept, the last one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// The next argument of the program.
    Argument(&'a CStr),
    /// The next variable of its environment.
    Variable(&'a CStr),
    /// Its working directory.
    Directory(&'a CStr),
    /// Its user and group.
    User(User),
    /// One of its supplementary groups.
    Group(u32),
    /// One of its resource limits.
    Limit(Limit),
    /// The name of the machine.
    Hostname(&'a CStr),
    /// A file system to mount.
    Mount(Mount<'a>),
    /// What one of its standard streams is.
    Stream(Stream<'a>),
    /// The size of its terminal.
    Terminal(Resize),
    /// It takes the place of PID 1.
    Init,
}

/// The user and group of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct User {
    /// User id: real, effective and saved.
    pub uid: u32,
    /// Group id: real, effective and saved.
    pub gid: u32,
}

/// A resource limit, as `prlimit(2)` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// `RLIMIT_` number of Linux.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none.
    pub hard: u64,
}

/// A file system to mount, as `mount(2)` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'a> {
    /// `MS_` flags of Linux.
    pub flags: u64,
    /// Device, directory, or the tag of a shared directory.
    pub source: &'a CStr,
    /// Where; made if it is missing.
    pub target: &'a CStr,
    /// Name of the file system type.
    pub kind: &'a CStr,
    /// Its own options, separated by commas; may be empty.
    pub options: &'a CStr,
}

/// What one of the three standard streams is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream<'a> {
    /// 0, 1 or 2.
    pub descriptor: u8,
    /// What is behind it.
    pub source: Source<'a>,
}

/// What is behind a standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// Nothing: `/dev/null`.
    Null,
    /// The kernel's console, for output that is a log.
    Console,
    /// The console as the workload's controlling terminal.
    Terminal,
    /// The console port of this name.
    Port(&'a CStr),
}

impl<'a> Field<'a> {
    /// Writes the field.
    pub fn encode<P: Put>(&self, out: &mut P) {
        let mut count = Count::default();
        let tag = self.body(&mut count);
        out.put(&tag.to_le_bytes());
        out.put(&0_u16.to_le_bytes());
        out.put(&u32::try_from(count.0).unwrap_or(u32::MAX).to_le_bytes());
        self.body(out);
    }

    /// Writes the body and says its tag.
    fn body(&self, out: &mut dyn Put) -> u16 {
        match *self {
            Self::Argument(string) => put_string(out, string, ARGUMENT),
            Self::Variable(string) => put_string(out, string, VARIABLE),
            Self::Directory(string) => put_string(out, string, DIRECTORY),
            Self::Hostname(string) => put_string(out, string, HOSTNAME),
            Self::User(user) => {
                out.put(&user.uid.to_le_bytes());
                out.put(&user.gid.to_le_bytes());
                USER
            }
            Self::Group(gid) => {
                out.put(&gid.to_le_bytes());
                GROUP
            }
            Self::Limit(limit) => {
                out.put(&limit.resource.to_le_bytes());
                out.put(&0_u32.to_le_bytes());
                out.put(&limit.soft.to_le_bytes());
                out.put(&limit.hard.to_le_bytes());
                LIMIT
            }
            Self::Mount(mount) => {
                out.put(&mount.flags.to_le_bytes());
                for string in [mount.source, mount.target, mount.kind, mount.options] {
                    out.put(string.to_bytes_with_nul());
                }
                MOUNT
            }
            Self::Stream(stream) => {
                let (kind, name) = match stream.source {
                    Source::Null => (0, None),
                    Source::Console => (1, None),
                    Source::Terminal => (2, None),
                    Source::Port(name) => (3, Some(name)),
                };
                out.put(&[stream.descriptor, kind]);
                if let Some(name) = name {
                    out.put(name.to_bytes_with_nul());
                }
                STREAM
            }
            Self::Terminal(size) => {
                out.put(&size.columns.to_le_bytes());
                out.put(&size.rows.to_le_bytes());
                TERMINAL
            }
            Self::Init => INIT,
        }
    }

    /// Reads the body of the field with this tag. `Ok(None)`: the tag is unknown.
    fn parse(tag: u16, body: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let mut body = Reader::new(body);
        let field = match tag {
            ARGUMENT => only_string(body).map(Self::Argument),
            // An empty name would be a variable nobody can read.
            VARIABLE => only_string(body)
                .filter(|string| string.to_bytes().iter().position(|&byte| byte == b'=').is_some_and(|at| at > 0))
                .map(Self::Variable),
            DIRECTORY => only_string(body).map(Self::Directory),
            HOSTNAME => only_string(body).map(Self::Hostname),
            USER => User::parse(body).map(Self::User),
            GROUP => body.u32().and_then(|gid| body.end(Self::Group(gid))),
            LIMIT => Limit::parse(body).map(Self::Limit),
            MOUNT => Mount::parse(body).map(Self::Mount),
            STREAM => Stream::parse(body).map(Self::Stream),
            TERMINAL => Resize::parse(body).map(Self::Terminal),
            INIT => body.end(Self::Init),
            _ => return Ok(None),
        };
        field.map(Some).ok_or(Malformed::Field(tag))
    }
}

fn put_string(out: &mut dyn Put, string: &CStr, tag: u16) -> u16 {
    out.put(string.to_bytes_with_nul());
    tag
}

fn only_string(mut body: Reader<'_>) -> Option<&CStr> {
    let string = body.string()?;
    body.end(string)
}

impl User {
    fn parse(mut body: Reader<'_>) -> Option<Self> {
        let user = Self { uid: body.u32()?, gid: body.u32()? };
        body.end(user)
    }
}

impl Limit {
    fn parse(mut body: Reader<'_>) -> Option<Self> {
        let resource = body.u32()?;
        (body.u32()? == 0).then_some(())?;
        let limit = Self { resource, soft: body.u64()?, hard: body.u64()? };
        body.end(limit)
    }
}

impl<'a> Mount<'a> {
    fn parse(mut body: Reader<'a>) -> Option<Self> {
        let mount = Self {
            flags: body.u64()?,
            source: body.string()?,
            target: body.string()?,
            kind: body.string()?,
            options: body.string()?,
        };
        body.end(mount)
    }
}

impl<'a> Stream<'a> {
    fn parse(mut body: Reader<'a>) -> Option<Self> {
        let descriptor = body.u8().filter(|&descriptor| descriptor <= 2)?;
        let source = match body.u8()? {
            0 => Source::Null,
            1 => Source::Console,
            2 => Source::Terminal,
            3 => Source::Port(body.string().filter(|name| name.count_bytes() <= MAX_PORT_NAME)?),
            _ => return None,
        };
        body.end(Self { descriptor, source })
    }
}

/// The fields of a `Start` frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Checks every field of `bytes`.
    ///
    /// # Errors
    ///
    /// [`Malformed::Field`] or [`Malformed::UnknownField`] for the first bad one; [`Malformed::Payload`] if they end
    /// in the middle of one, or if there is no argument (there would be nothing to run).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        const CUT_SHORT: Malformed = Malformed::Payload(0x01);
        let mut rest = Reader::new(bytes);
        let mut runnable = false;
        while !rest.rest().is_empty() {
            let (tag, flags, body) = split(&mut rest).ok_or(CUT_SHORT)?;
            match Field::parse(tag, body)? {
                Some(Field::Argument(_)) => runnable = true,
                Some(_) => {}
                None if flags & OPTIONAL != 0 => {}
                None => return Err(Malformed::UnknownField(tag)),
            }
        }
        if runnable { Ok(Self { bytes }) } else { Err(CUT_SHORT) }
    }

    /// The bytes they were read from.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The known fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'a>> + Clone + use<'a> {
        let rest = Reader::new(self.bytes);
        core::iter::successors(step(rest), |&(_, rest)| step(rest)).filter_map(|(field, _)| field)
    }
}

/// The next field, if it is known, and what follows it.
fn step(mut rest: Reader<'_>) -> Option<(Option<Field<'_>>, Reader<'_>)> {
    let (tag, _, body) = split(&mut rest)?;
    Some((Field::parse(tag, body).ok().flatten(), rest))
}

/// Takes tag, flags and body of the next field.
fn split<'a>(rest: &mut Reader<'a>) -> Option<(u16, u16, &'a [u8])> {
    let (tag, flags, length) = (rest.u16()?, rest.u16()?, rest.u32()?);
    Some((tag, flags, rest.bytes(usize::try_from(length).ok()?)?))
}
