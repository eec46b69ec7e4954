//! Saving and restoring.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod common;

use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use common::{CODE, Guest, Log, MEMORY, kvm, long_mode};
use krun_vcpu::kvm_bindings::KVM_MP_STATE_UNINITIALIZED;
use krun_vcpu::vm_memory::{Bytes, GuestAddress};
use krun_vcpu::{Error, ExitHandler, Flow, Stop, VcpuState, VmOptions, VmState};

/// Counts in rbx and at 0x20000, and folds each count into rax, until the word at 0x20008 is set; leaves rax at 0x20010
/// and ends. Interrupts are on for the sake of Bochs: see the kick tests.
const FOLD: &[u8] = &[
    0xfb, // sti
    0x48, 0xff, 0xc3, // inc rbx
    0x48, 0x69, 0xc0, 0xb5, 0xa9, 0x43, 0x6b, // imul rax, rax, 0x6b43a9b5
    0x48, 0x01, 0xd8, // add rax, rbx
    0x48, 0x89, 0x1c, 0x25, 0x00, 0x00, 0x02, 0x00, // mov [0x20000], rbx
    0x83, 0x3c, 0x25, 0x08, 0x00, 0x02, 0x00, 0x00, // cmp dword ptr [0x20008], 0
    0x74, 0xe1, // je to the inc
    0x48, 0x89, 0x04, 0x25, 0x10, 0x00, 0x02, 0x00, // mov [0x20010], rax
    0xb0, 0x05, // mov al, 5
    0xe6, 0xf4, // out DONE, al
];

/// What [`FOLD`] computes for this many counts.
fn fold(counts: u64) -> u64 {
    (1..=counts).fold(0, |rax: u64, rbx| rax.wrapping_mul(0x6b43_a9b5).wrapping_add(rbx))
}

fn copy_memory(from: &Guest, to: &Guest) {
    let mut bytes = vec![0; MEMORY];
    from.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    to.memory.write_slice(&bytes, GuestAddress(0)).unwrap();
}

#[test]
fn a_computation_moves_to_another_vm_half_way() {
    let Some(kvm) = kvm() else { return };
    let (first, mut vcpu) = long_mode(&kvm, FOLD);
    let handle = vcpu.handle();
    let stop = thread::scope(|scope| {
        let runner =
            thread::Builder::new().name("vcpu".into()).spawn_scoped(scope, || vcpu.run(&Log::default())).unwrap();
        while first.word(0x2_0000) < 100 {
            thread::sleep(Duration::from_millis(1));
        }
        handle.kick();
        runner.join().unwrap().unwrap()
    });
    assert_eq!(stop, Stop::Kicked);
    let bytes = vcpu.save().unwrap().to_bytes();
    let vm_bytes = first.vm.save().unwrap().to_bytes();

    let second = Guest::new(&kvm, &VmOptions::bare());
    copy_memory(&first, &second);
    drop((first, vcpu));
    let state = VcpuState::from_bytes(&bytes).unwrap();
    assert!(state.regs.rbx >= 100, "half way");
    second.vm.restore(&VmState::from_bytes(&vm_bytes).unwrap()).unwrap();
    let mut vcpu = second.vm.create_vcpu(0).unwrap();
    vcpu.restore(&state).unwrap();
    second.memory.write_obj(1_u32, GuestAddress(0x2_0008)).unwrap();
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(5));
    let counts = second.word(0x2_0000);
    assert!(counts == state.regs.rbx || counts == state.regs.rbx + 1, "it went on where it was");
    assert_eq!(second.word(0x2_0010), fold(counts));
}

#[test]
fn every_register_survives() {
    let Some(kvm) = kvm() else { return };
    let (_first, vcpu) = long_mode(&kvm, FOLD);
    let mut state = vcpu.save().unwrap();
    state.regs.r15 = 0x1515;
    state.regs.rflags |= 1;
    state.sregs.cr2 = 0xc2;
    state.debug_regs.db[0] = 0xdb;
    // XMM1 in the legacy area of XSAVE: bytes 176..192; the header's first word says that SSE and x87 are in use.
    state.xsave[176..192].copy_from_slice(&[0x5a; 16]);
    state.xsave[512] |= 0b11;
    let (_second, other) = long_mode(&kvm, FOLD);
    other.restore(&state).unwrap();
    let mut back = other.save().unwrap();
    // The time stamp counters have moved on; so has whatever else counts time.
    assert!(!back.msrs.is_empty() && back.msrs.len() == state.msrs.len());
    for (now, then) in back.msrs.iter_mut().zip(&state.msrs) {
        assert_eq!(now.index, then.index);
        if now.data != then.data {
            println!("MSR {:#x}: {:#x}, was {:#x}", now.index, now.data, then.data);
        }
    }
    back.msrs.clone_from(&state.msrs);
    assert_eq!(back.xsave[176..192], [0x5a; 16]);
    back.xsave.clone_from(&state.xsave);
    assert_eq!(back, state);
}

#[test]
fn a_vm_with_interrupt_controllers_and_a_waiting_second_vcpu() {
    let Some(kvm) = kvm() else { return };
    let options = VmOptions::new(2);
    let first = Guest::new(&kvm, &options);
    let running = first.load(FOLD).long_mode();
    let waiting = first.vm.create_vcpu(1).unwrap();
    waiting.configure(&first.vm.cpu_config()).unwrap();
    let states = [running.save().unwrap(), waiting.save().unwrap()];
    assert!(states.iter().all(|state| state.lapic.is_some()));
    assert_eq!(states[1].mp_state.mp_state, KVM_MP_STATE_UNINITIALIZED);
    let vm_state = first.vm.save().unwrap();
    assert!(vm_state.irqchip.is_some() && vm_state.clock.clock > 0);

    let second = Guest::new(&kvm, &options);
    copy_memory(&first, &second);
    let vcpus: Vec<_> = (0..2).map(|id| second.vm.create_vcpu(id).unwrap()).collect();
    second.vm.restore(&vm_state).unwrap();
    for (vcpu, state) in vcpus.iter().zip(&states) {
        vcpu.restore(state).unwrap();
    }
    let again = second.vm.save().unwrap();
    assert!(again.clock.clock >= vm_state.clock.clock, "time does not go back");
    let (again, then) = (again.irqchip.unwrap(), vm_state.irqchip.unwrap());
    assert_eq!((again.pic_master, again.pic_slave), (then.pic_master, then.pic_slave));
    assert_eq!(again.ioapic, then.ioapic);
    assert_eq!(vcpus[1].save().unwrap().mp_state.mp_state, KVM_MP_STATE_UNINITIALIZED);
}

#[test]
fn state_of_another_kind_of_vm_is_refused() {
    let Some(kvm) = kvm() else { return };
    let (bare, bare_vcpu) = long_mode(&kvm, FOLD);
    let full = Guest::new(&kvm, &VmOptions::new(1));
    let full_vcpu = full.load(FOLD).long_mode();
    let refused = |result: Result<(), Error>| assert!(matches!(result, Err(Error::State(_))), "{result:?}");
    refused(full_vcpu.restore(&bare_vcpu.save().unwrap()));
    refused(bare_vcpu.restore(&full_vcpu.save().unwrap()));
    refused(full.vm.restore(&bare.vm.save().unwrap()));
    refused(bare.vm.restore(&full.vm.save().unwrap()));
    let mut large = bare_vcpu.save().unwrap();
    large.xsave.resize(60_000, 1);
    refused(bare_vcpu.restore(&large));
}

/// Stops at a read, with this answer.
struct Answer(u8);

impl ExitHandler for Answer {
    fn mmio_read(&self, _address: u64, data: &mut [u8]) -> Flow {
        data.fill(self.0);
        ControlFlow::Break(Stop::Code(1))
    }

    fn mmio_write(&self, _address: u64, _data: &[u8]) -> Flow {
        ControlFlow::Continue(())
    }
}

#[test]
fn an_access_under_way_is_finished_before_it_is_saved() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xbe, 0x00, 0x00, 0x00, 0xd0, // mov esi, 0xd0000000
        0x8a, 0x06, // mov al, [rsi]
        0xe6, 0xf4, // out DONE, al
    ];
    let (first, mut vcpu) = long_mode(&kvm, &code);
    assert_eq!(vcpu.run(&Answer(0x42)).unwrap(), Stop::Code(1));
    let state = vcpu.save().unwrap();
    assert_eq!((state.regs.rip, state.regs.rax & 0xff), (CODE + 7, 0x42));
    let second = Guest::new(&kvm, &VmOptions::bare());
    copy_memory(&first, &second);
    let mut vcpu = second.vm.create_vcpu(0).unwrap();
    vcpu.restore(&state).unwrap();
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(0x42));
}

#[test]
fn a_vcpu_goes_back_to_where_it_was() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xff, 0xc3, // inc ebx
        0x88, 0xd8, // mov al, bl
        0xe6, 0xf4, // out DONE, al
        0xeb, 0xf8, // jmp to the inc
    ];
    let (_guest, mut vcpu) = long_mode(&kvm, &code);
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(1));
    let state = vcpu.save().unwrap();
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(2));
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(3));
    vcpu.restore(&state).unwrap();
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(2));
}

#[test]
#[ignore = "needs a KVM that runs real code: cargo xtask test"]
fn floating_point_registers_move_too() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0x0f, 0x20, 0xe0, // mov rax, cr4
        0x0d, 0x00, 0x06, 0x00, 0x00, // or eax, OSFXSR | OSXMMEXCPT
        0x0f, 0x22, 0xe0, // mov cr4, rax
        0xb8, 0x14, 0x00, 0x00, 0x00, // mov eax, 20
        0xf2, 0x0f, 0x2a, 0xc0, // cvtsi2sd xmm0, eax
        0xd9, 0xe8, // fld1
        0xe6, 0xf4, // out DONE, al
        0xf2, 0x0f, 0x58, 0xc0, // addsd xmm0, xmm0
        0xf2, 0x0f, 0x2c, 0xd8, // cvttsd2si ebx, xmm0
        0xd8, 0xc0, // fadd st, st(0)
        0x48, 0x83, 0xec, 0x08, // sub rsp, 8
        0xdb, 0x1c, 0x24, // fistp dword ptr [rsp]
        0x03, 0x1c, 0x24, // add ebx, [rsp]
        0x89, 0xd8, // mov eax, ebx
        0xe6, 0xf4, // out DONE, al
    ];
    let (first, mut vcpu) = long_mode(&kvm, &code);
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(20));
    let state = vcpu.save().unwrap();
    let second = Guest::new(&kvm, &VmOptions::bare());
    copy_memory(&first, &second);
    let mut vcpu = second.vm.create_vcpu(0).unwrap();
    vcpu.restore(&state).unwrap();
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(42));
}
