//! What guests do and how it reaches the handler.

mod common;

use std::ops::ControlFlow;
use std::sync::Mutex;

use common::{DONE, Event, Guest, Log, kvm, long_mode, real_mode};
use krun_vcpu::kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap, kvm_guest_debug,
};
use krun_vcpu::vm_memory::{Bytes, GuestAddress};
use krun_vcpu::{Error, Exit, ExitHandler, Flow, InternalErrorKind, Stop, VmOptions};

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
        0x48, 0x89, 0xf0, // mov rax, rsi
        0x48, 0xa3, 0, 0, 2, 0, 0, 0, 0, 0, // mov [0x20000], rax
        0x48, 0x89, 0x24, 0x25, 8, 0, 2, 0, // mov [0x20008], rsp
        0xb0, 7, // mov al, 7
        0xe6, DONE, // out DONE, al
    ];
    let (guest, mut vcpu) = long_mode(&kvm, &code);
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(7));
    assert_eq!(guest.word(0x2_0000), 0x7000);
    assert_eq!(guest.word(0x2_0008), 0x8ff0);
}

#[test]
fn pvh_has_its_parameters() {
    let Some(kvm) = kvm() else { return };
    let guest = Guest::new(&kvm, &VmOptions::bare());
    let code = [
        0x89, 0x1d, 0, 0, 2, 0, // mov [0x20000], ebx
        0xb0, 8, // mov al, 8
        0xe6, DONE, // out DONE, al
    ];
    let mut vcpu = guest.load(&code).protected_mode(0x6000);
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(8));
    assert_eq!(guest.word(0x2_0000), 0x6000);
}

#[test]
fn port_accesses_have_their_widths() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xba, 0x00, 0x03, // mov dx, 0x300
        0xec, // in al, dx
        0xee, // out dx, al
        0xed, // in ax, dx
        0xef, // out dx, ax
        0x66, 0xed, // in eax, dx
        0x66, 0xef, // out dx, eax
        0xf4, // hlt
    ];
    let (_guest, mut vcpu) = real_mode(&kvm, &code);
    let log = Log::answering(0x4433_2211);
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    let expected = [
        Event::In(0x300, 1, 1),
        Event::Out(0x300, 1, vec![0x11]),
        Event::In(0x300, 2, 2),
        Event::Out(0x300, 2, vec![0x11, 0x22]),
        Event::In(0x300, 4, 4),
        Event::Out(0x300, 4, vec![0x11, 0x22, 0x33, 0x44]),
    ];
    assert_eq!(log.take(), expected);
}

#[test]
fn string_port_accesses_come_whole_however_they_are_batched() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xfc, // cld
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xbe, 0x00, 0x10, // mov si, 0x1000
        0xb9, 0x0c, 0x00, // mov cx, 12
        0xf3, 0x6e, // rep outsb
        0xbe, 0x00, 0x10, // mov si, 0x1000
        0xb9, 0x03, 0x00, // mov cx, 3
        0x66, 0xf3, 0x6f, // rep outsd
        0xbf, 0x00, 0x20, // mov di, 0x2000
        0xb9, 0x06, 0x00, // mov cx, 6
        0xf3, 0x6d, // rep insw
        0xf4, // hlt
    ];
    let (guest, mut vcpu) = real_mode(&kvm, &code);
    let text = b"twelve bytes";
    guest.memory.write_slice(text, GuestAddress(0x1000)).unwrap();
    let log = Log::answering(0x8877_6655_4433_2211);
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);

    let (mut bytes, mut longs, mut read) = (Vec::new(), Vec::new(), 0);
    for event in log.take() {
        match event {
            Event::Out(0x3f8, 1, data) => bytes.extend(data),
            Event::Out(0x3f8, 4, data) => {
                assert_eq!(data.len() % 4, 0);
                longs.extend(data);
            }
            Event::In(0x3f8, 2, len) => {
                assert_eq!(len % 2, 0);
                read += len;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bytes, text);
    assert_eq!(longs, text);
    assert_eq!(read, 12);
    assert_eq!(guest.word(0x2000) & 0xffff, 0x2211);
}

#[test]
fn memory_accesses_have_their_widths() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xbe, 0x00, 0x00, 0x00, 0xd0, // mov esi, 0xd0000000
        0x8a, 0x06, // mov al, [rsi]
        0x88, 0x46, 0x10, // mov [rsi+0x10], al
        0x66, 0x8b, 0x46, 0x02, // mov ax, [rsi+2]
        0x66, 0x89, 0x46, 0x12, // mov [rsi+0x12], ax
        0x8b, 0x46, 0x04, // mov eax, [rsi+4]
        0x89, 0x46, 0x14, // mov [rsi+0x14], eax
        0x48, 0x8b, 0x46, 0x08, // mov rax, [rsi+8]
        0x48, 0x89, 0x46, 0x18, // mov [rsi+0x18], rax
        0xf4, // hlt
    ];
    let (_guest, mut vcpu) = long_mode(&kvm, &code);
    let log = Log::answering(0x8877_6655_4433_2211);
    assert_eq!(vcpu.run(&log).unwrap(), Stop::Halted);
    let answer = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    let expected = [
        Event::Read(0xd000_0000, 1),
        Event::Write(0xd000_0010, answer[..1].to_vec()),
        Event::Read(0xd000_0002, 2),
        Event::Write(0xd000_0012, answer[..2].to_vec()),
        Event::Read(0xd000_0004, 4),
        Event::Write(0xd000_0014, answer[..4].to_vec()),
        Event::Read(0xd000_0008, 8),
        Event::Write(0xd000_0018, answer.to_vec()),
    ];
    assert_eq!(log.take(), expected);
}

/// Stops at every access, after having noted it.
#[derive(Default)]
struct StopAtEach(Log);

impl ExitHandler for StopAtEach {
    fn mmio_read(&self, address: u64, data: &mut [u8]) -> Flow {
        let _ = self.0.mmio_read(address, data);
        ControlFlow::Break(Stop::Code(1))
    }

    fn mmio_write(&self, address: u64, data: &[u8]) -> Flow {
        let _ = self.0.mmio_write(address, data);
        ControlFlow::Break(Stop::Code(2))
    }
}

#[test]
fn a_read_that_stops_is_answered() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xbe, 0x00, 0x00, 0x00, 0xd0, // mov esi, 0xd0000000
        0x8b, 0x06, // mov eax, [rsi]
        0xe6, DONE, // out DONE, al
    ];
    let (_guest, mut vcpu) = long_mode(&kvm, &code);
    assert_eq!(vcpu.run(&StopAtEach(Log::answering(0x55))).unwrap(), Stop::Code(1));
    assert_eq!(vcpu.fd().get_regs().unwrap().rax, 0x55, "the answer has arrived when run returns");
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(0x55));
}

#[test]
fn a_write_across_two_pages_is_whole_when_run_returns() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xbe, 0xfc, 0x0f, 0x00, 0xd0, // mov esi, 0xd0000ffc
        0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // mov rax, 0x1122334455667788
        0x48, 0x89, 0x06, // mov [rsi], rax
        0xf4, // hlt
    ];
    let (_guest, mut vcpu) = long_mode(&kvm, &code);
    let handler = StopAtEach::default();
    assert_eq!(vcpu.run(&handler).unwrap(), Stop::Code(2));
    let mut written = Vec::new();
    for event in handler.0.take() {
        let Event::Write(address, data) = event else { panic!("{event:?}") };
        assert_eq!(address, 0xd000_0ffc + written.len() as u64);
        written.extend(data);
    }
    assert_eq!(written, 0x1122_3344_5566_7788_u64.to_le_bytes());
    assert_eq!(vcpu.run(&handler).unwrap(), Stop::Halted);
    assert_eq!(handler.0.take(), []);
}

#[test]
fn a_triple_fault_is_a_stop() {
    let Some(kvm) = kvm() else { return };
    // ud2, with an interrupt table that has no entries.
    let (_guest, mut vcpu) = long_mode(&kvm, &[0x0f, 0x0b]);
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::TripleFault);
}

#[test]
fn executing_what_is_no_memory_is_a_named_error() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xb8, 0x00, 0x00, 0x00, 0xd0, // mov eax, 0xd0000000
        0xff, 0xe0, // jmp rax
    ];
    let (_guest, mut vcpu) = long_mode(&kvm, &code);
    let error = vcpu.run(&Log::answering(0xffff_ffff)).unwrap_err();
    let Error::Internal(internal) = &error else { panic!("{error:?}") };
    assert_eq!(internal.kind, InternalErrorKind::Emulation, "{error}");
    assert_eq!(internal.rip, 0xd000_0000, "{error}");
    assert!(error.to_string().contains("cannot emulate"), "{error}");
}

/// Answers rare exits as its closure says.
struct Rare<F>(F);

impl<F: Fn(u32, &mut Exit) -> Option<Flow> + Send + Sync> ExitHandler for Rare<F> {
    fn mmio_read(&self, _address: u64, _data: &mut [u8]) -> Flow {
        ControlFlow::Break(Stop::Code(-1))
    }

    fn mmio_write(&self, _address: u64, _data: &[u8]) -> Flow {
        ControlFlow::Break(Stop::Code(-1))
    }

    fn exit(&self, vcpu: u32, exit: &mut Exit) -> Option<Flow> {
        (self.0)(vcpu, exit)
    }
}

#[test]
fn a_handler_may_overrule_a_default() {
    let Some(kvm) = kvm() else { return };
    let (_guest, mut vcpu) = real_mode(&kvm, &[0xf4, 0xf4]); // hlt; hlt
    let halts = Mutex::new(0);
    let handler = Rare(|vcpu, exit: &mut Exit| {
        assert_eq!((vcpu, &*exit), (0, &Exit::Hlt));
        let mut halts = halts.lock().unwrap();
        *halts += 1;
        Some(if *halts == 2 { ControlFlow::Break(Stop::Code(2)) } else { ControlFlow::Continue(()) })
    });
    assert_eq!(vcpu.run(&handler).unwrap(), Stop::Code(2));
}

#[test]
fn forwarded_msr_accesses_are_answered() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xb9, 0x00, 0x00, 0x00, 0x4b, // mov ecx, 0x4b000000
        0x0f, 0x32, // rdmsr
        0x89, 0xc3, // mov ebx, eax
        0xb8, 0x77, 0x00, 0x00, 0x00, // mov eax, 0x77
        0x0f, 0x30, // wrmsr
        0xf4, // hlt
    ];
    let (guest, mut vcpu) = long_mode(&kvm, &code);
    let forward = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [u64::from(KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL), 0, 0, 0],
        ..Default::default()
    };
    if guest.vm.fd().enable_cap(&forward).is_err() {
        println!("not tested: this kernel does not forward MSR accesses (Linux 5.10)");
        return;
    }
    let written = Mutex::new(None);
    let handler = Rare(|_, exit: &mut Exit| {
        match exit {
            Exit::ReadMsr { index, value, .. } => *value = Some(u64::from(*index) | 0x1_0000_0000),
            Exit::WriteMsr { value, accepted, .. } => {
                *written.lock().unwrap() = Some(*value);
                *accepted = true;
            }
            _ => return None,
        }
        Some(ControlFlow::Continue(()))
    });
    assert_eq!(vcpu.run(&handler).unwrap(), Stop::Halted);
    assert_eq!(vcpu.fd().get_regs().unwrap().rbx, 0x4b00_0000);
    assert_eq!(*written.lock().unwrap(), Some(0x1_0000_0077));

    // Left alone, the access is a #GP, which this guest has no handler for.
    let mut again = guest.restart(vcpu);
    assert_eq!(again.run(&Rare(|_, _: &mut Exit| None)).unwrap(), Stop::TripleFault);
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn single_steps_are_debug_exits() {
    let Some(kvm) = kvm() else { return };
    let (_guest, mut vcpu) = long_mode(&kvm, &[0x90, 0x90, 0x90, 0xf4]); // nop; nop; nop; hlt
    let step = kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, ..Default::default() };
    vcpu.fd().set_guest_debug(&step).unwrap();
    let places = Mutex::new(Vec::new());
    let handler = Rare(|_, exit: &mut Exit| match exit {
        Exit::Debug { exception: 1, pc, .. } => {
            places.lock().unwrap().push(*pc);
            Some(ControlFlow::Continue(()))
        }
        _ => None,
    });
    assert_eq!(vcpu.run(&handler).unwrap(), Stop::Halted);
    let places = places.into_inner().unwrap();
    // Some processors report the first instruction more than once, before they execute it.
    let steps: Vec<_> = places.iter().map(|pc| pc - common::CODE).skip_while(|step| *step == 0).collect();
    assert_eq!(steps.get(..3), Some([1, 2, 3].as_slice()), "{places:x?}");
}

#[test]
fn a_debug_exit_nobody_takes_is_an_error() {
    let Some(kvm) = kvm() else { return };
    let (_guest, mut vcpu) = long_mode(&kvm, &[0x90, 0x90, 0xf4]);
    let step = kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, ..Default::default() };
    vcpu.fd().set_guest_debug(&step).unwrap();
    let error = vcpu.run(&Log::default()).unwrap_err();
    assert!(matches!(error, Error::Unhandled { vcpu: 0, exit: Exit::Debug { .. } }), "{error:?}");
}
