//! A share, and what lies outside of it.
#![allow(unreachable_pub, dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A directory with a share in it and a secret beside that.
pub struct Arena {
    pub dir: tempfile::TempDir,
    secret: (u32, u32, i64, i64),
}

pub const SECRET: &str = "nobody's business";

/// What a change of a file would change.
fn facts(path: &Path) -> (u32, u32, i64, i64) {
    let meta = fs::metadata(path).expect("stat");
    (meta.mode(), meta.uid(), meta.ctime(), meta.ctime_nsec())
}

impl Arena {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("share")).expect("mkdir");
        fs::create_dir(dir.path().join("outside")).expect("mkdir");
        fs::write(dir.path().join("outside/secret"), SECRET).expect("write");
        let secret = facts(&dir.path().join("outside/secret"));
        Self { dir, secret }
    }

    pub fn share(&self) -> std::path::PathBuf {
        self.dir.path().join("share")
    }

    pub fn outside(&self) -> std::path::PathBuf {
        self.dir.path().join("outside")
    }

    /// Nothing outside was changed, made or removed.
    pub fn check(&self) {
        let names: Vec<_> =
            fs::read_dir(self.outside()).expect("list").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(facts(&self.outside().join("secret")), self.secret, "mode, owner, times");
        assert_eq!(fs::read_to_string(self.outside().join("secret")).expect("read"), SECRET);
        let mut names: Vec<_> =
            fs::read_dir(self.dir.path()).expect("list").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "share"]);
    }
}
