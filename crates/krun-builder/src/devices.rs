//! The virtio devices that the settings ask for, and no other.

use std::os::fd::{BorrowedFd, OwnedFd};

use krun_console::{Console, ConsoleHandle, Port, PortEvent};
use krun_init::protocol::{CONTROL_PORT, STDERR_PORT, STDIN_PORT, STDOUT_PORT};
use krun_virtio::VirtioDevice;

use crate::config::Config;
use crate::control::Closer;
use crate::error::Problem;
use crate::files;
use crate::log::KEPT;

/// Number of the port that is the kernel's console.
pub(crate) const CONSOLE_PORT: usize = 0;
/// Number of the port that leads to init.
const INIT_PORT: usize = 1;

/// Devices in the order of their windows, which is also the order in which the guest finds them.
pub(crate) struct Devices {
    pub(crate) all: Vec<Box<dyn VirtioDevice>>,
    pub(crate) console: Option<ConsoleHandle>,
    /// Goes with the console, inside of its listener.
    closer: Option<Closer>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("count", &self.all.len()).field("console", &self.console).finish()
    }
}

/// The guest's end of the conversation with init, and the switch for when the guest closes it.
pub(crate) struct InitPort {
    pub(crate) socket: OwnedFd,
    pub(crate) closer: Closer,
}

impl Devices {
    /// Makes all devices; what cannot be made is added to `problems`.
    pub(crate) fn new(config: &mut Config, init: Option<InitPort>, problems: &mut Vec<Problem>) -> Self {
        let closer = init.as_ref().map(|init| init.closer.clone());
        let mut devices = Self { all: Vec::new(), console: None, closer };
        if config.has_console() {
            match console(config, init) {
                Ok(console) => {
                    devices.console = Some(console.handle());
                    devices.all.push(Box::new(console));
                }
                Err(error) => {
                    let remedy = "give descriptors that are open for it";
                    problems.push(Problem::caused_by("stdio", "", error, remedy));
                }
            }
        }
        files::add(config, &mut devices.all, problems);
        devices.all.append(&mut config.devices);
        devices
    }

    /// The descriptors that all of them need.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().flat_map(|device| device.descriptors()).chain(self.closer.iter().map(Closer::descriptor))
    }
}

/// Port 0 is the kernel's console and, if the command has one, its terminal. Port 1 leads to init. Then the standard
/// streams that are connected.
fn console(config: &mut Config, init: Option<InitPort>) -> Result<Console, krun_console::Error> {
    let mut kernel = Port::console().remember(KEPT);
    if let Some(terminal) = config.terminal.take() {
        if let Some((columns, rows)) = terminal.size() {
            kernel = kernel.size(columns, rows);
        }
        kernel = kernel.input_fd(terminal.input)?.output_fd(terminal.output)?;
    } else if let Some(output) = config.console.take() {
        kernel = kernel.output_fd(output)?;
    }
    let mut ports = vec![kernel];
    let mut closer = None;
    if let Some(init) = init {
        let failed = |source| krun_console::Error::Create { what: "a duplicate of init's socket", source };
        let input = init.socket.try_clone().map_err(failed)?;
        ports.push(Port::named(CONTROL_PORT).input_fd(input)?.output_fd(init.socket)?);
        closer = Some(init.closer);
    }
    if let Some(fd) = config.stdin.take() {
        ports.push(Port::named(STDIN_PORT).input_fd(fd)?);
    }
    for (name, stream) in [(STDOUT_PORT, config.stdout.take()), (STDERR_PORT, config.stderr.take())] {
        if let Some(fd) = stream {
            ports.push(Port::named(name).output_fd(fd)?);
        }
    }
    Ok(Console::new(ports)?.on_event(move |port, event| {
        tracing::debug!(port, ?event, "console");
        if let Some(closer) = &closer
            && port == INIT_PORT
            && matches!(event, PortEvent::GuestClosed)
        {
            closer.close();
        }
    }))
}
