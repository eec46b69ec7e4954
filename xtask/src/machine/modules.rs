//! Kernel modules for a machine: each with those it needs, in the order to load them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A module, ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its name, as the kernel writes it.
    pub(crate) name: String,
    /// The ELF object.
    pub(crate) object: Vec<u8>,
}

/// The modules `wanted` from the directory `lib/modules/VERSION/kernel`, each after those it depends on. What has no file
/// is built into the kernel.
pub(crate) fn with_dependencies(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let files = files(directory)?;
    let mut order = Vec::new();
    for name in wanted {
        add(&files, name, &mut Vec::new(), &mut order)?;
    }
    Ok(order)
}

fn add(
    files: &BTreeMap<String, PathBuf>,
    name: &str,
    parents: &mut Vec<String>,
    order: &mut Vec<Module>,
) -> Result<()> {
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    if parents.iter().any(|parent| parent == name) {
        bail!("the kernel module {name} depends on itself");
    }
    let Some(path) = files.get(name) else { return Ok(()) };
    let object = read(path)?;
    parents.push(name.to_owned());
    for dependency in dependencies(&object) {
        add(files, &dependency, parents, order)?;
    }
    parents.pop();
    order.push(Module { name: name.to_owned(), object });
    Ok(())
}

/// All modules by name.
fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
                files.insert(name.replace('-', "_"), entry.path());
            }
        }
    }
    Ok(files)
}

/// The module's object; some distributions compress them.
fn read(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = Command::new(program)
        .args(["--decompress", "--stdout"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{program}`: install it to unpack {}", path.display()))?;
    if !output.status.success() {
        bail!("`{program}` cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}

/// The names behind `depends=` in the module's `.modinfo` section.
fn dependencies(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = object[at + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        for (file, depends) in modules {
            fs::write(directory.path().join(file), format!("ELF\0license=GPL\0depends={depends}\0x=y\0")).unwrap();
        }
        directory
    }

    fn order(modules: &[(&str, &str)], wanted: &[&str]) -> Result<Vec<String>> {
        let directory = directory(modules);
        Ok(with_dependencies(directory.path(), wanted)?.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn each_comes_after_those_it_needs_and_only_once() {
        let modules = [("sub/kvm-amd.ko", "kvm,ccp"), ("kvm.ko", "irqbypass"), ("irqbypass.ko", ""), ("x.ko", "kvm")];
        assert_eq!(order(&modules, &["kvm_amd", "x"]).unwrap(), ["irqbypass", "kvm", "kvm_amd", "x"]);
    }

    #[test]
    fn a_circle_is_an_error() {
        assert!(order(&[("a.ko", "b"), ("b.ko", "a")], &["a"]).is_err());
    }

    #[test]
    fn what_has_no_file_is_built_in() {
        assert!(order(&[], &["kvm"]).unwrap().is_empty());
    }
}
