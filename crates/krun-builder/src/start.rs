//! The command as init is told of it.

use krun_init::protocol::{Limit, Resize, STDERR_PORT, STDIN_PORT, STDOUT_PORT, Scope, User};
use krun_init::{Mount, Start, Stdio};

use crate::command::Command;
use crate::config::Config;

/// What init is to do, and whom signals are for.
pub(crate) fn request(config: &Config, command: &Command) -> (Start, Scope) {
    let mut start = Start::new(command.argv.iter().cloned());
    start.environment = command.env.clone();
    start.directory = command.working_dir().into();
    start.user = User { uid: command.uid.unwrap_or(0), gid: command.gid.unwrap_or(0) };
    start.limits = command
        .rlimits
        .iter()
        .map(|limit| Limit { resource: limit.resource, soft: limit.soft, hard: limit.hard })
        .collect();
    start.becomes_init = command.is_init;
    if let Some(hostname) = &config.hostname {
        start.hostname = hostname.clone();
    }
    let mounts = config.volumes.iter().enumerate();
    start.mounts = mounts
        .map(|(index, volume)| Mount::shared(volume.tag_or_default(index), &volume.target, volume.read_only))
        .collect();
    if let Some(terminal) = &config.terminal {
        start.terminal = terminal.size().map(|(columns, rows)| Resize { columns, rows });
        (start.stdin, start.stdout, start.stderr) = (Stdio::Terminal, Stdio::Terminal, Stdio::Terminal);
        return (start, Scope::Foreground);
    }
    let stream = |connected: bool, port: &str| if connected { Stdio::Port(port.into()) } else { Stdio::Null };
    start.stdin = stream(config.stdin.is_some(), STDIN_PORT);
    start.stdout = stream(config.stdout.is_some(), STDOUT_PORT);
    start.stderr = stream(config.stderr.is_some(), STDERR_PORT);
    (start, Scope::Process)
}
