//! What to run in the guest.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::Problem;

/// Most bytes of arguments and environment together, their terminators included: what the guest's init takes.
pub(crate) const MAX_ARGUMENT_BYTES: usize = 1 << 20;
/// Most bytes of one argument or one variable: Linux's `MAX_ARG_STRLEN` with its terminator.
pub(crate) const MAX_ARGUMENT: usize = 128 << 10;

/// One resource limit of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Linux's number: `RLIMIT_NOFILE` is 7.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none.
    pub hard: u64,
}

/// The command that a VM is there for. Arguments and variables may hold any bytes but NUL.
///
/// ```
/// use krun_builder::Command;
///
/// let command = Command::new("/bin/sh").args(["-c", "echo \"$GREETING\"; pwd"]).env("GREETING", "hello").current_dir("/tmp");
/// assert_eq!(command.argv().count(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) is_init: bool,
}

impl Command {
    /// Runs `program`: a path in the guest, or a name that is looked up in the `PATH` of the command's environment.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            argv: vec![program.into()],
            env: Vec::new(),
            current_dir: None,
            uid: None,
            gid: None,
            rlimits: Vec::new(),
            is_init: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable. A later value replaces an earlier one.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let key = key.into();
        self.env.retain(|(known, _)| *known != key);
        self.env.push((key, value.into()));
        self
    }

    /// Sets environment variables.
    #[must_use]
    pub fn envs<K: Into<OsString>, V: Into<OsString>>(self, envs: impl IntoIterator<Item = (K, V)>) -> Self {
        envs.into_iter().fold(self, |command, (key, value)| command.env(key, value))
    }

    /// The working directory: an absolute path in the guest; `/` if it is not set.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Runs as this user; 0 if it is not set.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Runs as this group, with no supplementary groups; 0 if it is not set.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// Sets a resource limit.
    #[must_use]
    pub fn rlimit(mut self, limit: Rlimit) -> Self {
        self.rlimits.push(limit);
        self
    }

    /// Runs the command as the guest's first process, for guests that bring an init of their own, such as systemd or
    /// OpenRC. Everything else about it is made ready as for any command; then it takes the place of this crate's init,
    /// as root and with every capability.
    ///
    /// Nobody in the guest then speaks with the host: there is no exit code, and no signal but
    /// [`kill`](crate::RunningVm::kill), which ends the VM. Otherwise the VM ends when the guest restarts, powers off or
    /// halts, with [`ExitStatus::ShutDown`](crate::ExitStatus::ShutDown). If the command exits instead, a bundle's kernel
    /// restarts, and any other panics. Its standard streams are console ports themselves, so `/dev/stdout` cannot be opened again.
    #[must_use]
    pub fn as_init(mut self) -> Self {
        self.is_init = true;
        self
    }

    /// The program and its arguments.
    pub fn argv(&self) -> impl Iterator<Item = &OsStr> {
        self.argv.iter().map(OsString::as_os_str)
    }

    /// The working directory.
    #[must_use]
    pub fn working_dir(&self) -> &Path {
        self.current_dir.as_deref().unwrap_or(Path::new("/"))
    }

    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let mut problem = |field, value: &OsStr, reason: &str, remedy: &str| {
            problems.push(Problem::new(field, abbreviate(value), reason, remedy));
        };
        if self.argv.first().is_some_and(|program| program.is_empty()) {
            problem("command", OsStr::new("\"\""), "the program's name is empty", "name a program of the guest");
        }
        for arg in self.argv.iter().filter(|arg| has_nul(arg)) {
            problem("command", arg, "an argument holds a NUL byte", "remove it: no program can be given one");
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.as_bytes().contains(&b'=') {
                problem("env", key, "not a variable's name", "use a name that is not empty and holds no `=`");
            }
            if has_nul(key) || has_nul(value) {
                problem("env", key, "the variable holds a NUL byte", "remove it: no program can be given one");
            }
        }
        if let Some(dir) = self.current_dir.as_ref().filter(|dir| !dir.is_absolute() || has_nul(dir.as_os_str())) {
            problem("current_dir", dir.as_os_str(), "not an absolute path", "give a path that starts with `/`");
        }
        if let Some(uid) = self.uid.filter(|uid| self.is_init && *uid != 0) {
            let value = uid.to_string();
            problem(
                "uid",
                OsStr::new(&value),
                "only root can be the guest's init",
                "leave it out, or leave `as_init` out",
            );
        }
        for limit in self.rlimits.iter().filter(|limit| limit.soft > limit.hard) {
            let value = format!("{}={}:{}", limit.resource, limit.soft, limit.hard);
            problem(
                "rlimit",
                OsStr::new(&value),
                "the soft limit is above the hard one",
                "lower it or raise the other",
            );
        }
        for limit in self.rlimits.iter().filter(|limit| limit.resource > 15) {
            problem("rlimit", OsStr::new(&limit.resource.to_string()), "Linux has no such resource", "use 0 to 15");
        }
        let variables = self.env.iter().map(|(key, value)| key.len() + value.len() + 2);
        let sizes: Vec<usize> = self.argv.iter().map(|arg| arg.len() + 1).chain(variables).collect();
        let total: usize = sizes.iter().sum();
        if total > MAX_ARGUMENT_BYTES || sizes.iter().any(|size| *size > MAX_ARGUMENT) {
            let value = format!("{total} bytes of arguments and environment");
            let reason = "more than 1 MiB in all, or more than 128 KiB in one";
            problem("command", OsStr::new(&value), reason, "pass large data by a file or by standard input");
        }
    }
}

fn has_nul(text: &OsStr) -> bool {
    text.as_bytes().contains(&0)
}

/// Enough of a value to recognise it by.
fn abbreviate(value: &OsStr) -> String {
    const MOST: usize = 60;
    let text = value.to_string_lossy();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default().escape_debug()),
        None => text.escape_debug().to_string(),
    }
}
