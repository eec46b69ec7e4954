//! QEMU with emulated SVM. One CPU: with two, interrupts between them get lost now and then.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::assets::Tool;

/// A busy host lets the emulated timer come late, which the kernel's check would take for a broken one.
const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 no_timer_check";

/// The command that boots `kernel` with `initramfs`: the way to the agent on its standard streams, the console in the file `console`.
pub(crate) fn command(qemu: &Tool, kernel: &Path, initramfs: &Path, console: &Path) -> Command {
    let mut command = Command::new(&qemu.program);
    command
        .args(["-accel", "tcg,thread=multi", "-smp", "1", "-cpu", "max,la57=off,pku=off", "-m", "4G"])
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-net", "none"])
        .arg("-chardev")
        .arg(with_path("file,id=console,path=", console))
        .args(["-serial", "chardev:console"])
        .args(["-chardev", "stdio,id=agent,signal=off", "-device", "virtio-serial-pci"])
        .args(["-device", "virtserialport,chardev=agent,nr=1,name=agent"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", KERNEL_WORDS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !qemu.libraries.is_empty() {
        command.env("LD_LIBRARY_PATH", &qemu.libraries);
    }
    command
}

/// QEMU's options take a comma inside a value when it is doubled.
fn with_path(option: &str, path: &Path) -> OsString {
    format!("{option}{}", path.display().to_string().replace(',', ",,")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_are_doubled() {
        assert_eq!(with_path("path=", Path::new("/a,b")), "path=/a,,b");
    }
}
