//! PID 1 of a microVM.
//!
//! It takes orders from one place: the console port [`protocol::CONTROL_PORT`], which it opens before anything else
//! runs and which the driver gives to nobody else. It reads no file of the root file system and no word of the kernel
//! command line. Everything it needs of the kernel (`/proc`, `/sys`, `/dev`) it reaches through descriptors of its
//! own, so a root file system without those directories can still tell the host what is missing.
//!
//! The kernel never ends it for want of memory, and no signal of the guest reaches it: it has no handler, and blocks
//! them all.
//!
//! No `std`, no C library, no allocator: system calls, and memory of a known size.
#![no_std]
#![no_main]
#![no_builtins]
// The workspace's lints, which cargo cannot apply here. `tests/guest.rs` checks them.
#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]
#![warn(missing_debug_implementations, unreachable_pub, unused_qualifications)]
#![warn(
    clippy::undocumented_unsafe_blocks,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::ptr_as_ptr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::allow_attributes_without_reason
)]
#![expect(clippy::result_large_err, reason = "failures are built once, and there is no heap to put them on")]

#[allow(dead_code, unused_imports, unreachable_pub, reason = "each end uses its half")]
#[path = "../src/protocol/mod.rs"]
mod protocol;

mod channel;
mod console;
mod exec;
mod failure;
mod mounts;
mod ports;
mod relay;
mod stdio;
mod supervise;
mod sys;
mod text;
mod workload;

use channel::{Alive, Channel, Port};
use failure::{At as _, Failure};
use mounts::Kernel;
use protocol::{Field, Fields, Hello, Resize, Stage, Started, ToGuest, ToHost};
use stdio::Stdio;
use supervise::Supervisor;
use sys::{Base, Errno, Fd};

/// Where the entry point goes. The end of this function is the end of the machine.
pub(crate) extern "C" fn main() -> ! {
    let (kernel, mut channel, children) = match prepare() {
        Ok(prepared) => prepared,
        Err((what, errno)) => console::give_up(what, Some(errno)),
    };
    let Some(started) = wait_for_start(&kernel, &mut channel) else {
        console::give_up("the host closed the control channel", None)
    };
    let ended = match started {
        Ok((pid, stdio)) => supervise(&kernel, &mut channel, children, pid, stdio),
        Err(failure) => channel.port().forward(&failure).map(|()| Alive::Yes),
    };
    sys::sync();
    match ended {
        Ok(Alive::Yes) => sys::power_off(),
        Ok(Alive::HungUp) => console::give_up("the host closed the control channel", None),
        Ok(Alive::Malformed) => console::give_up("the host does not speak the control protocol", None),
        Err(errno) => console::give_up("cannot serve the workload", Some(errno)),
    }
}

/// Makes this process PID 1 in earnest, and greets the host.
fn prepare() -> Result<(Kernel, Channel, Fd), (&'static str, Errno)> {
    sys::block_signals().map_err(|errno| ("cannot block signals", errno))?;
    sys::forbid_inspection().map_err(|errno| ("cannot forbid inspection", errno))?;
    sys::close_inherited().map_err(|errno| ("cannot close inherited files", errno))?;
    let kernel = Kernel::open();
    console::claim(kernel.as_ref().ok().map(|kernel| &kernel.dev.root));
    let kernel = kernel.map_err(|errno| ("cannot mount proc, sysfs and devtmpfs", errno))?;
    let children = sys::child_signals().map_err(|errno| ("cannot watch its children", errno))?;
    let name = protocol::CONTROL_PORT.as_bytes();
    let channel = ports::open(&kernel.dev.root, &kernel.sys.root, name, sys::RDWR)
        .and_then(Channel::new)
        .map_err(|errno| ("cannot open the control port", errno))?;
    channel.port().send(&ToHost::Hello(Hello { features: 0 })).map_err(|errno| ("cannot greet the host", errno))?;
    Ok((kernel, channel, children))
}

/// Programs that the kernel itself starts (for core dumps, modules, events) have every capability, and root may name
/// them. None of them may look into PID 1 either. There is no way back, so this waits until the host has said that PID 1
/// stays what it is.
fn restrict_helpers(kernel: &Kernel) -> sys::Result<()> {
    /// Every capability but CAP_SYS_PTRACE, bit 19: the lower 32, then the others.
    const BOUNDING_SET: &[u8] = b"4294443007 4294967295";
    match sys::open(Base::Tree(&kernel.proc.root), c"sys/kernel/usermodehelper/bset", sys::WRONLY) {
        Ok(file) => match sys::write_all(&file, BOUNDING_SET) {
            // Somebody else's kernel: PID 1 of a namespace only.
            Err(Errno::PERM) => Ok(()),
            answer => answer,
        },
        // A kernel without such a setting.
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

type Start = Result<(i32, Stdio), channel::Encoded>;

/// Waits for the host's order and obeys it. `None` if the host goes away instead.
fn wait_for_start(kernel: &Kernel, channel: &mut Channel) -> Option<Start> {
    // While the host makes up its answer, the system is made ready.
    let own_mounts = kernel.attach();
    let mut own_mounts = Some(own_mounts);
    let mut started = None;
    while started.is_none() {
        let alive = channel.receive(|frame, port| {
            if let (ToGuest::Start(fields), Some(own_mounts)) = (frame, own_mounts.take()) {
                started = Some(start(kernel, own_mounts, fields, port));
            }
        });
        match alive {
            Alive::Yes => {}
            Alive::HungUp => return None,
            Alive::Malformed => {
                let failure = Failure::new(Stage::Protocol, b"", Errno::NONE);
                return Some(Err(channel::encode(&failure.frame())));
            }
        }
    }
    started
}

/// Makes the system that `fields` describe, and starts the workload in it. Does not return if that becomes PID 1.
fn start(kernel: &Kernel, own_mounts: Result<(), Failure>, fields: &Fields<'_>, port: &Port) -> Start {
    let attempt = || {
        own_mounts?;
        if !workload::is_init(fields) {
            restrict_helpers(kernel).at(Stage::Capabilities, b"CAP_SYS_PTRACE of the kernel's helpers")?;
        }
        mounts::usual()?;
        configure(fields)?;
        let stdio = Stdio::open(kernel, fields, workload::user(fields))?;
        if let (Some(terminal), Some(size)) = (&stdio.terminal, terminal_size(fields)) {
            sys::set_size(terminal, size).at(Stage::Terminal, b"size")?;
        }
        Ok(stdio)
    };
    let mut stdio = attempt().map_err(|failure: Failure| channel::encode(&failure.frame()))?;
    if workload::is_init(fields) {
        return Err(channel::encode(&workload::take_over(fields, &stdio, port).frame()));
    }
    let pid = workload::spawn(fields, &stdio)?;
    // The streams end when the workload's own copies are closed.
    stdio.streams = [const { None }; 3];
    Ok((pid, stdio))
}

fn configure(fields: &Fields<'_>) -> Result<(), Failure> {
    match sys::raise_interface(b"lo") {
        // A kernel without a network.
        Ok(()) | Err(Errno::AFNOSUPPORT | Errno::NODEV) => {}
        Err(errno) => return Err(Failure::new(Stage::Network, b"lo", errno)),
    }
    for field in fields.iter() {
        match field {
            Field::Hostname(name) => sys::set_hostname(name.to_bytes()).at(Stage::Hostname, name.to_bytes())?,
            Field::Mount(mount) => mounts::volume(&mount)?,
            _ => {}
        }
    }
    Ok(())
}

fn terminal_size(fields: &Fields<'_>) -> Option<Resize> {
    fields.iter().fold(None, |size, field| if let Field::Terminal(other) = field { Some(other) } else { size })
}

fn supervise(kernel: &Kernel, channel: &mut Channel, children: Fd, pid: i32, stdio: Stdio) -> sys::Result<Alive> {
    channel.port().send(&ToHost::Started(Started { pid: pid.cast_unsigned() }))?;
    Supervisor { kernel, channel, children, stdio, pid }.run()
}
