//! Bochs with emulated VT-x. It boots only from disks, talks to the agent over a pseudo-terminal and wants a terminal
//! to draw on. One CPU; its time follows the instructions it executes.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::assets::{Bochs, Tool};
use crate::process::output;

/// GRUB's commands; the kernel's words keep it from measuring clocks, which under Bochs are not what they seem.
const GRUB_CONFIG: &str = "linux /boot/vmlinuz console=ttyS0 quiet panic=-1 nokaslr mitigations=off no_timer_check \
     tsc=reliable\ninitrd /boot/initramfs\nboot\n";

/// Makes a disk that boots `kernel` with `initramfs`. Answers its path.
pub(crate) fn make_disk(bochs: &Bochs, kernel: &Path, initramfs: &Path, scratch: &Path) -> Result<PathBuf> {
    let tree = scratch.join("disk");
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::copy(kernel, boot.join("vmlinuz")).context("cannot copy the kernel")?;
    fs::rename(initramfs, boot.join("initramfs")).context("cannot move the initramfs")?;
    fs::write(boot.join("grub/grub.cfg"), GRUB_CONFIG)?;
    let disk = scratch.join("disk.iso");
    let mut directory = OsString::from("--directory=");
    directory.push(&bochs.grub_modules);
    let mut xorriso = OsString::from("--xorriso=");
    xorriso.push(&bochs.xorriso);
    output(with_libraries(&bochs.mkrescue).arg(directory).arg(xorriso).arg("-o").arg(&disk).arg(&tree))
        .context("cannot make a disk for Bochs")?;
    fs::remove_dir_all(tree)?;
    Ok(disk)
}

fn with_libraries(tool: &Tool) -> Command {
    let mut command = Command::new(&tool.program);
    if !tool.libraries.is_empty() {
        command.env("LD_LIBRARY_PATH", &tool.libraries);
    }
    command
}

/// A pseudo-terminal: our end, and the path of the other.
pub(crate) struct Terminal {
    ours: File,
    path: PathBuf,
}

impl Terminal {
    /// A terminal that changes no byte.
    pub(crate) fn open() -> Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("cannot open a pseudo-terminal")?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let mut settings = tcgetattr(&ours)?;
        settings.make_raw();
        tcsetattr(&ours, OptionalActions::Now, &settings)?;
        tcsetwinsize(&ours, Winsize { ws_row: 50, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 })?;
        let path = OsString::from_vec(CString::into_bytes(ptsname(&ours, Vec::new())?)).into();
        Ok(Self { ours: ours.into(), path })
    }

    fn theirs(&self) -> Result<File> {
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NOCTTY.bits().cast_signed());
        options.read(true).write(true).open(&self.path).context("cannot open a pseudo-terminal")
    }

    /// Our end, to read and write.
    pub(crate) fn into_file(self) -> File {
        self.ours
    }
}

/// Reads a pseudo-terminal's end; when the other end goes, that is the end of the file.
pub(crate) struct UntilHangUp(pub(crate) File);

impl Read for UntilHangUp {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
            result => result,
        }
    }
}

/// The command that boots `disk`: the agent's port on `agent`, the display on `display`, the console in a file.
pub(crate) fn command(
    bochs: &Bochs,
    disk: &Path,
    console: &Path,
    agent: &Terminal,
    display: &Terminal,
) -> Result<Command> {
    let config = console.with_extension("bochsrc");
    fs::write(&config, configuration(bochs, disk, console, &agent.path))?;
    // Debian's Bochs is built with its debugger, which waits for a word before it starts.
    let start = console.with_extension("start");
    fs::write(&start, "c\n")?;
    let mut command = with_libraries(&bochs.emulator);
    command
        .arg("-q")
        .arg("-f")
        .arg(config)
        .arg("-rc")
        .arg(start)
        .env("BXSHARE", &bochs.share)
        .env("LTDL_LIBRARY_PATH", &bochs.plugins)
        .env("TERM", "vt100")
        .stdin(display.theirs()?)
        .stdout(display.theirs()?)
        .stderr(display.theirs()?);
    Ok(command)
}

/// The path of Bochs's own log.
pub(crate) fn log(console: &Path) -> PathBuf {
    console.with_extension("bochs.log")
}

fn configuration(bochs: &Bochs, disk: &Path, console: &Path, agent: &Path) -> String {
    format!(
        "cpu: model=corei7_haswell_4770, count=1, ips=40000000, reset_on_triple_fault=0\n\
         memory: guest=1536, host=1536\n\
         romimage: file={}\n\
         vgaromimage: file={}\n\
         ata0-master: type=cdrom, path={}, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev={}\n\
         com2: enabled=1, mode=term, dev={}\n\
         clock: sync=none\n\
         sound: driver=dummy\n\
         panic: action=report\n\
         log: {}\n\
         display_library: term\n",
        bochs.system_bios.display(),
        bochs.vga_bios.display(),
        disk.display(),
        console.display(),
        agent.display(),
        log(console).display(),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_terminal_changes_no_byte_and_its_end_is_an_end() {
        let terminal = Terminal::open().unwrap();
        let mut theirs = terminal.theirs().unwrap();
        let mut ours = UntilHangUp(terminal.into_file());
        theirs.write_all(b"a\nb\r\x03\x04").unwrap();
        let mut bytes = [0; 7];
        ours.read_exact(&mut bytes[..6]).unwrap();
        assert_eq!(&bytes[..6], b"a\nb\r\x03\x04");
        drop(theirs);
        assert_eq!(ours.read(&mut bytes).unwrap(), 0);
    }
}
