//! Descriptors of every kind as ends of a port.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]

#[path = "guest/terminal.rs"]
mod terminal;

use krun_console::{Error, HostFd, Input, Output};
use krun_virtio::VecSink;
use rustix::fs::{OFlags, fcntl_getfl};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use terminal::terminal;

fn read(input: &mut impl Input, room: usize) -> io::Result<Vec<u8>> {
    let mut sink = VecSink::new(room);
    input.read(&mut sink)?;
    Ok(sink.into_vec())
}

/// Tries again until it would not block: terminals hand bytes on in the background.
fn soon<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..5000 {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
    call()
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Reads an input that has nothing, then something, then its end.
fn check_input(given: OwnedFd, peer: impl Write) {
    let shared = given.try_clone().unwrap();
    let flags = fcntl_getfl(&shared).unwrap();
    let mut input = HostFd::input(given).unwrap();
    let mut peer = peer;
    assert_eq!(kind(read(&mut input, 10)), ErrorKind::WouldBlock);
    peer.write_all(b"hello").unwrap();
    assert_eq!(soon(|| read(&mut input, 3)).unwrap(), b"hel");
    assert_eq!(soon(|| read(&mut input, 10)).unwrap(), b"lo");
    assert_eq!(kind(read(&mut input, 10)), ErrorKind::WouldBlock);
    assert_eq!(fcntl_getfl(&shared).unwrap(), flags, "the flags of the description that others share");
    drop(peer);
    match soon(|| read(&mut input, 10)) {
        Ok(bytes) => assert_eq!(bytes, b""),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "how a terminal ends"),
    }
}

/// Fills an output until it takes no more, then empties it again.
fn check_output(given: OwnedFd, mut peer: impl Read) {
    let shared = given.try_clone().unwrap();
    let flags = fcntl_getfl(&shared).unwrap();
    let mut output = HostFd::output(given).unwrap();
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut rest = data.as_slice();
    let error = loop {
        match output.write(&mut rest) {
            Ok(count) => assert!(count > 0),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(fcntl_getfl(&shared).unwrap(), flags, "the flags of the description that others share");
    let mut arrived = vec![0; data.len() - rest.len()];
    peer.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, data[..arrived.len()]);
    assert!(soon(|| output.write(&mut rest)).unwrap() > 0);
    assert!(!output.is_gone());
}

#[test]
fn pipes() {
    let (reader, writer) = io::pipe().unwrap();
    check_input(reader.into(), writer);
    let (reader, writer) = io::pipe().unwrap();
    check_output(writer.into(), reader);
}

#[test]
fn sockets() {
    let (a, b) = UnixStream::pair().unwrap();
    check_input(a.into(), b);
    let (a, b) = UnixStream::pair().unwrap();
    check_output(a.into(), b);
}

#[test]
fn terminals() {
    let (master, slave) = terminal();
    check_input(slave.into(), master);
    let (master, slave) = terminal();
    check_output(slave.into(), master);
}

#[test]
fn masters_of_terminals() {
    let (master, slave) = terminal();
    check_input(master.into(), slave);
    let (master, slave) = terminal();
    check_output(master.into(), slave);
}

#[test]
fn fifos() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (reader, writer) = (File::open(&path).unwrap(), OpenOptions::new().write(true).open(&path).unwrap());
    drop(both);
    check_input(reader.into(), writer);
    let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (reader, writer) = (File::open(&path).unwrap(), OpenOptions::new().write(true).open(&path).unwrap());
    drop(both);
    check_output(writer.into(), reader);
}

#[test]
fn one_terminal_is_everything() {
    let (mut master, slave) = terminal();
    let mut input = HostFd::input(slave.try_clone().unwrap()).unwrap();
    let mut output = HostFd::output(slave.try_clone().unwrap()).unwrap();
    let mut error = HostFd::output(slave).unwrap();
    output.write(&mut b"out".as_slice()).unwrap();
    error.write(&mut b"err".as_slice()).unwrap();
    let mut six = [0; 6];
    master.read_exact(&mut six).unwrap();
    assert_eq!(&six, b"outerr");
    master.write_all(b"key").unwrap();
    assert_eq!(soon(|| read(&mut input, 10)).unwrap(), b"key");
}

#[test]
fn files_are_written_where_their_description_stands() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = File::create_new(dir.path().join("file")).unwrap();
    file.write_all(b"before ").unwrap();
    let mut output = HostFd::output(file.try_clone().unwrap()).unwrap();
    assert_eq!(output.write(&mut b"from the guest".as_slice()).unwrap(), 14);
    file.write_all(b" after").unwrap();
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"before from the guest after");
}

#[test]
fn files_are_read_to_their_end() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    file.rewind().unwrap();
    let mut input = HostFd::input(file).unwrap();
    assert_eq!(read(&mut input, 6).unwrap(), b"012345");
    assert_eq!(read(&mut input, 6).unwrap(), b"6789");
    assert_eq!(read(&mut input, 6).unwrap(), b"");
}

#[test]
fn the_null_device_takes_all_and_gives_nothing() {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    assert_eq!(read(&mut HostFd::input(null.try_clone().unwrap()).unwrap(), 10).unwrap(), b"");
    assert_eq!(HostFd::output(null).unwrap().write(&mut b"gone".as_slice()).unwrap(), 4);
}

#[test]
fn a_full_disk_is_an_error() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut output = HostFd::output(full).unwrap();
    assert_eq!(output.write(&mut b"x".as_slice()).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn a_reader_that_has_gone_is_an_error() {
    let (reader, writer) = io::pipe().unwrap();
    let mut output = HostFd::output(writer).unwrap();
    assert!(!output.is_gone());
    drop(reader);
    assert!(output.is_gone());
    assert_eq!(kind(output.write(&mut b"x".as_slice())), ErrorKind::BrokenPipe);

    let (a, b) = UnixStream::pair().unwrap();
    let mut output = HostFd::output(a).unwrap();
    drop(b);
    assert!(output.is_gone());
    assert_eq!(kind(output.write(&mut b"x".as_slice())), ErrorKind::BrokenPipe);

    // Gone before the port was made: the pipe cannot be opened again for writing.
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut output = HostFd::output(writer).unwrap();
    assert_eq!(kind(output.write(&mut b"x".as_slice())), ErrorKind::BrokenPipe);
}

#[test]
fn others_may_make_a_shared_description_block_again() {
    let (reader, pipe_writer) = io::pipe().unwrap();
    let (master, slave) = terminal();
    let (master_too, _slave) = terminal();
    for given in [OwnedFd::from(reader), slave.into(), master_too.into()] {
        rustix::io::ioctl_fionbio(given.as_fd(), true).unwrap();
        let shared = given.try_clone().unwrap();
        let mut input = HostFd::input(given).unwrap();
        rustix::io::ioctl_fionbio(shared.as_fd(), false).unwrap();
        // On a thread of its own: if it waits, it waits for ever.
        let (tell, told) = mpsc::channel();
        let attempt = move || tell.send(read(&mut input, 10));
        thread::Builder::new().spawn(attempt).unwrap();
        assert_eq!(kind(told.recv_timeout(Duration::from_secs(10)).unwrap()), ErrorKind::WouldBlock);
    }
    drop((master, pipe_writer));
}

#[test]
fn a_descriptor_that_is_non_blocking_already_stays_so() {
    let (reader, mut writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(reader.as_fd(), true).unwrap();
    let mut input = HostFd::input(reader).unwrap();
    assert_eq!(kind(read(&mut input, 10)), ErrorKind::WouldBlock);
    writer.write_all(b"x").unwrap();
    assert_eq!(read(&mut input, 10).unwrap(), b"x");
}

#[test]
fn the_wrong_direction_is_refused_at_once() {
    let (reader, writer) = io::pipe().unwrap();
    let error = HostFd::output(reader).unwrap_err();
    assert!(matches!(error, Error::AccessMode { .. }), "{error}");
    assert!(error.to_string().contains("open it for writing"), "{error}");
    assert!(HostFd::input(writer).is_err());
    let path = rustix::fs::open("/", OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    assert!(HostFd::input(path).is_err());
}
