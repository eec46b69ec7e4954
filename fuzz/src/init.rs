//! Fuzzes `krun-init`: the control protocol in both directions.

use krun_init::protocol::{Decoder, MAX_TO_GUEST, ToGuest, ToHost};
use krun_init::{Host, Start};

/// A byte stream in pieces: first as a guest's, to the host's end, then as a host's, to the frames the guest reads.
///
/// The first byte is the size of the pieces.
pub fn frames(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else { return };
    let size = usize::from(size).max(1);
    for becomes_init in [false, true] {
        to_host(stream, size, becomes_init);
    }
    to_guest(stream, size);
}

fn to_host(stream: &[u8], size: usize, becomes_init: bool) {
    let mut start = Start::new(["true"]);
    start.becomes_init = becomes_init;
    let Ok(mut host) = Host::new(&start) else { return };
    let mut over = false;
    for mut piece in stream.chunks(size) {
        while !piece.is_empty() {
            match host.receive(&mut piece) {
                Ok(Some(event)) => {
                    assert!(!over, "{event:?} after the end");
                    // A terminal can take what it says.
                    if let krun_init::Event::Failed(failure) = &event {
                        assert!(!failure.to_string().contains(char::is_control));
                    }
                    host.sent(size);
                }
                Ok(None) => assert!(piece.is_empty()),
                Err(_) => {
                    assert!(host.is_over());
                    break;
                }
            }
            over |= host.is_over();
        }
    }
    let handed_over = host.close().is_some();
    assert!(!handed_over || becomes_init && !over, "a hand-over that was not asked for, or after the end");
    assert!(host.is_over() && host.close().is_none());
}

fn to_guest(stream: &[u8], size: usize) {
    let mut decoder = Decoder::new(MAX_TO_GUEST, Vec::new());
    for mut piece in stream.chunks(size) {
        loop {
            let frame = match decoder.next(&mut piece) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return,
            };
            if let Ok(Some(told)) = ToGuest::decode(&frame) {
                if let ToGuest::Start(fields) = told {
                    // The guest walks the fields again and again; each walk must see the same, and no more than fits.
                    assert!(fields.iter().count() * 8 <= frame.payload.len());
                    assert!(fields.iter().eq(fields.iter()));
                } else {
                    assert_eq!(payload_of(|out| told.encode(out)), frame.payload);
                }
            }
            if let Ok(Some(told)) = ToHost::decode(&frame) {
                assert_eq!(payload_of(|out| told.encode(out)), frame.payload);
            }
        }
    }
}

/// The payload of the frame that `encode` writes.
fn payload_of(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&mut frame);
    frame.split_off(krun_init::protocol::Header::SIZE)
}
