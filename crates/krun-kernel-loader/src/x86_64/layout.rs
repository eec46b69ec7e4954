//! Where things lie in the guest's physical memory.
//!
//! | address | what |
//! |---|---|
//! | `0x472` | the BIOS's warm-boot flag, see [`WARM_BOOT_FLAG`] |
//! | `0x500` .. `0x20000` | left to the vCPU's start: descriptor tables, boot stack, identity page tables, except |
//! | `0x6000` | [`PVH_START_INFO`], for a PVH start |
//! | `0x7000` | [`ZERO_PAGE`]: `boot_params`, for a start by the 64-bit protocol |
//! | `0x20000` | [`CMDLINE`] |
//! | `0x9fc00` | [`EBDA`]: the MP floating pointer |
//! | `0xf0000` | [`BIOS_AREA`]: the MP configuration table |
//! | `0x100000` | [`HIMEM`]: the kernel and the initrd, never below |
//! | `0xd0000000` .. 4 GiB | no RAM: devices, I/O APIC, local APIC, KVM's own pages |
//! | 4 GiB | the rest of RAM |

use std::ops::Range;

use vm_memory::GuestAddress;

use crate::error::{Error, Result};

/// The granularity of guest RAM: one page.
pub const PAGE_SIZE: u64 = 0x1000;

/// Where `struct hvm_start_info` goes; its module list and its memory map follow within the page.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);

/// Where `struct boot_params`, one page, goes.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);

/// Where the NUL-terminated command line goes.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);

/// The last KiB of the 640 KiB of base memory, where a kernel looks for the MP floating pointer.
pub const EBDA: Range<u64> = 0x9_fc00..0xa_0000;

/// The 64 KiB a PC keeps its BIOS in. No kernel uses them as RAM, so tables of any size that we make may lie here.
pub const BIOS_AREA: Range<u64> = 0xf_0000..0x10_0000;

/// The first address of a kernel: below it are boot data and what a PC keeps there.
pub const HIMEM: u64 = 0x10_0000;

/// Kernels that start by the 64-bit protocol lie below this address: the vCPU that starts them maps this first GiB
/// one to one, as the protocol asks ("the range with setup_header.init_size from start address of loaded kernel").
pub const IDENTITY_MAP_END: u64 = 1 << 30;

/// The addresses below 4 GiB that are never RAM. 768 MiB: virtio windows from its start, the I/O APIC at
/// `0xfec0_0000`, the local APIC at `0xfee0_0000`, KVM's TSS pages close to the end.
pub const MMIO_HOLE: Range<u64> = 0xd000_0000..1 << 32;

/// A kernel that panicked reboots "warm" when its command line says [`words::REBOOT`](crate::words::REBOOT), and
/// leaves [`WARM_BOOT`] here: the BIOS data area's reset flag, two bytes.
pub const WARM_BOOT_FLAG: GuestAddress = GuestAddress(0x472);

/// The value of a warm boot at [`WARM_BOOT_FLAG`].
pub const WARM_BOOT: u16 = 0x1234;

/// x86_64's architectural limit of physical addresses is 52 bits.
const PHYSICAL_END: u64 = 1 << 52;

/// Which guest addresses are RAM, for a given amount of it.
///
/// RAM starts at 0 and is one piece up to the [`MMIO_HOLE`]; what does not fit below continues at 4 GiB. Nothing is
/// lost to the hole: the pieces add up to the asked size.
///
/// ```
/// use krun_kernel_loader::RamLayout;
///
/// let layout = RamLayout::new(4 << 30)?;
/// assert_eq!(layout.low(), 0..0xd000_0000);
/// assert_eq!(layout.high(), Some(0x1_0000_0000..0x1_3000_0000));
/// # Ok::<(), krun_kernel_loader::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamLayout {
    size: u64,
}

impl RamLayout {
    /// The layout for `size` bytes of RAM.
    ///
    /// # Errors
    ///
    /// [`Error::RamSize`] unless `size` is a multiple of 4 KiB, reaches past the first MiB, and ends below the
    /// 52 bits of an x86_64 physical address.
    pub fn new(size: u64) -> Result<Self> {
        let reason = if !size.is_multiple_of(PAGE_SIZE) {
            "it has to be a multiple of the page size, 4096"
        } else if size <= HIMEM {
            "a kernel starts at 1 MiB, so it has to be more than that"
        } else if size > PHYSICAL_END - (MMIO_HOLE.end - MMIO_HOLE.start) {
            "x86_64 has 52 bits of physical address"
        } else {
            return Ok(Self { size });
        };
        Err(Error::RamSize { size, reason })
    }

    /// The amount of RAM in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// RAM below the hole.
    pub fn low(&self) -> Range<u64> {
        0..self.size.min(MMIO_HOLE.start)
    }

    /// RAM above 4 GiB, where there is any.
    pub fn high(&self) -> Option<Range<u64>> {
        let rest = self.size.checked_sub(MMIO_HOLE.start).filter(|rest| *rest > 0)?;
        Some(MMIO_HOLE.end..MMIO_HOLE.end + rest)
    }

    /// All RAM, lowest first: one memory slot each.
    pub fn regions(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        [Some(self.low()), self.high()].into_iter().flatten()
    }

    /// The first address behind all RAM: shared-memory windows may start at or above it and 4 GiB, whichever is
    /// higher.
    pub fn end(&self) -> u64 {
        self.high().unwrap_or(self.low()).end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_ram_is_one_piece() {
        for size in [MIB + PAGE_SIZE, 2 * MIB, 256 * MIB, 3328 * MIB - PAGE_SIZE, 3328 * MIB] {
            let layout = RamLayout::new(size).unwrap();
            assert_eq!(layout.low(), 0..size);
            assert_eq!(layout.high(), None);
            assert_eq!(layout.end(), size);
        }
    }

    #[test]
    fn the_first_page_past_the_hole_lies_at_4_gib() {
        let layout = RamLayout::new(3328 * MIB + PAGE_SIZE).unwrap();
        assert_eq!(layout.low(), 0..0xd000_0000);
        assert_eq!(layout.high(), Some(0x1_0000_0000..0x1_0000_1000));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size in [0, 1, MIB - PAGE_SIZE, MIB, 256 * MIB + 1, 256 * MIB + 512, u64::MAX, u64::MAX - 0xfff, 1 << 52] {
            assert!(matches!(RamLayout::new(size), Err(Error::RamSize { .. })), "{size:#x}");
        }
        let largest = (1 << 52) - 768 * MIB;
        assert_eq!(RamLayout::new(largest).unwrap().end(), 1 << 52);
        RamLayout::new(largest + PAGE_SIZE).unwrap_err();
    }

    proptest::proptest! {
        #[test]
        fn pieces_add_up_and_miss_the_hole(pages in 257u64..1 << 24) {
            let layout = RamLayout::new(pages * PAGE_SIZE).unwrap();
            let total: u64 = layout.regions().map(|r| r.end - r.start).sum();
            assert_eq!(total, layout.size());
            for region in layout.regions() {
                assert!(region.start < region.end);
                assert!(region.end <= MMIO_HOLE.start || region.start >= MMIO_HOLE.end);
            }
        }
    }
}
