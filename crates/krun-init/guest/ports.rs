//! The ports of the virtio console, found by the names the host gave them.

use core::ffi::CStr;

use crate::sys::{self, Base, Deadline, Errno, Fd, Result, Wait};
use crate::text::Text;

/// The longest a port is waited for: the driver learns of ports after the kernel has started PID 1.
const PATIENCE: u32 = 10_000;
/// The longest the host is waited for once it has named a port.
const HOST_PATIENCE: u32 = 1_000;
const STEP: u32 = 1;

/// Opens the port that is called `name`; `access` is one of `RDONLY`, `WRONLY`, `RDWR`. The driver lets nobody else
/// open it as long as the descriptor lives.
pub(crate) fn open(devices: &Fd, system: &Fd, name: &[u8], access: u32) -> Result<Fd> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        match find(system, name)? {
            Some(device) => return sys::open(Base::Tree(devices), device.path()?, access | sys::NOCTTY),
            None if deadline.is_over() => return Err(Errno::NOENT),
            None => sys::sleep(STEP),
        }
    }
}

/// Waits until the host has opened its side of an output port. Some hosts tell the name first. One that does not open
/// it at all does not listen, and the workload meets a broken pipe.
pub(crate) fn wait_for_host(port: &Fd) -> Result<()> {
    let deadline = Deadline::after(HOST_PATIENCE);
    while !deadline.is_over() {
        let mut wait = [Wait::new(port, 0)];
        sys::poll(&mut wait, Some(0))?;
        if !wait.iter().any(|wait| wait.happened(sys::HUP)) {
            break;
        }
        sys::sleep(STEP);
    }
    Ok(())
}

/// The device file of the port that is called `name`.
fn find(system: &Fd, name: &[u8]) -> Result<Option<Text<64>>> {
    match sys::open(Base::Tree(system), c"class/virtio-ports", sys::RDONLY | sys::DIRECTORY) {
        Ok(class) => sys::find_entry(&class, |device| {
            (name_of(&class, device).ok()?.bytes() == name).then(|| Text::path_of(&[device.to_bytes()]))
        }),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn name_of(class: &Fd, device: &CStr) -> Result<Text<256>> {
    if device.to_bytes().starts_with(b".") {
        return Err(Errno::NOENT);
    }
    let path = Text::<64>::path_of(&[device.to_bytes(), b"/name"]);
    let file = sys::open(Base::Tree(class), path.path()?, sys::RDONLY)?;
    let mut line = [0; 256];
    let count = sys::read(&file, &mut line)?;
    let line = line.get(..count).unwrap_or_default();
    Ok(Text::of(&[line.strip_suffix(b"\n").unwrap_or(line)]))
}
