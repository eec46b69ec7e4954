//! Everything the kernel does for us, as safe functions. The only unsafe code of PID 1 is below this module.

#![expect(unsafe_code, reason = "system calls, and the memory they hand out")]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
mod file;
mod intrinsics;
mod memory;
mod mount;
mod network;
mod poll;
mod process;
mod signal;
mod terminal;

pub(crate) use file::*;
pub(crate) use memory::{Pointers, Region};
pub(crate) use mount::*;
pub(crate) use network::raise_interface;
pub(crate) use poll::*;
pub(crate) use process::*;
pub(crate) use signal::*;
pub(crate) use terminal::*;

/// An error number of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) u32);

impl Errno {
    /// It was not the kernel that refused.
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const PERM: Self = Self(1);
    pub(crate) const NOENT: Self = Self(2);
    pub(crate) const INTR: Self = Self(4);
    pub(crate) const IO: Self = Self(5);
    pub(crate) const NOEXEC: Self = Self(8);
    pub(crate) const AGAIN: Self = Self(11);
    pub(crate) const ACCES: Self = Self(13);
    pub(crate) const EXIST: Self = Self(17);
    pub(crate) const NODEV: Self = Self(19);
    pub(crate) const NOTDIR: Self = Self(20);
    pub(crate) const INVAL: Self = Self(22);
    pub(crate) const PIPE: Self = Self(32);
    pub(crate) const NAMETOOLONG: Self = Self(36);
    pub(crate) const AFNOSUPPORT: Self = Self(97);
}

pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// What a system call answered: a number, or an error number negated.
fn checked(answer: isize) -> Result<usize> {
    match u32::try_from(answer.unsigned_abs()) {
        Ok(errno @ 1..=4095) if answer < 0 => Err(Errno(errno)),
        _ => Ok(answer.cast_unsigned()),
    }
}

/// A process id or a descriptor among the answers of the kernel.
fn number(answer: usize) -> i32 {
    // Larger ones do not exist.
    i32::try_from(answer).unwrap_or(i32::MAX)
}

/// A system call with up to six arguments, each turned into a register's value.
macro_rules! call {
    ($number:ident $(, $argument:expr)*) => {{
        let mut arguments = [0_usize; 6];
        let given: &[usize] = &[$($crate::sys::Argument::value($argument)),*];
        for (to, from) in arguments.iter_mut().zip(given) {
            *to = *from;
        }
        // SAFETY: each caller in this module hands over pointers that are valid for the whole call.
        $crate::sys::checked(unsafe { $crate::sys::arch::raw($crate::sys::arch::$number, arguments) })
    }};
}
pub(crate) use call;

/// What fits into a register.
trait Argument {
    fn value(self) -> usize;
}

impl Argument for usize {
    fn value(self) -> usize {
        self
    }
}

impl Argument for u32 {
    fn value(self) -> usize {
        self as usize
    }
}

impl Argument for u64 {
    fn value(self) -> usize {
        // Both architectures have registers of this size.
        usize::try_from(self).unwrap_or(usize::MAX)
    }
}

impl Argument for i32 {
    fn value(self) -> usize {
        (self as isize).cast_unsigned()
    }
}

impl<T> Argument for *const T {
    fn value(self) -> usize {
        self.expose_provenance()
    }
}

impl<T> Argument for *mut T {
    fn value(self) -> usize {
        self.expose_provenance()
    }
}
