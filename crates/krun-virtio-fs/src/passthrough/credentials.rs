//! On whose behalf a thread acts, and where: user, group, umask, capabilities and working directory, all of the calling
//! thread alone.

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::procfd::ProcFd;
use super::sys;
use crate::errno::Errno;
use crate::types::Request;

/// What this thread is when it serves nobody.
#[derive(Clone, Copy, Debug)]
struct Base {
    uid: u32,
    gid: u32,
    caps: CapabilitySets,
    /// The thread has a umask and a working directory of its own.
    private_fs: bool,
}

impl Base {
    fn has(&self, wanted: CapabilitySet) -> bool {
        self.caps.effective.contains(wanted)
    }
}

thread_local! {
    /// Found out at the first request that a thread serves.
    static BASE: Cell<Option<Base>> = const { Cell::new(None) };
    /// The [identity](ProcFd::identity) of the `/proc/self/fd` that the thread works in.
    static AT_HOME: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
    /// The umask that is set, if the thread has one of its own.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

fn base() -> Result<Base, Errno> {
    if let Some(base) = BASE.get() {
        return Ok(base);
    }
    // Denied by some sandboxes. Then modes are corrected after the fact: the umask of the process is not ours.
    let private_fs = sys::unshare_fs().is_ok();
    let base = Base {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        caps: rustix::thread::capabilities(None)?,
        private_fs,
    };
    BASE.set(Some(base));
    Ok(base)
}

/// Makes `/proc/self/fd` the thread's own working directory. Whether it is: some sandboxes deny it.
pub(super) fn work_in(proc_fd: &ProcFd) -> Result<bool, Errno> {
    // Asked first: a thread of a child process remembers, and works in, the directory of its parent.
    let dir = proc_fd.dir()?;
    let home = Some(proc_fd.identity());
    if AT_HOME.get() != home && base().is_ok_and(|base| base.private_fs) && rustix::process::fchdir(dir).is_ok() {
        AT_HOME.set(home);
    }
    Ok(AT_HOME.get() == home)
}

/// Sets the effective capabilities of the thread.
fn set_effective(base: &Base, effective: CapabilitySet) -> Result<(), Errno> {
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective, ..base.caps })?)
}

/// While it lives, the thread makes files on behalf of the caller of a request.
#[derive(Debug)]
#[must_use]
pub(super) struct Caller {
    base: Base,
    switched: bool,
}

impl Caller {
    /// Becomes the caller, if this thread may: a VMM without privileges stays who it is.
    ///
    /// Takes on the request's umask, which the host's kernel then applies as it should: a default ACL of the
    /// directory goes before it.
    pub(super) fn become_for(rq: &Request, umask: u32) -> Result<Self, Errno> {
        if rq.uid == u32::MAX || rq.gid == u32::MAX {
            // "No change" to the host, "nobody that exists here" to the guest.
            return Err(Errno::OVERFLOW);
        }
        let base = base()?;
        if base.private_fs && UMASK.get() != Some(umask) {
            rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
            UMASK.set(Some(umask));
        }
        let same = rq.uid == base.uid && rq.gid == base.gid;
        if same || !base.has(CapabilitySet::SETUID | CapabilitySet::SETGID) {
            return Ok(Self { base, switched: false });
        }
        let caller = Self { base, switched: true };
        // The group first: a change of user may take the right to change it. On failure, dropping goes back.
        if !sys::set_fs_gid(rq.gid) || !sys::set_fs_uid(rq.uid) {
            return Err(Errno::PERM);
        }
        // The guest's kernel has checked permissions, with supplementary groups and capabilities that we do not know.
        // What is wanted of the switch is ownership, quota and set-group-id rules.
        let lost = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        if rq.uid != 0 && base.uid == 0 && base.has(CapabilitySet::DAC_OVERRIDE) {
            let now = rustix::thread::capabilities(None)?;
            set_effective(&base, now.effective | (base.caps.effective & lost))?;
        }
        Ok(caller)
    }

    /// Permission bits that the kernel did not apply as asked, because the umask is the whole process's.
    pub(super) fn must_correct_mode(&self) -> bool {
        !self.base.private_fs
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.switched {
            let back = sys::set_fs_uid(self.base.uid) & sys::set_fs_gid(self.base.gid);
            let capable = set_effective(&self.base, self.base.caps.effective).is_ok();
            if !(back && capable) {
                // The thread then has less than it had, never more.
                tracing::error!("cannot take the host's identity back after a request");
            }
        }
    }
}

/// While it lives, writing and truncating remove set-id bits as they do for an unprivileged process.
#[derive(Debug)]
#[must_use]
pub(super) struct WithoutFsetid(Option<Base>);

impl WithoutFsetid {
    /// Drops the capability if `wanted` and there.
    pub(super) fn enter(wanted: bool) -> Result<Self, Errno> {
        if !wanted {
            return Ok(Self(None));
        }
        let base = base()?;
        if !base.has(CapabilitySet::FSETID) {
            return Ok(Self(None));
        }
        set_effective(&base, base.caps.effective - CapabilitySet::FSETID)?;
        Ok(Self(Some(base)))
    }
}

impl Drop for WithoutFsetid {
    fn drop(&mut self) {
        if let Some(base) = &self.0
            && set_effective(base, base.caps.effective).is_err()
        {
            tracing::error!("cannot take capabilities back after a request");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_everything_back() {
        let before = rustix::thread::capabilities(None).expect("capabilities");
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let rq = Request { uid: 1234, gid: 4321, pid: 1, may_block: true };
        drop(Caller::become_for(&rq, 0o27).expect("become"));
        drop(WithoutFsetid::enter(true).expect("drop"));
        assert_eq!(rustix::thread::capabilities(None).expect("capabilities"), before);
        // `setfsuid(-1)` tells the id that is set.
        assert!(sys::set_fs_uid(uid) && sys::set_fs_gid(gid));
        let nobody = Request { uid: u32::MAX, gid: 0, pid: 1, may_block: true };
        assert_eq!(Caller::become_for(&nobody, 0).err(), Some(Errno::OVERFLOW));
    }
}
