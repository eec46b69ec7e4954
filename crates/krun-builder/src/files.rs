//! The guest's file systems: its root with init in it, and the volumes.

use std::path::Path;
use std::time::Duration;

use krun_virtio::VirtioDevice;
use krun_virtio_fs::{
    CachePolicy, Error as FsError, FileSystem, FsDevice, Locks, OverlayBuilder, OverlayFs, PassthroughFs, ReadOnly,
};

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

/// Adds a device for the root and one for each volume.
pub(crate) fn add(config: &Config, devices: &mut Vec<Box<dyn VirtioDevice>>, problems: &mut Vec<Problem>) {
    let remedy = "give a directory of the host that this process may enter";
    let mut made = |field, path: &Path, device: Result<Box<dyn VirtioDevice>, FsError>| match device {
        Ok(device) => devices.push(device),
        Err(error) => problems.push(Problem::caused_by(field, path.display().to_string(), error, remedy)),
    };
    if let Some(root) = &config.root {
        made("root", &root.path, root_device(root, &config.volumes));
    }
    for (index, volume) in config.volumes.iter().enumerate() {
        made("volume", &volume.source, volume_device(volume, &volume.tag_or_default(index)));
    }
}

fn root_device(root: &Root, volumes: &[Volume]) -> Result<Box<dyn VirtioDevice>, FsError> {
    // It is this VM's own.
    let share = PassthroughFs::builder(&root.path).timeout(ROOT_TIMEOUT).locks(Locks::Guest).build()?;
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

fn volume_device(volume: &Volume, tag: &str) -> Result<Box<dyn VirtioDevice>, FsError> {
    let mut share = PassthroughFs::builder(&volume.source);
    if volume.exclusive {
        share = share.cache(CachePolicy::Always).locks(Locks::Guest);
    }
    let share = share.build()?;
    if volume.read_only { device(tag, ReadOnly::new(share)) } else { device(tag, share) }
}

fn device(tag: &str, files: impl FileSystem + 'static) -> Result<Box<dyn VirtioDevice>, FsError> {
    Ok(Box::new(FsDevice::new(tag, files)?))
}
