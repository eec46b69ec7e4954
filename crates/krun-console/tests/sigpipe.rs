//! In a program that has not asked for `SIGPIPE` to be ignored, as C programs have not. Alone in its process, because
//! it changes what the process does about the signal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]
#![expect(unsafe_code, reason = "the disposition of a signal has no safe interface")]

mod guest;

use guest::Guest;
use krun_console::{Console, Port, Side};
use std::io;
use std::time::Duration;

#[test]
fn a_closed_pipe_does_not_end_the_process() {
    // SAFETY: the default action replaces Rust's choice to ignore the signal; no handler is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for threads in [false, true] {
        let (reader, ours) = io::pipe().unwrap();
        let console = Console::new(vec![Port::console(), Port::named("out").output_fd(ours).unwrap()]).unwrap();
        let handle = console.handle();
        let mut guest = if threads { Guest::threaded(console) } else { Guest::new(console) };
        guest.open(1);
        drop(reader);
        guest.write(1, b"to nobody");
        let failed = |status: &krun_console::PortStatus| matches!(status.output, Side::Failed(_));
        assert!(handle.wait_until(1, Duration::from_secs(10), failed).unwrap());
    }
    // SAFETY: as above, back to what Rust's runtime had set.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
