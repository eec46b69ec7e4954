//! Does this KVM run a guest's code on the processor, or does it only pretend to?
//!
//! Inside some clouds `/dev/kvm` opens and has every capability, but executes a guest's privileged code in an instruction
//! emulator: tiny guests work, a kernel does not. Asking the capabilities cannot tell; running a few floating-point
//! instructions, which the emulator does not know, can.

use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::arch::probe_guest;
use crate::error::Error;
use crate::exit::{ExitHandler, Flow, Stop};
use crate::kvm::Kvm;
use crate::vm::VmOptions;

/// What [`Kvm::probe`] found.
#[derive(Debug)]
pub enum Probe {
    /// Guests run on the processor: kernels will run.
    RealCode,
    /// Guests are emulated, in part at least: kernels will not run. Holds what the probe's guest met.
    EmulatesOnly(Evidence),
}

/// How emulation showed itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Evidence {
    /// KVM gave up.
    #[error("its guest could not go on: {0}")]
    Failed(#[source] Error),
    /// The guest computed something else.
    #[error("its guest computed {0} instead of {expected}", expected = probe_guest::RESULT)]
    Wrong(i32),
    /// The guest ended in another way.
    #[error("its guest ended early: {0:?}")]
    Ended(Stop),
    /// The guest did not end in time.
    #[error("its guest did not end within {} ms", LIMIT.as_millis())]
    TimedOut,
}

impl Probe {
    /// Whether kernels will run.
    pub fn runs_real_code(&self) -> bool {
        matches!(self, Self::RealCode)
    }
}

/// Far longer than it takes (1 ms, some 100 ms in an emulated machine).
const LIMIT: Duration = Duration::from_secs(5);

impl Kvm {
    /// Runs a guest of some forty instructions, SSE2, x87 and AVX among them, and sees whether they are executed. Takes
    /// milliseconds, 5 seconds at the very most.
    ///
    /// # Errors
    ///
    /// The VM cannot be made. Whatever happens once it runs is a [`Probe`].
    pub fn probe(&self) -> Result<Probe, Error> {
        let vm = self.create_vm(&VmOptions::bare())?;
        let mut vcpu = probe_guest::prepare(&vm)?;
        let handle = vcpu.handle();
        let (done, watchdog) = mpsc::channel::<()>();
        let outcome = thread::scope(|scope| {
            thread::Builder::new()
                .name("kvm probe".into())
                .spawn_scoped(scope, move || {
                    if let Err(RecvTimeoutError::Timeout) = watchdog.recv_timeout(LIMIT) {
                        handle.kick();
                    }
                })
                .map_err(|source| Error::Kvm { what: "watch over the probe", source })?;
            let outcome: Result<Stop, Error> = vcpu.run(&TakeResult);
            drop(done); // Sends the watchdog home.
            Ok::<_, Error>(outcome)
        })?;
        Ok(match outcome {
            Ok(Stop::Code(code)) if code == i32::from(probe_guest::RESULT) => Probe::RealCode,
            Ok(Stop::Code(code)) => Probe::EmulatesOnly(Evidence::Wrong(code)),
            Ok(Stop::Kicked) => Probe::EmulatesOnly(Evidence::TimedOut),
            Ok(stop) => Probe::EmulatesOnly(Evidence::Ended(stop)),
            Err(error) => Probe::EmulatesOnly(Evidence::Failed(error)),
        })
    }
}

/// Opens `/dev/kvm` and asks [`Kvm::probe`].
///
/// # Errors
///
/// KVM cannot be opened, lacks something, or cannot make a VM: there is no KVM to speak of.
pub fn probe_real_code() -> Result<Probe, Error> {
    Kvm::open()?.probe()
}

/// Takes the guest's result.
struct TakeResult;

impl ExitHandler for TakeResult {
    fn port_write(&self, port: u16, _width: u8, data: &[u8]) -> Flow {
        match data {
            [value] if port == probe_guest::PORT => ControlFlow::Break(Stop::Code(i32::from(*value))),
            _ => ControlFlow::Continue(()),
        }
    }
}
