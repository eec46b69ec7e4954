//! The guest's sources are not a cargo target: what cargo does for every other file is done here.

use std::path::Path;
use std::process::Command;

use krun_init::INIT;

const SOURCE: &str = "guest/main.rs";

#[cfg(test)]
fn run(program: &str, arguments: &[&str]) {
    let Ok(output) = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output() else {
        eprintln!("SKIPPED: {program} is not installed");
        return;
    };
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_sources_are_formatted() {
    // The workspace's own settings, which a packaged crate does not have.
    let settings = "max_width=120,use_small_heuristics=Max";
    run("rustfmt", &["--check", "--edition", "2024", "--config", settings, SOURCE]);
}

#[test]
fn the_sources_are_free_of_lints() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest.rmeta");
    let fixed = ["--edition=2024", "--crate-type=bin", "-Cpanic=abort", "--emit=metadata", "-Dwarnings", SOURCE, "-o"];
    run("clippy-driver", &[&fixed[..], &[out.to_str().unwrap()]].concat());
}

#[test]
fn the_program_is_small_static_and_for_this_architecture() {
    const EXEC: [u8; 2] = [2, 0];
    const MACHINE: [u8; 2] = if cfg!(target_arch = "x86_64") { [62, 0] } else { [183, 0] };
    assert!(INIT.len() <= 400 << 10, "{} bytes", INIT.len());
    assert_eq!(INIT[..6], *b"\x7fELF\x02\x01");
    assert_eq!(INIT[16..18], EXEC);
    assert_eq!(INIT[18..20], MACHINE);
    // Program headers: no interpreter, no dynamic section.
    let table = usize::try_from(u64::from_le_bytes(INIT[32..40].try_into().unwrap())).unwrap();
    let count = usize::from(u16::from_le_bytes(INIT[56..58].try_into().unwrap()));
    for header in INIT[table..].chunks_exact(56).take(count) {
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        assert!(![2, 3].contains(&kind), "the program wants a loader");
    }
}
