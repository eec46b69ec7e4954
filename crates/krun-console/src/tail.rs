//! The last bytes a port has put out.

use krun_virtio::Source;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// A shared memory of the last bytes: the worker writes, handles read.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    limit: usize,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: Arc::default(), limit }
    }

    pub(crate) fn push(&self, piece: &[u8]) {
        let piece = piece.get(piece.len().saturating_sub(self.limit)..).unwrap_or_default();
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = (bytes.len() + piece.len()).saturating_sub(self.limit).min(bytes.len());
        bytes.drain(..surplus);
        bytes.extend(piece);
    }

    /// Takes the end of what `source` has left; the rest was never going to stay.
    pub(crate) fn fill(&self, source: &mut dyn Source) {
        let _ = source.skip(source.remaining().saturating_sub(self.limit));
        let mut piece = [0; 512];
        loop {
            let count = source.remaining().min(piece.len());
            let Some(piece) = piece.get_mut(..count).filter(|piece| !piece.is_empty()) else { return };
            if source.read(piece).is_err() {
                return;
            }
            self.push(piece);
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Tail;

    #[test]
    fn keeps_the_last_bytes() {
        let tail = Tail::new(5);
        tail.push(b"abc");
        assert_eq!(tail.to_vec(), b"abc");
        tail.push(b"def");
        assert_eq!(tail.to_vec(), b"bcdef");
        tail.push(b"0123456789");
        assert_eq!(tail.to_vec(), b"56789");
        tail.push(b"");
        assert_eq!(tail.to_vec(), b"56789");
    }
}
