//! The wire: pinned bytes, and properties of both directions.

use std::ffi::CString;

use krun_init::protocol::{
    Decoder, Exit, Failed, Field, Fields, Frame, Header, Hello, Limit, MAX_DETAIL, MAX_PORT_NAME, MAX_TO_GUEST,
    MAX_TO_HOST, Malformed, Mount, Put as _, Resize, Scope, Signal, Source, Stage, Started, Stream, ToGuest, ToHost,
    User,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[cfg(test)]
fn to_host(frame: ToHost<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

#[cfg(test)]
fn to_guest(frame: ToGuest<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

#[cfg(test)]
fn fields(list: &[Field<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    list.iter().for_each(|field| field.encode(&mut bytes));
    bytes
}

/// Kind, process and payload of a frame.
type Parts = (u8, u32, Vec<u8>);

/// Decodes one whole frame.
#[cfg(test)]
fn frame_of(bytes: &[u8], limit: u32) -> Parts {
    let mut decoder = Decoder::new(limit, Vec::new());
    let mut input = bytes;
    let Frame { kind, process, payload } = decoder.next(&mut input).unwrap().unwrap();
    let owned = (kind, process, payload.to_vec());
    assert!(input.is_empty());
    owned
}

#[test]
fn every_byte_to_the_host_is_pinned() {
    let cases: [(ToHost<'_>, &[u8]); 6] = [
        (ToHost::Hello(Hello { features: 0x0102 }), b"kr\x01\x41\0\0\0\0\x08\0\0\0\x02\x01\0\0\0\0\0\0"),
        (ToHost::Started(Started { pid: 300 }), b"kr\x01\x42\0\0\0\0\x04\0\0\0\x2c\x01\0\0"),
        (
            ToHost::Failed(Failed { stage: Stage::Exec, errno: 2, detail: b"/x" }),
            b"kr\x01\x43\0\0\0\0\x0a\0\0\0\x0c\0\0\0\x02\0\0\0/x",
        ),
        (ToHost::Exited(Exit::Code(42)), b"kr\x01\x44\0\0\0\0\x04\0\0\0\0\x2a\0\0"),
        (ToHost::Exited(Exit::Signal(9)), b"kr\x01\x44\0\0\0\0\x04\0\0\0\x01\x09\0\0"),
        (ToHost::HandingOver, b"kr\x01\x45\0\0\0\0\0\0\0\0"),
    ];
    for (frame, bytes) in cases {
        assert_eq!(to_host(frame), bytes, "{frame:?}");
    }
}

#[test]
fn every_byte_to_the_guest_is_pinned() {
    let start = fields(&[
        Field::Argument(c"a"),
        Field::Variable(c"b=c"),
        Field::Directory(c"/"),
        Field::User(User { uid: 1, gid: 2 }),
        Field::Group(3),
        Field::Limit(Limit { resource: 7, soft: 4, hard: u64::MAX }),
        Field::Hostname(c"h"),
        Field::Mount(Mount { flags: 1, source: c"s", target: c"/t", kind: c"k", options: c"" }),
        Field::Stream(Stream { descriptor: 0, source: Source::Null }),
        Field::Stream(Stream { descriptor: 1, source: Source::Port(c"p") }),
        Field::Terminal(Resize { columns: 80, rows: 25 }),
        Field::Init,
    ]);
    let wire: &[u8] = b"\x01\0\0\0\x02\0\0\0a\0\
        \x02\0\0\0\x04\0\0\0b=c\0\
        \x03\0\0\0\x02\0\0\0/\0\
        \x04\0\0\0\x08\0\0\0\x01\0\0\0\x02\0\0\0\
        \x05\0\0\0\x04\0\0\0\x03\0\0\0\
        \x06\0\0\0\x18\0\0\0\x07\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\
        \x07\0\0\0\x02\0\0\0h\0\
        \x08\0\0\0\x10\0\0\0\x01\0\0\0\0\0\0\0s\0/t\0k\0\0\
        \x09\0\0\0\x02\0\0\0\0\0\
        \x09\0\0\0\x04\0\0\0\x01\x03p\0\
        \x0a\0\0\0\x04\0\0\0\x50\0\x19\0\
        \x0b\0\0\0\0\0\0\0";
    assert_eq!(start, wire);
    let mut frame = b"kr\x01\x01\0\0\0\0".to_vec();
    frame.extend_from_slice(&u32::try_from(wire.len()).unwrap().to_le_bytes());
    frame.extend_from_slice(wire);
    assert_eq!(to_guest(ToGuest::Start(Fields::parse(&start).unwrap())), frame);
    for (scope, byte) in [(Scope::Process, 0), (Scope::Group, 1), (Scope::Foreground, 2)] {
        let mut bytes = b"kr\x01\x02\0\0\0\0\x04\0\0\0\x0f".to_vec();
        bytes.extend_from_slice(&[byte, 0, 0]);
        assert_eq!(to_guest(ToGuest::Signal(Signal { number: 15, scope })), bytes);
    }
    let resize = ToGuest::Resize(Resize { columns: 0x102, rows: 0x304 });
    assert_eq!(to_guest(resize), b"kr\x01\x03\0\0\0\0\x04\0\0\0\x02\x01\x04\x03");
    for (source, kind) in [(Source::Null, 0), (Source::Console, 1), (Source::Terminal, 2)] {
        assert_eq!(fields(&[Field::Stream(Stream { descriptor: 2, source })]), [9, 0, 0, 0, 2, 0, 0, 0, 2, kind]);
    }
}

#[test]
fn stages_keep_their_numbers() {
    let numbers: Vec<u16> = Stage::ALL.iter().map(|stage| stage.number()).collect();
    assert_eq!(numbers, (1..=13).collect::<Vec<u16>>());
    assert_eq!((Stage::Protocol.number(), Stage::Exec.number(), Stage::Interpreter.number()), (1, 12, 13));
}

#[test]
fn an_unknown_field_is_skipped_only_if_it_says_so() {
    let mut bytes = fields(&[Field::Argument(c"a")]);
    bytes.extend_from_slice(&[99, 0, 1, 0, 3, 0, 0, 0, 7, 7, 7]);
    bytes.extend_from_slice(&fields(&[Field::Group(1)]));
    let parsed = Fields::parse(&bytes).unwrap();
    assert_eq!(parsed.iter().collect::<Vec<_>>(), [Field::Argument(c"a"), Field::Group(1)]);
    bytes[12] = 0;
    assert_eq!(Fields::parse(&bytes), Err(Malformed::UnknownField(99)));
}

#[test]
fn a_malformed_field_is_refused() {
    let argument = fields(&[Field::Argument(c"a")]);
    let bad: &[(u16, &[u8])] = &[
        (1, b""),
        (1, b"no end"),
        (1, b"two\0ends\0"),
        (2, b"no sign\0"),
        (2, b"=no name\0"),
        (4, &[0; 7]),
        (4, &[0; 9]),
        (5, &[0; 3]),
        (6, &[1; 24]),
        (8, b"\0\0\0\0\0\0\0\0s\0t\0k\0"),
        (8, b"\0\0\0\0\0\0\0\0s\0t\0k\0o\0more\0"),
        (9, &[3, 0]),
        (9, &[0, 4]),
        (9, &[0, 0, 0]),
        (9, &[0, 3]),
        (10, &[0; 3]),
        (11, &[0]),
    ];
    for &(tag, body) in bad {
        let mut bytes = argument.clone();
        bytes.put(&tag.to_le_bytes());
        bytes.put(&[0, 0]);
        bytes.put(&u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.put(body);
        assert_eq!(Fields::parse(&bytes), Err(Malformed::Field(tag)), "{tag} {body:?}");
    }
    let long = CString::new(vec![b'n'; MAX_PORT_NAME + 1]).unwrap();
    let mut bytes = argument.clone();
    Field::Stream(Stream { descriptor: 0, source: Source::Port(&long) }).encode(&mut bytes);
    assert_eq!(Fields::parse(&bytes), Err(Malformed::Field(9)));
    // Cut anywhere inside, or with nothing to run.
    for cut in 0..argument.len() {
        assert!(Fields::parse(&argument[..cut]).is_err(), "{cut}");
    }
    assert!(Fields::parse(&fields(&[Field::Group(1)])).is_err());
}

#[test]
fn headers_are_refused_before_their_payload_is_waited_for() {
    let header = |bytes: &[u8; 12]| Header::decode(bytes, MAX_TO_HOST);
    assert_eq!(header(b"Kr\x01\x41\0\0\0\0\0\0\0\0"), Err(Malformed::Magic(*b"Kr")));
    assert_eq!(header(b"kr\x02\x41\0\0\0\0\0\0\0\0"), Err(Malformed::Version(2)));
    assert_eq!(header(b"kr\x01\x41\0\0\0\0\0\x10\0\0").unwrap().length, MAX_TO_HOST);
    let too_long = Malformed::TooLong { kind: 0x41, length: MAX_TO_HOST + 1, limit: MAX_TO_HOST };
    assert_eq!(header(b"kr\x01\x41\0\0\0\0\x01\x10\0\0"), Err(too_long));
}

#[test]
fn unknown_types_are_skipped_from_0x80_on() {
    let frame = |kind, process| Frame { kind, process, payload: &[0; 4] };
    assert_eq!(ToHost::decode(&frame(0x80, 0)), Ok(None));
    assert_eq!(ToHost::decode(&frame(0x7f, 0)), Err(Malformed::Type(0x7f)));
    // Each end knows only what the other may say.
    assert_eq!(ToHost::decode(&frame(0x02, 0)), Err(Malformed::Type(0x02)));
    assert_eq!(ToGuest::decode(&frame(0x44, 0)), Err(Malformed::Type(0x44)));
    assert_eq!(ToHost::decode(&frame(0x44, 1)), Err(Malformed::Process(1)));
}

#[test]
fn a_long_detail_is_cut_and_a_longer_one_refused() {
    let long = [b'd'; MAX_DETAIL + 10];
    let (kind, process, payload) =
        frame_of(&to_host(ToHost::Failed(Failed { stage: Stage::Mount, errno: 1, detail: &long })), MAX_TO_HOST);
    let frame = Frame { kind, process, payload: &payload };
    let Ok(Some(ToHost::Failed(failed))) = ToHost::decode(&frame) else { panic!("{frame:?}") };
    assert_eq!(failed.detail, &long[..MAX_DETAIL]);
    let longer = [&payload[..], b"d"].concat();
    assert_eq!(ToHost::decode(&Frame { payload: &longer, ..frame }), Err(Malformed::Payload(0x43)));
}

#[cfg(test)]
fn strings() -> impl Strategy<Value = CString> {
    vec(1..=255_u8, 0..40).prop_map(|bytes| CString::new(bytes).unwrap())
}

/// What a field is made of, owned.
#[derive(Debug, Clone)]
enum Owned {
    Argument(CString),
    Variable(CString),
    Directory(CString),
    User(u32, u32),
    Group(u32),
    Limit(u32, u64, u64),
    Hostname(CString),
    Mount(u64, [CString; 4]),
    Stream(u8, Option<CString>, u8),
    Terminal(u16, u16),
    Init,
}

impl Owned {
    fn field(&self) -> Field<'_> {
        match self {
            Self::Argument(string) => Field::Argument(string),
            Self::Variable(string) => Field::Variable(string),
            Self::Directory(string) => Field::Directory(string),
            &Self::User(uid, gid) => Field::User(User { uid, gid }),
            &Self::Group(gid) => Field::Group(gid),
            &Self::Limit(resource, soft, hard) => Field::Limit(Limit { resource, soft, hard }),
            Self::Hostname(string) => Field::Hostname(string),
            Self::Mount(flags, [source, target, kind, options]) => {
                Field::Mount(Mount { flags: *flags, source, target, kind, options })
            }
            Self::Stream(descriptor, Some(name), _) => {
                Field::Stream(Stream { descriptor: *descriptor, source: Source::Port(name) })
            }
            Self::Stream(descriptor, None, kind) => {
                let source = [Source::Null, Source::Console, Source::Terminal][usize::from(*kind)];
                Field::Stream(Stream { descriptor: *descriptor, source })
            }
            &Self::Terminal(columns, rows) => Field::Terminal(Resize { columns, rows }),
            Self::Init => Field::Init,
        }
    }
}

#[cfg(test)]
fn owned_fields() -> impl Strategy<Value = Vec<Owned>> {
    let variable = (strings(), strings()).prop_map(|(name, value)| {
        let bytes = [b"n", name.as_bytes(), b"=", value.as_bytes()].concat();
        Owned::Variable(CString::new(bytes).unwrap())
    });
    let field = prop_oneof![
        strings().prop_map(Owned::Argument),
        variable,
        strings().prop_map(Owned::Directory),
        any::<(u32, u32)>().prop_map(|(uid, gid)| Owned::User(uid, gid)),
        any::<u32>().prop_map(Owned::Group),
        any::<(u32, u64, u64)>().prop_map(|(resource, soft, hard)| Owned::Limit(resource, soft, hard)),
        strings().prop_map(Owned::Hostname),
        (any::<u64>(), [strings(), strings(), strings(), strings()])
            .prop_map(|(flags, strings)| Owned::Mount(flags, strings)),
        (0..3_u8, proptest::option::of(strings()), 0..3_u8).prop_map(|(fd, name, kind)| Owned::Stream(fd, name, kind)),
        any::<(u16, u16)>().prop_map(|(columns, rows)| Owned::Terminal(columns, rows)),
        Just(Owned::Init),
    ];
    (strings(), vec(field, 0..20)).prop_map(|(program, mut fields)| {
        fields.insert(0, Owned::Argument(program));
        fields
    })
}

/// Every frame a stream gives when it comes in pieces of these sizes, and how it ends.
#[cfg(test)]
fn frames_in_pieces(stream: &[u8], sizes: &[usize], limit: u32) -> (Vec<Parts>, Option<Malformed>) {
    let mut decoder = Decoder::new(limit, Vec::new());
    let mut frames = Vec::new();
    let mut rest = stream;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap_or(&1)));
        rest = after;
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(frame)) => frames.push((frame.kind, frame.process, frame.payload.to_vec())),
                Ok(None) => break,
                Err(malformed) => return (frames, Some(malformed)),
            }
        }
        assert!(piece.is_empty());
    }
    (frames, None)
}

/// Mostly types that exist.
#[cfg(test)]
fn known_kinds() -> impl Strategy<Value = u8> {
    prop_oneof![1..=3_u8, 0x41..=0x45_u8, any::<u8>()]
}

proptest! {
    #[test]
    fn start_comes_back_as_it_was(owned in owned_fields()) {
        let list: Vec<Field<'_>> = owned.iter().map(Owned::field).collect();
        let frame = to_guest(ToGuest::Start(Fields::parse(&fields(&list)).unwrap()));
        let (kind, process, payload) = frame_of(&frame, MAX_TO_GUEST);
        let frame = Frame { kind, process, payload: &payload };
        let Ok(Some(ToGuest::Start(back))) = ToGuest::decode(&frame) else { panic!("{frame:?}") };
        prop_assert_eq!(back.iter().collect::<Vec<_>>(), list);
    }

    #[test]
    fn cut_or_changed_fields_never_panic_nor_grow(owned in owned_fields(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = fields(&owned.iter().map(Owned::field).collect::<Vec<_>>());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        for bytes in [&bytes[..], &bytes[..at]] {
            if let Ok(parsed) = Fields::parse(bytes) {
                // Every field takes its own head at least, and what is read is what was checked.
                prop_assert!(parsed.iter().count() <= bytes.len() / 8);
                let mut again = Vec::new();
                parsed.iter().for_each(|field| field.encode(&mut again));
                prop_assert_eq!(Fields::parse(&again).unwrap().iter().collect::<Vec<_>>(), parsed.iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn pieces_of_any_size_make_the_same_frames(
        payloads in vec((any::<u8>(), any::<u32>(), vec(any::<u8>(), 0..100)), 0..8),
        tail in vec(any::<u8>(), 0..30),
        sizes in vec(1..50_usize, 1..10),
    ) {
        let mut stream = Vec::new();
        for (kind, process, payload) in &payloads {
            Header { kind: *kind, process: *process, length: u32::try_from(payload.len()).unwrap() }.encode(&mut stream);
            stream.put(payload);
        }
        stream.put(&tail);
        let whole = frames_in_pieces(&stream, &[stream.len().max(1)], 100);
        prop_assert_eq!(&whole.0[..payloads.len()], &payloads[..]);
        prop_assert_eq!(frames_in_pieces(&stream, &sizes, 100), whole);
    }

    #[test]
    fn any_payload_is_read_or_refused(kind in known_kinds(), process in 0..2_u32, payload in vec(any::<u8>(), 0..64)) {
        let frame = Frame { kind, process, payload: &payload };
        // What is accepted says the same bytes again.
        if let Ok(Some(told)) = ToHost::decode(&frame) {
            prop_assert_eq!(frame_of(&to_host(told), MAX_TO_HOST), (kind, process, payload.clone()));
        }
        if let Ok(Some(told)) = ToGuest::decode(&frame) {
            prop_assert_eq!(frame_of(&to_guest(told), MAX_TO_GUEST), (kind, process, payload.clone()));
        }
    }
}
