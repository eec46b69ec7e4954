//! Directories of the host that the guest sees.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use crate::error::Problem;

/// The tag of the root file system: what the kernel mounts when it is not told a source.
pub(crate) const ROOT_TAG: &str = "/dev/root";
/// Most bytes of a tag (virtio 1.2, 5.11.4).
const MAX_TAG: usize = 36;

/// A directory of the host as the guest's root file system.
///
/// A root is taken to be one VM's own: what the host changes there may show after 5 seconds only, and locks on files
/// (`flock`, `fcntl`) hold among the guest's processes. What is to be shared with others belongs into a [`Volume`].
///
/// Each file that the guest's kernel remembers costs this process a file descriptor. A program that shares large trees
/// should raise its soft limit (`RLIMIT_NOFILE`) to the hard one before it builds a VM: root and volumes divide six
/// sevenths of the soft limit among themselves in equal parts, and a guest that is at the end of a part gets `ENFILE`.
/// VMs of one process know nothing of each other: a process that runs several needs a limit that is enough for all of
/// them, or their guests can use up its descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
}

impl Root {
    /// Shares `path`, readable and writable.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: false }
    }

    /// Refuses every write. The host enforces it, whatever the guest does.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

impl<P: Into<PathBuf>> From<P> for Root {
    fn from(path: P) -> Self {
        Self::new(path)
    }
}

/// A directory of the host that is mounted somewhere in the guest.
///
/// It is shared with the host and with any other VM that has it: what one side changes shows on the other within a
/// second (content: when a file is opened), and locks on files hold everywhere. [`Volume::exclusive`] gives that up for
/// speed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) tag: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) exclusive: bool,
}

impl Volume {
    /// Shares the host's `source` at the guest's `target`, readable and writable. A target that the root does not have
    /// appears in the guest alone.
    #[must_use]
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: target.into(), tag: None, read_only: false, exclusive: false }
    }

    /// Refuses every write. The host enforces it, whatever the guest does.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Says that nobody but this VM changes the directory while it runs, or locks files in it: then the guest keeps all
    /// it has seen, and asks the host far less often.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// Names the device (at most 36 bytes); `volume0`, `volume1`, ... by default.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// The tag of the volume with this index.
    pub(crate) fn tag_or_default(&self, index: usize) -> String {
        self.tag.clone().unwrap_or_else(|| format!("volume{index}"))
    }
}

pub(crate) fn check(volumes: &[Volume], problems: &mut Vec<Problem>) {
    let mut tags: HashSet<String> = HashSet::from([ROOT_TAG.into()]);
    let mut targets: HashSet<&Path> = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let tag = volume.tag_or_default(index);
        let mut problem = |value: String, reason: &str, remedy: &str| {
            problems.push(Problem::new("volume", value, reason, remedy));
        };
        if tag.is_empty() || tag.len() > MAX_TAG || tag.contains('\0') {
            problem(tag.clone(), "not a tag", "use 1 to 36 bytes without NUL");
        }
        if !tags.insert(tag.clone()) {
            problem(tag, "the tag is taken by another file system", "give each volume its own tag");
        }
        let target = volume.target.display().to_string();
        if !is_plain_target(&volume.target) {
            problem(target, "not a place to mount a volume at", "give an absolute path below `/`, without `..`");
        } else if !targets.insert(&volume.target) {
            problem(target, "two volumes have this target", "give each volume its own");
        }
    }
}

/// Absolute, not the root itself, nothing that leads upwards.
fn is_plain_target(target: &Path) -> bool {
    let mut components = target.components();
    components.next() == Some(Component::RootDir)
        && components.clone().next().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
        && !target.as_os_str().as_encoded_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_absolute_and_lead_down() {
        for good in ["/a", "/mnt/data", "/a//b/"] {
            assert!(is_plain_target(Path::new(good)), "{good}");
        }
        for bad in ["", "/", "a", "/../etc", "/a/../../b", "/a\0b"] {
            assert!(!is_plain_target(Path::new(bad)), "{bad}");
        }
    }

    #[test]
    fn every_clash_is_reported() {
        let volumes = [
            Volume::new("/a", "/x"),
            Volume::new("/b", "/x"),
            Volume::new("/c", "/y").tag("volume0"),
            Volume::new("/d", "/z").tag(ROOT_TAG),
            Volume::new("/e", "relative").tag("x".repeat(37)),
        ];
        let mut problems = Vec::new();
        check(&volumes, &mut problems);
        assert_eq!(problems.len(), 5, "{problems:?}");
    }
}
