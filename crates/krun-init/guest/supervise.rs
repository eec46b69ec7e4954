//! PID 1's life while the workload runs.

use crate::channel::{Alive, Channel};
use crate::mounts::Kernel;
use crate::protocol::{Exit, Scope, ToGuest, ToHost};
use crate::stdio::Stdio;
use crate::sys::{self, Base, Deadline, Fd, Result, Wait};
use crate::text::{Text, decimal};

/// How long processes that were killed may take to die; one that waits for a device for ever does not hold up the end.
const DEATH: u32 = 2_000;
const STEP: u32 = 10;

/// Whether processes that were killed have died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Survivors {
    None,
    /// Some wait in the kernel, for a device that does not answer.
    Some,
}

/// The workload, its streams and the host.
pub(crate) struct Supervisor<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) channel: &'a mut Channel,
    pub(crate) children: Fd,
    pub(crate) stdio: Stdio,
    pub(crate) pid: i32,
}

impl Supervisor<'_> {
    /// Serves the workload until it ends, and tells the host. Returns early if the host goes away, and says that.
    pub(crate) fn run(&mut self) -> Result<Alive> {
        let exit = loop {
            if let Some(exit) = self.reap() {
                break exit;
            }
            match self.turn()? {
                Alive::Yes => {}
                gone => return Ok(gone),
            }
        };
        let survivors = self.end_others();
        if let Some(input) = self.stdio.relays.first_mut().and_then(Option::as_mut) {
            input.close();
        }
        loop {
            // Nobody writes any more, but somebody may still hold the pipe.
            self.stdio.close_empty();
            if self.stdio.is_drained() {
                break;
            }
            match self.turn()? {
                Alive::Yes => {}
                gone => return Ok(gone),
            }
        }
        if let Some(terminal) = &self.stdio.terminal {
            sys::drain(terminal);
        }
        sys::drain_console();
        // What the workload wrote is in its files before anybody learns that it has ended. But what a survivor waits for,
        // this might wait for as well.
        if survivors == Survivors::None {
            sys::sync();
        }
        self.channel.port().send(&ToHost::Exited(exit))?;
        Ok(Alive::Yes)
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self) -> Result<Alive> {
        let mut waits = [Wait::NOTHING; 8];
        let [control, children, of_relays @ ..] = &mut waits;
        *control = self.channel.wait();
        *children = Wait::new(&self.children, sys::IN);
        for (waits, relay) in of_relays.chunks_exact_mut(2).zip(&self.stdio.relays) {
            if let Some(relay) = relay {
                waits.copy_from_slice(&relay.waits());
            }
        }
        sys::poll(&mut waits, None)?;
        let [control, children, of_relays @ ..] = waits;
        if children.happened(sys::IN) {
            // The signal says only that there is something to reap; one may stand for many.
            let _ = sys::read(&self.children, &mut [0; 128]);
        }
        for (waits, relay) in of_relays.chunks_exact(2).zip(&mut self.stdio.relays) {
            if let (&[from, to], Some(relay)) = (waits, relay) {
                relay.serve([from, to]);
            }
        }
        if control.happened(sys::IN | sys::HUP | sys::ERR) { Ok(self.listen()) } else { Ok(Alive::Yes) }
    }

    /// Takes requests of the host.
    fn listen(&mut self) -> Alive {
        let (kernel, pid, terminal) = (self.kernel, self.pid, self.stdio.terminal.as_ref());
        self.channel.receive(|frame, _| match frame {
            ToGuest::Signal(signal) => {
                let target = match signal.scope {
                    Scope::Process => pid,
                    Scope::Group => -pid,
                    Scope::Foreground => -foreground(kernel, pid).unwrap_or(pid),
                };
                // A workload that has ended needs no signal.
                let _ = sys::send_signal(target, u32::from(signal.number));
            }
            ToGuest::Resize(size) => {
                if let Some(terminal) = terminal {
                    // The size is a courtesy.
                    let _ = sys::set_size(terminal, *size);
                }
            }
            // There is one workload.
            ToGuest::Start(_) => {}
        })
    }

    /// Reaps every child that has ended, orphans included. The workload's exit, if it was among them.
    fn reap(&self) -> Option<Exit> {
        let mut exit = None;
        while let Ok(Some((pid, how))) = sys::reap() {
            if pid == self.pid {
                exit = Some(how);
            }
        }
        exit
    }

    /// The workload has ended: nothing it left behind goes on.
    fn end_others(&self) -> Survivors {
        let deadline = Deadline::after(DEATH);
        while !deadline.is_over() {
            // Fails when there is nobody left.
            let _ = sys::send_signal(-1, sys::SIGKILL);
            loop {
                match sys::reap() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Survivors::None,
                }
            }
            // Cannot fail with one valid descriptor.
            let _ = sys::poll(&mut [Wait::new(&self.children, sys::IN)], Some(STEP));
            let _ = sys::read(&self.children, &mut [0; 128]);
        }
        Survivors::Some
    }
}

/// The foreground process group of the terminal that `pid` leads the session of. Asking the terminal itself is the
/// privilege of its own session, so this is field 8 of `/proc/PID/stat`.
fn foreground(kernel: &Kernel, pid: i32) -> Option<i32> {
    let path = Text::<32>::path_of(&[decimal(pid.cast_unsigned()).bytes(), b"/stat"]);
    let file = sys::open(Base::Tree(&kernel.proc.root), path.path().ok()?, sys::RDONLY).ok()?;
    let mut stat = [0; 512];
    let count = sys::read(&file, &mut stat).ok()?;
    let stat = stat.get(..count)?;
    // Field 2 is the name in parentheses, which may contain anything, parentheses included.
    let after_name = stat.get(stat.iter().rposition(|&byte| byte == b')')? + 1..)?;
    let field = after_name.split(|&byte| byte == b' ').nth(6)?;
    core::str::from_utf8(field).ok()?.parse().ok().filter(|&group| group > 0)
}
