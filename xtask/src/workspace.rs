//! Where things are: the source tree, cargo's target directory, and what of ours lies in it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;
use tempfile::TempDir;

/// How long logs of failed runs, and what killed ones left, are kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The checked-out workspace and its target directory.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo, so that `CARGO_TARGET_DIR` and configuration files are honoured.
    pub(crate) fn locate() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("cargo metadata did not describe the workspace")?;
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            target: metadata.target_directory.into_std_path_buf(),
        })
    }

    /// The directory of the root `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Downloaded and unpacked things. Kept between runs; safe to delete.
    pub(crate) fn assets(&self) -> PathBuf {
        self.target.join("assets")
    }

    /// A directory for one run's images and logs, removed at its end.
    pub(crate) fn new_scratch(&self, name: &str) -> Result<Scratch> {
        let parent = self.target.join("machines");
        fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
        sweep(&parent);
        let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&parent)?;
        Ok(Scratch { directory, parent })
    }

    /// A cargo command that starts in the workspace's root: the same cargo that started us.
    pub(crate) fn cargo(&self) -> Command {
        #[expect(clippy::disallowed_methods, reason = "cargo tells its subcommands through CARGO which cargo it is")]
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root);
        command
    }
}

/// Removes what is a day old: whoever was killed left it, and nobody looked at it.
fn sweep(parent: &Path) {
    let is_old = |entry: &fs::DirEntry| {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > KEPT))
    };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten().filter(is_old) {
        // What cannot be removed is in nobody's way.
        let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
    }
}

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: TempDir,
    parent: PathBuf,
}

impl Scratch {
    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Saves a file of the directory for a person to look at, and answers where it lies now.
    pub(crate) fn keep_file(&self, path: &Path) -> PathBuf {
        let mut name = self.directory.path().file_name().unwrap_or_default().to_owned();
        name.push("-");
        name.push(path.file_name().unwrap_or_default());
        let kept = self.parent.join(name);
        match fs::rename(path, &kept) {
            Ok(()) => kept,
            Err(_) => path.to_owned(),
        }
    }
}
