//! The aarch64 face of the kernel: entry point, system call instruction, numbers.

use core::arch::{asm, global_asm};

global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "bl {main}", "brk #1", main = sym crate::main);

/// Makes a system call.
///
/// # Safety
///
/// As for the call: pointers among the arguments must be valid for what the kernel does with them.
pub(super) unsafe fn raw(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the registers are those of the system call convention, and the caller vouches for the arguments.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    result
}

pub(super) const DUP3: usize = 24;
pub(super) const FCNTL: usize = 25;
pub(super) const IOCTL: usize = 29;
pub(super) const MKDIRAT: usize = 34;
pub(super) const SYMLINKAT: usize = 36;
pub(super) const MOUNT: usize = 40;
pub(super) const FACCESSAT: usize = 48;
pub(super) const CHDIR: usize = 49;
pub(super) const FCHOWN: usize = 55;
pub(super) const OPENAT: usize = 56;
pub(super) const CLOSE: usize = 57;
pub(super) const PIPE2: usize = 59;
pub(super) const GETDENTS64: usize = 61;
pub(super) const READ: usize = 63;
pub(super) const WRITE: usize = 64;
pub(super) const PPOLL: usize = 73;
pub(super) const SIGNALFD4: usize = 74;
pub(super) const SYNC: usize = 81;
pub(super) const CAPGET: usize = 90;
pub(super) const CAPSET: usize = 91;
pub(super) const EXIT_GROUP: usize = 94;
pub(super) const CLOCK_GETTIME: usize = 113;
pub(super) const CLOCK_NANOSLEEP: usize = 115;
pub(super) const KILL: usize = 129;
pub(super) const RT_SIGACTION: usize = 134;
pub(super) const RT_SIGPROCMASK: usize = 135;
pub(super) const REBOOT: usize = 142;
pub(super) const SETRESUID: usize = 147;
pub(super) const SETRESGID: usize = 149;
pub(super) const SETSID: usize = 157;
pub(super) const SETGROUPS: usize = 159;
pub(super) const SETHOSTNAME: usize = 161;
pub(super) const UMASK: usize = 166;
pub(super) const PRCTL: usize = 167;
pub(super) const SOCKET: usize = 198;
pub(super) const CLONE: usize = 220;
pub(super) const EXECVE: usize = 221;
pub(super) const MMAP: usize = 222;
pub(super) const WAIT4: usize = 260;
pub(super) const PRLIMIT64: usize = 261;
pub(super) const STATX: usize = 291;
pub(super) const MOVE_MOUNT: usize = 429;
pub(super) const FSOPEN: usize = 430;
pub(super) const FSCONFIG: usize = 431;
pub(super) const FSMOUNT: usize = 432;
pub(super) const CLOSE_RANGE: usize = 436;
