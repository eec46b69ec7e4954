//! The probe for a KVM that runs real code.

mod common;

use std::time::{Duration, Instant};

use common::{Log, kvm, long_mode};
use krun_vcpu::{Probe, Stop};

/// `pause; pause; addps xmm0, xmm0; out`: SSE alone, so that the test of the probe does not rest on the probe's own code.
const SSE: &[u8] = &[
    0x0f, 0x20, 0xe0, // mov rax, cr4
    0x0d, 0x00, 0x06, 0x00, 0x00, // or eax, OSFXSR | OSXMMEXCPT
    0x0f, 0x22, 0xe0, // mov cr4, rax
    0x0f, 0x57, 0xc0, // xorps xmm0, xmm0
    0x0f, 0x58, 0xc0, // addps xmm0, xmm0
    0xb0, 9, // mov al, 9
    0xe6, 0xf4, // out 0xf4, al
];

#[test]
fn agrees_with_what_the_processor_does_and_is_quick() {
    let Some(kvm) = kvm() else { return };
    let started = Instant::now();
    let probe = kvm.probe().unwrap();
    println!("{probe:?} in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(5));
    let (_guest, mut vcpu) = long_mode(&kvm, SSE);
    let runs = matches!(vcpu.run(&Log::default()), Ok(Stop::Code(9)));
    assert_eq!(probe.runs_real_code(), runs, "{probe:?}");
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn knows_a_real_one() {
    let Some(kvm) = kvm() else { return };
    assert!(matches!(kvm.probe().unwrap(), Probe::RealCode));
}
