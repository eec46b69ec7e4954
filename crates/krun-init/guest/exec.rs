//! From the name of a program to the program.

use core::ffi::CStr;

use crate::failure::Failure;
use crate::protocol::{Field, Fields, Stage};
use crate::sys::{self, Errno, Pointers, Result};
use crate::text::Text;

/// Where programs are looked for without a `PATH`, as the C library does.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
const SHELL: &CStr = c"/bin/sh";

/// Becomes the program that `fields` name, as `execvp(3)` would. Returns only with the reason why not.
pub(crate) fn become_program(fields: &Fields<'_>) -> Failure {
    let name = arguments(fields).next().unwrap_or(c"");
    let failed = |stage, errno| Failure::new(stage, name.to_bytes(), errno);
    let program = match Program::new(fields) {
        Ok(program) => program,
        Err(errno) => return failed(Stage::Exec, errno),
    };
    if name.to_bytes().contains(&b'/') {
        let (stage, errno) = program.attempt(name);
        return failed(stage, errno);
    }
    // An empty name would be the directories of PATH themselves.
    let mut answer = (Stage::Exec, Errno::NOENT);
    let path = path(fields);
    for directory in path.split(|&byte| byte == b':').filter(|_| !name.is_empty()) {
        let separator: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        let candidate = Text::<4096>::path_of(&[directory, separator, name.to_bytes()]);
        let Ok(candidate) = candidate.path() else { continue };
        match program.attempt(candidate) {
            (Stage::Exec, Errno::NOENT | Errno::NOTDIR) => {}
            // Another directory may have one that can be run; if not, this is the answer.
            found @ ((Stage::Exec, Errno::ACCES) | (Stage::Interpreter, _)) => answer = found,
            found => {
                answer = found;
                break;
            }
        }
    }
    failed(answer.0, answer.1)
}

fn arguments<'a>(fields: &Fields<'a>) -> impl Iterator<Item = &'a CStr> + Clone + use<'a> {
    fields.iter().filter_map(|field| match field {
        Field::Argument(argument) => Some(argument),
        _ => None,
    })
}

fn variables<'a>(fields: &Fields<'a>) -> impl Iterator<Item = &'a CStr> + Clone + use<'a> {
    fields.iter().filter_map(|field| match field {
        Field::Variable(variable) => Some(variable),
        _ => None,
    })
}

fn path<'a>(fields: &Fields<'a>) -> &'a [u8] {
    variables(fields).find_map(|variable| variable.to_bytes().strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH)
}

/// Arguments and environment, ready for the kernel.
struct Program<'a> {
    fields: Fields<'a>,
    arguments: Pointers<'a>,
    environment: Pointers<'a>,
}

impl<'a> Program<'a> {
    fn new(fields: &Fields<'a>) -> Result<Self> {
        let environment = Pointers::new(variables(fields))?;
        Ok(Self { fields: *fields, arguments: Pointers::new(arguments(fields))?, environment })
    }

    /// Becomes the program at `path`, or says why not.
    fn attempt(&self, path: &CStr) -> (Stage, Errno) {
        match sys::execute(path, &self.arguments, &self.environment) {
            Errno::NOEXEC => (Stage::Exec, self.attempt_script(path)),
            // The kernel means the interpreter if the file itself is there.
            Errno::NOENT if sys::exists(path) => (Stage::Interpreter, Errno::NOENT),
            errno => (Stage::Exec, errno),
        }
    }

    /// A text file without an interpreter line is a shell's, as it ever was.
    fn attempt_script(&self, path: &CStr) -> Errno {
        let arguments = [SHELL, path].into_iter().chain(arguments(&self.fields).skip(1));
        match Pointers::new(arguments) {
            Ok(arguments) => match sys::execute(SHELL, &arguments, &self.environment) {
                // No shell: what was wrong in the first place.
                Errno::NOENT => Errno::NOEXEC,
                errno => errno,
            },
            Err(errno) => errno,
        }
    }
}
