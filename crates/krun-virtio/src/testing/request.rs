//! What a test posts, and what it gets back.

/// One descriptor, as it lies in memory: virtio 1.2 section 2.7.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// Guest address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`Descriptor::NEXT`], [`Descriptor::WRITE`], [`Descriptor::INDIRECT`].
    pub flags: u16,
    /// The next one's number.
    pub next: u16,
}

impl Descriptor {
    /// Another one follows.
    pub const NEXT: u16 = 1;
    /// The device writes it.
    pub const WRITE: u16 = 2;
    /// It names a table of descriptors.
    pub const INDIRECT: u16 = 4;

    pub(super) fn bytes(&self) -> [u8; 16] {
        let rest = u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        (u128::from(self.address) | u128::from(rest) << 64).to_le_bytes()
    }
}

/// A request: what the device reads, what it may write, and how both are cut into descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub(super) readable: Vec<Vec<u8>>,
    pub(super) writable: Vec<usize>,
    pieces: usize,
    pub(super) indirect: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self::new()
    }
}

impl Request {
    /// Nothing to read, nothing to write.
    pub fn new() -> Self {
        Self { readable: Vec::new(), writable: Vec::new(), pieces: usize::MAX, indirect: false }
    }

    /// Adds a descriptor (or several, see [`Request::pieces`]) of bytes that the device reads.
    pub fn readable(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.readable.push(bytes.as_ref().to_vec());
        self
    }

    /// Adds a descriptor (or several, see [`Request::pieces`]) of room that the device writes.
    pub fn writable(mut self, len: usize) -> Self {
        self.writable.push(len);
        self
    }

    /// Cuts everything into descriptors of at most `max` bytes, none touching the next in memory.
    pub fn pieces(mut self, max: usize) -> Self {
        self.pieces = max.max(1);
        self
    }

    /// Puts the descriptors into an indirect table.
    pub fn indirect(mut self) -> Self {
        self.indirect = true;
        self
    }

    /// Each readable descriptor's bytes.
    pub(super) fn readable_pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.readable.iter().flat_map(|bytes| {
            let empty = bytes.is_empty().then_some(bytes.as_slice());
            empty.into_iter().chain(bytes.chunks(self.pieces))
        })
    }

    /// Each writable descriptor's length.
    pub(super) fn writable_pieces(&self) -> impl Iterator<Item = usize> {
        self.writable.iter().flat_map(|len| {
            let whole = len / self.pieces;
            let rest = len % self.pieces;
            let last = (rest > 0 || *len == 0).then_some(rest);
            std::iter::repeat_n(self.pieces, whole).chain(last)
        })
    }
}

/// A chain that the device has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// What [`MockDriver::post`](super::MockDriver::post) answered for it.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub len: u32,
    /// Those bytes. Empty for a chain that was offered raw.
    pub data: Vec<u8>,
    /// All of its room, written or not.
    pub room: Vec<u8>,
}
