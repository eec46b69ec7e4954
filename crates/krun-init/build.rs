//! Builds PID 1 of the guest, `guest/main.rs`, for the architecture this crate is built for.
//!
//! It needs nothing that is not at hand wherever this crate itself compiles: the same `rustc`, the same target's
//! `core`, and a linker. Neither a musl target, nor a static C library, nor a nested cargo. The flags are fixed here:
//! what the outer build does (RUSTFLAGS, profiles, sanitizers) does not reach the guest.

#![expect(clippy::disallowed_methods, reason = "the environment is how cargo talks to a build script")]

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const FLAGS: &[&str] = &[
    "--edition=2024",
    "--crate-name=krun_init_guest",
    "--crate-type=bin",
    "-Copt-level=s",
    "-Ccodegen-units=1",
    "-Cpanic=abort",
    "-Cstrip=symbols",
    "-Cdebuginfo=0",
    "-Coverflow-checks=on",
    "-Crelocation-model=static",
    "-Ctarget-feature=+crt-static",
    // What a later compiler warns about is no concern of who builds this today.
    "--cap-lints=allow",
];

/// For a C compiler that links.
const COMPILER_FLAGS: &[&str] =
    &["-Clink-arg=-nostdlib", "-Clink-arg=-nostartfiles", "-Clink-arg=-static", "-Clink-arg=-Wl,--build-id=none"];

/// For a linker as such.
const LINKER_FLAGS: &[&str] = &["-Clink-arg=--build-id=none"];

/// The linker that comes with rustc: it knows every architecture.
const OWN_LINKER: &[&str] = &["-Clinker=rust-lld", "-Clinker-flavor=ld.lld"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-changed=src/protocol");

    let target = env::var("TARGET")?;
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" || !matches!(&*architecture, "x86_64" | "aarch64") {
        return Err(format!(
            "krun-init has a guest side for x86_64 and aarch64 Linux only, not for {target}: build for one of these"
        )
        .into());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?).join("init");
    let mut rustc = Command::new(env::var_os("RUSTC").ok_or("RUSTC is not set: run this through cargo")?);
    rustc.args(FLAGS).arg("--target").arg(&target).arg("-o").arg(out).arg("guest/main.rs");
    if target.ends_with("musl") {
        // The start files that come with this target would bring a second entry point.
        rustc.arg("-Clink-self-contained=no");
    }
    match env::var("RUSTC_LINKER") {
        Ok(linker) => {
            rustc.arg(format!("-Clinker={linker}"));
            rustc.args(if is_compiler(Path::new(&linker)) { COMPILER_FLAGS } else { LINKER_FLAGS });
        }
        Err(_) if env::var("HOST")?.starts_with(&architecture) => {
            rustc.args(COMPILER_FLAGS);
        }
        Err(_) => {
            rustc.args(OWN_LINKER).args(LINKER_FLAGS);
        }
    }
    let status = rustc.status().map_err(|error| format!("cannot run {rustc:?}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the guest's init does not compile ({status}): {rustc:?}").into())
    }
}

/// Whether the configured linker takes a C compiler's options.
fn is_compiler(linker: &Path) -> bool {
    let name = linker.file_name().unwrap_or_default().to_string_lossy();
    !(name == "ld" || name.starts_with("ld.") || name.ends_with("lld") || name.ends_with("-ld"))
}
