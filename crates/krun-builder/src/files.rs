//! The guest's file systems: its root with init in it, and the volumes.

use std::path::Path;
use std::time::Duration;

use krun_virtio::VirtioDevice;
use krun_virtio_fs::{
    CachePolicy, Error as FsError, FileSystem, FsDevice, Locks, OverlayBuilder, OverlayFs, PassthroughFs, ReadOnly,
};
use rustix::process::{Resource, getrlimit};

use crate::boot::INIT_PATH;
use crate::config::Config;
use crate::error::Problem;
use crate::share::{ROOT_TAG, Root, Volume};

/// Directories that init mounts something on. Where the root has none, they exist in the guest alone: nothing is left
/// behind in the host's directory, and a read-only one will do.
const MOUNT_POINTS: [(&str, u32); 5] =
    [("/dev", 0o755), ("/proc", 0o555), ("/run", 0o755), ("/sys", 0o555), ("/tmp", 0o1777)];

/// How long the guest takes names and attributes in its root for granted: few change there from outside.
const ROOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most files that the guest may know in one of `shares`, of a process that may have `descriptors` open. Together they
/// take no more than one share that is alone: 5/8 for files known, 5/32 for files open and 5/64 for files locked, which
/// leaves a seventh to everything else.
fn files_per_share(descriptors: u64, shares: usize) -> usize {
    let all = usize::try_from(descriptors / 8 * 5).unwrap_or(usize::MAX);
    (all / shares.max(1)).max(1)
}

/// Adds a device for the root and one for each volume.
pub(crate) fn add(config: &Config, devices: &mut Vec<Box<dyn VirtioDevice>>, problems: &mut Vec<Problem>) {
    let remedy = "give a directory of the host that this process may enter";
    let mut made = |field, path: &Path, device: Result<Box<dyn VirtioDevice>, FsError>| match device {
        Ok(device) => devices.push(device),
        Err(error) => problems.push(Problem::caused_by(field, path.display().to_string(), error, remedy)),
    };
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let limit = files_per_share(descriptors, config.volumes.len() + usize::from(config.root.is_some()));
    if let Some(root) = &config.root {
        made("root", &root.path, root_device(root, &config.volumes, limit));
    }
    for (index, volume) in config.volumes.iter().enumerate() {
        made("volume", &volume.source, volume_device(volume, &volume.tag_or_default(index), limit));
    }
}

fn root_device(root: &Root, volumes: &[Volume], limit: usize) -> Result<Box<dyn VirtioDevice>, FsError> {
    // It is this VM's own.
    let share =
        PassthroughFs::builder(&root.path).max_files(limit).timeout(ROOT_TIMEOUT).locks(Locks::Guest).build()?;
    let overlay = overlay(volumes);
    if root.read_only {
        device(ROOT_TAG, overlay.build(ReadOnly::new(share))?)
    } else {
        let root: OverlayFs<PassthroughFs> = overlay.build(share)?;
        device(ROOT_TAG, root)
    }
}

/// What the guest sees in its root and the host's directory does not have.
fn overlay(volumes: &[Volume]) -> OverlayBuilder {
    let overlay = OverlayFs::builder().hidden_file(INIT_PATH, krun_init::INIT, 0o755);
    let overlay = MOUNT_POINTS.iter().fold(overlay, |overlay, (path, mode)| overlay.dir(*path, *mode));
    // One that is not UTF-8 has to be in the root already.
    let targets = volumes.iter().filter_map(|volume| volume.target.to_str());
    targets.fold(overlay, |overlay, target| overlay.dir(plain(target), 0o755))
}

/// The path without doubled and trailing slashes.
fn plain(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty()).map(|part| format!("/{part}")).collect()
}

fn volume_device(volume: &Volume, tag: &str, limit: usize) -> Result<Box<dyn VirtioDevice>, FsError> {
    let mut share = PassthroughFs::builder(&volume.source).max_files(limit);
    if volume.exclusive {
        share = share.cache(CachePolicy::Always).locks(Locks::Guest);
    }
    let share = share.build()?;
    if volume.read_only { device(tag, ReadOnly::new(share)) } else { device(tag, share) }
}

fn device(tag: &str, files: impl FileSystem + 'static) -> Result<Box<dyn VirtioDevice>, FsError> {
    Ok(Box::new(FsDevice::new(tag, files)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_divide_the_descriptors_among_themselves() {
        assert_eq!(files_per_share(1024, 1), 640);
        for shares in 1..=40 {
            let files = files_per_share(1024, shares);
            // Each may have a quarter as many open, and an eighth locked.
            let all = shares * (files + files / 4 + files / 8);
            assert!(files > 0 && all <= 1024 / 8 * 7, "{shares} shares take {all}");
        }
        assert_eq!(files_per_share(0, 3), 1);
        assert!(files_per_share(u64::MAX, 2) > 1 << 60);
    }
}
