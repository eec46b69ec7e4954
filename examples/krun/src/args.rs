//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use krun_builder::Volume;

use crate::failure::{EXIT_FAILURE, say};

/// Runs commands in microVMs.
#[derive(Debug, Parser)]
#[command(name = "krun", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `krun` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a command in a microVM whose root is a directory of the host
    Run(Box<RunOptions>),
}

/// Options of `krun run`.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Directory that is the guest's root
    #[arg(long, value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// Share the root read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cpus: u32,
    /// Memory of the guest: MiB, or a number with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Set a variable of the command's environment, or pass the host's on
    #[arg(long, short, value_name = "K[=V]")]
    pub(crate) env: Vec<OsString>,
    /// Working directory of the command
    #[arg(long, short, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// User, and group, that the command runs as: numbers
    #[arg(long, short, value_name = "UID[:GID]", value_parser = parse_user)]
    pub(crate) user: Option<(u32, Option<u32>)>,
    /// Run the command as the guest's first process (systemd, OpenRC): the guest ends when it restarts, with code 0
    #[arg(long)]
    pub(crate) become_init: bool,
    /// Host name of the guest
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<OsString>,
    /// Share a directory of the host at a place in the guest
    #[arg(long, short, value_name = "SRC:DST[:ro]", value_parser = clap::builder::ValueParser::new(parse_volume))]
    pub(crate) volume: Vec<Volume>,
    /// Kernel bundle (libkrunfw.so.5), vmlinux or bzImage [default: $KRUN_KERNEL, or the system's libkrunfw.so.5]
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// More words for the kernel's command line
    #[arg(long, value_name = "WORDS")]
    pub(crate) kernel_cmdline: Option<String>,
    /// File for the messages of the guest's kernel and init
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,
    /// Give the guest a 16550 serial port and write its output to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) serial: Option<PathBuf>,
    /// Log filter, such as `debug` or `krun_virtio=trace` [default: $RUST_LOG]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Parses the process's arguments. What cannot be parsed has been reported when this returns.
pub(crate) fn parse() -> Result<Command, ExitCode> {
    Cli::try_parse().map(|cli| cli.command).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            say(&one_line(&error.to_string()));
            ExitCode::from(EXIT_FAILURE)
        }
    })
}

/// clap's message up to its first blank line, as one line.
fn one_line(message: &str) -> String {
    let lines = message.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let text = lines.collect::<Vec<_>>().join(" ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    format!("{text} (see krun --help)")
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "k" => 10,
        "" | "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("use a number of MiB, or a number with K, M, G or T".into()),
    };
    let number: u64 = number.parse().map_err(|_| "use a number of MiB, or a number with K, M, G or T".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than there is".to_owned())
}

fn parse_user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| text.parse().map_err(|_| "use numbers: UID or UID:GID".to_owned());
    match text.split_once(':') {
        None => Ok((number(text)?, None)),
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
    }
}

/// `SRC:DST`, `SRC:DST:ro` or `SRC:DST:rw`.
fn parse_volume(text: &str) -> Result<Volume, String> {
    let (text, read_only) = match text.rsplit_once(':') {
        Some((rest, "ro")) => (rest, true),
        Some((rest, "rw")) => (rest, false),
        _ => (text, false),
    };
    match text.rsplit_once(':') {
        Some((source, target)) if !source.is_empty() && target.starts_with('/') => {
            let volume = Volume::new(source, target);
            Ok(if read_only { volume.read_only() } else { volume })
        }
        _ => Err("use SRC:DST or SRC:DST:ro, DST being an absolute path".into()),
    }
}

/// `K=V` as it is; `K` with the host's value, or nothing if the host has none.
pub(crate) fn variable(text: &OsStr) -> Option<(OsString, OsString)> {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let (key, value) = bytes.split_at(at);
            Some((OsString::from_vec(key.into()), OsString::from_vec(value.iter().skip(1).copied().collect())))
        }
        None => crate::kernel::host_variable(text).map(|value| (text.into(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("512", 512 << 20), ("64K", 64 << 10), ("2G", 2 << 30), ("1GiB", 1 << 30), ("1tb", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "1X", "99999999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn volumes_split_at_the_last_colons() {
        assert_eq!(parse_volume("/a:/b"), Ok(Volume::new("/a", "/b")));
        assert_eq!(parse_volume("/a:b:/c:ro"), Ok(Volume::new("/a:b", "/c").read_only()));
        assert_eq!(parse_volume("rel:/c:rw"), Ok(Volume::new("rel", "/c")));
        for text in ["", "/a", ":/b", "/a:b", "/a:ro"] {
            assert!(parse_volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn usage_errors_are_one_line_and_name_the_thing() {
        for (args, name) in [
            (vec!["krun", "run", "--", "x"], "--root"),
            (vec!["krun", "run", "--root", "/", "--cpus", "many", "--", "x"], "many"),
            (vec!["krun", "run", "--root", "/"], "COMMAND"),
            (vec!["krun", "fly"], "fly"),
        ] {
            let error = Cli::try_parse_from(args).unwrap_err();
            let line = one_line(&error.to_string());
            assert!(line.contains(name) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn variables_keep_everything_after_the_first_equals_sign() {
        assert_eq!(variable(OsStr::new("A=b=c")), Some(("A".into(), "b=c".into())));
        assert_eq!(variable(OsStr::new("A=")), Some(("A".into(), "".into())));
        assert_eq!(variable(OsStr::new("KRUN_TEST_SURELY_UNSET")), None);
    }
}
