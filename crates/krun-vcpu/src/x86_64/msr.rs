//! Model-specific registers as a boot loader leaves them.

use kvm_bindings::kvm_msr_entry;

/// Intel SDM volume 4, table 2-2; AMD APM volume 2, appendix A.
mod index {
    pub(super) const IA32_TSC: u32 = 0x10;
    pub(super) const IA32_SYSENTER_CS: u32 = 0x174;
    pub(super) const IA32_SYSENTER_ESP: u32 = 0x175;
    pub(super) const IA32_SYSENTER_EIP: u32 = 0x176;
    pub(super) const IA32_MISC_ENABLE: u32 = 0x1a0;
    pub(super) const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LSTAR: u32 = 0xc000_0082;
    pub(super) const CSTAR: u32 = 0xc000_0083;
    pub(super) const SYSCALL_MASK: u32 = 0xc000_0084;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// IA32_MISC_ENABLE bit 0: `rep movs` and `rep stos` may go by cache lines.
const FAST_STRING: u64 = 1;
/// IA32_MTRR_DEF_TYPE: MTRRs enabled (bit 11), everything is write-back (type 6).
const ENABLED_WRITE_BACK: u64 = 0x806;

/// What a kernel expects to find.
pub(super) fn boot_msrs() -> [kvm_msr_entry; 11] {
    use index::*;
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    [
        entry(IA32_SYSENTER_CS, 0),
        entry(IA32_SYSENTER_ESP, 0),
        entry(IA32_SYSENTER_EIP, 0),
        entry(STAR, 0),
        entry(LSTAR, 0),
        entry(CSTAR, 0),
        entry(SYSCALL_MASK, 0),
        entry(KERNEL_GS_BASE, 0),
        entry(IA32_TSC, 0),
        entry(IA32_MISC_ENABLE, FAST_STRING),
        entry(IA32_MTRR_DEF_TYPE, ENABLED_WRITE_BACK),
    ]
}
