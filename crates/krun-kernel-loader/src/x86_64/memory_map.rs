//! The memory map a kernel is told, as e820 has it: which addresses are RAM, and which of them to leave alone.

use std::ops::Range;

use super::layout::{BIOS_AREA, EBDA, HIMEM, RamLayout};

/// What a range of guest addresses is. The numbers are those of ACPI 6.5, section 15 (E820), which PVH shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryType {
    /// Free for the kernel's use.
    Ram = 1,
    /// Backed or not, the kernel leaves it alone.
    Reserved = 2,
}

/// One range of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRange {
    /// The addresses.
    pub range: Range<u64>,
    /// What they are.
    pub kind: MemoryType,
}

/// The map for a layout: sorted, not overlapping, nothing of it in the hole.
///
/// Between 640 KiB and 1 MiB a PC has no RAM for the kernel. The parts of it that hold our tables are listed as
/// reserved (the kernel would leave them alone anyway, `/proc/iomem` then says why); the rest is not listed.
pub fn memory_map(layout: &RamLayout) -> Vec<MemoryRange> {
    use MemoryType::{Ram, Reserved};
    let low = [(0..EBDA.start, Ram), (EBDA, Reserved), (BIOS_AREA, Reserved), (HIMEM..layout.low().end, Ram)];
    let high = layout.high().map(|range| (range, Ram));
    low.into_iter().chain(high).map(|(range, kind)| MemoryRange { range, kind }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::x86_64::layout::{MMIO_HOLE, PAGE_SIZE};

    #[test]
    fn no_off_by_one() {
        let ranges = |size| {
            let map = memory_map(&RamLayout::new(size).unwrap());
            map.into_iter().filter(|r| r.kind == MemoryType::Ram).map(|r| r.range).collect::<Vec<_>>()
        };
        assert_eq!(ranges(256 << 20), [0..0x9_fc00, 0x10_0000..0x1000_0000]);
        assert_eq!(ranges(0xd000_0000), [0..0x9_fc00, 0x10_0000..0xd000_0000]);
        assert_eq!(ranges(4 << 30), [0..0x9_fc00, 0x10_0000..0xd000_0000, 0x1_0000_0000..0x1_3000_0000]);
    }

    proptest! {
        #[test]
        fn the_map_is_the_layout(pages in prop_oneof![257u64..0x2000, 0xc_f000..0x10_1000u64, 257u64..1 << 26]) {
            let layout = RamLayout::new(pages * PAGE_SIZE).unwrap();
            let map = memory_map(&layout);
            // Sorted, no overlap, nothing empty, nothing in the hole.
            let mut end = 0;
            for entry in &map {
                prop_assert!(entry.range.start >= end);
                prop_assert!(entry.range.start < entry.range.end);
                prop_assert!(entry.range.end <= MMIO_HOLE.start || entry.range.start >= MMIO_HOLE.end);
                prop_assert!(layout.regions().any(|r| r.start <= entry.range.start && entry.range.end <= r.end));
                end = entry.range.end;
            }
            // RAM in the map is all RAM but the last KiB of base memory and what a PC has up to 1 MiB.
            let ram: u64 = map.iter().filter(|e| e.kind == MemoryType::Ram).map(|e| e.range.end - e.range.start).sum();
            prop_assert_eq!(ram, layout.size() - (HIMEM - EBDA.start));
        }
    }
}
