//! Which shared libraries a program needs, asked of the dynamic loader.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The shared libraries of the program or library at `path`, its loader included; none for a static program.
pub(crate) fn libraries_of(path: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .context("cannot start `ldd`: install the C library's tools (package libc-bin)")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        if complaint.contains("not a dynamic executable")
            || String::from_utf8_lossy(&output.stdout).contains("statically linked")
        {
            return Ok(Vec::new());
        }
        bail!("`ldd {}` failed: {}", path.display(), complaint.trim());
    }
    parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("{} cannot run here", path.display()))
}

/// Reads lines `NAME => PATH (ADDRESS)` and `PATH (ADDRESS)`; what has no path is the kernel's own.
fn parse(text: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        let library = match line.split_once(" => ") {
            Some((name, rest)) if rest.starts_with("not found") => bail!("the library {name} is missing"),
            Some((_, rest)) => rest,
            None => line,
        };
        let path = library.rsplit_once(" (").map_or(library, |(path, _)| path);
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_and_the_vdso_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let error = parse("\tlibspecial.so.1 => not found\n").unwrap_err().to_string();
        assert!(error.contains("libspecial.so.1"), "{error}");
    }

    #[test]
    fn a_static_program_needs_none() {
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn this_very_program_needs_the_c_library() {
        let libraries = libraries_of(&std::env::current_exe().unwrap()).unwrap();
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{libraries:?}");
    }
}
