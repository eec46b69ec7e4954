//! Debian packages, fetched and unpacked without installing anything and without being root.
//!
//! apt keeps its own lists and cache under our directory; its view of what is installed stays the system's, so only
//! what is missing here is fetched. The signed index vouches for every package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::process::{find_program, output};
use crate::progress;

/// The system's own hooks tidy up the system's state, which is not ours.
const CONFIGURATION: &str =
    "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n";

/// One package file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Download {
    file: String,
    bytes: u64,
}

/// apt with private state.
#[derive(Debug)]
pub(crate) struct Apt {
    state: PathBuf,
    updated: OnceLock<()>,
}

impl Apt {
    /// An apt whose lists and downloads lie under `state`.
    pub(crate) fn new(state: PathBuf) -> Self {
        Self { state, updated: OnceLock::new() }
    }

    /// Unpacks `packages`, and what they depend on and the system lacks, into the directory `into`.
    pub(crate) fn unpack_with_dependencies(&self, packages: &[&str], into: &Path) -> Result<()> {
        self.update()?;
        let install = ["install", "--no-install-recommends", "--reinstall"];
        let plan = output(self.apt_get().args(install).arg("--print-uris").args(packages))
            .with_context(|| format!("apt cannot find {}", packages.join(", ")))?;
        let downloads = parse_uris(&plan)?;
        let archives = self.archives();
        self.fetch(&downloads, &archives, self.apt_get().args(install).arg("--download-only").args(packages))?;
        unpack(&downloads, &archives, into)
    }

    /// Unpacks one package, without what it depends on, into the directory `into`.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        self.update()?;
        let plan = output(self.apt_get().args(["download", "--print-uris", package]))
            .with_context(|| format!("apt cannot find {package}"))?;
        let downloads = parse_uris(&plan)?;
        let archives = self.archives();
        self.fetch(&downloads, &archives, self.apt_get().current_dir(&archives).args(["download", package]))?;
        unpack(&downloads, &archives, into)
    }

    /// The package starting with `prefix` that the meta package `package` depends on.
    pub(crate) fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        self.update()?;
        let text = output(self.client("apt-cache").args(["depends", package]))
            .with_context(|| format!("apt knows no package {package}"))?;
        parse_dependency(&text, prefix)
            .with_context(|| format!("{package} depends on nothing that starts with {prefix}"))
    }

    fn archives(&self) -> PathBuf {
        self.state.join("cache/archives")
    }

    fn configuration(&self) -> PathBuf {
        self.state.join("apt.conf")
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.configuration())
            .arg("-o")
            .arg(format!("Dir::State::lists={}", self.state.join("lists").display()))
            .arg("-o")
            .arg(format!("Dir::Cache={}", self.state.join("cache").display()))
            // The system's own locks are for those who install.
            .args(["-o", "Debug::NoLocking=true"])
            // Our directories are not world readable for apt's own user where the tree is not.
            .args(["-o", "APT::Sandbox::User=root"])
            .args(["-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"])
            .args(["-o", "Acquire::Retries=3"])
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn apt_get(&self) -> Command {
        let mut command = self.client("apt-get");
        command.args(["-qq", "-y"]);
        command
    }

    /// Brings the private lists up to date, once in the life of this process.
    fn update(&self) -> Result<()> {
        if self.updated.get().is_some() {
            return Ok(());
        }
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            if find_program(program).is_none() {
                bail!(
                    "`{program}` is not here: install apt and dpkg, or install what is asked for by your own means \
                     (qemu-system-x86_64, a static busybox)"
                );
            }
        }
        for directory in ["lists/partial", "cache/archives/partial"] {
            let directory = self.state.join(directory);
            fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        fs::write(self.configuration(), CONFIGURATION)?;
        let lists = self.state.join("lists");
        progress::watch("reading the package lists with apt", &lists, None, || output(self.apt_get().arg("update")))?;
        let _ = self.updated.set(());
        Ok(())
    }

    fn fetch(&self, downloads: &[Download], archives: &Path, command: &mut Command) -> Result<()> {
        let missing: Vec<_> = downloads.iter().filter(|download| !download.is_in(archives)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = match missing.as_slice() {
            [only] => format!("fetching {} with apt", only.package()),
            several => format!("fetching {} and {} more with apt", several[0].package(), several.len() - 1),
        };
        // Counted from what lies there already, so that the bar starts where an interrupted attempt ended.
        let total = downloads.iter().map(|download| download.bytes).sum();
        progress::watch(&what, archives, Some(total), || output(command))?;
        Ok(())
    }
}

impl Download {
    fn is_in(&self, archives: &Path) -> bool {
        fs::metadata(archives.join(&self.file)).is_ok_and(|metadata| metadata.len() == self.bytes)
    }

    fn package(&self) -> &str {
        self.file.split('_').next().unwrap_or(&self.file)
    }
}

fn unpack(downloads: &[Download], archives: &Path, into: &Path) -> Result<()> {
    for download in downloads {
        output(Command::new("dpkg-deb").arg("--extract").arg(archives.join(&download.file)).arg(into))?;
    }
    // Kept until here so that an interrupted attempt goes on; from now on only the unpacked tree is used.
    for download in downloads {
        fs::remove_file(archives.join(&download.file))?;
    }
    Ok(())
}

/// Reads lines of the form `'ADDRESS' FILE BYTES DIGEST`.
fn parse_uris(text: &str) -> Result<Vec<Download>> {
    text.lines()
        .filter(|line| line.starts_with('\''))
        .map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (Some(file), Some(bytes)) = (fields.next(), fields.next()) else {
                bail!("apt printed a line that is not understood: {line}");
            };
            let bytes = bytes.parse().with_context(|| format!("apt printed a strange size: {line}"))?;
            Ok(Download { file: file.to_owned(), bytes })
        })
        .collect()
}

/// Reads the output of `apt-cache depends`.
fn parse_dependency(text: &str, prefix: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with(prefix))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_read() {
        let text =
            "Reading...\n'http://example.org/a_1.deb' a_1%3a2_amd64.deb 66 MD5Sum:00\n'x' b_2_all.deb 7 SHA256:0\n";
        let expected =
            [("a_1%3a2_amd64.deb", 66), ("b_2_all.deb", 7)].map(|(file, bytes)| Download { file: file.into(), bytes });
        assert_eq!(parse_uris(text).unwrap(), expected);
        assert_eq!(expected[0].package(), "a");
    }

    #[test]
    fn a_plan_that_is_not_understood_is_an_error() {
        assert!(parse_uris("'x' a.deb\n").is_err());
        assert!(parse_uris("'x' a.deb many sum\n").is_err());
        assert!(parse_uris("nothing to do\n").unwrap().is_empty());
    }

    #[test]
    fn the_kernel_behind_the_meta_package_is_found() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: linux-image-x\n";
        assert_eq!(parse_dependency(text, "linux-image-").unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(parse_dependency("  Suggests: linux-image-x\n", "linux-image-"), None);
    }
}
