//! A directory of finished things: each is made in private, then renamed into place, so that nothing half-made is seen.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::progress::say;

/// Suffix of the file that says what a finished thing was made from. It lies beside the thing, whose content is its own.
const RECIPE: &str = ".recipe";
/// Prefix of directories that are being made.
const MAKING: &str = ".making-";

/// Holds finished assets by name.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    /// A store under `root`, which is created when it is needed.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where downloads may be kept between attempts, so that an interrupted one goes on instead of starting anew.
    pub(crate) fn downloads(&self, client: &str) -> PathBuf {
        self.root.join("downloads").join(client)
    }

    /// Answers the directory `name`, made by `make` unless it is there already and was made from the same `recipe`.
    ///
    /// `make` fills an empty directory. Two processes never make at the same time: the second waits, then finds the
    /// work done.
    pub(crate) fn get(&self, name: &str, recipe: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let home = self.root.join(name);
        let recipe_file = self.root.join(format!("{name}{RECIPE}"));
        let is_made = || home.exists() && fs::read_to_string(&recipe_file).is_ok_and(|made_from| made_from == recipe);
        if is_made() {
            return Ok(home);
        }
        fs::create_dir_all(&self.root).with_context(|| format!("cannot create {}", self.root.display()))?;
        let _lock = self.lock()?;
        if is_made() {
            return Ok(home);
        }
        self.sweep();
        let staging = tempfile::Builder::new()
            .prefix(&format!("{MAKING}{name}-"))
            .tempdir_in(&self.root)
            .with_context(|| format!("cannot create a directory in {}", self.root.display()))?;
        let fresh = staging.path().join("new");
        fs::create_dir(&fresh)?;
        make(&fresh).with_context(|| format!("cannot prepare the asset `{name}`"))?;
        let fresh_recipe = staging.path().join("recipe");
        fs::write(&fresh_recipe, recipe)?;
        // Whoever is killed between these steps leaves a thing without a recipe, which the next one makes anew.
        if home.exists() {
            if recipe_file.exists() {
                fs::remove_file(&recipe_file)?;
            }
            fs::rename(&home, staging.path().join("old"))?;
        }
        fs::rename(&fresh, &home).with_context(|| format!("cannot put {} in place", home.display()))?;
        fs::rename(&fresh_recipe, &recipe_file)?;
        Ok(home)
    }

    /// Puts a link `name` to `target` beside the finished things, for people who want a path that stays.
    pub(crate) fn link(&self, name: &str, target: &Path) -> Result<()> {
        let link = self.root.join(name);
        if fs::read_link(&link).is_ok_and(|existing| existing == target) {
            return Ok(());
        }
        fs::create_dir_all(&self.root)?;
        let _lock = self.lock()?;
        let staging = tempfile::Builder::new().prefix(MAKING).tempdir_in(&self.root)?;
        let fresh = staging.path().join("link");
        symlink(target, &fresh)?;
        fs::rename(&fresh, &link).with_context(|| format!("cannot put {} in place", link.display()))
    }

    /// Waits until no other process makes anything here.
    fn lock(&self) -> Result<File> {
        let path = self.root.join(".lock");
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            say("another xtask prepares assets here; waiting for it");
            flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }

    /// Removes what killed processes left behind. Called under the lock, so nobody is still at it.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(MAKING) {
                // What cannot be removed is only in the way of nobody.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_made_once_and_again_when_its_recipe_changes() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().join("assets"));
        let make = |text: &'static str| move |directory: &Path| Ok(fs::write(directory.join("it"), text)?);
        let home = store.get("thing", "one", make("first")).unwrap();
        store.get("thing", "one", |_| anyhow::bail!("made twice")).unwrap();
        assert_eq!(fs::read_to_string(home.join("it")).unwrap(), "first");
        store.get("thing", "two", make("second")).unwrap();
        assert_eq!(fs::read_to_string(home.join("it")).unwrap(), "second");
    }

    #[test]
    fn a_failed_attempt_leaves_nothing_and_keeps_the_old_one() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned());
        let home = store.get("thing", "one", |directory| Ok(fs::write(directory.join("it"), "old")?)).unwrap();
        let failed = store.get("thing", "two", |directory| {
            fs::write(directory.join("it"), "half")?;
            anyhow::bail!("the network went away")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(home.join("it")).unwrap(), "old");
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(MAKING)), "{left:?}");
    }

    #[test]
    fn a_thing_without_its_recipe_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned());
        fs::create_dir(root.path().join("thing")).unwrap();
        fs::write(root.path().join("thing/half"), "").unwrap();
        let home = store.get("thing", "one", |directory| Ok(fs::write(directory.join("it"), "whole")?)).unwrap();
        assert!(!home.join("half").exists());
        assert!(home.join("it").exists());
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned());
        let rubbish = root.path().join(".making-thing-dead");
        fs::create_dir(&rubbish).unwrap();
        store.get("thing", "one", |_| Ok(())).unwrap();
        assert!(!rubbish.exists());
    }
}
