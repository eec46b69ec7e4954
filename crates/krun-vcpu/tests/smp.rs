//! Several processors: the first one starts the others by INIT and SIPI, as every kernel does.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: what fails here fails the test")]

mod common;

use std::collections::BTreeSet;
use std::thread;

use common::{DONE, Event, Guest, Log, kvm, within_a_minute};
use krun_vcpu::vm_memory::{Bytes, GuestAddress};
use krun_vcpu::{Controller, Error, Kvm, Stop, VmOptions};

/// Sends INIT, then a SIPI for page 8, to all others; waits until the word at 0x20000 is `ebx`; ends.
const FIRST: &[u8] = &[
    0xbf, 0x00, 0x00, 0xe0, 0xfe, // mov edi, 0xfee00000
    0xc7, 0x87, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // mov dword ptr [edi+0xf0], 0x1ff
    0xc7, 0x87, 0x00, 0x03, 0x00, 0x00, 0x00, 0x45, 0x0c, 0x00, // mov dword ptr [edi+0x300], 0xc4500
    0xb9, 0xa0, 0x86, 0x01, 0x00, // mov ecx, 100000
    0x49, // dec ecx
    0x75, 0xfd, // jnz to the dec
    0xc7, 0x87, 0x00, 0x03, 0x00, 0x00, 0x08, 0x46, 0x0c, 0x00, // mov dword ptr [edi+0x300], 0xc4608
    0xf3, 0x90, // pause
    0xa1, 0x00, 0x00, 0x02, 0x00, // mov eax, [0x20000]
    0x39, 0xd8, // cmp eax, ebx
    0x75, 0xf5, // jne to the pause
    0xb0, 0x07, // mov al, 7
    0xe6, DONE, // out DONE, al
];
/// Tells its APIC id on port 0xf0, counts itself at 0x20000, and sleeps.
const OTHERS: &[u8] = &[
    0x66, 0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
    0x0f, 0xa2, // cpuid
    0x66, 0xc1, 0xeb, 0x18, // shr ebx, 24
    0x88, 0xd8, // mov al, bl
    0xe6, 0xf0, // out 0xf0, al
    0xb8, 0x00, 0x20, // mov ax, 0x2000
    0x8e, 0xd8, // mov ds, ax
    0x66, 0xf0, 0xff, 0x06, 0x00, 0x00, // lock inc dword ptr [0]
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

fn start_all(kvm: &Kvm, vcpus: u32) {
    let guest = Guest::new(kvm, &VmOptions::new(vcpus));
    guest.load(FIRST);
    guest.memory.write_slice(OTHERS, GuestAddress(0x8000)).unwrap();
    let controller = Controller::new();
    let log = common::shared(Log::default());
    let mut all = vec![guest.protected_mode(u64::from(vcpus - 1))];
    for id in 1..vcpus {
        let vcpu = guest.vm.create_vcpu(id).unwrap();
        vcpu.configure(&guest.vm.cpu_config()).unwrap();
        all.push(vcpu);
    }
    let threads: Vec<_> = all
        .into_iter()
        .map(|vcpu| {
            let (mut vcpu, log) = (controller.enrol(vcpu), log.clone());
            thread::Builder::new().name("vcpu".into()).spawn(move || vcpu.run(&*log).unwrap()).unwrap()
        })
        .collect();
    let stops: Vec<_> = within_a_minute(|| threads.into_iter().map(|thread| thread.join().unwrap()).collect());
    assert_eq!(stops, vec![Stop::Code(7); vcpus as usize]);
    let ids: BTreeSet<_> = log
        .take()
        .into_iter()
        .map(|event| match event {
            Event::Out(0xf0, 1, data) => u32::from(data[0]),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, (1..vcpus).collect());
}

#[test]
fn two() {
    let Some(kvm) = kvm() else { return };
    start_all(&kvm, 2);
}

#[test]
fn four() {
    let Some(kvm) = kvm() else { return };
    start_all(&kvm, 4);
}

#[test]
fn nine() {
    let Some(kvm) = kvm() else { return };
    start_all(&kvm, 9.min(kvm.max_vcpus()));
}

#[test]
fn as_many_as_the_host_allows_and_no_more() {
    let Some(kvm) = kvm() else { return };
    let max = kvm.max_vcpus();
    assert!(kvm.recommended_vcpus() >= 1 && max >= kvm.recommended_vcpus());
    let error = kvm.create_vm(&VmOptions::new(max + 1)).unwrap_err();
    assert!(matches!(error, Error::TooManyVcpus { max: named, .. } if named == max), "{error}");
    let vm = kvm.create_vm(&VmOptions::new(max)).unwrap();
    // The last one, whose APIC id may need more than 8 bits.
    let last = vm.create_vcpu(max - 1).unwrap();
    last.configure(&vm.cpu_config()).unwrap();
    assert!(matches!(vm.create_vcpu(max), Err(Error::VcpuId { .. })));
    assert!(matches!(vm.create_vcpu(max - 1), Err(Error::Kvm { .. })), "each id once");
}
