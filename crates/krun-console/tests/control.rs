//! Control messages on the wire.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]

use krun_console::control::{Event, HEADER_LEN, Header, Message, ResizeOrder, Size};
use krun_virtio::{Sink, VecSink};
use proptest::prelude::*;

fn bytes(message: Message<'_>, room: usize) -> Option<Vec<u8>> {
    let mut sink = VecSink::new(room);
    match message.write(&mut sink) {
        Ok(()) => Some(sink.into_vec()),
        Err(_) => {
            assert_eq!(sink.written(), 0, "all or nothing");
            None
        }
    }
}

#[test]
fn the_layout_is_that_of_the_specification() {
    let header = Header { id: 0x0403_0201, event: Event::PortOpen, value: 0x0807 };
    assert_eq!(bytes(Message::Plain(header), 64).unwrap(), [1, 2, 3, 4, 6, 0, 7, 8]);
    assert_eq!(bytes(Message::Name { id: 2, name: "krün" }, 64).unwrap(), b"\x02\0\0\0\x07\0\x01\0kr\xc3\xbcn");
    let size = Size { cols: 0x0102, rows: 0x0304 };
    let resize = |order| bytes(Message::Resize { id: 0, size, order }, 64).unwrap();
    assert_eq!(resize(ResizeOrder::ColumnsFirst), [0, 0, 0, 0, 5, 0, 0, 0, 2, 1, 4, 3]);
    assert_eq!(resize(ResizeOrder::RowsFirst), [0, 0, 0, 0, 5, 0, 0, 0, 4, 3, 2, 1]);
}

#[test]
fn events_have_the_numbers_of_the_specification() {
    use Event::*;
    let events = [DeviceReady, PortAdd, PortRemove, PortReady, ConsolePort, Resize, PortOpen, PortName];
    for (number, event) in (0u8..).zip(events) {
        let wire = [9, 0, 0, 0, number, 0, 1, 0];
        let header = Header { id: 9, event, value: 1 };
        assert_eq!(Header::read(&mut wire.as_slice()), Some(header));
        assert_eq!(header.to_bytes(), wire);
    }
    for number in [8u8, 9, 255] {
        assert_eq!(Header::read(&mut [0, 0, 0, 0, number, 0, 0, 0].as_slice()), None);
    }
}

#[test]
fn names_are_cut_between_characters_and_never_to_nothing() {
    let name = Message::Name { id: 1, name: "aé" };
    assert_eq!(bytes(name, 11).unwrap()[HEADER_LEN..], *"aé".as_bytes());
    assert_eq!(bytes(name, 10).unwrap()[HEADER_LEN..], *b"a");
    assert_eq!(bytes(name, 9).unwrap()[HEADER_LEN..], *b"a");
    assert_eq!(bytes(name, 8), None);
    assert_eq!(bytes(Message::Name { id: 1, name: "é" }, 9), None);
}

proptest! {
    #[test]
    fn any_bytes_are_a_header_or_nothing(wire in prop::collection::vec(any::<u8>(), 0..20)) {
        let mut rest = wire.as_slice();
        match Header::read(&mut rest) {
            Some(header) => prop_assert_eq!(&header.to_bytes()[..], &wire[..HEADER_LEN]),
            None => prop_assert!(wire.len() < HEADER_LEN || u16::from_le_bytes([wire[4], wire[5]]) > 7),
        }
    }
}
