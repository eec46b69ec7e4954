//! The kernel command line, built so that the kernel reads back what was put in.
//!
//! The kernel's parser (`next_arg` in `lib/cmdline.c`) knows words separated by white space, `key=value`, and double
//! quotes that keep white space together. It knows no escape: a double quote can be part of no value. So values with
//! spaces are quoted here, and what cannot be written is refused with the reason, never mangled and never able to
//! smuggle in a further word.

use std::fmt;

use crate::error::{Error, Result};

/// The longest command line in bytes that an x86_64 kernel reads: `COMMAND_LINE_SIZE` is 2048 with the NUL.
pub const MAX_CMDLINE: usize = 2047;

/// Most environment variables that reach init from the command line. The kernel keeps 32 and one more before it
/// panics (`INIT_ENV_ARG_LIMIT`, `unknown_bootoption` in `init/main.c`), and `HOME` and `TERM` take two.
pub const MAX_INIT_ENV: usize = 31;

/// Most arguments that init gets from the command line; on the next one the kernel panics.
pub const MAX_INIT_ARGS: usize = 32;

/// A kernel command line.
///
/// ```
/// use krun_kernel_loader::Cmdline;
///
/// let mut cmdline = Cmdline::new();
/// cmdline.param("console", "hvc0")?.word("rw")?.env("GREETING", "good day")?.init_arg("--verbose")?;
/// assert_eq!(cmdline.to_string(), r#"console=hvc0 rw GREETING="good day" -- --verbose"#);
/// assert!(cmdline.word("rw init=/bin/sh").is_err());
/// # Ok::<(), krun_kernel_loader::Error>(())
/// ```
///
/// One part of x86_64 kernels does not know quotes: a few early options (`mitigations=`, `nopti`, `spectre_v2=` and
/// their like) are looked for by plain search, so that they take effect inside of a quoted value as well. Where
/// values come from somebody who may not choose them, do not put them on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    params: String,
    init_args: String,
    env_count: usize,
    init_arg_count: usize,
}

impl Cmdline {
    /// An empty command line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a word without a value, such as `quiet`.
    ///
    /// A word that the kernel does not know becomes an argument of init when it comes after `init=`, and is
    /// forgotten when it comes before; [`init_arg`](Self::init_arg) always becomes one.
    ///
    /// # Errors
    ///
    /// [`Error::CmdlineWord`] for a word that is empty, is `--`, or holds white space, `=`, a double quote, a
    /// control or a non-ASCII character; [`Error::CmdlineTooLong`].
    pub fn word(&mut self, word: &str) -> Result<&mut Self> {
        check_key(word, word)?;
        self.push_param(word)
    }

    /// Appends `key=value`, with the value in quotes where it needs them.
    ///
    /// # Errors
    ///
    /// [`Error::CmdlineWord`] for a key that [`word`](Self::word) would refuse, and for a value that holds a double
    /// quote or a control character; [`Error::CmdlineTooLong`].
    pub fn param(&mut self, key: &str, value: &str) -> Result<&mut Self> {
        let word = assignment(key, value)?;
        self.push_param(&word)
    }

    /// Appends `name=value`, meant for the environment of init.
    ///
    /// The kernel hands on what it does not know itself: a variable named as one of its parameters never arrives.
    ///
    /// # Errors
    ///
    /// As [`param`](Self::param). Also [`Error::CmdlineWord`] for a name with a dot (the kernel takes it for a
    /// module's parameter and drops it), and [`Error::CmdlineTooMany`] past [`MAX_INIT_ENV`] variables.
    pub fn env(&mut self, name: &str, value: &str) -> Result<&mut Self> {
        let word = assignment(name, value)?;
        if name.contains('.') {
            return refuse(name, "a name with a dot is taken for a module's parameter and never reaches init");
        }
        if self.env_count == MAX_INIT_ENV {
            return Err(Error::CmdlineTooMany { what: "environment variables", max: MAX_INIT_ENV });
        }
        self.push_param(&word)?;
        self.env_count += 1;
        Ok(self)
    }

    /// Appends an argument for init. All of them follow a `--` behind everything else.
    ///
    /// # Errors
    ///
    /// [`Error::CmdlineWord`] for an argument that holds a double quote or a control character, or is `--`, at
    /// which the kernel stops reading; [`Error::CmdlineTooMany`] past [`MAX_INIT_ARGS`]; [`Error::CmdlineTooLong`].
    pub fn init_arg(&mut self, arg: &str) -> Result<&mut Self> {
        check_value(arg, arg)?;
        if arg == "--" {
            return refuse(arg, "the kernel stops reading at a second `--`");
        }
        if self.init_arg_count == MAX_INIT_ARGS {
            return Err(Error::CmdlineTooMany { what: "arguments of init", max: MAX_INIT_ARGS });
        }
        let quoted = if arg.is_empty() || needs_quotes(arg) { format!("\"{arg}\"") } else { arg.to_owned() };
        self.check_len(self.params.len(), joined(&self.init_args, &quoted))?;
        push_word(&mut self.init_args, &quoted);
        self.init_arg_count += 1;
        Ok(self)
    }

    /// Appends words that somebody wrote by hand, as in a boot loader's configuration. They may hold quotes, and a
    /// `--` followed by arguments of init.
    ///
    /// # Errors
    ///
    /// [`Error::CmdlineWord`] when quotes do not pair or a control character is in it; [`Error::CmdlineTooMany`]
    /// and [`Error::CmdlineTooLong`] as above.
    pub fn raw(&mut self, line: &str) -> Result<&mut Self> {
        check_control(line, line)?;
        let mut next = self.clone();
        let mut after_dashes = false;
        for word in split_words(line)? {
            if !after_dashes {
                if word == "--" {
                    after_dashes = true;
                } else {
                    next.push_param(word)?;
                }
            } else if word == "--" {
                return refuse(line, "the kernel stops reading at a second `--`");
            } else if next.init_arg_count == MAX_INIT_ARGS {
                return Err(Error::CmdlineTooMany { what: "arguments of init", max: MAX_INIT_ARGS });
            } else {
                next.check_len(next.params.len(), joined(&next.init_args, word))?;
                push_word(&mut next.init_args, word);
                next.init_arg_count += 1;
            }
        }
        *self = next;
        Ok(self)
    }

    /// Length in bytes, without a NUL.
    pub fn len(&self) -> usize {
        total_len(self.params.len(), self.init_args.len())
    }

    /// Whether there is not a word in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push_param(&mut self, word: &str) -> Result<&mut Self> {
        self.check_len(joined(&self.params, word), self.init_args.len())?;
        push_word(&mut self.params, word);
        Ok(self)
    }

    fn check_len(&self, params: usize, init_args: usize) -> Result<()> {
        let len = total_len(params, init_args);
        if len > MAX_CMDLINE {
            return Err(Error::CmdlineTooLong { len, max: MAX_CMDLINE });
        }
        Ok(())
    }
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.params)?;
        if !self.init_args.is_empty() {
            let separator = if self.params.is_empty() { "" } else { " " };
            write!(f, "{separator}-- {}", self.init_args)?;
        }
        Ok(())
    }
}

fn joined(line: &str, word: &str) -> usize {
    line.len() + usize::from(!line.is_empty()) + word.len()
}

fn push_word(line: &mut String, word: &str) {
    if !line.is_empty() {
        line.push(' ');
    }
    line.push_str(word);
}

/// Length of `params -- init_args`.
fn total_len(params: usize, init_args: usize) -> usize {
    match (params, init_args) {
        (params, 0) => params,
        (0, args) => "-- ".len() + args,
        (params, args) => params + " -- ".len() + args,
    }
}

fn assignment(key: &str, value: &str) -> Result<String> {
    check_key(key, key)?;
    check_value(value, &format!("{key}={value}"))?;
    Ok(if needs_quotes(value) { format!("{key}=\"{value}\"") } else { format!("{key}={value}") })
}

fn refuse<T>(word: &str, reason: impl Into<String>) -> Result<T> {
    // Long words are shown by their beginning.
    let shown: String = word.chars().take(80).collect();
    Err(Error::CmdlineWord { word: shown, reason: reason.into() })
}

/// White space as the kernel's `isspace` sees it: its character table is Latin-1, with a no-break space at 0xa0,
/// a byte that occurs inside UTF-8 characters.
fn is_kernel_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

fn needs_quotes(value: &str) -> bool {
    value.bytes().any(is_kernel_space)
}

fn check_key(key: &str, whole: &str) -> Result<()> {
    if key.is_empty() {
        return refuse(whole, "it is empty");
    }
    if key == "--" {
        return refuse(whole, "`--` ends the kernel's parameters");
    }
    match key.bytes().find(|byte| !byte.is_ascii_graphic() || matches!(byte, b'=' | b'"')) {
        Some(byte) => refuse(whole, format!("a name cannot hold the byte {byte:#04x} ({:?})", char::from(byte))),
        None => Ok(()),
    }
}

fn check_value(value: &str, whole: &str) -> Result<()> {
    check_control(value, whole)?;
    if value.contains('"') {
        return refuse(whole, "it holds a double quote (0x22), which the kernel's parser has no way to escape");
    }
    Ok(())
}

fn check_control(value: &str, whole: &str) -> Result<()> {
    match value.bytes().find(u8::is_ascii_control) {
        Some(byte) => refuse(whole, format!("it holds the control character {byte:#04x}")),
        None => Ok(()),
    }
}

/// Splits as the kernel does, keeping quotes.
fn split_words(line: &str) -> Result<Vec<&str>> {
    let mut quoted = false;
    let mut unsplittable = false;
    let words = line
        .split(|character: char| {
            quoted ^= character == '"';
            // A character whose UTF-8 form contains the byte of a no-break space would be torn apart.
            unsplittable |= !quoted && character != ' ' && needs_quotes(character.encode_utf8(&mut [0; 4]));
            character == ' ' && !quoted
        })
        .filter(|word| !word.is_empty())
        .collect();
    if quoted {
        return refuse(line, "a double quote has no partner");
    }
    if unsplittable {
        return refuse(line, "a character outside quotes holds the byte 0xa0, which separates words: quote it");
    }
    Ok(words)
}

#[cfg(test)]
mod tests;
