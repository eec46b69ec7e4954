//! The workload's first process, from its fork to its program.

use crate::channel::{self, Encoded, Port};
use crate::exec;
use crate::failure::{At, Failure};
use crate::protocol::{Field, Fields, Put as _, Stage, ToHost, User};
use crate::stdio::Stdio;
use crate::sys::{self, Region};
use crate::text::decimal;

/// The user that `fields` name.
pub(crate) fn user(fields: &Fields<'_>) -> User {
    fields.iter().fold(User::default(), |user, field| if let Field::User(other) = field { other } else { user })
}

/// Whether `fields` ask for a program that becomes PID 1.
pub(crate) fn is_init(fields: &Fields<'_>) -> bool {
    fields.iter().any(|field| field == Field::Init)
}

/// Makes PID 1 itself the program, which ends the conversation with the host. Returns only with the reason why not.
pub(crate) fn take_over(fields: &Fields<'_>, stdio: &Stdio, port: &Port) -> Failure {
    // Without a host that listens there is nobody to run a program for.
    let attempt =
        port.send(&ToHost::HandingOver).at(Stage::Protocol, b"").and_then(|()| become_workload(fields, stdio));
    let Err(failure) = attempt;
    failure
}

/// Starts the program in a process of its own and waits until the kernel has loaded it. Its process id, or the frame
/// that says why it does not run.
pub(crate) fn spawn(fields: &Fields<'_>, stdio: &Stdio) -> Result<i32, Encoded> {
    let failed = |errno| channel::encode(&Failure::new(Stage::Fork, b"", errno).frame());
    let (report, report_end) = sys::pipe().map_err(failed)?;
    let Some(pid) = sys::fork().map_err(failed)? else {
        // Anything that returns is the reason why the program does not run.
        let Err(failure) = become_workload(fields, stdio);
        // If PID 1 is gone, so is the machine.
        let _ = sys::write_all(&report_end, channel::encode(&failure.frame()).bytes());
        sys::exit(127)
    };
    drop(report_end);
    // The child's end is closed by the kernel when the program is loaded, or when the child has died before that.
    let mut frame = Encoded::new();
    match sys::read(&report, frame.free()).map_err(failed)? {
        0 => Ok(pid),
        count => {
            frame.filled(count);
            Err(frame)
        }
    }
}

/// Turns this process, a child of PID 1 or PID 1 itself, into the workload. What looks into PID 1 then is no concern of
/// the host's any more, so an init keeps the right to.
fn become_workload(fields: &Fields<'_>, stdio: &Stdio) -> Result<core::convert::Infallible, Failure> {
    sys::new_session().at(Stage::Terminal, b"")?;
    if let Some(terminal) = &stdio.terminal {
        sys::take_terminal(terminal).at(Stage::Terminal, b"")?;
    }
    for (number, stream) in (0..).zip(&stdio.streams) {
        if let Some(stream) = stream {
            sys::duplicate(stream, number).at(Stage::Stdio, decimal(number.cast_unsigned()).bytes())?;
        }
    }
    sys::set_umask(0o022);
    for field in fields.iter() {
        if let Field::Limit(limit) = field {
            sys::set_limit(&limit).at(Stage::Rlimit, decimal(limit.resource).bytes())?;
        }
    }
    let directory = fields.iter().filter_map(|field| match field {
        Field::Directory(directory) => Some(directory),
        _ => None,
    });
    let directory = directory.last().unwrap_or(c"/");
    sys::change_directory(directory).at(Stage::Directory, directory.to_bytes())?;
    if !is_init(fields) {
        sys::drop_ptrace().at(Stage::Capabilities, b"CAP_SYS_PTRACE")?;
    }
    take_ids(fields)?;
    sys::reset_signals().at(Stage::Exec, b"")?;
    Err(exec::become_program(fields))
}

/// Takes the workload's groups and user, in the order in which that is allowed.
fn take_ids(fields: &Fields<'_>) -> Result<(), Failure> {
    let groups = fields.iter().filter_map(|field| match field {
        Field::Group(group) => Some(group),
        _ => None,
    });
    let attempt = || {
        let mut list = Region::new(groups.clone().count() * size_of::<u32>() + 1)?;
        for group in groups.clone() {
            list.put(&group.to_ne_bytes());
        }
        sys::set_groups(&list)
    };
    attempt().at(Stage::Ids, b"supplementary groups")?;
    let user = user(fields);
    sys::set_group(user.gid).at(Stage::Ids, decimal(user.gid).bytes())?;
    sys::set_user(user.uid).at(Stage::Ids, decimal(user.uid).bytes())
}
