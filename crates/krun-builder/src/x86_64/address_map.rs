//! Addresses and interrupt lines that a PC has by convention.

use std::ops::Range;

/// The first virtio-mmio window: the start of the hole in RAM.
pub(crate) const MMIO_BASE: u64 = krun_kernel_loader::x86_64::layout::MMIO_HOLE.start;
/// The end of the hole.
pub(crate) const FOUR_GIB: u64 = 1 << 32;
/// From window to window: one page, so that each can be trapped on its own.
pub(crate) const MMIO_STRIDE: u64 = 0x1000;
/// The I/O APIC's registers: the windows end before them.
pub(crate) const MMIO_END: u64 = 0xfec0_0000;
/// What the planner leaves free for others: I/O APIC, local APIC, KVM's TSS and identity map below the reset vector.
#[cfg_attr(not(test), expect(dead_code, reason = "the planner's tests hold it against every plan"))]
pub(crate) const RESERVED: [Range<u64>; 3] =
    [0xfec0_0000..0xfec0_1000, 0xfee0_0000..0xfee0_1000, 0xfffb_c000..FOUR_GIB];
/// Nothing lies above: 46 bits, which every 64-bit machine that virtualises in earnest has.
pub(crate) const ADDRESS_END: u64 = 1 << 46;

/// Lines with an owner by convention: PIT, keyboard, cascade, clock, floating point.
#[cfg_attr(not(test), expect(dead_code, reason = "the planner's tests hold it against every plan"))]
pub(crate) const LEGACY_GSIS: [u32; 5] = [0, 1, 2, 8, 13];
/// The first serial port's line.
pub(crate) const SERIAL_GSI: u32 = 4;
/// Lines for virtio devices, in the order they are given out: the I/O APIC's 24 pins without [`LEGACY_GSIS`].
pub(crate) const GSIS: [u32; 19] = [5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 3, SERIAL_GSI];

/// First port of the first serial port, and how many there are.
pub(crate) const SERIAL_PORTS: Range<u16> = 0x3f8..0x400;
