//! Interrupts in, events out.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod common;

use std::thread;
use std::time::Duration;

use common::{DONE, Event, Guest, Log, kvm, long_mode};
use krun_vcpu::vm_memory::{Bytes, GuestAddress};
use krun_vcpu::{DataMatch, Error, EventFd, IoEventAddress, Stop, VmOptions};

/// Programs the first PIC for vectors from 0x20 on with line 5 open, says so on port 0x80, and halts with interrupts on.
const WAIT_FOR_LINE_5: &[u8] = &[
    0xb0, 0x11, 0xe6, 0x20, // ICW1: edge, cascade, ICW4
    0xb0, 0x20, 0xe6, 0x21, // ICW2: vectors from 0x20
    0xb0, 0x04, 0xe6, 0x21, // ICW3
    0xb0, 0x01, 0xe6, 0x21, // ICW4: 8086
    0xb0, 0xdf, 0xe6, 0x21, // mask: all but line 5
    0xe6, 0x80, // out 0x80, al
    0xfb, // sti
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];
/// Acknowledges the interrupt and ends with 5.
const ON_LINE_5: &[u8] = &[
    0xb0, 0x20, 0xe6, 0x20, // end of interrupt
    0xb0, 0x05, // mov al, 5
    0xe6, DONE, // out DONE, al
    0xcf, // iret
];
const HANDLER: u64 = 0x3000;

fn waiting_guest(kvm: &krun_vcpu::Kvm) -> Guest {
    let guest = Guest::new(kvm, &VmOptions::new(1));
    guest.load(WAIT_FOR_LINE_5);
    guest.memory.write_slice(ON_LINE_5, GuestAddress(HANDLER)).unwrap();
    // Real mode's vector 0x25: offset, then segment.
    guest.memory.write_obj(u32::try_from(HANDLER).unwrap(), GuestAddress(0x25 * 4)).unwrap();
    guest
}

#[test]
fn an_eventfd_wakes_a_halted_guest_again_and_again() {
    let Some(kvm) = kvm() else { return };
    let guest = waiting_guest(&kvm);
    let event = EventFd::new(0).unwrap();
    guest.vm.register_irqfd(&event, 5).unwrap();
    let mut vcpu = guest.real_mode();
    for _ in 0..10 {
        let trigger = event.try_clone().unwrap();
        let timer = thread::Builder::new()
            .name("timer".into())
            .spawn(move || {
                thread::sleep(Duration::from_millis(5));
                trigger.write(1).unwrap();
            })
            .unwrap();
        assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(5));
        timer.join().unwrap();
    }
    guest.vm.unregister_irqfd(&event, 5).unwrap();
    event.write(1).unwrap();
    let handle = vcpu.handle();
    thread::scope(|scope| {
        let runner =
            thread::Builder::new().name("vcpu".into()).spawn_scoped(scope, || vcpu.run(&Log::default())).unwrap();
        thread::sleep(Duration::from_millis(20));
        handle.kick();
        assert_eq!(runner.join().unwrap().unwrap(), Stop::Kicked, "the line is disconnected");
    });
}

#[test]
fn a_line_may_be_raised_by_hand() {
    let Some(kvm) = kvm() else { return };
    let guest = waiting_guest(&kvm);
    let mut vcpu = guest.real_mode();
    thread::scope(|scope| {
        let runner =
            thread::Builder::new().name("vcpu".into()).spawn_scoped(scope, || vcpu.run(&Log::default())).unwrap();
        thread::sleep(Duration::from_millis(5));
        while !runner.is_finished() {
            guest.vm.set_irq_line(5, true).unwrap();
            guest.vm.set_irq_line(5, false).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(runner.join().unwrap().unwrap(), Stop::Code(5));
    });
}

#[test]
fn matching_writes_go_to_an_eventfd_and_others_exit() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xbe, 0x50, 0x00, 0x00, 0xd0, // mov esi, 0xd0000050
        0xc7, 0x06, 0x00, 0x00, 0x00, 0x00, // mov dword ptr [rsi], 0
        0xc7, 0x06, 0x01, 0x00, 0x00, 0x00, // mov dword ptr [rsi], 1
        0x66, 0xba, 0x00, 0x05, // mov dx, 0x500
        0xb0, 0x03, // mov al, 3
        0xee, // out dx, al
        0xf4, // hlt
    ];
    let (guest, mut vcpu) = long_mode(&kvm, &code);
    let register = IoEventAddress::Mmio(0xd000_0050);
    let (one, port) = (EventFd::new(libc::EFD_NONBLOCK).unwrap(), EventFd::new(libc::EFD_NONBLOCK).unwrap());
    guest.vm.register_ioeventfd(&one, register, DataMatch::U32(1)).unwrap();
    guest.vm.register_ioeventfd(&port, IoEventAddress::Pio(0x500), DataMatch::Any).unwrap();
    let twice = guest.vm.register_ioeventfd(&one, register, DataMatch::U32(1)).unwrap_err();
    assert!(matches!(twice, Error::Kvm { .. }), "{twice}");
    let log = Log::default();
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    assert_eq!(log.take(), [Event::Write(0xd000_0050, vec![0; 4])]);
    assert_eq!((one.read().unwrap(), port.read().unwrap()), (1, 1));

    guest.vm.unregister_ioeventfd(&one, register, DataMatch::U32(1)).unwrap();
    guest.vm.unregister_ioeventfd(&port, IoEventAddress::Pio(0x500), DataMatch::Any).unwrap();
    let mut vcpu = guest.restart(vcpu);
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    assert_eq!(log.take().len(), 3);
    assert!(one.read().is_err() && port.read().is_err());
}

#[test]
fn without_interrupt_controllers_there_are_no_lines() {
    let Some(kvm) = kvm() else { return };
    let guest = Guest::new(&kvm, &VmOptions::bare());
    let event = EventFd::new(0).unwrap();
    assert!(matches!(guest.vm.set_irq_line(5, true), Err(Error::Kvm { .. })));
    assert!(matches!(guest.vm.register_irqfd(&event, 5), Err(Error::Kvm { .. })));
}
