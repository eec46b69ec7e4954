//! Replays every corpus file through its target: what a fuzzer once found stays found.

use std::fs;
use std::path::Path;

#[test]
fn corpus_replays() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in krun_fuzz::TARGETS {
        let dir = corpus.join(target.name);
        let mut replayed = 0;
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            (target.run)(&fs::read(&path).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "{} has no corpus", target.name);
    }
}

#[test]
fn every_binary_is_in_the_table() {
    let binaries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets")).unwrap();
    let mut names: Vec<String> =
        binaries.map(|b| b.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    let mut table: Vec<String> = krun_fuzz::TARGETS.iter().map(|t| t.name.to_owned()).collect();
    table.sort();
    assert_eq!(names, table);
}
