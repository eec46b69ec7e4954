//! The kernel's structures as bytes and back.

#![expect(unsafe_code, reason = "reads structures as bytes and bytes as structures")]

use std::mem::size_of;
use std::slice;

use kvm_bindings::*;

/// A structure of integers without padding, for which every bit pattern is valid: its bytes are its value.
///
/// # Safety
///
/// The type must be just that.
pub(crate) unsafe trait Plain: Copy + Default {}

/// Implements [`Plain`] and pins the size the kernel's interface gives the structure, which is the sum of its fields.
macro_rules! plain {
    ($($name:ty = $size:literal,)*) => { $(
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: `repr(C)`, integers and arrays of integers only; the size is the sum of the fields' sizes, so there is
        // no padding. It is the kernel's stable interface (arch/x86/include/uapi/asm/kvm.h), which cannot change.
        unsafe impl Plain for $name {}
    )* };
}

plain! {
    kvm_regs = 144,
    kvm_sregs = 312,
    kvm_xcrs = 392,
    kvm_debugregs = 128,
    kvm_vcpu_events = 64,
    kvm_mp_state = 4,
    kvm_lapic_state = 1024,
    kvm_msr_entry = 16,
    kvm_cpuid_entry2 = 40,
    kvm_pit_state2 = 112,
    kvm_clock_data = 48,
}

/// The value's bytes.
pub(crate) fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain`: every byte of the value is initialised.
    unsafe { slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

/// The value that has these bytes; `None` unless there are exactly as many as it takes.
pub(crate) fn value<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, read without regard to alignment, and `Plain` makes any of them a value.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The 512 bytes of an in-kernel interrupt controller's state, whichever controller it is.
pub(crate) fn irqchip_bytes(chip: &kvm_irqchip) -> [u8; 512] {
    // SAFETY: `dummy` spans the union, which is initialised as a whole: it began as zeroes and the kernel fills it.
    unsafe { chip.chip.dummy }.map(|byte| byte.to_ne_bytes()[0])
}

/// The other way round.
pub(crate) fn irqchip(chip_id: u32, bytes: &[u8; 512]) -> kvm_irqchip {
    kvm_irqchip {
        chip_id,
        pad: 0,
        chip: kvm_irqchip__bindgen_ty_1 { dummy: bytes.map(|byte| i8::from_ne_bytes([byte])) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let regs = kvm_regs { rax: 1, rip: 0x1234_5678_9abc_def0, ..Default::default() };
        assert_eq!(value::<kvm_regs>(bytes(&regs)), Some(regs));
        assert_eq!(value::<kvm_regs>(&bytes(&regs)[1..]), None);
        let mut raw = [0; 512];
        (raw[0], raw[511]) = (0x80, 0xff);
        assert_eq!(irqchip_bytes(&irqchip(2, &raw)), raw);
    }
}
