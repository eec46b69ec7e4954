//! Where everything lies in the guest's physical address space: a pure function of a few numbers.
//!
//! [`Layout::plan`] opens nothing and maps nothing, so it is tested for all configurations at once: no two ranges
//! overlap, every device has its own register window, and every interrupt line is one that nobody else has.

use std::ops::Range;

use krun_kernel_loader::RamLayout;

use crate::x86_64::address_map as map;

/// What a plan depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayoutConfig {
    /// Bytes of guest RAM: a multiple of [`Layout::PAGE`], at least [`Layout::MIN_MEMORY`].
    pub memory: u64,
    /// How many virtio-mmio devices there are.
    pub devices: usize,
    /// Whether the 16550 serial port is there and takes its interrupt line.
    pub serial: bool,
    /// Sizes, in bytes, of the shared-memory (DAX) windows.
    pub windows: Vec<u64>,
}

/// The register window and the interrupt line of one virtio-mmio device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioSlot {
    /// First guest-physical address; the window is [`Layout::MMIO_WINDOW`] bytes long.
    pub base: u64,
    /// Global system interrupt: a pin of the I/O APIC.
    pub gsi: u32,
}

/// The guest's physical address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// RAM: one range, or two around the hole under 4 GiB.
    pub ram: RamLayout,
    /// One per virtio device, in the devices' order.
    pub devices: Vec<MmioSlot>,
    /// Interrupt line of the 16550, if there is one.
    pub serial_gsi: Option<u32>,
    /// Shared-memory windows, in the order asked for; each starts on a huge page.
    pub windows: Vec<Range<u64>>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// RAM is too small, too large, or not whole pages.
    #[error("guest memory of {memory} bytes: {reason}")]
    Memory {
        /// The size asked for, in bytes.
        memory: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More register windows than fit between the MMIO base and the I/O APIC.
    #[error("{devices} virtio devices: the MMIO range holds {}", Layout::MAX_DEVICES)]
    Devices {
        /// How many were asked for.
        devices: usize,
    },
    /// A shared-memory window is empty or runs past the end of the address space.
    #[error("a shared-memory window of {size} bytes: {reason}")]
    Window {
        /// The size asked for, in bytes.
        size: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Layout {
    /// Bytes of a page.
    pub const PAGE: u64 = 4096;
    /// Bytes of a huge page: RAM and windows are congruent to it in guest and host.
    pub const HUGE_PAGE: u64 = 2 << 20;
    /// Bytes of one device's register window.
    pub const MMIO_WINDOW: u64 = map::MMIO_STRIDE;
    /// The least RAM a Linux guest comes up with (kernel, page tables, a small user space), in bytes.
    pub const MIN_MEMORY: u64 = 64 << 20;
    /// The most RAM, in bytes: 1 TiB.
    pub const MAX_MEMORY: u64 = 1 << 40;
    /// The most virtio devices whose windows fit.
    pub const MAX_DEVICES: usize = ((map::MMIO_END - map::MMIO_BASE) / map::MMIO_STRIDE) as usize;

    /// Plans the address space.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] when the numbers do not fit into the machine.
    pub fn plan(config: &LayoutConfig) -> Result<Self, LayoutError> {
        let ram = plan_ram(config.memory)?;
        if config.devices > Self::MAX_DEVICES {
            return Err(LayoutError::Devices { devices: config.devices });
        }
        let serial_gsi = config.serial.then_some(map::SERIAL_GSI);
        let lines: Vec<u32> = map::GSIS.iter().copied().filter(|gsi| Some(*gsi) != serial_gsi).collect();
        let bases = (map::MMIO_BASE..map::MMIO_END).step_by(STRIDE);
        // More devices than lines: they share, round about, so that no line carries two more than another.
        let devices = bases
            .zip(lines.iter().cycle())
            .take(config.devices)
            .map(|(base, gsi)| MmioSlot { base, gsi: *gsi })
            .collect();
        let windows = plan_windows(ram.end(), &config.windows)?;
        Ok(Self { ram, devices, serial_gsi, windows })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a constant of 4096")]
const STRIDE: usize = map::MMIO_STRIDE as usize;

fn plan_ram(memory: u64) -> Result<RamLayout, LayoutError> {
    let refuse = |reason| LayoutError::Memory { memory, reason };
    if memory < Layout::MIN_MEMORY {
        return Err(refuse("less than 64 MiB"));
    }
    if memory > Layout::MAX_MEMORY {
        return Err(refuse("more than 1 TiB"));
    }
    RamLayout::new(memory).map_err(|_| refuse("not a multiple of 4096"))
}

fn plan_windows(ram_end: u64, sizes: &[u64]) -> Result<Vec<Range<u64>>, LayoutError> {
    let mut next = ram_end.max(map::FOUR_GIB).next_multiple_of(1 << 30);
    let mut windows = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let refuse = |reason| LayoutError::Window { size, reason };
        if size == 0 || !size.is_multiple_of(Layout::PAGE) {
            return Err(refuse("not a positive multiple of 4096"));
        }
        let end = next.checked_add(size).filter(|end| *end <= map::ADDRESS_END);
        let end = end.ok_or_else(|| refuse("past the end of the guest's address space"))?;
        windows.push(next..end);
        next = end.next_multiple_of(Layout::HUGE_PAGE);
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn plan(memory: u64, devices: usize) -> Layout {
        Layout::plan(&LayoutConfig { memory, devices, serial: false, windows: vec![] }).unwrap()
    }

    #[test]
    fn memory_below_the_hole_is_one_range() {
        assert_eq!(plan(256 << 20, 0).ram.high(), None);
        assert_eq!(plan(map::MMIO_BASE, 0).ram.low(), 0..map::MMIO_BASE);
    }

    #[test]
    fn memory_past_the_hole_goes_on_above_4_gib() {
        let ram = plan(5 * GIB, 0).ram;
        assert_eq!((ram.low(), ram.high()), (0..0xd000_0000, Some(4 * GIB..4 * GIB + (5 * GIB - 0xd000_0000))));
    }

    #[test]
    fn a_hundred_devices_spread_evenly_over_the_lines() {
        let layout = plan(Layout::MIN_MEMORY, 100);
        let mut count = [0_usize; 24];
        layout.devices.iter().for_each(|slot| count[slot.gsi as usize] += 1);
        let used: Vec<usize> = count.into_iter().filter(|n| *n > 0).collect();
        assert_eq!(used.len(), map::GSIS.len());
        assert!(used.iter().max().unwrap() - used.iter().min().unwrap() <= 1);
    }

    #[test]
    fn devices_do_not_share_while_lines_are_left() {
        let layout = plan(Layout::MIN_MEMORY, map::GSIS.len());
        let mut lines: Vec<u32> = layout.devices.iter().map(|slot| slot.gsi).collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), map::GSIS.len());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |config: LayoutConfig| Layout::plan(&config).unwrap_err();
        let base = LayoutConfig { memory: GIB, ..LayoutConfig::default() };
        assert!(matches!(refused(LayoutConfig { memory: 4096, ..base.clone() }), LayoutError::Memory { .. }));
        assert!(matches!(refused(LayoutConfig { memory: GIB + 1, ..base.clone() }), LayoutError::Memory { .. }));
        assert!(matches!(refused(LayoutConfig { memory: u64::MAX, ..base.clone() }), LayoutError::Memory { .. }));
        let devices = Layout::MAX_DEVICES + 1;
        assert!(matches!(refused(LayoutConfig { devices, ..base.clone() }), LayoutError::Devices { .. }));
        for windows in [vec![0], vec![1], vec![!4095], vec![map::ADDRESS_END]] {
            assert!(matches!(refused(LayoutConfig { windows, ..base.clone() }), LayoutError::Window { .. }));
        }
    }

    proptest! {
        /// The one property that matters: nothing overlaps, whatever is asked for.
        #[test]
        fn nothing_overlaps(
            pages in 0_u64..(1 << 28) + 2,
            devices in 0_usize..300,
            serial: bool,
            windows in prop::collection::vec((1_u64..1 << 22).prop_map(|pages| pages * 4096), 0..6),
        ) {
            let config = LayoutConfig { memory: pages * 4096, devices, serial, windows };
            let Ok(layout) = Layout::plan(&config) else {
                prop_assert!(!(Layout::MIN_MEMORY..=Layout::MAX_MEMORY).contains(&config.memory));
                return Ok(());
            };
            prop_assert_eq!(layout.ram.size(), config.memory);
            prop_assert_eq!(layout.devices.len(), devices);
            prop_assert_eq!(layout.windows.len(), config.windows.len());
            let mut taken: Vec<Range<u64>> = layout.ram.regions().collect();
            taken.extend(layout.devices.iter().map(|slot| slot.base..slot.base + Layout::MMIO_WINDOW));
            taken.extend(layout.windows.iter().cloned());
            taken.extend(map::RESERVED.iter().cloned());
            taken.sort_by_key(|range| range.start);
            for pair in taken.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start, "{:x?} overlaps {:x?}", pair[0], pair[1]);
            }
            for (window, size) in layout.windows.iter().zip(&config.windows) {
                prop_assert_eq!(window.end - window.start, *size);
                prop_assert!(window.start.is_multiple_of(Layout::HUGE_PAGE));
            }
            for slot in &layout.devices {
                prop_assert!(!map::LEGACY_GSIS.contains(&slot.gsi) && slot.gsi < 24);
                prop_assert!(!serial || slot.gsi != map::SERIAL_GSI);
            }
        }
    }
}
