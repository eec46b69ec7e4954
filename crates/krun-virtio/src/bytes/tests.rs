//! Cursors against a model, and the system calls against real descriptors.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use proptest::prelude::*;

use super::raw::{lend_exclusive, lend_shared};
use super::*;

/// A buffer in pieces, as a chain has it.
struct Pieces {
    bytes: Vec<u8>,
    cuts: Vec<usize>,
}

impl Pieces {
    /// Calls `f` with the pieces; adjacent ones, which is all the same to a cursor.
    fn with<R>(&mut self, f: impl FnOnce(&mut [Iov]) -> R) -> R {
        let total = self.bytes.len();
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut % (total + 1)).chain([0, total]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let (mut f, mut result) = (Some(f), None);
        let _ = lend_exclusive(&mut self.bytes, &mut |whole| {
            let mut iovs: Vec<Iov> = cuts.windows(2).map(|w| whole[0].iov().part(w[0], w[1] - w[0])).collect();
            result = f.take().map(|f| f(&mut iovs));
            Ok(0)
        });
        result.unwrap()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Copy(usize),
    Lend(usize, usize),
    FailingLend(usize),
    Skip(usize),
    Patch(usize, usize),
    Truncate(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let n = || 0usize..40;
    prop_oneof![
        n().prop_map(Op::Copy),
        (n(), n()).prop_map(|(max, took)| Op::Lend(max, took)),
        n().prop_map(Op::FailingLend),
        n().prop_map(Op::Skip),
        (n(), n()).prop_map(|(at, len)| Op::Patch(at, len)),
        n().prop_map(Op::Truncate),
    ]
}

fn total(iovs: &[Iov]) -> usize {
    iovs.iter().map(Iov::len).sum()
}

/// Every source does what a slice does.
fn check_source(source: &mut dyn Source, bytes: &[u8], ops: &[Op]) {
    let mut at = 0;
    for op in ops {
        let left = bytes.len() - at;
        match *op {
            Op::Copy(n) => {
                let mut got = vec![0; n];
                assert_eq!(source.read(&mut got).is_ok(), n <= left);
                if n <= left {
                    assert_eq!(got, bytes[at..at + n]);
                    at += n;
                }
            }
            Op::Lend(max, took) => {
                let mut seen = Vec::new();
                let n = source.lend(max, &mut |iovs| {
                    assert!(iovs.iter().all(|iov| !iov.is_empty()));
                    for iov in iovs {
                        let mut piece = vec![0; iov.len()];
                        iov.copy_to(&mut piece);
                        seen.extend(piece);
                    }
                    Ok(took)
                });
                let lent = max.min(left);
                assert_eq!(seen, bytes[at..at + lent]);
                assert_eq!(n.unwrap(), took.min(lent));
                at += took.min(lent);
            }
            Op::FailingLend(max) => {
                let failed = source.lend(max, &mut |_| Err(io::ErrorKind::WouldBlock.into())).is_err();
                assert_eq!(failed, max.min(left) > 0);
            }
            Op::Skip(n) => {
                assert_eq!(source.skip(n).is_ok(), n <= left);
                at += if n <= left { n } else { 0 };
            }
            Op::Patch(..) | Op::Truncate(_) => {}
        }
        assert_eq!(source.remaining(), bytes.len() - at);
    }
}

/// Every sink does what a vector does. Answers what must have been written.
fn check_sink(sink: &mut dyn Sink, mut model: Vec<u8>, ops: &[Op]) -> Vec<u8> {
    let (mut at, mut stamp) = (0, 0u8);
    let mut next = |n: usize| -> Vec<u8> {
        (0..n)
            .map(|_| {
                stamp = stamp.wrapping_add(1);
                stamp
            })
            .collect()
    };
    for op in ops {
        let left = model.len() - at;
        match *op {
            Op::Copy(n) => {
                let bytes = next(n);
                assert_eq!(sink.write(&bytes).is_ok(), n <= left);
                if n <= left {
                    model[at..at + n].copy_from_slice(&bytes);
                    at += n;
                }
            }
            Op::Lend(max, took) => {
                let lent = max.min(left);
                let bytes = next(took.min(lent));
                let n = sink.lend(max, &mut |iovs| {
                    assert_eq!(iovs.iter().map(IovMut::len).sum::<usize>(), lent);
                    let mut done = 0;
                    for iov in iovs {
                        iov.iov().copy_from(&bytes[done.min(bytes.len())..]);
                        done += iov.len();
                    }
                    Ok(took)
                });
                assert_eq!(n.unwrap(), bytes.len());
                model[at..at + bytes.len()].copy_from_slice(&bytes);
                at += bytes.len();
            }
            Op::FailingLend(max) => {
                let failed = sink.lend(max, &mut |_| Err(io::ErrorKind::WouldBlock.into())).is_err();
                assert_eq!(failed, max.min(left) > 0);
            }
            Op::Skip(n) => {
                assert_eq!(sink.skip(n).is_ok(), n <= left);
                at += if n <= left { n } else { 0 };
            }
            Op::Patch(to, len) => {
                let bytes = next(len);
                assert_eq!(sink.patch(to, &bytes).is_ok(), to + len <= at);
                if to + len <= at {
                    model[to..to + len].copy_from_slice(&bytes);
                }
            }
            Op::Truncate(len) => {
                sink.truncate(len);
                at = at.min(len);
            }
        }
        assert_eq!((sink.written(), sink.remaining()), (at, model.len() - at));
    }
    model.truncate(at);
    model
}

proptest! {
    #[test]
    fn readers_are_slices(bytes in prop::collection::vec(any::<u8>(), 0..80), cuts in prop::collection::vec(0usize..80, 0..8), ops in prop::collection::vec(op(), 0..24)) {
        let mut pieces = Pieces { bytes: bytes.clone(), cuts };
        pieces.with(|iovs| {
            let mut position = Position::start(total(iovs));
            check_source(&mut Reader::new(Cursor::new(iovs, &mut position)), &bytes, &ops);
        });
        check_source(&mut bytes.as_slice(), &bytes, &ops);
    }

    #[test]
    fn writers_are_vectors(room in 0usize..80, cuts in prop::collection::vec(0usize..80, 0..8), ops in prop::collection::vec(op(), 0..24)) {
        let mut pieces = Pieces { bytes: vec![0; room], cuts };
        let written = pieces.with(|iovs| {
            let mut position = Position::start(total(iovs));
            check_sink(&mut Writer::new(Cursor::new(iovs, &mut position)), vec![0; room], &ops)
        });
        prop_assert_eq!(&pieces.bytes[..written.len()], &written);
        let mut sink = VecSink::new(room);
        let written = check_sink(&mut sink, vec![0; room], &ops);
        prop_assert_eq!(sink.as_slice(), &written);
        prop_assert_eq!(sink.into_vec(), written);
    }
}

#[test]
fn a_panic_in_a_call_leaves_a_cursor_that_is_safe() {
    let mut pieces = Pieces { bytes: vec![1; 10], cuts: vec![3, 5] };
    pieces.with(|iovs| {
        let mut position = Position::start(10);
        let mut reader = Reader::new(Cursor::new(iovs, &mut position));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reader.lend(4, &mut |_| panic!("no"))));
        assert!(caught.is_err());
        // Its pieces stay cut; it ends early, and nothing is out of bounds.
        let mut rest = [0; 10];
        let _ = reader.read(&mut rest);
        let _ = reader.skip(10);
    });
}

fn temporary() -> File {
    // Nameless as soon as it is open.
    let path = std::env::temp_dir().join(format!("krun-virtio-{:?}", std::thread::current().id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

#[test]
fn files_by_offset_and_by_position() {
    let mut file = temporary();
    let mut source: &[u8] = b"hello, world";
    assert_eq!(source.pwrite(file.as_fd(), 3, 0, 5).unwrap(), 5);
    assert_eq!(source, b", world");
    assert_eq!(source.write_to(file.as_fd(), 2).unwrap(), 2);
    let mut sink = VecSink::new(16);
    assert_eq!(sink.pread(file.as_fd(), 1, 0, 4).unwrap(), 4);
    assert_eq!(sink.as_slice(), b" \0he");
    file.seek(SeekFrom::Start(3)).unwrap();
    assert_eq!(sink.read_from(file.as_fd(), 100).unwrap(), 5);
    assert_eq!(sink.as_slice(), b" \0hehello");
    // The end of the file is no error, a bad offset is one, and an unknown flag is one.
    assert_eq!(sink.pread(file.as_fd(), 1000, 0, 4).unwrap(), 0);
    assert_eq!(sink.pread(file.as_fd(), u64::MAX, 0, 4).unwrap_err().raw_os_error(), Some(libc::EOVERFLOW));
    assert_eq!(sink.pread(file.as_fd(), 0, 1 << 30, 4).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    assert_eq!(sink.written(), 9);
}

#[test]
fn more_pieces_than_a_call_takes() {
    let mut pieces = Pieces { bytes: (0..=u8::MAX).cycle().take(3000).collect(), cuts: (0..3000).collect() };
    let expected = pieces.bytes.clone();
    let mut file = temporary();
    pieces.with(|iovs| {
        assert_eq!(iovs.len(), 3000);
        let mut position = Position::start(3000);
        let mut reader = Reader::new(Cursor::new(iovs, &mut position));
        let mut calls = 0;
        while reader.remaining() > 0 {
            assert!(reader.write_to(file.as_fd(), usize::MAX).unwrap() <= IOV_MAX);
            calls += 1;
        }
        assert_eq!(calls, 3);
        // A datagram cannot go by three calls.
        position.rewind();
        let mut reader = Reader::new(Cursor::new(iovs, &mut position));
        let (a, _b) = UnixDatagram::pair().unwrap();
        let error = reader.send_datagram(a.as_fd(), None, 0, 3000).unwrap_err();
        assert_eq!((error.raw_os_error(), reader.remaining()), (Some(libc::EMSGSIZE), 3000));
        assert_eq!(reader.send_datagram(a.as_fd(), None, 0, 1000).unwrap(), 1000);
    });
    let mut written = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut written).unwrap();
    assert_eq!(written, expected);
}

#[test]
fn streams_do_not_block_nor_kill() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut sink = VecSink::new(8);
    assert_eq!(sink.recv(a.as_fd(), 0, 8).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    b.write_all(b"abc").unwrap();
    assert_eq!(sink.recv(a.as_fd(), 0, 8).unwrap(), 3);
    assert_eq!(sink.as_slice(), b"abc");
    let mut source: &[u8] = b"xyz";
    assert_eq!(source.send(a.as_fd(), 0, 2).unwrap(), 2);
    drop(b);
    // No SIGPIPE: the test lives on.
    assert_eq!(source.send(a.as_fd(), 0, 2).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(source, b"z");
}

#[test]
fn datagrams_have_addresses_and_ends() {
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (from, to) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    let mut source: &[u8] = b"datagram";
    assert_eq!(source.send_datagram(a.as_fd(), Some(&to), 0, 8).unwrap(), 8);
    let mut empty: &[u8] = b"";
    assert_eq!(empty.send_datagram(a.as_fd(), Some(&to), 0, 0).unwrap(), 0);
    assert_eq!(empty.send_datagram(a.as_fd(), Some(&to), 0, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let mut sink = VecSink::new(4);
    let message = sink.recv_message(b.as_fd(), 0, 100).unwrap();
    assert_eq!(message, Received { len: 4, truncated: true, end_of_record: false, from: Some(from) });
    assert_eq!(sink.as_slice(), b"data");
    assert_eq!(sink.recv_message(b.as_fd(), 0, 100).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    sink.truncate(0);
    let message = sink.recv_message(b.as_fd(), 0, 100).unwrap();
    assert_eq!((message.len, message.truncated, message.from), (0, false, Some(from)));
    assert_eq!(sink.recv_message(b.as_fd(), 0, 100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn lending_nothing_calls_nothing() {
    let mut called = false;
    let _ = (&mut (&b""[..]) as &mut dyn Source).lend(8, &mut |_| {
        called = true;
        Ok(0)
    });
    let _ = (&mut VecSink::new(0) as &mut dyn Sink).lend(8, &mut |_| {
        called = true;
        Ok(0)
    });
    assert!(!called);
    // The primitive itself has no such rule.
    assert_eq!(lend_shared(b"abc", &mut |iovs| Ok(total(iovs))).unwrap(), 3);
}
