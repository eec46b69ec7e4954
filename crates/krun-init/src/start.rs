//! What the host asks PID 1 to run.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::Error;
use crate::protocol::{self, Field, Fields, Limit, MAX_PORT_NAME, MAX_TO_GUEST, Put, Resize, ToGuest, User};

/// A program to run in the guest, and the system it expects around it.
///
/// Every string may hold any bytes but NUL. They reach the program as they are: nothing is quoted, split or expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Start {
    /// The program and its arguments. A program without `/` is looked for in the `PATH` of [`Self::environment`].
    pub arguments: Vec<OsString>,
    /// Environment: names and values. A later entry replaces an earlier one of the same name.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether `PATH`, `HOME` and, on a terminal, `TERM` get a value if [`Self::environment`] has none for them.
    pub default_environment: bool,
    /// Working directory. It must exist.
    pub directory: PathBuf,
    /// User and group.
    pub user: User,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Resource limits; they are set before the user is, so they may be raised.
    pub limits: Vec<Limit>,
    /// Host name.
    pub hostname: OsString,
    /// File systems, mounted in this order over PID 1's own.
    pub mounts: Vec<Mount>,
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
    /// Size of the terminal, if one of the streams is a terminal and the size is known.
    pub terminal: Option<Resize>,
    /// Whether the program takes the place of PID 1, once the system is as the rest of this asks for; for guests that
    /// bring an init of their own.
    ///
    /// It must be root, and keeps every capability. Nobody is left in the guest to speak with the host: there are no
    /// signals, and the machine ends when the program restarts it, with no exit status. A stream that is a port is the
    /// port itself instead of a pipe, so `/dev/stdout` cannot be opened again while the program has it.
    pub becomes_init: bool,
}

/// A file system to mount in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Device, directory, or the tag of a shared directory.
    pub source: OsString,
    /// Where. Missing directories are made.
    pub target: PathBuf,
    /// File system type, such as `virtiofs` or `tmpfs`.
    pub kind: OsString,
    /// `MS_` flags of Linux; see [`Mount::READ_ONLY`].
    pub flags: u64,
    /// The type's own options, separated by commas.
    pub options: OsString,
}

/// What a standard stream of the workload is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stdio {
    /// `/dev/null`.
    Null,
    /// The kernel's console, as a log beside the kernel's own messages.
    #[default]
    Console,
    /// The console as a terminal: the workload is the leader of a session that it controls.
    Terminal,
    /// The console port of this name. The program has a pipe, whose bytes PID 1 carries; or the port, if the program
    /// itself is PID 1.
    Port(String),
}

impl Mount {
    /// Linux's `MS_RDONLY`.
    pub const READ_ONLY: u64 = 1;

    /// The directory that the host shares under `tag`, at `target`.
    pub fn shared(tag: impl Into<OsString>, target: impl Into<PathBuf>, read_only: bool) -> Self {
        Self {
            source: tag.into(),
            target: target.into(),
            kind: "virtiofs".into(),
            flags: if read_only { Self::READ_ONLY } else { 0 },
            options: OsString::new(),
        }
    }
}

impl Start {
    /// Runs `arguments` as root in `/`, with a default environment and its streams on the console.
    pub fn new(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            default_environment: true,
            directory: "/".into(),
            user: User::default(),
            groups: Vec::new(),
            limits: Vec::new(),
            hostname: "localhost".into(),
            mounts: Vec::new(),
            stdin: Stdio::default(),
            stdout: Stdio::default(),
            stderr: Stdio::default(),
            terminal: None,
            becomes_init: false,
        }
    }

    /// The whole frame.
    ///
    /// # Errors
    ///
    /// [`Error::NoProgram`], [`Error::Nul`], [`Error::VariableName`], [`Error::PortName`], [`Error::InitUser`] or
    /// [`Error::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let payload = self.payload()?;
        let too_long = || Error::TooLong { length: payload.len(), limit: MAX_TO_GUEST };
        if payload.len() > MAX_TO_GUEST as usize {
            return Err(too_long());
        }
        let fields = Fields::parse(&payload).map_err(|_| Error::NoProgram)?;
        let mut frame = Vec::with_capacity(payload.len() + protocol::Header::SIZE);
        ToGuest::Start(fields).encode(&mut frame);
        Ok(frame)
    }

    fn payload(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        if self.becomes_init {
            if self.user.uid != 0 {
                return Err(Error::InitUser(self.user.uid));
            }
            Field::Init.encode(&mut out);
        }
        for argument in &self.arguments {
            Field::Argument(&string("an argument", argument)?).encode(&mut out);
        }
        for (name, value) in self.variables() {
            Field::Variable(&variable(name, value)?).encode(&mut out);
        }
        Field::Directory(&string("the working directory", self.directory.as_os_str())?).encode(&mut out);
        Field::User(self.user).encode(&mut out);
        for &group in &self.groups {
            Field::Group(group).encode(&mut out);
        }
        for &limit in &self.limits {
            Field::Limit(limit).encode(&mut out);
        }
        Field::Hostname(&string("the host name", &self.hostname)?).encode(&mut out);
        for mount in &self.mounts {
            mount.encode(&mut out)?;
        }
        for (descriptor, stream) in (0..).zip([&self.stdin, &self.stdout, &self.stderr]) {
            stream.encode(descriptor, &mut out)?;
        }
        if let Some(size) = self.terminal {
            Field::Terminal(size).encode(&mut out);
        }
        Ok(out)
    }

    /// The environment with its defaults in front and each name once.
    fn variables(&self) -> Vec<(&OsStr, &OsStr)> {
        let home = if self.user.uid == 0 { "/root" } else { "/" };
        let on_terminal = [&self.stdin, &self.stdout, &self.stderr].contains(&&Stdio::Terminal);
        let defaults = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", true),
            ("HOME", home, true),
            ("TERM", "xterm-256color", on_terminal),
        ];
        let mut variables: Vec<(&OsStr, &OsStr)> = Vec::with_capacity(self.environment.len() + defaults.len());
        let mut places = std::collections::HashMap::new();
        let defaults = defaults
            .into_iter()
            .filter(|&(.., wanted)| wanted && self.default_environment)
            .map(|(name, value, _)| (OsStr::new(name), OsStr::new(value)));
        let given = self.environment.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        for variable in defaults.chain(given) {
            match places.get(variable.0).and_then(|&place: &usize| variables.get_mut(place)) {
                Some(earlier) => *earlier = variable,
                None => {
                    places.insert(variable.0, variables.len());
                    variables.push(variable);
                }
            }
        }
        variables
    }
}

impl Mount {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        Field::Mount(protocol::Mount {
            flags: self.flags,
            source: &string("the source of a mount", &self.source)?,
            target: &string("the target of a mount", self.target.as_os_str())?,
            kind: &string("the file system type of a mount", &self.kind)?,
            options: &string("the options of a mount", &self.options)?,
        })
        .encode(out);
        Ok(())
    }
}

impl Stdio {
    fn encode(&self, descriptor: u8, out: &mut Vec<u8>) -> Result<(), Error> {
        let port;
        let source = match self {
            Self::Null => protocol::Source::Null,
            Self::Console => protocol::Source::Console,
            Self::Terminal => protocol::Source::Terminal,
            Self::Port(name) if name.len() > MAX_PORT_NAME => return Err(Error::PortName(name.clone())),
            Self::Port(name) => {
                port = string("a port name", OsStr::new(name))?;
                protocol::Source::Port(&port)
            }
        };
        Field::Stream(protocol::Stream { descriptor, source }).encode(out);
        Ok(())
    }
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, Error> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(Error::VariableName(name.to_string_lossy().into_owned()));
    }
    let mut both = OsString::with_capacity(name.len() + value.len() + 1);
    both.push(name);
    both.push("=");
    both.push(value);
    string("an environment variable", &both)
}

fn string(what: &'static str, value: &OsStr) -> Result<CString, Error> {
    CString::new(value.as_bytes()).map_err(|_| Error::Nul { what, value: value.as_bytes().escape_ascii().to_string() })
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
