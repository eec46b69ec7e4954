//! The guest kernel: `libkrunfw.so.5`, the system's own or the one inside a Python wheel.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::digest;
use super::store::Store;
use crate::process::{find_program, output};
use crate::progress;

/// The library's name, with the version of its interface.
const LIBRARY: &str = "libkrunfw.so.5";
/// Where distributions and `make install` put it.
const SYSTEM_DIRECTORIES: [&str; 5] =
    ["/usr/local/lib64", "/usr/local/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib"];

/// The wheel that carries a build of the library; old versions stay in the index, so the pin holds.
const REQUIREMENT: &str = "microsandbox==0.7.11";
const WHEEL_SHA256: &str = "65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0";
const WHEEL_BYTES: u64 = 48_148_484;
const MEMBER: &str = "microsandbox/_bundled/lib/libkrunfw.so.5.6.1";
const LIBRARY_SHA256: &str = "3854efcd3fe625528fa00207d97586d9790db8c436bb6881a43986604336d18e";

/// Answers the path of a guest kernel bundle.
pub(crate) fn kernel_bundle(store: &Store) -> Result<PathBuf> {
    let bundle = match installed() {
        Some(installed) => installed,
        None => store.get("guest-kernel", LIBRARY_SHA256, |directory| fetch(store, directory))?.join(LIBRARY),
    };
    store.link(LIBRARY, &bundle)?;
    Ok(bundle)
}

fn installed() -> Option<PathBuf> {
    SYSTEM_DIRECTORIES.iter().map(|directory| Path::new(directory).join(LIBRARY)).find(|path| path.exists())
}

fn fetch(store: &Store, directory: &Path) -> Result<()> {
    let downloads = store.downloads("pip");
    fs::create_dir_all(&downloads)?;
    let wheel = match finished_download(&downloads) {
        Some(wheel) => wheel,
        None => progress::watch("fetching the guest kernel with pip", &downloads, Some(WHEEL_BYTES), || {
            download(&downloads)
        })?,
    };
    let library = directory.join(LIBRARY);
    extract(&wheel, &library)?;
    digest::verify(&library, LIBRARY_SHA256)?;
    fs::remove_dir_all(&downloads)?;
    Ok(())
}

/// A wheel that an earlier attempt brought in whole.
fn finished_download(downloads: &Path) -> Option<PathBuf> {
    let wheel = only_wheel(downloads).ok()?;
    digest::verify(&wheel, WHEEL_SHA256).ok().map(|()| wheel)
}

fn download(downloads: &Path) -> Result<PathBuf> {
    let requirements = downloads.join("requirements.txt");
    fs::write(&requirements, format!("{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n"))?;
    output(
        pip()?
            .args(["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
            // Named in full, so that a Python too old or too new for the wheel fetches it all the same.
            .args(["--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.12"])
            .args(["--implementation=cp", "--abi=abi3", "--require-hashes"])
            .arg("--dest")
            .arg(downloads)
            .arg("--requirement")
            .arg(&requirements)
            // Pip unpacks into the temporary directory first: there the progress bar sees it grow.
            .env("TMPDIR", downloads),
    )?;
    let wheel = only_wheel(downloads)?;
    digest::verify(&wheel, WHEEL_SHA256)?;
    Ok(wheel)
}

/// The first Python package client that answers.
fn pip() -> Result<Command> {
    if let Some(python) = find_program("python3") {
        let mut command = Command::new(python);
        command.args(["-m", "pip"]);
        if output(Command::new(command.get_program()).args(command.get_args()).arg("--version")).is_ok() {
            return Ok(command);
        }
    }
    ["pip3", "pip"].into_iter().find_map(find_program).map(Command::new).ok_or_else(|| {
        anyhow!("no guest kernel: install {LIBRARY} (package libkrunfw) or pip (package python3-pip), then try again")
    })
}

fn only_wheel(directory: &Path) -> Result<PathBuf> {
    let mut wheels = fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    match (wheels.next(), wheels.next()) {
        (Some(wheel), None) => Ok(wheel),
        (None, _) => bail!("pip reported success but left no wheel in {}", directory.display()),
        (Some(_), Some(_)) => bail!("more than one wheel in {}: delete the directory", directory.display()),
    }
}

fn extract(wheel: &Path, library: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)
        .with_context(|| format!("{} is not a zip archive", wheel.display()))?;
    let mut member = archive.by_name(MEMBER).with_context(|| format!("{} has no {MEMBER}", wheel.display()))?;
    io::copy(&mut member, &mut File::create(library)?)
        .with_context(|| format!("cannot write {}", library.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wheel_is_found_and_ambiguity_is_not_guessed_away() {
        let directory = tempfile::tempdir().unwrap();
        assert!(only_wheel(directory.path()).is_err());
        fs::write(directory.path().join("a.whl"), "").unwrap();
        fs::write(directory.path().join("requirements.txt"), "").unwrap();
        assert_eq!(only_wheel(directory.path()).unwrap(), directory.path().join("a.whl"));
        fs::write(directory.path().join("b.whl"), "").unwrap();
        assert!(only_wheel(directory.path()).is_err());
    }
}
