//! The pieces of a machine with emulated Intel VT-x: Bochs with its firmware, and what makes a disk it can boot.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::amd::{Tool, library_path};
use super::apt::Apt;
use super::store::Store;
use crate::process::find_program;

/// Everything, by package. mtools is what grub-mkrescue looks for even where it makes no EFI image.
const PACKAGES: [&str; 8] =
    ["bochs", "bochsbios", "vgabios", "bochs-term", "grub-pc-bin", "grub-common", "xorriso", "mtools"];
/// The emulator's program; `bochs` itself is a shell script around it in some packages.
const PROGRAMS: [&str; 2] = ["bochs-bin", "bochs"];
const SYSTEM_BIOS: &str = "usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "usr/share/vgabios/vgabios.bin";
const GRUB_MODULES: &str = "usr/lib/grub/i386-pc";
/// Devices and displays of Bochs are plugins.
const PLUGINS: [&str; 2] = ["usr/lib/x86_64-linux-gnu/bochs/plugins", "usr/lib/bochs/plugins"];
/// The display that draws on a terminal.
const DISPLAY: &str = "libbx_term_gui.so";

/// Bochs and what it needs.
#[derive(Debug, Clone)]
pub(crate) struct Bochs {
    /// The emulator.
    pub(crate) emulator: Tool,
    /// The directory with its plugins.
    pub(crate) plugins: PathBuf,
    /// The directory that it finds keymaps and firmware in.
    pub(crate) share: PathBuf,
    /// The firmware.
    pub(crate) system_bios: PathBuf,
    /// The firmware of its display.
    pub(crate) vga_bios: PathBuf,
    /// The program that makes a bootable disk.
    pub(crate) mkrescue: Tool,
    /// GRUB's modules for it.
    pub(crate) grub_modules: PathBuf,
    /// The program that it calls to write the disk.
    pub(crate) xorriso: PathBuf,
}

/// Answers Bochs and its companions: the system's own if all of them are installed, else unpacked ones.
pub(crate) fn bochs(store: &Store, apt: &Apt) -> Result<Bochs> {
    if let Some(installed) = find(Path::new("/")) {
        return Ok(installed);
    }
    let home =
        store.get("bochs", &PACKAGES.join(" "), |directory| apt.unpack_with_dependencies(&PACKAGES, directory))?;
    find(&home).with_context(|| format!("{} lacks a part of Bochs: delete it and try again", home.display()))
}

/// The parts under `home`, each replaced by the system's where apt found it installed and did not fetch it again.
fn find(home: &Path) -> Option<Bochs> {
    let file = |path: &str| [home.join(path), Path::new("/").join(path)].into_iter().find(|path| path.exists());
    let program = |name: &str| {
        let unpacked = ["usr/bin", "usr/sbin"].map(|directory| home.join(directory).join(name));
        unpacked.into_iter().find(|path| path.exists()).or_else(|| find_program(name))
    };
    let libraries = if home == Path::new("/") { Default::default() } else { library_path(home) };
    let tool = |program| Tool { program, libraries: libraries.clone() };
    let plugins = PLUGINS.into_iter().filter_map(file).find(|directory| directory.join(DISPLAY).exists())?;
    let system_bios = file(SYSTEM_BIOS)?;
    Some(Bochs {
        emulator: tool(PROGRAMS.into_iter().find_map(program)?),
        plugins,
        share: system_bios.parent()?.to_owned(),
        system_bios,
        vga_bios: file(VGA_BIOS)?,
        mkrescue: tool(program("grub-mkrescue")?),
        grub_modules: file(GRUB_MODULES)?,
        xorriso: program("xorriso")?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_part_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let put = |path: String| {
            fs::create_dir_all(home.path().join(&path).parent().unwrap()).unwrap();
            fs::write(home.path().join(path), "").unwrap();
        };
        for path in
            [SYSTEM_BIOS, VGA_BIOS, GRUB_MODULES, "usr/bin/bochs-bin", "usr/bin/grub-mkrescue", "usr/bin/xorriso"]
        {
            put(path.to_owned());
        }
        if !Path::new("/").join(PLUGINS[0]).exists() {
            assert!(find(home.path()).is_none());
        }
        put(format!("{}/{DISPLAY}", PLUGINS[0]));
        let found = find(home.path()).unwrap();
        assert_eq!(found.emulator.program, home.path().join("usr/bin/bochs-bin"));
        assert_eq!(found.share, home.path().join("usr/share/bochs"));
    }
}
