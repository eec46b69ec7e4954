//! Whatever a request's bytes are: no panic, a reply or none, never more than there is room for.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stderr,
    reason = "a test fails loudly, and numbers are made up"
)]

mod support;

use std::fs;
use std::sync::Arc;

use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{FuseServer, Handled, OverlayFs, PassthroughFs};
use proptest::prelude::*;
use support::{Client, ROOT, request};

fn client(share: &std::path::Path) -> Client<OverlayFs<PassthroughFs>> {
    fs::create_dir(share.join("dir")).expect("mkdir");
    fs::write(share.join("file"), "content").expect("write");
    let below = PassthroughFs::builder(share).max_files(50).build().expect("a share");
    let overlay = OverlayFs::builder().file("/virtual", "v", 0o644).dir("/dir/deep", 0o755);
    Client::with_server(Arc::new(FuseServer::new(Arc::new(overlay.build(below).expect("an overlay")))))
}

/// Opcodes of all requests that are not about amounts of disk space.
fn opcodes() -> impl Strategy<Value = u32> {
    let usual = prop::sample::select(Opcode::ALL).prop_map(|op| op as u32);
    let odd = prop_oneof![usual.clone(), usual, any::<u32>()];
    odd.prop_filter("would fill the disk", |op| *op != Opcode::Fallocate as u32 && *op != Opcode::CopyFileRange as u32)
}

fn nodes() -> impl Strategy<Value = u64> {
    prop_oneof![Just(ROOT), Just(1 << 32), Just(2 << 32 | 1), Just(1 << 63 | 1), Just(1 << 63 | 2), any::<u64>()]
}

/// Arguments: random, or with numbers in them that mean something, or with names.
fn arguments() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        Just(0u64),
        Just(1),
        Just(1 << 32),
        Just(1 << 33),
        Just(1 << 63 | 1),
        Just(u64::MAX),
        Just(4096),
        any::<u64>()
    ];
    let numbers = prop::collection::vec(number, 0..8).prop_map(|n| n.into_iter().flat_map(u64::to_le_bytes).collect());
    let names = prop::sample::select(&["file", "dir", "virtual", "new", "..", "../x", "", "deep", "a/b"][..]);
    let names = prop::collection::vec(names, 0..3);
    let random = prop::collection::vec(any::<u8>(), 0..200);
    let numbers: BoxedStrategy<Vec<u8>> = numbers.boxed();
    (prop_oneof![random, numbers], names).prop_map(|(mut bytes, names)| {
        for name in names {
            bytes.extend(name.bytes());
            bytes.push(0);
        }
        bytes
    })
}

fn check(reply: &[u8], unique: u64, room: usize) -> Result<(), TestCaseError> {
    prop_assert!(reply.len() <= room);
    if let Some(head) = reply.first_chunk() {
        let head = abi::OutHeader::decode(head);
        prop_assert_eq!((head.unique, head.len as usize), (unique, reply.len()));
        prop_assert!((-511..=0).contains(&head.error) && (head.error == 0 || reply.len() == 16));
    } else {
        prop_assert!(reply.is_empty(), "no part of a header");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_bytes_have_an_answer(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        room in 0usize..300,
        born in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let client = client(dir.path());
        let client = if born { client } else { Client::unborn(client.server) };
        let unique = bytes.get(8..16).map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight")));
        let (_, reply) = client.raw(&bytes, room, true);
        check(&reply, unique, room)?;
    }

    #[test]
    fn sequences_of_likely_requests_have_answers(
        requests in prop::collection::vec((opcodes(), nodes(), arguments(), 0usize..9000), 1..60),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let share = dir.path().join("share");
        fs::create_dir(&share).expect("mkdir");
        let client = client(&share);
        // Something to refer to: a file and a directory, known and open.
        let file = client.lookup(ROOT, "file").expect("there").node;
        client.open(file, libc::O_RDWR).expect("open");
        client.opendir(ROOT).expect("opendir");
        for (unique, (opcode, node, arguments, room)) in (1000..).zip(requests) {
            let bytes = request(opcode, node, unique, (0, 0), &[&arguments]);
            let (handled, reply) = client.raw(&bytes, room, false);
            let reply = match handled {
                Handled::Again => {
                    prop_assert!(reply.is_empty());
                    client.raw(&bytes, room, true).1
                }
                _ => reply,
            };
            check(&reply, unique, room)?;
            let silent = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt, Opcode::NotifyReply];
            if room >= 16 && !silent.iter().any(|op| *op as u32 == opcode) && handled != Handled::Wait {
                prop_assert!(!reply.is_empty(), "{opcode} has a reply");
            }
        }
        let beside: Vec<_> = fs::read_dir(dir.path()).expect("list").map(|e| e.expect("entry").file_name()).collect();
        prop_assert_eq!(beside, ["share"]);
        client.server.reset();
        prop_assert_eq!(client.server.file_system().below().in_use(), (0, 0));
    }

    #[test]
    fn listings_in_pieces_of_any_size_are_whole(
        names in prop::collection::hash_set("[a-zA-Z0-9 ._-]{1,100}", 0..40),
        sizes in prop::collection::vec(160u32..3000, 1..10),
        plus in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let names: Vec<String> = names.into_iter().filter(|n| n != "." && n != ".." && n != "virtual").collect();
        names.iter().for_each(|n| fs::write(dir.path().join(n), "").expect("write"));
        let below = PassthroughFs::builder(dir.path()).build().expect("a share");
        let client = Client::new(OverlayFs::builder().file("/virtual", "", 0o644).build(below).expect("an overlay"));
        let fh = client.opendir(ROOT).expect("opendir");
        let (mut listed, mut offset, mut sizes) = (Vec::new(), 0, sizes.into_iter().cycle());
        loop {
            // Long names need more room: no room for one is an error, which is tried again with enough.
            let size = sizes.next().expect("cycles");
            let part = client.readdir_once(ROOT, fh, offset, size, plus);
            let part = part.or_else(|_| client.readdir_once(ROOT, fh, offset, 3000, plus)).expect("a part");
            let Some(last) = part.last() else { break };
            offset = last.offset;
            listed.extend(part);
        }
        let mut found: Vec<_> = listed.iter().map(|l| l.name.clone()).collect();
        let mut wanted = [names, [".", "..", "virtual"].map(str::to_owned).to_vec()].concat();
        found.sort();
        wanted.sort();
        prop_assert_eq!(found, wanted);
        listed.iter().for_each(|l| client.forget(l.node, 1));
        prop_assert_eq!(client.server.file_system().below().in_use().0, 0);
    }
}
