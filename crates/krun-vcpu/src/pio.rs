//! Port accesses, which KVM hands over in batches: `rep outsb` of 100 bytes is one exit.

use std::mem::size_of;

use kvm_bindings::{KVM_EXIT_IO_IN, KVM_EXIT_IO_OUT, kvm_run};

/// A batch of accesses of one width to one port, as an I/O exit describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PioBatch {
    port: u16,
    width: u8,
    write: bool,
    offset: usize,
    len: usize,
}

impl PioBatch {
    /// Checks what `struct kvm_run` says in an I/O exit. `page` is the size of the whole run mapping.
    ///
    /// `None` when the width is not 1, 2 or 4, the direction is unknown, or the data do not lie between the end of the
    /// structure and the end of the page.
    pub fn decode(direction: u8, size: u8, port: u16, count: u32, data_offset: u64, page: usize) -> Option<Self> {
        if !matches!(size, 1 | 2 | 4) {
            return None;
        }
        let write = match u32::from(direction) {
            KVM_EXIT_IO_IN => false,
            KVM_EXIT_IO_OUT => true,
            _ => return None,
        };
        let offset = usize::try_from(data_offset).ok()?;
        let len = usize::from(size).checked_mul(usize::try_from(count).ok()?)?;
        if offset < size_of::<kvm_run>() || offset.checked_add(len)? > page {
            return None;
        }
        Some(Self { port, width: size, write, offset, len })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes of one access: 1, 2 or 4.
    pub fn width(&self) -> u8 {
        self.width
    }

    /// Whether the guest writes (`out`) or reads (`in`).
    pub fn is_write(&self) -> bool {
        self.write
    }

    /// Where the data begin, in bytes from the start of the run page.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes of all accesses together: a multiple of the width.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no access at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: usize = 3 * 4096;

    #[test]
    fn one_byte_out() {
        let batch = PioBatch::decode(1, 1, 0x3f8, 1, 4096, PAGE).unwrap();
        assert_eq!((batch.port(), batch.width(), batch.is_write()), (0x3f8, 1, true));
        assert_eq!((batch.offset(), batch.len()), (4096, 1));
    }

    #[test]
    fn refused() {
        assert_eq!(PioBatch::decode(1, 8, 0, 1, 4096, PAGE), None, "width");
        assert_eq!(PioBatch::decode(2, 1, 0, 1, 4096, PAGE), None, "direction");
        assert_eq!(PioBatch::decode(0, 1, 0, 1, 0, PAGE), None, "inside the structure");
        assert_eq!(PioBatch::decode(0, 4, 0, 4096, 4096, PAGE), None, "past the page");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_lies_behind_the_structure_and_in_the_page(
            direction: u8, size: u8, port: u16, count: u32, offset: u64,
        ) {
            if let Some(batch) = PioBatch::decode(direction, size, port, count, offset, PAGE) {
                prop_assert!(batch.offset() >= size_of::<kvm_run>());
                prop_assert!(batch.offset() + batch.len() <= PAGE);
                prop_assert_eq!(batch.len() as u64, u64::from(count) * u64::from(size));
                prop_assert_eq!(batch.len() % usize::from(batch.width()), 0);
            }
        }

        #[test]
        fn whatever_fits_is_accepted(
            write: bool, width in prop::sample::select(vec![1u8, 2, 4]), port: u16, count in 0u32..1024,
        ) {
            let batch = PioBatch::decode(u8::from(write), width, port, count, 4096, PAGE).unwrap();
            prop_assert_eq!(batch.port(), port);
            prop_assert_eq!(batch.is_write(), write);
            prop_assert_eq!(batch.width(), width);
            prop_assert_eq!(batch.len(), usize::from(width) * count as usize);
        }
    }
}
