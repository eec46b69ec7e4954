//! What is under way, for the person who waits: a bar on a terminal, plain lines in a log.

use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// How often a bar moves.
const TICK: Duration = Duration::from_millis(100);

/// Says one line on standard error.
pub(crate) fn say(line: impl AsRef<str>) {
    #[expect(clippy::print_stderr, reason = "standard error is where xtask talks to the person who started it")]
    {
        eprintln!("xtask: {}", line.as_ref());
    }
}

/// Runs `work` while a bar shows how `directory` fills up to `total` bytes (a spinner where the total is unknown).
///
/// Package clients report their progress in ways that differ between versions; the bytes on disk do not.
pub(crate) fn watch<T: Send>(
    what: &str,
    directory: &Path,
    total: Option<u64>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let start = Instant::now();
    let size = total.map(|total| format!(" ({})", HumanBytes(total))).unwrap_or_default();
    if !stderr().is_terminal() {
        say(format!("{what}{size} ..."));
        let result = work()?;
        say(format!("{what}: done in {:.1} s", start.elapsed().as_secs_f64()));
        return Ok(result);
    }
    let bar = match total {
        Some(total) => ProgressBar::new(total)
            .with_style(ProgressStyle::with_template("{msg:40} [{bar:30}] {bytes}/{total_bytes} {elapsed}")?),
        None => {
            ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{msg:40} {spinner} {bytes} {elapsed}")?)
        }
    };
    bar.set_message(what.to_owned());
    let result = thread::scope(|scope| {
        let worker =
            thread::Builder::new().name("work".into()).spawn_scoped(scope, work).context("cannot start a thread")?;
        while !worker.is_finished() {
            thread::sleep(TICK);
            bar.set_position(bytes_under(directory));
            bar.tick();
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    bar.finish_and_clear();
    let result = result?;
    say(format!("{what}{size}: done in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(result)
}

/// The sizes of all files under `directory`; what vanishes meanwhile does not count.
fn bytes_under(directory: &Path) -> u64 {
    let mut sum = 0;
    let mut pending: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                Ok(metadata) => sum += metadata.len(),
                Err(_) => {}
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_a_tree_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("a"), [0; 10]).unwrap();
        fs::write(directory.path().join("sub/b"), [0; 32]).unwrap();
        assert_eq!(bytes_under(directory.path()), 42);
        assert_eq!(bytes_under(&directory.path().join("absent")), 0);
    }

    #[test]
    fn the_work_s_result_comes_through() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(watch("adding", directory.path(), Some(1), || Ok(1 + 1)).unwrap(), 2);
        assert!(watch("failing", directory.path(), None, || -> Result<()> { anyhow::bail!("no") }).is_err());
    }
}
