//! A FUSE client over plain bytes: what the tests of the public API share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod arena;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use krun_virtio::VecSink;
use krun_virtio_fs::abi::{self, Opcode};
use krun_virtio_fs::{FileSystem, FuseServer, Handled, InitFlags, PassthroughFs};

pub const ROOT: u64 = 1;

/// An answer: the bytes after the header, or the error number.
pub type Answer = Result<Vec<u8>, i32>;

/// A client that speaks to a server as a kernel does, one request at a time.
pub struct Client<F: ?Sized> {
    pub server: Arc<FuseServer<F>>,
    pub uid: u32,
    pub gid: u32,
    unique: AtomicU64,
}

/// What LOOKUP and its kin answer.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub node: u64,
    pub attr: abi::Attr,
}

pub fn errno(answer: Answer) -> i32 {
    answer.expect_err("an error")
}

pub fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

pub fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("long enough")
}

/// Builds a request's bytes.
pub fn request(opcode: u32, node: u64, unique: u64, ids: (u32, u32), parts: &[&[u8]]) -> Vec<u8> {
    let length = 40 + parts.iter().map(|p| p.len()).sum::<usize>();
    let header = abi::InHeader {
        len: u32::try_from(length).expect("short"),
        opcode,
        unique,
        nodeid: node,
        uid: ids.0,
        gid: ids.1,
        pid: 1,
        ..Default::default()
    };
    let mut bytes = header.encode().to_vec();
    parts.iter().for_each(|p| bytes.extend_from_slice(p));
    bytes
}

/// Splits a reply into what it says; checks what every reply must fulfil.
pub fn parse(reply: &[u8], unique: u64) -> Answer {
    let header = abi::OutHeader::decode(&array(reply, 0));
    assert_eq!(header.unique, unique);
    assert_eq!(header.len as usize, reply.len(), "a reply tells its length");
    match header.error {
        0 => Ok(reply[16..].to_vec()),
        error => {
            assert_eq!(reply.len(), 16, "an error has no payload");
            assert!((-511..0).contains(&error), "{error}");
            Err(-error)
        }
    }
}

impl Client<PassthroughFs> {
    /// A session with a shared directory.
    pub fn share(path: &Path) -> Self {
        Self::new(PassthroughFs::builder(path).build().expect("a share"))
    }
}

impl<F: FileSystem> Client<F> {
    /// A session with a file system.
    pub fn new(fs: F) -> Self {
        Self::with_server(Arc::new(FuseServer::new(Arc::new(fs))))
    }

    pub fn with_server(server: Arc<FuseServer<F>>) -> Self {
        let client = Self::unborn(server);
        client.init();
        client
    }

    /// Before INIT.
    pub fn unborn(server: Arc<FuseServer<F>>) -> Self {
        let (uid, gid) = (rustix_uid(), rustix_gid());
        Self { server, uid, gid, unique: AtomicU64::new(2) }
    }

    pub fn init(&self) -> abi::InitOut {
        let flags = u32::try_from(InitFlags::all().bits() & u64::from(u32::MAX)).expect("32 bits");
        let init = abi::InitIn { major: 7, minor: 36, max_readahead: 65536, flags };
        let out = self.call(Opcode::Init, 0, &[&init.encode(), &abi::InitExtIn::default().encode()]);
        abi::InitOut::decode(&array(&out.expect("INIT"), 0))
    }

    /// One request with room for `room` bytes of reply; `None`: no reply.
    pub fn raw(&self, bytes: &[u8], room: usize, may_block: bool) -> (Handled, Vec<u8>) {
        let (mut source, mut sink) = (bytes, VecSink::new(room));
        let handled = self.server.handle(&mut source, &mut sink, may_block);
        (handled, sink.into_vec())
    }

    pub fn call_with_room(&self, opcode: Opcode, node: u64, parts: &[&[u8]], room: usize) -> Answer {
        let unique = self.unique.fetch_add(2, Ordering::Relaxed);
        let bytes = request(opcode as u32, node, unique, (self.uid, self.gid), parts);
        let (handled, reply) = self.raw(&bytes, room, true);
        assert_eq!(handled, Handled::Replied, "{opcode:?}");
        parse(&reply, unique)
    }

    pub fn call(&self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> Answer {
        self.call_with_room(opcode, node, parts, 2 << 20)
    }

    fn found(answer: Answer) -> Result<Found, i32> {
        answer.map(|bytes| {
            let entry = abi::EntryOut::decode(&array(&bytes, 0));
            Found { node: entry.nodeid, attr: entry.attr }
        })
    }

    pub fn lookup(&self, parent: u64, text: &str) -> Result<Found, i32> {
        Self::found(self.call(Opcode::Lookup, parent, &[&name(text)]))
    }

    /// Looks a path up, component by component.
    pub fn walk(&self, path: &str) -> Result<Found, i32> {
        let mut found = Found { node: ROOT, attr: self.getattr(ROOT)? };
        for part in path.split('/').filter(|p| !p.is_empty()) {
            found = self.lookup(found.node, part)?;
        }
        Ok(found)
    }

    pub fn forget(&self, node: u64, count: u64) {
        let bytes = request(Opcode::Forget as u32, node, 1, (0, 0), &[&abi::ForgetIn { nlookup: count }.encode()]);
        let (handled, reply) = self.raw(&bytes, 4096, true);
        assert_eq!((handled, reply.len()), (Handled::Replied, 0), "FORGET has no reply");
    }

    pub fn getattr(&self, node: u64) -> Result<abi::Attr, i32> {
        let answer = self.call(Opcode::Getattr, node, &[&abi::GetattrIn::default().encode()])?;
        Ok(abi::AttrOut::decode(&array(&answer, 0)).attr)
    }

    pub fn setattr(&self, node: u64, change: abi::SetattrIn) -> Result<abi::Attr, i32> {
        let answer = self.call(Opcode::Setattr, node, &[&change.encode()])?;
        Ok(abi::AttrOut::decode(&array(&answer, 0)).attr)
    }

    pub fn mkdir(&self, parent: u64, text: &str, mode: u32) -> Result<Found, i32> {
        let how = abi::MkdirIn { mode, umask: 0o022 };
        Self::found(self.call(Opcode::Mkdir, parent, &[&how.encode(), &name(text)]))
    }

    pub fn mknod(&self, parent: u64, text: &str, mode: u32, rdev: u32) -> Result<Found, i32> {
        let how = abi::MknodIn { mode, rdev, umask: 0o022, padding: 0 };
        Self::found(self.call(Opcode::Mknod, parent, &[&how.encode(), &name(text)]))
    }

    pub fn symlink(&self, parent: u64, text: &str, target: &str) -> Result<Found, i32> {
        Self::found(self.call(Opcode::Symlink, parent, &[&name(text), &name(target)]))
    }

    pub fn link(&self, node: u64, parent: u64, text: &str) -> Result<Found, i32> {
        let how = abi::LinkIn { oldnodeid: node };
        Self::found(self.call(Opcode::Link, parent, &[&how.encode(), &name(text)]))
    }

    pub fn readlink(&self, node: u64) -> Answer {
        self.call(Opcode::Readlink, node, &[])
    }

    pub fn unlink(&self, parent: u64, text: &str) -> Answer {
        self.call(Opcode::Unlink, parent, &[&name(text)])
    }

    pub fn rmdir(&self, parent: u64, text: &str) -> Answer {
        self.call(Opcode::Rmdir, parent, &[&name(text)])
    }

    pub fn rename(&self, from: (u64, &str), to: (u64, &str), flags: u32) -> Answer {
        let how = abi::Rename2In { newdir: to.0, flags, padding: 0 };
        self.call(Opcode::Rename2, from.0, &[&how.encode(), &name(from.1), &name(to.1)])
    }

    pub fn open(&self, node: u64, flags: i32) -> Result<abi::OpenOut, i32> {
        let how = abi::OpenIn { flags: flags.cast_unsigned(), open_flags: 0 };
        let answer = self.call(Opcode::Open, node, &[&how.encode()])?;
        Ok(abi::OpenOut::decode(&array(&answer, 0)))
    }

    pub fn create(&self, parent: u64, text: &str, flags: i32, mode: u32) -> Result<(Found, u64), i32> {
        let how = abi::CreateIn { flags: flags.cast_unsigned(), mode, umask: 0o022, open_flags: 0 };
        let answer = self.call(Opcode::Create, parent, &[&how.encode(), &name(text)])?;
        let open = abi::OpenOut::decode(&array(&answer, abi::EntryOut::SIZE));
        Ok((Self::found(Ok(answer))?, open.fh))
    }

    pub fn release(&self, node: u64, fh: u64) -> Answer {
        self.call(Opcode::Release, node, &[&abi::ReleaseIn { fh, ..Default::default() }.encode()])
    }

    pub fn read(&self, node: u64, fh: u64, offset: u64, size: u32) -> Answer {
        self.call(Opcode::Read, node, &[&abi::ReadIn { fh, offset, size, ..Default::default() }.encode()])
    }

    pub fn write(&self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let size = u32::try_from(data.len()).expect("short");
        let how = abi::WriteIn { fh, offset, size, ..Default::default() };
        let answer = self.call(Opcode::Write, node, &[&how.encode(), data])?;
        Ok(abi::WriteOut::decode(&array(&answer, 0)).size)
    }

    /// The whole content of a file, by path.
    pub fn content(&self, path: &str) -> Answer {
        let node = self.walk(path)?.node;
        let fh = self.open(node, libc::O_RDONLY)?.fh;
        let content = self.read(node, fh, 0, 1 << 20);
        self.release(node, fh).expect("RELEASE");
        content
    }

    pub fn opendir(&self, node: u64) -> Result<u64, i32> {
        let answer = self.call(Opcode::Opendir, node, &[&abi::OpenIn::default().encode()])?;
        Ok(abi::OpenOut::decode(&array(&answer, 0)).fh)
    }

    pub fn releasedir(&self, node: u64, fh: u64) -> Answer {
        self.call(Opcode::Releasedir, node, &[&abi::ReleaseIn { fh, ..Default::default() }.encode()])
    }

    /// One READDIR or READDIRPLUS.
    pub fn readdir_once(&self, node: u64, fh: u64, offset: u64, size: u32, plus: bool) -> Result<Vec<Listed>, i32> {
        let opcode = if plus { Opcode::Readdirplus } else { Opcode::Readdir };
        let how = abi::ReadIn { fh, offset, size, ..Default::default() };
        Ok(entries(&self.call(opcode, node, &[&how.encode()])?, plus))
    }

    /// A whole listing, by replies of `size` bytes.
    pub fn list(&self, node: u64, size: u32, plus: bool) -> Vec<Listed> {
        let fh = self.opendir(node).expect("OPENDIR");
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let part = self.readdir_once(node, fh, offset, size, plus).expect("READDIR");
            let Some(last) = part.last() else { break };
            offset = last.offset;
            all.extend(part);
        }
        self.releasedir(node, fh).expect("RELEASEDIR");
        all
    }

    pub fn names(&self, node: u64) -> Vec<String> {
        let mut names: Vec<_> = self.list(node, 4096, false).into_iter().map(|l| l.name).collect();
        names.sort();
        names
    }

    pub fn setlk(&self, node: u64, fh: u64, owner: u64, kind: u32, range: (u64, u64), flock: bool) -> Answer {
        self.call(Opcode::Setlk, node, &[&lock(fh, owner, kind, range, flock)])
    }
}

pub fn lock(fh: u64, owner: u64, kind: u32, (start, end): (u64, u64), flock: bool) -> [u8; abi::LkIn::SIZE] {
    let lk = abi::FileLock { start, end, kind, pid: 1 };
    abi::LkIn { fh, owner, lk, lk_flags: flock.into(), padding: 0 }.encode()
}

/// A directory entry as it came over the wire.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    pub offset: u64,
    pub ino: u64,
    pub kind: u32,
    /// READDIRPLUS: node id and attributes.
    pub node: u64,
    pub attr: abi::Attr,
}

pub fn entries(mut bytes: &[u8], plus: bool) -> Vec<Listed> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let head = if plus { abi::DirentPlus::SIZE } else { abi::Dirent::SIZE };
        let entry = if plus { abi::DirentPlus::decode(&array(bytes, 0)).entry } else { abi::EntryOut::default() };
        let dirent = abi::Dirent::decode(&array(bytes, head - abi::Dirent::SIZE));
        let length = head + dirent.namelen as usize;
        all.push(Listed {
            name: String::from_utf8(bytes[head..length].to_vec()).expect("UTF-8"),
            offset: dirent.off,
            ino: dirent.ino,
            kind: dirent.kind,
            node: entry.nodeid,
            attr: entry.attr,
        });
        bytes = &bytes[length.next_multiple_of(8)..];
    }
    all
}

fn rustix_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn rustix_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

pub fn is_root() -> bool {
    rustix_uid() == 0
}

/// How many descriptors this process has open.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}
