//! Bytes that a console port has taken from the guest and the host has not taken yet.

use crate::Output;
use krun_virtio::Source;
use std::collections::VecDeque;
use std::io;

/// A bounded buffer of bytes; it grows as it is needed.
#[derive(Debug)]
pub(crate) struct Backlog {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Backlog {
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }

    /// Takes as many bytes from `source` as fit, shows them to `seen`, and says how many.
    pub(crate) fn fill(&mut self, source: &mut dyn Source, mut seen: impl FnMut(&[u8])) -> usize {
        let mut piece = [0; 512];
        let mut taken = 0;
        loop {
            let count = source.remaining().min(self.room()).min(piece.len());
            let Some(piece) = piece.get_mut(..count).filter(|piece| !piece.is_empty()) else { return taken };
            if source.read(piece).is_err() {
                return taken;
            }
            self.bytes.extend(piece.iter());
            seen(piece);
            taken += count;
        }
    }

    /// Hands bytes to `output` until there are none left or it takes no more, and says how many it took.
    ///
    /// # Errors
    /// What the output answers. What it has taken before is gone from here in any case.
    pub(crate) fn drain(&mut self, output: &mut dyn Output) -> (usize, io::Result<()>) {
        let mut taken = 0;
        loop {
            let (mut first, _) = self.bytes.as_slices();
            if first.is_empty() {
                // An idle console keeps little memory.
                self.bytes.shrink_to(4096);
                return (taken, Ok(()));
            }
            match output.write(&mut first) {
                Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.bytes.drain(..count.min(self.bytes.len()));
                    taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (taken, Err(error)),
            }
        }
    }

    /// Throws everything away and says how much it was.
    pub(crate) fn clear(&mut self) -> usize {
        std::mem::take(&mut self.bytes).len()
    }

    /// The bytes as they would be written, for a snapshot.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }

    pub(crate) fn restore(&mut self, bytes: &[u8]) {
        self.bytes = bytes.iter().copied().collect();
    }
}
