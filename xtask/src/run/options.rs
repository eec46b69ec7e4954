//! The words of `cargo xtask run`: ours are taken out, krun's are understood as far as paths go.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::Place;
use crate::assets::GuestAssets;
use crate::machine::image::Make;

/// krun's options that take a value, so that a value is never taken for an option.
const WITH_VALUE: [&str; 19] = [
    "--root",
    "--cpus",
    "--memory",
    "--env",
    "-e",
    "--workdir",
    "-w",
    "--user",
    "-u",
    "--hostname",
    "--volume",
    "-v",
    "--kernel",
    "--initrd",
    "--kernel-cmdline",
    "--console",
    "--serial",
    "--log",
    "--machine",
];

/// A parsed command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where to run, if the user said so.
    pub(crate) place: Option<Place>,
    /// krun's options, each with its value if it takes one.
    pub(crate) krun: Vec<(OsString, Option<OsString>)>,
    /// The command and its arguments.
    pub(crate) command: Vec<OsString>,
}

impl Options {
    /// Sorts the words. Where the first is no option, all of them are the command: clap takes a leading `--` away.
    pub(crate) fn parse(words: &[OsString]) -> Result<Self> {
        let mut options = Self::default();
        if words.first().is_some_and(|word| !word.as_bytes().starts_with(b"-")) {
            options.command = words.to_vec();
            return Ok(options);
        }
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                options.command = words.cloned().collect();
                break;
            }
            if !word.as_bytes().starts_with(b"-") {
                bail!("`{}` is no option: the command comes after `--`", word.display());
            }
            let (name, value) = split(word);
            let value = match value {
                Some(value) => Some(value),
                None if WITH_VALUE.iter().any(|known| name == *known) => {
                    Some(words.next().with_context(|| format!("`{}` needs a value", name.display()))?.clone())
                }
                None => None,
            };
            match value {
                Some(value) if name == "--machine" => options.place = Some(place(&value)?),
                value => options.krun.push((name, value)),
            }
        }
        if options.command.is_empty() {
            bail!("no command: cargo xtask run [OPTIONS] -- COMMAND [ARGS]");
        }
        Ok(options)
    }

    /// The value of an option, the last one if it is repeated.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        self.krun.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref())
    }

    /// The words for `krun run`, with kernel and root added where the user named none.
    pub(crate) fn complete(mut self, guest: &GuestAssets) -> Vec<OsString> {
        for (name, path) in [("--kernel", &guest.kernel), ("--root", &guest.root)] {
            if self.value(name).is_none() {
                self.krun.push((name.into(), Some(path.clone().into())));
            }
        }
        let mut words = Vec::new();
        for (name, value) in self.krun {
            words.push(name);
            words.extend(value);
        }
        words.push("--".into());
        words.extend(self.command);
        words
    }
}

/// Splits `--name=value`.
fn split(word: &OsStr) -> (OsString, Option<OsString>) {
    let bytes = word.as_bytes();
    match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) if bytes.starts_with(b"--") => {
            (OsString::from_vec(bytes[..at].to_vec()), Some(OsString::from_vec(bytes[at + 1..].to_vec())))
        }
        _ => (word.to_owned(), None),
    }
}

fn place(value: &OsStr) -> Result<Place> {
    Ok(match value.to_str() {
        Some("host") => Place::Host,
        Some("amd") => Place::Nested(Make::Amd),
        Some("intel") => Place::Nested(Make::Intel),
        _ => bail!("`--machine {}`: choose host, amd or intel", value.display()),
    })
}

/// Source and the rest (`:DST` or `:DST:ro`) of a volume's value.
pub(crate) fn split_volume(value: &OsStr) -> Option<(PathBuf, OsString)> {
    let bytes = value.as_bytes();
    let body = bytes.strip_suffix(b":ro").or_else(|| bytes.strip_suffix(b":rw")).unwrap_or(bytes);
    let at = body.iter().rposition(|&byte| byte == b':')?;
    Some((OsString::from_vec(bytes[..at].to_vec()).into(), OsString::from_vec(bytes[at..].to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options> {
        Options::parse(&words.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn guest() -> GuestAssets {
        GuestAssets { kernel: "/k".into(), busybox: "/b".into(), root: "/r".into() }
    }

    #[test]
    fn our_option_is_taken_out_and_the_rest_is_passed_on() {
        let options = parse("--cpus 2 --machine intel --read-only -- nproc --all").unwrap();
        assert_eq!(options.place, Some(Place::Nested(Make::Intel)));
        let words = options.complete(&guest());
        assert_eq!(words, ["--cpus", "2", "--read-only", "--kernel", "/k", "--root", "/r", "--", "nproc", "--all"]);
    }

    #[test]
    fn what_the_user_names_is_not_overridden() {
        let words = parse("--root=/mine --kernel /other -- true").unwrap().complete(&guest());
        assert_eq!(words, ["--root", "/mine", "--kernel", "/other", "--", "true"]);
    }

    #[test]
    fn words_after_the_dashes_are_the_command_s_own() {
        let options = parse("--cpus 1 -- run --machine host -- x").unwrap();
        assert_eq!(options.place, None);
        assert_eq!(options.command, ["run", "--machine", "host", "--", "x"]);
        assert_eq!(parse("sh -c x -- y").unwrap().command, ["sh", "-c", "x", "--", "y"]);
    }

    #[test]
    fn a_value_is_not_mistaken_for_an_option() {
        let options = parse("--env --machine --machine host -- true").unwrap();
        assert_eq!(options.value("--env"), Some(OsStr::new("--machine")));
        assert_eq!(options.place, Some(Place::Host));
    }

    #[test]
    fn mistakes_are_told() {
        for words in ["", "--cpus 2", "--cpus 2 true", "--machine", "--machine arm -- true", "--cpus"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn volumes_are_split_at_the_last_colon_before_the_mode() {
        let split = |text: &str| split_volume(OsStr::new(text)).unwrap();
        assert_eq!(split("/a:/b"), ("/a".into(), ":/b".into()));
        assert_eq!(split("/a:b:/c:ro"), ("/a:b".into(), ":/c:ro".into()));
        assert_eq!(split_volume(OsStr::new("/a")), None);
    }
}
