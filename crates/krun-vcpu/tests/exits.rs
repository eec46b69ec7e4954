//! What guests do and how it reaches the handler.

mod common;

use common::{Event, Log, PORT_DONE, kvm, long_mode, real_mode};
use krun_vcpu::Stop;

#[test]
fn adds_two_numbers() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0x00, 0xd8, // add al, bl
        0x04, b'0', // add al, '0'
        0xee, // out dx, al
        0xf4, // hlt
    ];
    let (_guest, mut vcpu) = real_mode(&kvm, &code);
    let mut regs = vcpu.fd().get_regs().unwrap();
    (regs.rax, regs.rbx) = (2, 3);
    vcpu.fd().set_regs(&regs).unwrap();
    let log = Log::default();
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    assert_eq!(log.take(), [Event::Out(0x3f8, 1, b"5".to_vec())]);
}

#[test]
fn long_mode_has_its_parameters() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0x48,
        0x89,
        0xf0, // mov rax, rsi
        0x48,
        0xa3,
        0,
        0,
        2,
        0,
        0,
        0,
        0,
        0, // mov [0x20000], rax
        0x48,
        0x89,
        0x24,
        0x25,
        8,
        0,
        2,
        0, // mov [0x20008], rsp
        0xb0,
        7, // mov al, 7
        0xe6,
        PORT_DONE as u8, // out PORT_DONE, al
    ];
    let (guest, mut vcpu) = long_mode(&kvm, &code);
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(7));
    assert_eq!(guest.word(0x2_0000), 0x7000);
    assert_eq!(guest.word(0x2_0008), 0x8ff0);
}
