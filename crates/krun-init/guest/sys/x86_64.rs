//! The x86_64 face of the kernel: entry point, system call instruction, numbers.

use core::arch::{asm, global_asm};

// The kernel enters with the stack pointer aligned to 16 bytes; a called function expects it 8 below that.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym crate::main);

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
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

pub(super) const READ: usize = 0;
pub(super) const WRITE: usize = 1;
pub(super) const CLOSE: usize = 3;
pub(super) const MMAP: usize = 9;
pub(super) const RT_SIGACTION: usize = 13;
pub(super) const RT_SIGPROCMASK: usize = 14;
pub(super) const IOCTL: usize = 16;
pub(super) const SOCKET: usize = 41;
pub(super) const CLONE: usize = 56;
pub(super) const EXECVE: usize = 59;
pub(super) const WAIT4: usize = 61;
pub(super) const KILL: usize = 62;
pub(super) const FCNTL: usize = 72;
pub(super) const CHDIR: usize = 80;
pub(super) const FCHOWN: usize = 93;
pub(super) const UMASK: usize = 95;
pub(super) const SETSID: usize = 112;
pub(super) const SETGROUPS: usize = 116;
pub(super) const SETRESUID: usize = 117;
pub(super) const SETRESGID: usize = 119;
pub(super) const CAPGET: usize = 125;
pub(super) const CAPSET: usize = 126;
pub(super) const PRCTL: usize = 157;
pub(super) const SYNC: usize = 162;
pub(super) const MOUNT: usize = 165;
pub(super) const REBOOT: usize = 169;
pub(super) const SETHOSTNAME: usize = 170;
pub(super) const GETDENTS64: usize = 217;
pub(super) const CLOCK_GETTIME: usize = 228;
pub(super) const CLOCK_NANOSLEEP: usize = 230;
pub(super) const EXIT_GROUP: usize = 231;
pub(super) const OPENAT: usize = 257;
pub(super) const MKDIRAT: usize = 258;
pub(super) const SYMLINKAT: usize = 266;
pub(super) const FACCESSAT: usize = 269;
pub(super) const PPOLL: usize = 271;
pub(super) const SIGNALFD4: usize = 289;
pub(super) const DUP3: usize = 292;
pub(super) const PIPE2: usize = 293;
pub(super) const PRLIMIT64: usize = 302;
pub(super) const STATX: usize = 332;
pub(super) const MOVE_MOUNT: usize = 429;
pub(super) const FSOPEN: usize = 430;
pub(super) const FSCONFIG: usize = 431;
pub(super) const FSMOUNT: usize = 432;
pub(super) const CLOSE_RANGE: usize = 436;
