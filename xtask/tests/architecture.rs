//! The invariants of `ARCHITECTURE.md`, checked.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of these tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Which of our crates each component may name. Everything not listed here is a composition (builder, binaries, harnesses).
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("krun-virtio", &[]),
    ("krun-vcpu", &[]),
    ("krun-kernel-loader", &[]),
    ("krun-init", &[]),
    ("krun-console", &["krun-virtio"]),
    ("krun-virtio-fs", &["krun-virtio"]),
    (
        "krun-builder",
        &["krun-console", "krun-init", "krun-kernel-loader", "krun-vcpu", "krun-virtio", "krun-virtio-fs"],
    ),
];

/// Crates that bind the KVM API, and who may use them.
const KVM: &[&str] = &["kvm-ioctls", "kvm-bindings"];
const MAY_USE_KVM: &[&str] = &["krun-vcpu", "krun-builder"];

/// Two of one of these in a tree, and types that look alike cannot be passed from crate to crate.
const ONE_OF_EACH: &[&str] =
    &["vm-memory", "vmm-sys-util", "virtio-queue", "virtio-bindings", "kvm-bindings", "kvm-ioctls", "event-manager"];

/// A file longer than this is not read in one sitting. Tables of constants and wire structures are no prose.
const LINES_IN_A_FILE: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().current_dir(root()).other_options(["--locked".to_owned()]).exec().expect("cargo metadata")
}

fn published(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages().into_iter().filter(|p| p.publish.is_none()).collect()
}

fn normal_dependencies(package: &Package) -> BTreeSet<&str> {
    package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal).map(|d| d.name.as_str()).collect()
}

#[test]
fn arrows_point_down_only() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = MAY_DEPEND_ON.iter().copied().collect();
    for package in published(&metadata) {
        let name = package.name.as_str();
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} has no line in MAY_DEPEND_ON"));
        for dependency in normal_dependencies(package).into_iter().filter(|d| d.starts_with("krun")) {
            assert!(may.contains(&dependency), "{name} must not know {dependency}");
        }
    }
}

#[test]
fn only_the_vcpu_crate_and_the_builder_name_kvm() {
    for package in metadata().workspace_packages() {
        let harness = package.publish.is_some();
        if harness || MAY_USE_KVM.contains(&package.name.as_str()) {
            continue;
        }
        for dependency in normal_dependencies(package) {
            assert!(!KVM.contains(&dependency), "{} must not name {dependency}", package.name);
        }
    }
}

#[test]
fn there_is_one_version_of_each_shared_crate() {
    let metadata = metadata();
    for name in ONE_OF_EACH {
        let versions: BTreeSet<String> =
            metadata.packages.iter().filter(|p| p.name.as_str() == *name).map(|p| p.version.to_string()).collect();
        assert_eq!(versions.len(), 1, "{name}: {versions:?}");
    }
}

#[test]
fn every_component_can_be_published_and_documented_alone() {
    for package in published(&metadata()) {
        let name = &package.name;
        assert!(package.description.is_some(), "{name} has no description");
        assert_eq!(package.license.as_deref(), Some("Apache-2.0 OR BSD-3-Clause"), "{name}");
        assert!(package.readme.is_some(), "{name} has no README");
        assert!(package.rust_version.is_some(), "{name} states no MSRV");
        assert!(package.metadata["docs"]["rs"].is_object(), "{name} has no docs.rs metadata");
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let range = dependency.req.to_string();
            assert!(range.starts_with('^'), "{name} wants {} {range}: an ordinary range is wanted", dependency.name);
        }
        let directory = package.manifest_path.parent().unwrap();
        let readme = fs::read_to_string(directory.join("README.md")).unwrap();
        assert!(readme.contains("```rust"), "{name}: a README shows the crate at work");
    }
}

#[test]
fn every_component_is_fuzzed_and_benchmarked() {
    for package in published(&metadata()) {
        let short = package.name.strip_prefix("krun-").unwrap().replace('-', "_");
        let bench = root().join("benches/benches").join(format!("{short}.rs"));
        assert!(bench.is_file(), "{} is missing", bench.display());
        let fuzzed = fs::read_dir(root().join("fuzz/fuzz_targets"))
            .unwrap()
            .any(|f| f.unwrap().file_name().to_string_lossy().starts_with(&short));
        assert!(fuzzed, "{} has no fuzz target", package.name);
    }
}

fn rust_files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let mut files = Vec::new();
    for part in ["crates", "examples", "xtask/src", "fuzz/src"] {
        rust_files(&root().join(part), &mut files);
    }
    for file in files.iter().filter(|f| !f.components().any(|c| c.as_os_str() == "target")) {
        let lines = fs::read_to_string(file).unwrap().lines().count();
        assert!(lines <= LINES_IN_A_FILE, "{} has {lines} lines; split it by idea", file.display());
    }
}

#[test]
fn no_component_reads_the_environment_or_ends_the_process() {
    let mut files = Vec::new();
    for package in published(&metadata()) {
        rust_files(package.manifest_path.parent().unwrap().join("src").as_std_path(), &mut files);
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["disallowed_methods", "process::exit", "clippy::exit"] {
            assert!(!text.contains(word), "{} has {word}", file.display());
        }
    }
}
