//! Processes: made, changed into the workload, waited for; and the end of the machine.

use core::ffi::CStr;

use super::{Errno, Pointers, Region, Result, call};
use crate::protocol::{Exit, Limit, Store as _};

const SIGCHLD: u32 = 17;
const PR_SET_DUMPABLE: u32 = 4;
const PR_CAPBSET_DROP: u32 = 24;
const CAP_SYS_PTRACE: u32 = 19;

/// Copies the process. `None` in the child.
pub(crate) fn fork() -> Result<Option<i32>> {
    let child = call!(CLONE, SIGCHLD, 0_usize, 0_usize, 0_usize, 0_usize)?;
    Ok((child != 0).then_some(super::number(child)))
}

/// Executes `program`. Returns only with an error.
pub(crate) fn execute(program: &CStr, arguments: &Pointers<'_>, environment: &Pointers<'_>) -> Errno {
    call!(EXECVE, program.as_ptr(), arguments.as_ptr(), environment.as_ptr()).err().unwrap_or(Errno::INVAL)
}

pub(crate) fn exit(code: u32) -> ! {
    loop {
        let _ = call!(EXIT_GROUP, code);
    }
}

/// A child that has ended, if there is one; `Err(ECHILD)` if there are no children at all.
pub(crate) fn reap() -> Result<Option<(i32, Exit)>> {
    const WNOHANG: u32 = 1;
    let mut status = 0_u32;
    let status_at: *mut u32 = &mut status;
    let child = call!(WAIT4, -1, status_at, WNOHANG, 0_usize)?;
    let [how, code, ..] = status.to_le_bytes();
    let exit = match how & 0x7f {
        0 => Exit::Code(code),
        signal => Exit::Signal(signal),
    };
    Ok((child != 0).then_some((super::number(child), exit)))
}

/// Nobody without CAP_SYS_PTRACE may look into this process: not at its memory, not at its descriptors.
pub(crate) fn forbid_inspection() -> Result<()> {
    call!(PRCTL, PR_SET_DUMPABLE, 0_usize, 0_usize, 0_usize, 0_usize).map(drop)
}

/// Gives up CAP_SYS_PTRACE, for this process and whatever it executes.
pub(crate) fn drop_ptrace() -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    call!(PRCTL, PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0_usize, 0_usize, 0_usize)?;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable bits 0 to 31, then the same of bits 32 to 63.
    let mut sets = [0_u32; 6];
    call!(CAPGET, header.as_ptr(), sets.as_mut_ptr())?;
    for set in sets.iter_mut().take(3) {
        *set &= !(1 << CAP_SYS_PTRACE);
    }
    call!(CAPSET, header.as_ptr(), sets.as_ptr()).map(drop)
}

/// Takes the supplementary groups whose numbers `list` holds.
pub(crate) fn set_groups(list: &Region) -> Result<()> {
    let list = list.bytes();
    call!(SETGROUPS, list.len() / size_of::<u32>(), list.as_ptr()).map(drop)
}

pub(crate) fn set_group(gid: u32) -> Result<()> {
    call!(SETRESGID, gid, gid, gid).map(drop)
}

pub(crate) fn set_user(uid: u32) -> Result<()> {
    call!(SETRESUID, uid, uid, uid).map(drop)
}

pub(crate) fn set_limit(limit: &Limit) -> Result<()> {
    let values = [limit.soft, limit.hard];
    call!(PRLIMIT64, 0_usize, limit.resource, values.as_ptr(), 0_usize).map(drop)
}

pub(crate) fn set_umask(mask: u32) {
    // Cannot fail.
    let _ = call!(UMASK, mask);
}

pub(crate) fn change_directory(path: &CStr) -> Result<()> {
    call!(CHDIR, path.as_ptr()).map(drop)
}

pub(crate) fn new_session() -> Result<()> {
    call!(SETSID).map(drop)
}

pub(crate) fn set_hostname(name: &[u8]) -> Result<()> {
    call!(SETHOSTNAME, name.as_ptr(), name.len()).map(drop)
}

/// Closes every descriptor above the standard streams.
pub(crate) fn close_inherited() -> Result<()> {
    call!(CLOSE_RANGE, 3_u32, u32::MAX, 0_usize).map(drop)
}

pub(crate) fn sync() {
    // Cannot fail.
    let _ = call!(SYNC);
}

/// Ends the machine. A restart, because a microVM's kernel has no other way to tell its monitor.
pub(crate) fn power_off() -> ! {
    const MAGIC: u32 = 0xfee1_dead;
    const MAGIC2: u32 = 672_274_793;
    const RESTART: u32 = 0x0123_4567;
    let _ = call!(REBOOT, MAGIC, MAGIC2, RESTART, 0_usize);
    // Refused: PID 1 of a namespace without that right. Its end is the end of the namespace.
    exit(0)
}
