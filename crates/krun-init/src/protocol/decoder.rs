//! Frames out of a byte stream that comes in any pieces.

use super::header::{Frame, Header};
use super::wire::Malformed;

/// Where a [`Decoder`] keeps the payload that has come so far: a vector on the host, a mapping in the guest.
pub trait Store {
    /// Forgets everything.
    fn clear(&mut self);
    /// Appends `bytes`; there are never more in all than the decoder's limit.
    fn append(&mut self, bytes: &[u8]);
    /// What has been appended since the last `clear`.
    fn bytes(&self) -> &[u8];
}

/// Cuts a byte stream into frames. It holds one payload at most, never longer than its limit.
#[derive(Debug)]
pub struct Decoder<S> {
    limit: u32,
    head: [u8; Header::SIZE],
    have: usize,
    header: Option<Header>,
    payload: S,
}

impl<S: Store> Decoder<S> {
    /// A decoder that accepts payloads up to `limit` bytes and keeps them in `store`.
    pub fn new(limit: u32, mut store: S) -> Self {
        store.clear();
        Self { limit, head: [0; Header::SIZE], have: 0, header: None, payload: store }
    }

    /// Takes bytes off the front of `input` until a frame is whole or `input` is empty (`None`).
    ///
    /// # Errors
    ///
    /// [`Malformed`] for a header that this end refuses. The stream has no further frame boundary to hold on to, so
    /// the caller gives it up.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let wanted = self.head.get_mut(self.have..).unwrap_or_default();
                let count = take(input, wanted.len());
                for (to, from) in wanted.iter_mut().zip(count) {
                    *to = *from;
                }
                self.have += count.len();
                if self.have < Header::SIZE {
                    return Ok(None);
                }
                let header = Header::decode(&self.head, self.limit)?;
                self.payload.clear();
                *self.header.insert(header)
            }
        };
        let length = header.length as usize;
        let missing = length.saturating_sub(self.payload.bytes().len());
        self.payload.append(take(input, missing));
        if self.payload.bytes().len() < length {
            return Ok(None);
        }
        self.have = 0;
        self.header = None;
        Ok(Some(Frame { kind: header.kind, process: header.process, payload: self.payload.bytes() }))
    }

    /// Whether the stream stands between two frames.
    pub const fn is_at_boundary(&self) -> bool {
        // A head that is complete stays until its frame is.
        self.have == 0
    }
}

/// Takes up to `count` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at_checked(count).unwrap_or((*input, &[]));
    *input = rest;
    taken
}
