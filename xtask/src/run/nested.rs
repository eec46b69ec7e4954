//! `cargo xtask run` in a nested machine: what the command line names goes in, what it writes to files comes out.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::exit_code_of;
use super::options::{Options, split_volume};
use crate::assets::{Assets, GuestAssets};
use crate::machine::image::{Image, Make, inside};
use crate::machine::protocol::Command;
use crate::machine::{Lost, Machine, Streams};
use crate::progress::say;
use crate::terminal::run_attached;
use crate::workspace::Workspace;

/// Where `krun` lies in the machine.
const KRUN: &str = "/krun";
/// A tree that is copied into the machine may not be larger: it lives in the machine's memory.
const MAX_TREE: u64 = 1 << 30;

/// Boots a machine, runs krun in it with the user's words, and answers krun's exit code.
pub(crate) fn run(
    workspace: &Workspace,
    assets: &Assets,
    guest: &GuestAssets,
    make: Make,
    krun: &Path,
    mut options: Options,
) -> Result<ExitCode> {
    let scratch = workspace.new_scratch("run")?;
    let mut image = Image::new(make, assets, guest, scratch.path())?;
    image.program(Path::new(KRUN), krun)?;
    let outputs = move_in(&mut options, &mut image)?;
    let environment = environment(&options);
    let inside =
        GuestAssets { kernel: inside::KERNEL.into(), busybox: inside::BUSYBOX.into(), root: inside::ROOT.into() };
    let mut arguments: Vec<OsString> = vec![KRUN.into(), "run".into()];
    arguments.extend(options.complete(&inside));

    let bootable = image.write("run")?;
    let console = scratch.path().join("console.log");
    let mut machine = Machine::boot(&bootable, &console, make.boot_limit()).inspect_err(|_| {
        scratch.keep_file(&console);
    })?;
    let outcome = run_attached(&mut machine, arguments, environment, None)?.map_err(|Lost(reason)| {
        let console = scratch.keep_file(&console);
        anyhow!("the emulated machine was lost: {reason}; its console: {}", console.display())
    })?;
    for (inside, outside) in outputs {
        move_out(&mut machine, &inside, &outside)?;
    }
    exit_code_of(outcome, None)
}

/// Copies what the options name into the image and rewrites the options. Answers the files that krun will write: their
/// path in the machine and outside.
fn move_in(options: &mut Options, image: &mut Image) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut outputs = Vec::new();
    let mut copied = Vec::new();
    for (number, (name, value)) in options.krun.iter_mut().enumerate() {
        let Some(value) = value else { continue };
        let there = PathBuf::from(format!("/host/{number}"));
        match name.to_str() {
            Some("--root" | "--kernel" | "--initrd") => {
                copy(image, &there, Path::new(value), &mut copied)?;
                *value = there.into();
            }
            Some("--volume" | "-v") => {
                // What krun would not understand either is left for krun to complain about.
                let Some((source, rest)) = split_volume(value) else { continue };
                copy(image, &there, &source, &mut copied)?;
                let mut moved = there.into_os_string();
                moved.push(rest);
                *value = moved;
            }
            Some("--console" | "--serial") => {
                let outside = std::path::absolute(&*value)?;
                image.directory(Path::new("/host"));
                outputs.push((there.clone(), outside));
                *value = there.into();
            }
            _ => {}
        }
    }
    if !copied.is_empty() {
        say(format!("copied into the emulated machine, where changes stay: {}", copied.join(", ")));
    }
    Ok(outputs)
}

fn copy(image: &mut Image, there: &Path, source: &Path, copied: &mut Vec<String>) -> Result<()> {
    let bytes = size_of(source)?;
    if bytes > MAX_TREE {
        bail!(
            "{} is too large for an emulated machine ({} MiB, at most {}): a computer with KVM shares it as it is",
            source.display(),
            bytes >> 20,
            MAX_TREE >> 20
        );
    }
    image.copy(there, source)?;
    copied.push(source.display().to_string());
    Ok(())
}

/// Bytes of a file, or of all files of a tree.
fn size_of(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let metadata = if metadata.is_symlink() { fs::metadata(path)? } else { metadata };
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    let mut pending = vec![path.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                pending.push(entry.path());
            } else {
                sum += metadata.len();
            }
        }
    }
    Ok(sum)
}

/// What krun itself finds in its environment: the variables that `--env NAME` passes on, and the log's filter.
fn environment(options: &Options) -> Vec<Vec<u8>> {
    let mut environment = vec![b"PATH=/bin".to_vec(), b"HOME=/root".to_vec()];
    let named = options
        .krun
        .iter()
        .filter(|(name, _)| name == "--env" || name == "-e")
        .filter_map(|(_, value)| value.as_deref().filter(|value| !value.as_bytes().contains(&b'=')));
    for name in named.chain(["RUST_LOG", "TERM"].map(OsStr::new)) {
        #[expect(clippy::disallowed_methods, reason = "krun reads its environment; in the machine it finds the same")]
        if let Some(value) = std::env::var_os(name) {
            environment.push([name.as_bytes(), b"=", value.as_bytes()].concat());
        }
    }
    environment
}

/// Copies a file out of the machine.
fn move_out(machine: &mut Machine, inside: &Path, outside: &Path) -> Result<()> {
    let mut file = File::create(outside).with_context(|| format!("cannot create {}", outside.display()))?;
    let cat = [inside::BUSYBOX.into(), OsString::from("cat"), inside.into()];
    let command = Command { arguments: cat.map(OsStringExt::into_vec).to_vec(), ..Command::default() };
    machine.run(command, Some(Duration::from_secs(60)), &mut IntoFile(&mut file)).map(|_| ()).map_err(|Lost(reason)| {
        anyhow!("the emulated machine was lost before {} was copied: {reason}", outside.display())
    })
}

struct IntoFile<'a>(&'a mut File);

impl Streams for IntoFile<'_> {
    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn errors(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
