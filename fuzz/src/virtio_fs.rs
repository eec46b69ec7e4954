//! Fuzzes `krun-virtio-fs`.
#![expect(clippy::expect_used, reason = "a target fails loudly")]

use std::fs;
use std::sync::Arc;

use krun_virtio::VecSink;
use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{CachePolicy, FuseServer, Handled, OverlayFs, PassthroughFs};

/// What lies outside the share. No reply may have it in it.
const SECRET: &[u8] = b"outside-of-the-share-0123456789";
/// Names that a request picks from: real ones, links out, paths.
const NAMES: [&[u8]; 16] = [
    b"file\0",
    b"dir\0",
    b"link\0",
    b"dirlink\0",
    b"fifo\0",
    b"init.krun\0",
    b"proc\0",
    b"secret\0",
    b"new\0",
    b"other\0",
    b"..\0",
    b".\0",
    b"../outside/secret\0",
    b"outside\0",
    b"\0",
    b"no end",
];
/// Requests of one input.
const MAX_REQUESTS: usize = 200;

/// Bytes of the input, one after the other; zeros when it has ended.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// A number: mostly small, sometimes one of the borders, sometimes any.
    fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => u64::MAX,
            0xfe => i64::MAX.cast_unsigned(),
            0xfd => 1 << 63,
            0xfc => u64::from_le_bytes(self.array()),
            0xfb => u32::MAX.into(),
            small => u64::from(small) * 37,
        }
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.number() & 0xffff_ffff).unwrap_or_default()
    }

    fn pick(&mut self, known: &[u64]) -> u64 {
        let choice = self.byte();
        match known.get(usize::from(choice) % (known.len() + 1)) {
            Some(number) => *number,
            None => self.number(),
        }
    }

    fn name(&mut self) -> &'static [u8] {
        NAMES[usize::from(self.byte()) % NAMES.len()]
    }
}

/// What replies have told.
struct Known {
    nodes: Vec<u64>,
    handles: Vec<u64>,
}

/// The arguments of a request. Amounts that would fill a disk are kept small.
fn arguments(opcode: Opcode, input: &mut Input<'_>, known: &Known) -> Vec<u8> {
    let fh = input.pick(&known.handles);
    let (offset, small) = (input.number(), input.small());
    let mut bytes = match opcode {
        Opcode::Forget => abi::ForgetIn { nlookup: offset }.encode().to_vec(),
        Opcode::Setattr => abi::SetattrIn {
            valid: small,
            fh,
            size: offset & 0xf_ffff,
            mode: input.small(),
            uid: input.small(),
            gid: input.small(),
            atime: input.number(),
            atimensec: input.small(),
            ..Default::default()
        }
        .encode()
        .to_vec(),
        Opcode::Mknod => {
            abi::MknodIn { mode: small, rdev: input.small(), umask: input.small(), padding: 0 }.encode().to_vec()
        }
        Opcode::Mkdir => abi::MkdirIn { mode: small, umask: input.small() }.encode().to_vec(),
        Opcode::Rename | Opcode::Rename2 => {
            let how = abi::Rename2In { newdir: input.pick(&known.nodes), flags: small % 8, padding: 0 }.encode();
            let (head, _) = how.split_at(if opcode == Opcode::Rename { 8 } else { 16 });
            [head, input.name()].concat()
        }
        Opcode::Link => abi::LinkIn { oldnodeid: input.pick(&known.nodes) }.encode().to_vec(),
        Opcode::Symlink => input.name().to_vec(),
        Opcode::Open | Opcode::Opendir => abi::OpenIn { flags: small, open_flags: input.small() }.encode().to_vec(),
        Opcode::Create | Opcode::Tmpfile => {
            let how = abi::CreateIn { flags: small, mode: input.small(), umask: input.small(), open_flags: 0 };
            how.encode().to_vec()
        }
        Opcode::Read | Opcode::Readdir | Opcode::Readdirplus => {
            abi::ReadIn { fh, offset, size: small, ..Default::default() }.encode().to_vec()
        }
        Opcode::Write => {
            let offset = if offset >> 62 == 0 { offset & 0xf_ffff } else { offset };
            let how = abi::WriteIn { fh, offset, size: small, write_flags: input.small(), ..Default::default() };
            [&how.encode()[..], &[b'w'; 64]].concat()
        }
        Opcode::Release | Opcode::Releasedir => abi::ReleaseIn { fh, ..Default::default() }.encode().to_vec(),
        Opcode::Flush => abi::FlushIn { fh, lock_owner: offset, ..Default::default() }.encode().to_vec(),
        Opcode::Setxattr => {
            let how = abi::SetxattrIn { size: small % 100, flags: input.small() % 4, ..Default::default() };
            [&how.encode()[..], b"user.name\0", &[b'v'; 64]].concat()
        }
        Opcode::Getxattr => [&abi::GetxattrIn { size: small, padding: 0 }.encode()[..], b"user.name\0"].concat(),
        Opcode::Getlk | Opcode::Setlk | Opcode::Setlkw => {
            let lk = abi::FileLock { start: offset, end: input.number(), kind: small % 4, pid: 1 };
            let how = abi::LkIn { fh, owner: input.number(), lk, lk_flags: input.small() % 2, padding: 0 };
            how.encode().to_vec()
        }
        Opcode::Lseek => abi::LseekIn { fh, offset, whence: small, padding: 0 }.encode().to_vec(),
        Opcode::Fallocate => {
            let (offset, length) = (offset & 0xf_ffff, input.number() & 0xffff);
            abi::FallocateIn { fh, offset, length, mode: small & 0x7f, padding: 0 }.encode().to_vec()
        }
        Opcode::CopyFileRange => abi::CopyFileRangeIn {
            fh_in: fh,
            off_in: offset,
            nodeid_out: input.pick(&known.nodes),
            fh_out: input.pick(&known.handles),
            off_out: input.number() & 0xf_ffff,
            len: u64::from(small & 0xffff),
            flags: u64::from(input.byte() & 1),
        }
        .encode()
        .to_vec(),
        // No structure, or one that any bytes do for.
        _ => (0..input.byte() % 64).map(|_| input.byte()).collect(),
    };
    // A name, for what takes one; for the others a tail that they must not mind.
    if input.byte() & 3 != 0 {
        bytes.extend_from_slice(input.name());
    }
    bytes
}

/// Notes the numbers that a successful reply has told.
fn learn(opcode: Opcode, reply: &[u8], known: &mut Known) {
    let number = |at: usize| reply.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match opcode {
        Opcode::Lookup | Opcode::Mknod | Opcode::Mkdir | Opcode::Symlink | Opcode::Link => {
            known.nodes.extend(number(16));
        }
        Opcode::Create | Opcode::Tmpfile => {
            known.nodes.extend(number(16));
            known.handles.extend(number(16 + abi::EntryOut::SIZE));
        }
        Opcode::Open | Opcode::Opendir => known.handles.extend(number(16)),
        _ => {}
    }
}

/// A sequence of requests to a share with virtual files on top and a secret beside it. The secret is never read, and
/// nothing outside is ever changed.
pub fn requests(data: &[u8]) {
    let arena = tempfile::tempdir().expect("a directory");
    let (share, outside) = (arena.path().join("share"), arena.path().join("outside"));
    for dir in [&share, &outside, &share.join("dir")] {
        fs::create_dir(dir).expect("mkdir");
    }
    fs::write(outside.join("secret"), SECRET).expect("write");
    fs::write(share.join("file"), b"inside").expect("write");
    std::os::unix::fs::symlink("../outside/secret", share.join("link")).expect("symlink");
    std::os::unix::fs::symlink(&outside, share.join("dirlink")).expect("symlink");

    let mut input = Input(data);
    let cache = [CachePolicy::None, CachePolicy::Auto, CachePolicy::Always][usize::from(input.byte()) % 3];
    let below = PassthroughFs::builder(&share).cache(cache).max_files(64).build().expect("a share");
    let overlay =
        OverlayFs::builder().hidden_file("/init.krun", b"init", 0o755).dir("/proc", 0o555).dir("/dir/new/deep", 0o755);
    let server = FuseServer::new(Arc::new(overlay.build(below).expect("an overlay")));

    let mut known = Known { nodes: vec![abi::ROOT_ID, 1 << 63 | 1], handles: vec![1 << 63 | 1] };
    let init = abi::InitIn { major: 7, minor: 38, max_readahead: 4096, flags: u32::MAX };
    let mut opcode = Opcode::Init;
    let mut body = [&init.encode()[..], &[0; 48]].concat();
    for unique in 0..MAX_REQUESTS as u64 {
        let header = abi::InHeader {
            // Mostly right.
            len: if input.byte() == 0xff { input.small() } else { u32::try_from(40 + body.len()).unwrap_or(0) },
            opcode: opcode as u32,
            unique,
            nodeid: input.pick(&known.nodes),
            uid: u32::from(input.byte() & 1) * 1000,
            gid: u32::from(input.byte() & 1) * 1000,
            pid: 1,
            total_extlen: u16::from(input.byte() == 0xff),
            padding: 0,
        };
        let request = [&header.encode()[..], &body].concat();
        let room = if input.byte() == 0xff { usize::from(input.byte()) } else { 8192 };
        let mut reply = VecSink::new(room);
        let mut handled = server.handle(&mut &request[..], &mut reply, false);
        if handled == Handled::Again {
            assert!(reply.as_slice().is_empty(), "{opcode:?}: nothing is answered yet");
            handled = server.handle(&mut &request[..], &mut reply, true);
        }
        let reply = reply.into_vec();
        assert!(handled != Handled::Again, "{opcode:?}: it may block");
        assert!(!reply.windows(SECRET.len()).any(|w| w == SECRET), "{opcode:?}: the secret was read");
        if let Some(head) = reply.first_chunk() {
            let head = abi::OutHeader::decode(head);
            assert_eq!((head.unique, head.len as usize), (unique, reply.len()), "{opcode:?}");
            assert!((-511..=0).contains(&head.error) && (head.error == 0 || reply.len() == 16), "{opcode:?}");
            if head.error == 0 {
                learn(opcode, &reply, &mut known);
            }
        }
        if input.0.is_empty() {
            break;
        }
        opcode = Opcode::ALL[usize::from(input.byte()) % Opcode::ALL.len()];
        body = arguments(opcode, &mut input, &known);
    }

    assert_eq!(fs::read(outside.join("secret")).expect("read"), SECRET);
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 1);
    let mut beside: Vec<_> = fs::read_dir(arena.path()).expect("list").map(|e| e.expect("entry").file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["outside", "share"]);
}
